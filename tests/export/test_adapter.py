"""What a run chose reaches its engine: the adapter's weights, tau, requery, rounds and how scenes are framed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.encoders.vit import VitArchitecture
from resam.model.bases import load_base, random_base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.parts import adapter_state, add_parts
from resam.model.refine_requery import RefineRequery, Requery
from resam.training.checkpoints import Adapter, apply_adapter, describe_base, write_adapter
from resam.training.options import TrainOptions
from resam_export.cli import export
from resam_export.models import open_session, run_session
from resam_runtime import Segmenter
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.tiles.prompt_batch import with_sides
from resam_runtime.tiles.tiling import Framing

from ..resam.conftest import TOY
from ..resam.families import shaken, with_masks

OPTIONS = TrainOptions(tau=0.4, requery="box", rounds=2, fit_within=100, scale=0.5)
FIELDS = ("masks", "scores", "boxes", "coarse_masks", "coarse_scores")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a base of toy size, `toy.pth`, and an adapter for it, of encoder and decoder, whose weights are not
    zero."""
    return make_run(tmp_path, TOY, OPTIONS)


def make_run(tmp_path: Path, architecture: VitArchitecture, options: TrainOptions) -> Path:
    sam = with_masks(shaken(architecture)).sam
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for network in sam.mask_decoder.output_hypernetworks_mlps[1:]:  # masks that differ in size
            network.layers[-1].bias.add_(20 * torch.randn_like(network.layers[-1].bias))
        torch.save(sam.state_dict(), tmp_path / "toy.pth")
        base = load_base(tmp_path / "toy.pth")
        add_parts(base.sam, dataclasses.replace(options, rank=2, decoder_rank=2))
        fresh = adapter_state(base.sam)  # half of it zeros
        noise = {name: 0.1 if name.startswith("mask_decoder.") else 0.3 for name in fresh}
        state = {name: value + noise[name] * torch.randn_like(value) for name, value in fresh.items()}
    said = options.to_dict() | {"base": str(tmp_path / "toy.pth")}
    write_adapter(tmp_path / "adapter.safetensors", state, {"base": describe_base(base), "options": said})
    return tmp_path


@pytest.mark.parametrize(("changes", "words"), [({"tau": 0.1}, "option tau"), ({"scale": 0.0}, "option scale")])
def test_an_option_out_of_range_is_said_before_the_work_starts(
    changes: dict[str, float], words: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("resam_export.engine.export_graphs")
    adapter = Adapter.open(run)
    options = {**adapter.provenance["options"], **changes}
    write_adapter(run / "adapter.safetensors", adapter.state, {**adapter.provenance, "options": options})
    result = CliRunner().invoke(export, [str(run), "-o", str(run / "model.resam")])
    assert result.exit_code == 2
    assert words in result.stderr


def torch_loop(
    folder: Path, tau: float, requery: Requery, rounds: int, *inputs: torch.Tensor, without: str = " "
) -> dict[str, np.ndarray]:
    """The loop in torch, LoRA beside the weights instead of merged into them. without: how the names of tensors begin
    that the adapter is to lack."""
    adapter = Adapter.open(folder)
    kept = {name: value for name, value in adapter.state.items() if not name.startswith(without)}
    base = apply_adapter(load_base(folder / "toy.pth"), dataclasses.replace(adapter, state=kept), merge=False)
    image, coords, labels = inputs
    with torch.no_grad():
        embedding = ImageEncoder(base.sam)(image)
        output = RefineRequery(PromptDecoder(base.sam), tau, requery, rounds).eval()(embedding, coords, labels)
    return {name: getattr(output, name).numpy() for name in FIELDS}


@pytest.mark.slow
def test_an_engine_is_what_its_run_trained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resam_export.engine.default_count", lambda *about: 2)  # scenes of 64 px hold little
    path = run / "model.resam"
    result = CliRunner().invoke(export, [str(run), "-o", str(path)])
    assert result.exit_code == 0, result.output
    engine = EngineFile.open(path)
    manifest = engine.manifest
    assert (manifest.refine_threshold, manifest.requery, manifest.rounds) == (0.4, "box", 2)
    assert manifest.framing == Framing(100, 0.5)
    assert manifest.base["sha256"] == load_base(run / "toy.pth").sha256
    assert manifest.adapter == {"sha256": Adapter.open(run).sha256}
    assert manifest.training is not None
    assert manifest.training["options"]["requery"] == "box"
    # A scene larger than fit_within is cut into windows of 64 / 0.5 px.
    assert {(tile.width, tile.scale) for tile in Segmenter(path).tiles(300, 128)} == {(128, 0.5)}

    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    # one prompt: with random weights several would have nearly the same mask, and take all of it from each other
    coords, labels = np.array([[[12, 9]]], np.float32), np.ones((1, 1), np.int32)
    tensors = [torch.from_numpy(array) for array in (image, coords, labels)]
    embedding = run_session(open_session(bytes(engine.graph("encoder"))), {"image": image})
    prompts = {"point_coords": coords, "point_labels": labels}
    found = run_session(open_session(bytes(engine.graph("loop"))), {**embedding, **prompts})
    wanted = torch_loop(run, 0.4, "box", 2, *tensors)
    for name in FIELDS:
        assert np.linalg.norm(found[name] - wanted[name]) <= 1e-4 * np.linalg.norm(wanted[name]), name
    # Each of the three choices, and each part of the adapter, shows in these masks, so that losing one could not pass.
    others = [torch_loop(run, *one, *tensors) for one in ((0.3, "box", 2), (0.4, "box+points", 2), (0.4, "box", 1))]
    others += [torch_loop(run, 0.4, "box", 2, *tensors, without=part) for part in ("mask_decoder.", "blocks.")]
    for other in others:
        assert np.linalg.norm(found["masks"] - other["masks"]) > 1e-2 * np.linalg.norm(other["masks"])


def sized_run(folder: Path) -> Path:
    """As `run`, of a base with four masks for each prompt."""
    return make_run(folder, dataclasses.replace(TOY, multimask_outputs=3), dataclasses.replace(OPTIONS, rounds=1))


@pytest.mark.slow
def test_an_engine_takes_masks_by_size_as_torch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sized_run(tmp_path)
    monkeypatch.setattr("resam_export.engine.default_count", lambda *about: 1)
    path = run / "sized.resam"
    command = [str(run), "-o", str(path), "--size", "ship=30x6px", "--size", "tank=5px"]
    result = CliRunner().invoke(export, command)
    assert result.exit_code == 0, result.output
    engine = EngineFile.open(path)
    assert engine.manifest.sizes is not None
    assert dataclasses.asdict(engine.manifest.sizes) == {"unit": "px2", "areas": {"ship": 180.0, "tank": 25.0}}
    base = apply_adapter(load_base(run / "toy.pth"), Adapter.open(run))
    loop = RefineRequery(PromptDecoder(base.sam), 0.4, "box", 1, sized=True).eval()
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    embedding = run_session(open_session(bytes(engine.graph("encoder"))), {"image": image})["embedding"]
    session, masks = open_session(bytes(engine.graph("loop"))), []
    for side in (0, 4, 40):
        coords, labels = with_sides(np.float32([[[12, 9]]]), np.ones((1, 1), np.int32), np.float32([side]))
        found = run_session(session, {"embedding": embedding, "point_coords": coords, "point_labels": labels})
        with torch.no_grad():
            wanted = loop(torch.from_numpy(embedding), torch.from_numpy(coords), torch.from_numpy(labels))
        for name in FIELDS:
            expected = getattr(wanted, name).numpy()
            assert np.linalg.norm(found[name] - expected) <= 1e-4 * np.linalg.norm(expected) + 1e-6, (name, side)
        masks.append(found["coarse_masks"])
    assert not all(np.allclose(masks[0], other) for other in masks[1:]), "a size must choose another mask"


def test_sizes_in_two_units_are_refused(run: Path) -> None:
    result = CliRunner().invoke(export, [str(run), "-o", str(run / "a.resam"), "--size", "a=3m", "--size", "b=4px"])
    assert result.exit_code == 2
    assert "all in m or all in px" in result.stderr


def test_a_base_of_one_mask_takes_no_sizes(tmp_path: Path) -> None:
    torch.save(random_base(TOY).sam.state_dict(), tmp_path / "toy.pth")
    command = ["--base", str(tmp_path / "toy.pth"), "-o", str(tmp_path / "a.resam"), "--size", "ship=30x6m"]
    result = CliRunner().invoke(export, command)
    assert result.exit_code == 2
    assert "one mask for each prompt" in result.stderr
