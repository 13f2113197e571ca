"""Distillation: what a student learns of its teacher, that a run can be stopped, that its result is a base."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from resam.data.coco import CocoData
from resam.distill_cli import distill
from resam.encoders import ARCHITECTURES, ENCODERS
from resam.encoders.convolutions import take_statistics
from resam.model.bases import Base, load_base
from resam.model.sam import build_sam
from resam.training.devices import make_fabric
from resam.training.distill.distiller import Distiller
from resam.training.distill.losses import embedding_loss, mask_losses
from resam.training.distill.models import RESULT, Student, Teacher
from resam.training.distill.options import DistillOptions, DistillSources, read_config
from resam.training.distill.run import DistillRun
from resam.training.distill.step import resampled
from resam.training.distill.windows import Windows, grid_points
from resam.training.options import TrainOptions
from resam.training.progress import Silent
from resam.training.run import run
from resam.training.run_data import RunData
from resam_export.engine import export_engine
from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY
from .families import TOYS, shaken, write_checkpoint

OPTIONS = DistillOptions(
    epochs=2, batch=2, tiles=3, learning_rate=3e-3, warmup=1, prompts=2, average=0.0, set_aside=0.1
)
HALF = replace(TOY, encoder_dim=16, encoder_depth=1, encoder_heads=1, global_blocks=(0,), window_size=8)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images of several sizes, in two folders: blobs on a ramp."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "below").mkdir()
    rng = np.random.default_rng(5)
    for number in range(11):
        height, width = int(rng.integers(50, 130)), int(rng.integers(50, 130))
        image = np.tile(np.linspace(40, 200, width).astype(np.uint8)[None, :, None], (height, 1, 3))
        for _ in range(6):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(image, centre, int(rng.integers(5, 15)), rng.integers(0, 256, 3).tolist(), -1)
        cv2.imwrite(str(folder / ("below" if number % 2 else ".") / f"{number}.png"), image)
    return folder


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a student half as wide and deep as the toy."""
    monkeypatch.setitem(ARCHITECTURES, "toy_half", HALF)
    return "toy_half"


def a_run(
    folder: Path, teacher: Path, student: str, images: Path, options: DistillOptions = OPTIONS, **more: Any
) -> Any:
    sources = DistillSources.choose(str(teacher), student, images, None)
    return DistillRun(folder, options, sources, Teacher.open(sources.teacher), make_fabric(1, "cpu"), **more)


def windows(images: Path, sizes: tuple[int, int] = (64, 64), options: DistillOptions = OPTIONS) -> Windows:
    return Windows(images, sizes, Framing(64), options, Silent())


def test_the_result_is_a_base_with_the_teachers_decoder(
    base_file: Path, images: Path, half: str, tmp_path: Path
) -> None:
    result = a_run(tmp_path / "run", base_file, half, images).train()
    made, teacher = load_base(result.base), load_base(base_file)
    assert made.architecture == HALF
    for part in ("mask_decoder", "prompt_encoder"):
        own, wanted = (getattr(base.sam, part).state_dict() for base in (made, teacher))
        assert all(torch.equal(own[name], wanted[name]) for name in wanted)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert {"total", "embedding", "cells", "agreement", "held_points", "held_boxes"} <= rows[-1].keys()
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 * 3  # four windows, before and after both epochs
    assert read_config(tmp_path / "run" / "config.toml")[0] == OPTIONS
    again = Teacher.open(str(tmp_path / "run"))  # a run's folder may teach in its turn
    assert again.base.sha256 == made.sha256


def test_the_result_is_adapted_as_any_base(
    base_file: Path, images: Path, half: str, scenes: CocoData, tmp_path: Path
) -> None:
    base = a_run(tmp_path / "run", base_file, half, images, replace(OPTIONS, epochs=1, tiles=2)).train().base
    options = TrainOptions(epochs=1, base=str(base), rank=2, supervised=True, ssa="off")
    adapter = run(tmp_path / "adapted", options, RunData(scenes)).adapter
    assert Teacher.open(str(adapter), str(base)).adapter is not None  # and what was adapted may teach


@pytest.mark.slow
def test_the_result_is_exported_as_any_base(
    base_file: Path, images: Path, half: str, tmp_path: Path, traces: None
) -> None:
    base = a_run(tmp_path / "run", base_file, half, images, replace(OPTIONS, epochs=1, tiles=2)).train().base
    export_engine(load_base(base), None, tmp_path / "small.resam", scenes=1, keep_anyway=True)
    found = Segmenter(tmp_path / "small.resam")(np.zeros((64, 64, 3), np.uint8), [[32, 32]])
    assert len(found) == 1


def test_a_stopped_run_goes_on_to_the_same_base(
    base_file: Path, images: Path, half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, average=0.9)
    whole = a_run(tmp_path / "whole", base_file, half, images, options).train()
    real, calls = Distiller.learn, []

    def learn(self: Distiller, *arguments: Any) -> Any:
        calls.append(self.epoch)
        if self.epoch == 1 and calls.count(1) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Distiller, "learn", learn)
        with pytest.raises(KeyboardInterrupt):
            a_run(tmp_path / "stopped", base_file, half, images, options).train()
    assert not (tmp_path / "stopped" / RESULT).exists()
    resumed = a_run(tmp_path / "stopped", base_file, half, images, options, resume=True).train()
    assert resumed.base.read_bytes() == whole.base.read_bytes()
    assert [row["total"] for row in resumed.history] == [row["total"] for row in whole.history]
    with pytest.raises(ResamError, match="other options, images, teacher or student"):
        a_run(tmp_path / "stopped", base_file, half, images, replace(options, seed=1), resume=True)


def test_a_student_comes_nearer_to_its_teacher(base_file: Path, images: Path, half: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=2, tiles=24, average=0.9, learning_rate=5e-3)
    distillation = a_run(tmp_path / "run", base_file, half, images, options)
    before = distillation.distiller.compare()
    after = distillation.train().history[-1]
    assert after["held_embedding"] < 0.7 * before["held_embedding"]
    assert after["held_boxes"] > before["held_boxes"]


@pytest.mark.parametrize("family", ["tiny_vit", "efficientvit"])
def test_a_student_of_another_family_grid_and_tile(base_file: Path, images: Path, family: str, tmp_path: Path) -> None:
    start = write_checkpoint(shaken(replace(TOYS[family], image_size=128)), tmp_path / "start.safetensors")
    result = a_run(tmp_path / "run", base_file, str(start), images, replace(OPTIONS, epochs=1, tiles=2)).train()
    made = load_base(result.base)
    assert (made.architecture.family, made.architecture.image_size) == (family, 128)  # the shapes do not tell the size
    assert made.architecture.grid != TOY.grid or family == "tiny_vit"
    began = load_base(start).sam.state_dict()
    kept = {name for name, value in made.sam.state_dict().items() if torch.equal(value, began[name])}
    norms = {name for name in began if name.endswith(("running_mean", "running_var"))}
    assert norms <= kept  # the checkpoint's statistics stay
    assert any(name.startswith("image_encoder.") for name in began.keys() - kept)


def test_random_weights_take_their_statistics_of_the_images(
    base_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "toy_mobile", TOYS["tiny_vit"])
    distillation = a_run(tmp_path / "run", base_file, "toy_mobile", images)
    encoder: Any = distillation.distiller.student.encoder.network
    norm = encoder.patch_embed.conv1.bn
    seen: list[torch.Tensor] = []
    encoder.patch_embed.conv1.conv.register_forward_hook(lambda layer, given, made: seen.append(made))
    with torch.no_grad():
        for number in distillation.windows.order(0):
            distillation.distiller.student.encoder(torch.from_numpy(distillation.windows.load(number, 0).student)[None])
    assert torch.allclose(norm.running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-4)
    assert not norm.training
    take_statistics(nn.Linear(2, 2), (1 / 0 for _ in range(1)))  # type: ignore[misc]  # nothing to take: not looked at


def test_both_see_the_same_window_at_their_own_size(images: Path) -> None:
    seen = windows(images, (128, 64), replace(OPTIONS, tiles=0))
    for number in seen.order(0)[:6]:
        tiles = seen.load(number, 0)
        assert (tiles.teacher.shape, tiles.student.shape) == ((128, 128, 3), (64, 64, 3))
        small = cv2.resize(tiles.teacher, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(small - tiles.student).mean() < 6
        assert (tiles.points >= 0).all()
        assert (tiles.points <= tiles.filled[::-1]).all()
    assert np.array_equal(seen.load(0, 1).student, seen.load(0, 1).student)
    assert not np.array_equal(seen.load(0, 1).student, seen.load(0, 2).student)


def test_every_window_comes_once_before_any_comes_again(images: Path) -> None:
    few = windows(images, options=replace(OPTIONS, tiles=3))
    total = len(windows(images, options=replace(OPTIONS, tiles=0)))
    walked = [number for epoch in range(2 * total) for number in few.order(epoch)]
    assert len(few) == 3
    for turn in range(0, len(walked), total):
        assert sorted(walked[turn : turn + total]) == list(range(total))
    assert len({number for number, _ in few.held}) == 1  # a tenth of eleven images
    held = {number for number, _ in few.held}
    assert not held & {few._windows[number][0] for number in walked}


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_points_of_a_grid_lie_one_to_a_cell_of_what_is_filled(count: int) -> None:
    for rng in (None, np.random.default_rng(1)):
        points = grid_points(count, (0.5, 1.0), rng)
        assert points.shape == (count, 2)
        assert (points[:, 1] <= 0.5).all()
        side = int(np.ceil(np.sqrt(count)))
        cells = {tuple(cell) for cell in np.floor(points / (1.0, 0.5) * side).astype(int).tolist()}
        assert len(cells) == count


def test_nothing_is_left_to_learn_of_what_is_the_same() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 4, 3, 3) * 0.02
    logits, scores = torch.randn(2, 5, 5), torch.rand(2)
    same = mask_losses(logits, scores, logits.sigmoid(), scores)
    assert float(embedding_loss(embedding, embedding)) == 0
    assert all(float(value.abs().max()) < 1e-6 for value in same.values())
    # hard targets too, where the entropy is 0 log 0
    masks = (logits > 0).float()
    entropy = F.binary_cross_entropy(logits.sigmoid(), masks, reduction="none").mean((1, 2))
    assert torch.allclose(mask_losses(logits, scores, masks, scores)["cells"], entropy)
    other = mask_losses(logits, scores + 0.1, torch.rand(2, 5, 5), scores)
    assert all(float(value.min()) > 0 for value in other.values())
    # in units of the teacher's deviation
    assert float(embedding_loss(embedding * 50, embedding * 40)) == pytest.approx(
        float(embedding_loss(embedding * 5, embedding * 4)), rel=1e-4
    )


def test_an_embedding_on_another_grid_shows_the_same_places() -> None:
    ramp = torch.arange(8.0).add(0.5)[None, None, None].expand(1, 1, 8, 8)
    small = resampled(ramp, 4)
    assert torch.allclose(small[0, 0, 1, 1:-1], torch.tensor([3.0, 5.0]))
    assert resampled(ramp, 8) is ramp
    assert torch.allclose(resampled(ramp, 16)[0, 0, 0, 2:-2], torch.arange(16.0).add(0.5)[2:-2] / 2)


def test_a_named_student_fits_any_teacher() -> None:
    wide = replace(TOY, embedding_dim=64, decoder_heads=2)
    teacher = Base(build_sam(wide), wide, "wide", "0" * 64)
    made = Student.make("tiny_half", teacher)
    assert (made.base.architecture.embedding_dim, made.base.architecture.image_size) == (64, 256)
    assert ENCODERS["vit"].architecture(made.base.sam.state_dict()) == made.base.architecture
    assert made.fresh


def test_what_is_refused(base_file: Path, images: Path, half: str, tmp_path: Path) -> None:
    other = write_checkpoint(
        shaken(replace(TOYS["tiny_vit"], embedding_dim=64, decoder_heads=2)), tmp_path / "o.safetensors"
    )
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no image")
    good = {
        "--teacher": str(base_file),
        "--student": str(base_file),
        "--images": str(images),
        "-o": str(tmp_path / "r"),
    }
    cases = [
        ({"--images": str(tmp_path / "none")}, "no such folder of images"),
        ({"--images": str(tmp_path / "empty")}, "no images found"),
        ({"--images": str(broken)}, "none of its 1 image can be read"),
        ({"--student": str(other)}, "64 channels, the teacher's 32"),
        ({"--student": "mobil_sam"}, "no such student; expected tiny,"),
        ({"--teacher": "nobody"}, "no such base"),
        ({"--teacher": str(tmp_path / "empty")}, "no such adapter"),
        ({"--base": "tiny"}, "leave it out"),
        ({"--set": "zoom=0.5"}, "option zoom"),
        ({"--set": "tau=0.5"}, "'tau' is not an option"),
        ({"--epochs": "0"}, "option epochs"),
        ({"-o": str(images)}, "not empty"),
    ]
    for changes, message in cases:
        arguments = [text for pair in {**good, **changes}.items() for text in pair]
        said = CliRunner().invoke(distill, arguments)
        lines = [line for line in said.output.strip().splitlines() if not line.startswith("left out")]
        assert (said.exit_code, len(lines)) == (2, 1), said.output
        assert message in said.output
        assert not (tmp_path / "r").exists()
    said = CliRunner().invoke(distill, ["--teacher", "tiny"])
    assert said.exit_code == 2
    assert "--student, --images, --output: not given" in said.output


def test_the_command_makes_and_resumes_a_run(base_file: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    arguments = ["--teacher", str(base_file), "--student", str(base_file), "--images", str(images), "-o", str(folder)]
    arguments += ["--epochs", "1", "--tiles", "2", "--prompts", "1", "--set", "masks=0"]
    said = CliRunner().invoke(distill, arguments)
    assert said.exit_code == 0, said.output
    assert "IoU with the teacher" in said.output
    before = (folder / RESULT).read_bytes()
    resumed = CliRunner().invoke(distill, ["--resume", str(folder)])
    assert (resumed.exit_code, (folder / RESULT).read_bytes()) == (0, before), resumed.output
    said = CliRunner().invoke(distill, ["--resume", str(folder), "--epochs", "2"])
    assert (said.exit_code, "leave out --epochs" in said.output) == (2, True)
    assert asdict(read_config(folder / "config.toml")[1])["images"] == str(images.resolve())
