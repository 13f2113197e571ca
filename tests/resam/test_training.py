"""Whole runs: what they write, that they can be killed and go on, that two processes equal one."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from resam.cli import train
from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.training_set import TrainingSet
from resam.encoders import ARCHITECTURES
from resam.model.bases import Base, load_base
from resam.model.lora import lora_state
from resam.model.parts import adapter_state, add_parts
from resam.model.sam import build_sam
from resam.training import trainer as trainer_module
from resam.training.checkpoints import Adapter, apply_adapter, latest_checkpoint, load_adapted, write_adapter
from resam.training.devices import make_fabric
from resam.training.losses import loss_weights
from resam.training.options import TrainOptions, options_from, preset_names, read_options, write_options
from resam.training.progress import Silent
from resam.training.report import shown_samples
from resam.training.run import run
from resam.training.run_data import RunData
from resam.training.sources import Sources
from resam.training.step import pseudo_masks, reinforce
from resam.training.trainer import Trainer
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

from ..without import start
from .conftest import TOY

OPTIONS = TrainOptions(epochs=2, batch=2, queue=4, learning_rate=0.01, warmup=2, rank=2)
NO_ALIGNMENT = loss_weights(OPTIONS, 0.0) | {"alignment": 0.0}


pytestmark = pytest.mark.usefixtures("one_thread")


def load_copy(base: Base) -> Base:
    return dataclasses.replace(base, sam=copy.deepcopy(base.sam))


def _data(folder: Path) -> RunData:
    splits = {name: CocoData.open(folder / f"{name}.json") for name in ("train", "val", "test")}
    return RunData(splits["train"], splits["val"], splits["test"])


def test_a_run_writes_everything_it_promises(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    options = read_options("tiny", epochs=2, base=str(base_file), rank=2, supervised=True)
    result = run(tmp_path / "run", options, _data(scenes_folder))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows == result.history
    assert {"total", "focal", "dice", "iou", "alignment", "labelled", "images_per_second", "memory_mb"} <= rows[
        0
    ].keys()
    assert 0 <= rows[0]["watched"]["final"]["miou"] <= 1
    adapter = Adapter.open(tmp_path / "run")
    said = adapter.provenance
    assert said["base"]["sha256"] == load_base(base_file).sha256
    assert said["data"]["train"] == CocoData.open(scenes_folder / "train.json").digest
    assert said["options"]["tau"] == 0.3
    assert said["metrics"]["tested"] == result.tested
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page
    assert page.count("data:image/jpeg") == 4 * 3  # tiles of four scenes, with the base and after both epochs
    assert not list((tmp_path / "run").rglob("*.tmp*"))


def test_an_adapter_goes_only_on_its_own_base(toy: Base, base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions(epochs=1, base=str(base_file), rank=2, learning_rate=0.01, warmup=0, supervised=True)
    result = run(tmp_path / "run", options, RunData(_data(scenes_folder).train))
    merged, adapter = load_adapted(tmp_path / "run", base_file)
    plain = load_base(base_file)
    assert merged.sam.state_dict().keys() == plain.sam.state_dict().keys()
    changed = [
        name for name, value in merged.sam.state_dict().items() if not torch.equal(value, plain.sam.state_dict()[name])
    ]
    assert changed == [f"image_encoder.blocks.{i}.attn.qkv.weight" for i in range(2)]
    torch.save({name: value + 1 for name, value in toy.sam.state_dict().items()}, tmp_path / "other.pth")
    with pytest.raises(ResamError, match="trained on base"):
        apply_adapter(load_base(tmp_path / "other.pth"), adapter)
    assert result.tested == {}
    (tmp_path / "x.safetensors").write_bytes(b"12")
    with pytest.raises(ResamError, match="not an adapter"):
        Adapter.open(tmp_path / "x.safetensors")


@pytest.mark.parametrize("said", [None, [1], {"base": [], "options": {}}, {"base": {}}])
def test_an_adapter_that_does_not_say_how_it_was_made_is_none(said: Any, tmp_path: Path) -> None:
    metadata = {"resam": json.dumps(said)}
    save_file({"blocks.0.query_down": torch.zeros(2, 3)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ResamError, match="not an adapter of resam-train"):
        Adapter.open(tmp_path / "a.safetensors")


def test_supervised_training_learns(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions(
        epochs=6, base=str(base_file), rank=8, learning_rate=0.02, warmup=2, supervised=True, ssa="off", strength=0.0
    )
    history = run(tmp_path / "run", options, RunData(_data(scenes_folder).train)).history
    assert history[-1]["total"] < 0.97 * history[0]["total"]
    assert history[-1]["labelled"] == 1.0


def test_everything_but_lora_stays_as_it_was(toy: Base, scenes: CocoData) -> None:
    before = {name: value.clone() for name, value in toy.sam.state_dict().items()}
    trainer = Trainer(
        toy, TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True), OPTIONS, make_fabric(1, "cpu")
    )
    trainer.run_epoch()
    after = toy.sam.state_dict()
    for name, value in before.items():
        other = name.replace("qkv.weight", "qkv.parametrizations.weight.original")
        assert torch.equal(after[name if name in after else other], value), name
    assert any(
        float(value.abs().sum()) > 0 for name, value in lora_state(toy.sam.image_encoder).items() if "up" in name
    )


def _run_command(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "resam.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize("pseudo", ["coarse", "consensus"])
def test_a_killed_run_goes_on_bit_for_bit(base_file: Path, two_scenes: Path, tmp_path: Path, pseudo: str) -> None:
    changes = {"epochs": 4, "rank": 2, "learning_rate": 0.01, "warmup": 2, "batch": 2, "pseudo": pseudo}
    options = read_options("tiny", base=str(base_file), **changes)
    whole_run = run(tmp_path / "whole", options, _data(two_scenes))
    assert whole_run.history[-1]["labelled"] > 0.3
    config = tmp_path / "options.toml"
    write_options(config, options)
    arguments = ["--data", str(two_scenes), "--preset", str(config), "-o", str(tmp_path / "cut")]
    process = start("resam.cli:train", arguments, tmp_path, tmp_path / "stderr")
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "cut" / "checkpoints").glob("epoch-*.pt")) and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "cut" / "adapter.safetensors").exists(), "the run was over before it was killed"
    saved = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert saved is not None
    assert 1 <= saved["trainer"]["epoch"] < 4
    result = CliRunner().invoke(train, ["--resume", str(tmp_path / "cut")])
    assert result.exit_code == 0, result.output
    whole, cut = (Adapter.open(tmp_path / name) for name in ("whole", "cut"))
    assert whole.state.keys() == cut.state.keys()
    for name, value in whole.state.items():
        assert torch.equal(value, cut.state[name]), name
    losses = [
        [json.loads(line)["total"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_that_is_resumed_keeps_its_adapter(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    arguments = ["--data", scenes_folder, "--base", base_file, "-o", tmp_path / "run", "--rank", 2, "--epochs", 1]
    first = CliRunner().invoke(train, list(map(str, arguments)))
    assert first.exit_code == 0, first.output
    path = tmp_path / "run" / "adapter.safetensors"
    digest, written = Adapter.open(path).sha256, path.stat().st_mtime_ns
    table = first.stdout[first.stdout.index("instances in") :]
    assert "adapted" in table
    for _ in range(2):
        again = CliRunner().invoke(train, ["--resume", str(tmp_path / "run")])
        assert again.exit_code == 0, again.output
        assert "nothing left to do: the adapter is unchanged" in again.output
        assert again.stdout.endswith(table)
        assert (Adapter.open(path).sha256, path.stat().st_mtime_ns) == (digest, written)
    path.unlink()  # a run that was stopped before it wrote one
    assert CliRunner().invoke(train, ["--resume", str(tmp_path / "run")]).exit_code == 0
    assert Adapter.open(path).state


@pytest.mark.slow
@pytest.mark.parametrize("pseudo", ["coarse", "consensus"])
def test_two_processes_equal_one(base_file: Path, two_scenes: Path, tmp_path: Path, pseudo: str) -> None:
    options = options_from(vars(OPTIONS) | {"base": str(base_file), "pseudo": pseudo}, "test")
    run(tmp_path / "run-1", options, RunData(CocoData.open(two_scenes / "train.json")))
    config = tmp_path / "options.toml"
    write_options(config, options)
    arguments = [
        "--annotations",
        str(two_scenes / "train.json"),
        "--preset",
        str(config),
        "-o",
        str(tmp_path / "run-2"),
    ]
    process = _run_command(*arguments, "--devices", "2", "--accelerator", "cpu")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    one, two = (Adapter.open(tmp_path / f"run-{count}") for count in (1, 2))
    change = max(float(value.abs().max()) for name, value in one.state.items() if "up" in name)
    assert change > 0.005
    for name, value in one.state.items():
        assert torch.allclose(value, two.state[name], atol=1e-4), name
    queues = [latest_checkpoint(tmp_path / f"run-{count}" / "checkpoints")["trainer"]["queue"] for count in (1, 2)]  # type: ignore[index]
    assert len(queues[0]) == 4
    assert torch.allclose(*queues, atol=1e-4)


POISONED = """
import numpy as np
from resam.cli import train
from resam.data.training_set import TrainingSet

load = TrainingSet.load

def poisoned(samples, number, epoch):
    view = load(samples, number, epoch)
    if number == 1:
        view.given[:] = np.nan
        view.given[:, 0, 0] = 1
    return view

TrainingSet.load = poisoned
train()
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both_with_one_line(
    base_file: Path, two_scenes: Path, tmp_path: Path
) -> None:
    script, config = tmp_path / "poisoned.py", tmp_path / "options.toml"
    script.write_text(POISONED)
    write_options(config, options_from(vars(OPTIONS) | {"base": str(base_file), "supervised": True}, "test"))
    arguments = ["--annotations", two_scenes / "train.json", "--preset", config, "-o", tmp_path / "run"]
    ended = subprocess.run(
        [sys.executable, script, *arguments, "--devices", "2", "--accelerator", "cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert ended.returncode == 2, ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1, ended.stderr
    assert re.search(r"tile 1 \(train_.*\): loss is not finite", said[0])
    assert "Traceback" not in ended.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_tile(
    toy: Base, scenes: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True)
    trainer = Trainer(toy, samples, OPTIONS, make_fabric(1, "cpu"))
    load = samples.load

    def poisoned(number: int, epoch: int) -> Any:
        view = load(number, epoch)
        if number == 1 and view.given is not None:
            view.given[:] = np.nan
            view.given[:, 0, 0] = 1
        return view

    monkeypatch.setattr(samples, "load", poisoned)
    with pytest.raises(ResamError, match=r"epoch 1, step \d+, tile 1 \(train_.*\): loss is not finite"):
        trainer.run_epoch()


def test_weights_that_the_last_step_ruined_stop_the_run(base_file: Path, scenes: CocoData, tmp_path: Path) -> None:
    one = dataclasses.replace(scenes, scenes=scenes.scenes[:1])
    options = TrainOptions(epochs=1, base=str(base_file), batch=99, learning_rate=1e30)
    with pytest.raises(ResamError, match="epoch 1: the adapted model's masks are not finite; lower the learning rate"):
        run(tmp_path / "run", options, RunData(one))
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_the_average_follows_and_is_put_back(toy: Base, scenes: CocoData) -> None:
    trainer = Trainer(
        toy, TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True), OPTIONS, make_fabric(1, "cpu")
    )
    trainer.run_epoch()
    current = [parameter.detach().clone() for parameter in trainer.parameters]
    with trainer.averaged():
        inside = [parameter.detach().clone() for parameter in trainer.parameters]
    assert all(torch.equal(a, b) for a, b in zip(inside, trainer.average))
    assert not all(torch.equal(a, b) for a, b in zip(inside, current))
    assert all(torch.equal(a, b) for a, b in zip(current, trainer.parameters))


def test_every_preset_is_valid_and_written_options_read_back(tmp_path: Path) -> None:
    assert {"tiny", "nwpu", "whu", "hrsid", "paper"} <= set(preset_names())
    for name in preset_names():
        options = read_options(name)
        write_options(tmp_path / "config.toml", options, {"train": 'a "quoted" \\ path', "keypoints": False})
        assert read_options(tmp_path / "config.toml") == options


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"tua": 0.3}, "'tua' is not an option"),
        ({"tau": 0.1}, "threshold must lie"),
        ({"points": 0}, "points: 0 is out of range"),
        ({"points": "2"}, "points: expected int"),
        ({"seed": 1 << 63}, "seed: 9223372036854775808 is out of range"),
        ({"ssa": "sometimes"}, "expected gradient or paired or detached or off"),
        ({"pseudo": "consensus", "resample_points": True}, "made once, before training; leave out resample_points"),
    ],
)
def test_bad_options_are_named(values: dict[str, Any], cause: str) -> None:
    with pytest.raises(ResamError, match=cause):
        options_from(values, "x.toml")


def test_tensorboard_gets_the_figures_of_metrics_jsonl(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = TrainOptions(epochs=2, base=str(base_file), rank=2)
    data = CocoData.open(scenes_folder / "val.json")
    history = run(tmp_path / "run", options, RunData(data, data), tensorboard=True, watched=1).history
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("total")] == [1, 2]
    assert [event.value for event in events.Scalars("total")] == pytest.approx([row["total"] for row in history])
    watched = [row["watched"]["final"]["miou"] for row in history]
    assert [event.value for event in events.Scalars("miou/final")] == pytest.approx(watched)


def test_evaluation_between_epochs_can_be_left_out(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions(epochs=1, base=str(base_file), rank=2)
    data = CocoData.open(scenes_folder / "val.json")
    result = run(tmp_path / "run", options, RunData(data, data), watched=0)
    assert result.history[0]["watched"] is None
    assert (tmp_path / "run" / "report.html").is_file()


def test_splits_without_masks_are_no_hindrance(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    document = json.loads((scenes_folder / "val.json").read_text())
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation |= {"keypoints": [int(x + width / 2), int(y + height / 2), 2], "num_keypoints": 1}
        del annotation["segmentation"]
    document["annotations"] = document["annotations"][:3]
    (tmp_path / "points.json").write_text(json.dumps(document))
    (tmp_path / "empty.json").write_text(json.dumps(document | {"annotations": []}))
    pointed, empty = (
        CocoData.open(tmp_path / name, scenes_folder / "images") for name in ("points.json", "empty.json")
    )
    options = TrainOptions(epochs=1, base=str(base_file), rank=2)
    result = run(tmp_path / "run", options, RunData(pointed, watched=pointed, tested=empty, keypoints=True))
    assert result.tested == {}
    assert result.history[0]["watched"] is None
    assert Adapter.open(tmp_path / "run").provenance["data"]["points"] == "keypoints"


def test_a_run_goes_on_with_the_base_where_it_lies_now(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    command = ["--data", str(scenes_folder), "--base", str(base_file), "--epochs", "1", "--watch", "0", "--rank", "2"]
    made = CliRunner().invoke(train, [*command, "-o", str(tmp_path / "run")])
    assert made.exit_code == 0, made.output
    base_file.rename(tmp_path / "moved.pth")
    gone = CliRunner().invoke(train, ["--resume", str(tmp_path / "run")])
    assert gone.exit_code == 2
    assert "toy.pth: no such base" in gone.output
    there = CliRunner().invoke(train, ["--resume", str(tmp_path / "run"), "--base", str(tmp_path / "moved.pth")])
    assert there.exit_code == 0, there.output


def test_other_points_are_another_run(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    data, points = CocoData.open(scenes_folder / "val.json"), tmp_path / "points.json"
    scene = data.scenes[0]
    options = TrainOptions(epochs=1, base=str(base_file), rank=2)
    for x in (20, 30):
        drawn = {scene.name: {"instances": [{"points": [[x, 20]]}]}}
        points.write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": drawn}))
        if x == 20:
            run(tmp_path / "run", options, RunData(data, points_file=points))
    with pytest.raises(ResamError, match="other options, data or base"):
        run(tmp_path / "run", options, RunData(data, points_file=points), resume=True)


def test_another_test_split_is_another_run(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    train_split, other = CocoData.open(scenes_folder / "val.json"), CocoData.open(scenes_folder / "test.json")
    options = TrainOptions(epochs=1, base=str(base_file), rank=2)
    notes: list[str] = []
    reporter = Silent()
    reporter.note = notes.append  # type: ignore[method-assign]
    run(tmp_path / "run", options, RunData(train_split, tested=train_split), watched=0, reporter=reporter)
    assert any("the test images are the training images" in note for note in notes)
    with pytest.raises(ResamError, match="its val or test split has changed since it began"):
        run(tmp_path / "run", options, RunData(train_split, tested=other), watched=0, resume=True)


def test_the_images_of_annotations_that_lie_elsewhere_are_not_those_of_the_test_split(
    base_file: Path, scenes_folder: Path, tmp_path: Path
) -> None:
    """The same file names in two data sets, other pictures."""
    for name in ("a", "b"):
        shutil.copytree(scenes_folder, tmp_path / name)
    for image in (tmp_path / "a" / "images").iterdir():
        cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    (tmp_path / "drawn").mkdir()
    drawn = shutil.copy(tmp_path / "a" / "train.json", tmp_path / "drawn" / "train.json")
    test = tmp_path / "b" / "test.json"
    sources = Sources.choose(tmp_path / "a", Path(drawn), None, test, None, False, None)
    assert Sources(**sources.to_dict()) == sources
    data = sources.open(tmp_path)
    assert data.train.scenes[0].path.parent == tmp_path / "a" / "images"
    assert data.tested is not None
    assert data.tested.scenes[0].path.parent == tmp_path / "b" / "images"


def test_the_weak_view_is_seen_by_the_teacher_that_was_asked_for(
    toy: Base, scenes: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pseudo, real_reinforce = pseudo_masks, reinforce
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected: dict[str, torch.Tensor] = {}
    for teacher in ("student", "average"):
        samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
        options = TrainOptions(rank=2, teacher=teacher, average=0.9, epochs=1)  # type: ignore[arg-type]
        trainer = Trainer(load_copy(toy), samples, options, make_fabric(1, "cpu"))
        with torch.no_grad():
            for kept, own in zip(trainer.average, trainer.parameters):
                kept.fill_(0.125)
                own.fill_(0.05)
            expected["student"] = trainer.encoder(image)
            with trainer.averaged():
                expected["average"] = trainer.encoder(image)
        seen: list[torch.Tensor] = []

        def pseudo(*arguments: Any, seen: Any = seen) -> Any:
            seen.append(arguments[0](image))
            return real_pseudo(*arguments)

        def strong(*arguments: Any, seen: Any = seen, **more: Any) -> Any:
            seen.append(arguments[0](image))
            return real_reinforce(*arguments, **more)

        with monkeypatch.context() as patched:
            patched.setattr(trainer_module, "pseudo_masks", pseudo)
            patched.setattr(trainer_module, "reinforce", strong)
            trainer._tile(samples.load(0, 0), NO_ALIGNMENT, 1.0, 0)
        assert torch.allclose(seen[0], expected[teacher], atol=1e-5)
        assert torch.allclose(seen[1], expected["student"], atol=1e-5)
        others = [value for name, value in expected.items() if name != teacher]
        assert not any(torch.allclose(seen[0], other, atol=1e-3) for other in others)


@pytest.mark.parametrize(("ssa", "looks"), [("off", 1), ("gradient", 2)])
def test_the_weak_view_is_encoded_only_where_something_asks_for_it(
    toy: Base, scenes: CocoData, ssa: str, looks: int
) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True)
    options = TrainOptions(rank=2, ssa=ssa, supervised=True, epochs=1)  # type: ignore[arg-type]
    trainer = Trainer(load_copy(toy), samples, options, make_fabric(1, "cpu"))
    encoded: list[int] = []
    trainer.encoder.register_forward_hook(lambda *_: encoded.append(1))
    figures = trainer.run_epoch()
    assert len(encoded) == looks * len(samples)
    assert ("agreement" in figures) == (looks == 2)
    assert figures["labelled"] == 1


@pytest.mark.parametrize("changes", [{}, {"layers": "all", "decoder_rank": 4}])
def test_the_adapter_of_vit_b_is_below_5_mb(changes: dict[str, Any], tmp_path: Path) -> None:
    options = read_options("paper", start=0, **changes)
    with torch.device("meta"):
        sam = build_sam(ARCHITECTURES["vit_b"])
        add_parts(sam, options)
    state = {name: torch.zeros(value.shape) for name, value in adapter_state(sam).items()}
    write_adapter(tmp_path / "a.safetensors", state, {"options": options.to_dict()})
    assert len(state) == 4 * 12 if not changes else len(state) > 100
    assert (tmp_path / "a.safetensors").stat().st_size < 5e6


def test_batches_accumulate_the_mean_of_their_tiles_gradients(toy: Base, scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True)
    gradients = []
    for numbers in ([0], [1], [0, 1]):
        trainer = Trainer(load_copy(toy), samples, TrainOptions(rank=2, ssa="off"), make_fabric(1, "cpu"))
        for number in numbers:
            trainer._tile(samples.load(number, 0), NO_ALIGNMENT, 1 / len(numbers), number)
        gradients.append([parameter.grad.clone() for parameter in trainer.parameters if parameter.grad is not None])
    for one, other, both in zip(*gradients):
        assert torch.allclose((one + other) / 2, both, atol=1e-7, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in gradients[2]) > 1e-6


def test_the_strips_show_the_fullest_tile_of_scenes_far_apart(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
    shown = [samples.samples[number] for number in shown_samples(samples)]
    assert [sample.scene for sample in shown] == [0, 1, 2, 3]
    for sample in shown:
        assert len(sample.prompts) == max(
            len(other.prompts) for other in samples.samples if other.scene == sample.scene
        )
    assert len(samples) > 4
