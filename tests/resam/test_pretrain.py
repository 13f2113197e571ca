"""Making the tiny base, and the base that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resam.model.sam import ARCHITECTURES, build_sam
from resam.pretrain.__main__ import load_pretrained, pretrain
from resam.pretrain.batches import jittered_box, sample_points
from resam.pretrain.muon import orthogonalise
from resam.pretrain.placed import PlacedSam
from resam.pretrain.procedural import generate
from resam.pretrain.stages import HELD_OUT_SEED
from resam.pretrain.step import evaluate
from resam_runtime.common.errors import ResamError

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


def test_a_box_without_jitter_is_tight() -> None:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    assert jittered_box(mask, np.random.default_rng(0), 0.0).tolist() == [30, 20, 49, 39]


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((40, 160), (160, 40), (64, 64)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert 0.4 < values.min() <= values.max() < 1.3


@pytest.mark.slow
def test_the_shipped_base_reaches_the_figures_it_claims() -> None:
    """Measured anew on a part of the held-out images; the claim is on 64 of them."""
    with safe_open(WEIGHTS, "pt") as opened:
        record = json.loads(opened.metadata()["resam"])
    sam = build_sam(ARCHITECTURES["tiny"])
    sam.load_state_dict(load_file(WEIGHTS))
    measured = evaluate(sam, [generate(HELD_OUT_SEED + index, 256) for index in range(16)])
    assert measured["instances"] > 250
    assert abs(measured["point"] - record["held_out"]["point"]) < 0.06
    assert abs(measured["box"] - record["held_out"]["box"]) < 0.06


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
