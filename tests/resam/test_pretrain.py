"""Making the tiny base, and the base that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resam.encoders import ARCHITECTURES
from resam.model.bases import random_base
from resam.model.decoder import PromptDecoder
from resam.model.sam import build_sam
from resam.pretrain.__main__ import load_pretrained, pretrain
from resam.pretrain.batches import Batches, Mixture, Shape, jittered_box, sample_points
from resam.pretrain.muon import orthogonalise
from resam.pretrain.placed import PlacedSam
from resam.pretrain.run import Plan, Pretraining
from resam.pretrain.schedule import learning_rate
from resam.pretrain.validation import evaluate, procedural_tiles
from resam_runtime.common.errors import ResamError

from .conftest import TOY

WEIGHTS = Path(__file__).parents[2] / "resam" / "weights" / "tiny.safetensors"


def test_an_image_placed_on_the_whole_tile_is_encoded_and_decoded_as_by_the_model_itself() -> None:
    torch.manual_seed(0)
    sam = build_sam(ARCHITECTURES["tiny"])
    placed = PlacedSam(sam)
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(placed.encode(image, (0, 0)), placed.encoder(image))
        placed.encode(image[:, :128, :128], (5, 9))
        whole = sam.prompt_encoder.get_dense_pe()
        assert torch.equal(placed.decoder.positions(), whole[:, :, 9:25, 5:21])


def test_all_masks_of_a_prompt_are_those_of_segment_anything() -> None:
    sam = random_base(ARCHITECTURES["tiny"]).sam
    embedding = torch.randn(1, 128, 32, 32, generator=torch.Generator().manual_seed(0))
    coords, labels = torch.tensor([[[40.0, 52.5], [200.0, 7.0]]]), torch.tensor([[1, 0]])
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        position = sam.prompt_encoder.get_dense_pe()
        masks, scores = sam.mask_decoder.predict_masks(embedding, position, sparse, dense)
        found, found_scores = PromptDecoder(sam).every_mask(embedding, coords, labels)
        single, score = PromptDecoder(sam)(embedding, coords, labels)
    assert found.shape == (1, 4, 128, 128)
    assert torch.linalg.norm(found - masks) <= 2e-5 * torch.linalg.norm(masks)
    torch.testing.assert_close(found_scores, scores, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[:, 0], single)
    torch.testing.assert_close(found_scores[:, 0], score)


def test_points_lie_where_their_labels_say() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    negatives = 0
    for _ in range(300):
        coords, labels = sample_points(mask, int(rng.integers(1, 4)), rng)
        assert labels[0] == 1
        for (x, y), label in zip(coords.astype(int), labels):
            if label >= 0:
                assert mask[y, x] == bool(label)
            negatives += label == 0
    assert negatives > 20


def test_negative_points_lie_near_and_far_and_on_other_objects() -> None:
    rng = np.random.default_rng(0)
    mask, other = np.zeros((128, 128), bool), np.zeros((128, 128), bool)
    mask[20:40, 30:50] = True
    other[100:110, 100:110] = True
    places = []
    for _ in range(400):
        coords, labels = sample_points(mask, 3, rng, other[None])
        places += coords[labels == 0].astype(int).tolist()
    on_other = np.mean([other[y, x] for x, y in places])
    near = np.mean([6 <= x <= 73 and 0 <= y <= 63 for x, y in places])
    assert on_other > 0.2
    assert near > 0.2
    assert 1 - on_other - near > 0.1


def test_a_box_without_jitter_is_tight() -> None:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    assert jittered_box(mask, np.random.default_rng(0), 0.0).tolist() == [30, 20, 49, 39]


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((40, 160), (160, 40), (64, 64)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert 0.4 < values.min() <= values.max() < 1.3


def test_the_learning_rate_warms_up_stays_and_falls_to_zero_at_the_end() -> None:
    rates = [learning_rate(step, 1000, 400, 1.0) for step in range(1000)]
    assert rates[0] < 0.01
    assert rates[199:600] == [1.0] * 401
    assert rates[800] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(500, 600, 400, 1.0) == pytest.approx(0.25)  # told to end sooner


def test_a_run_that_goes_on_ends_with_the_weights_of_one_that_never_stopped(tmp_path: Path) -> None:
    batches = Batches(Mixture([], 1.0), [(Shape(64, 2, 2), 0.5), (Shape(64, 1, 3), 0.5)], 7)
    held_out = {"procedural": procedural_tiles(1, 64)}

    def train(run: Pretraining, output: Path) -> Pretraining:
        with Progress(disable=True) as progress:
            run.train(batches, held_out, 7, output, {"command": f"to {output.stem}"}, progress)
        return run

    def fresh(steps: int) -> Pretraining:
        return Pretraining(random_base(TOY).sam, Plan(steps, 0, 1e-3, 2, False, 0), torch.device("cpu"))

    whole = train(fresh(4), tmp_path / "whole.safetensors")
    train(fresh(2), tmp_path / "parts.safetensors")
    resumed = fresh(4)
    resumed.resume(tmp_path / "parts.pt")
    assert resumed.step == 2
    train(resumed, tmp_path / "parts.safetensors")
    for one, other in ((whole.sam, resumed.sam), (whole.average, resumed.average)):
        states = one.state_dict(), other.state_dict()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    rows = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"point", "box", "best"} <= set(rows[0]["procedural"])
    assert resumed.stretches == [{"first": 0, "command": "to parts"}, {"first": 2, "command": "to parts"}]
    best = load_file(tmp_path / "parts.safetensors")
    assert any((resumed.average.state_dict()[name] != value).any() for name, value in best.items()) == (
        rows[0]["mean"]["point"] + rows[0]["mean"]["box"] > rows[1]["mean"]["point"] + rows[1]["mean"]["box"]
    )
    with pytest.raises(ResamError, match="not the state of such a run"):
        fresh(2).resume(tmp_path / "parts.jsonl")
    with pytest.raises(ResamError, match=r"no such file; --resume"):
        fresh(2).resume(tmp_path / "none.pt")


@pytest.mark.slow
def test_the_shipped_base_reaches_the_figures_it_claims() -> None:
    """Measured anew on twice as many of the procedural images that are held out as during the run."""
    with safe_open(WEIGHTS, "pt") as opened:
        record = json.loads(opened.metadata()["resam"])
    sam = build_sam(ARCHITECTURES["tiny"])
    sam.load_state_dict(load_file(WEIGHTS))
    measured = evaluate(sam, procedural_tiles(16, 256))
    assert measured["instances"] > 250
    for kind in ("point", "box"):
        assert abs(measured[kind] - record["held_out"]["procedural"][kind]) < 0.06


def test_the_shipped_base_is_small_and_says_how_it_was_made() -> None:
    assert WEIGHTS.stat().st_size <= 25e6
    with safe_open(WEIGHTS, "pt") as opened:
        record = json.loads(opened.metadata()["resam"])
    assert record["command"].startswith("python -m resam.pretrain")
    assert {"seed", "minutes", "held_out"} <= set(record)


def test_pretraining_goes_on_from_weights_that_it_wrote_and_from_no_others(tmp_path: Path) -> None:
    sam = build_sam(ARCHITECTURES["tiny"])
    record = load_pretrained(sam, WEIGHTS)
    assert record["command"].startswith("python -m resam.pretrain")
    written = load_file(WEIGHTS)
    assert all(torch.equal(value, written[name]) for name, value in sam.state_dict().items())
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    (tmp_path / "text.safetensors").write_text("no tensors here")
    for path in (foreign, tmp_path / "text.safetensors"):
        with pytest.raises(ResamError, match=path.name):
            load_pretrained(sam, path)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (
            ["-o", "{file}/x.safetensors"],
            "/x.safetensors: cannot be written (File exists); choose another --output",
        ),
        (["-o", "/proc/x/y"], "/proc/x/y: cannot be written (No such file or directory); choose another --output"),
        (["-o", "{folder}"], ": cannot be written (Is a directory)"),
        (["-o", "{folder}/y", "--photographs", "{folder}"], "folder: no train.json in it or in its folders"),
        (["-o", "{folder}/y", "--init", "{folder}/none"], "folder/none: no such base"),
        (["-o", "{folder}/y", "--device", "nope"], "--device nope: torch"),
        (["-o", "{folder}/y", "--device", "meta"], "--device meta: torch"),
    ],
)
def test_what_pretraining_refuses_is_one_line_and_leaves_nothing(
    arguments: list[str], cause: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    result = CliRunner().invoke(pretrain, [word.format(**places) for word in arguments])
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert cause in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
