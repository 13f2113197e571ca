"""A prompter that was trained reaches its engine: as a graph that finds what the head in torch finds, in each
precision, and in a plan.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from resam.model.bases import Base, load_base, random_base
from resam.model.prompter import Prompter, prompter_of
from resam.training.checkpoints import Adapter, describe_base, load_adapted, write_adapter
from resam.training.options import TrainOptions
from resam_export import onnx_export
from resam_export.engine import calibration, export_engine
from resam_export.graphs import build_graphs
from resam_export.models import to_bytes
from resam_export.precision import half_values, to_fp16
from resam_runtime import EngineFile, ResamError, Segmenter
from resam_runtime.engine.engine_file import write_engine_file
from resam_runtime.engine.manifest import GraphSpec
from resam_runtime.masks.instance import Category
from resam_runtime.tiles.tiling import Framing

from ..resam.conftest import TOY
from ..resam.families import shaken, with_masks
from ..runtime.engines import engine_graphs, engine_manifest
from .trt_cpu.command import resam_export

CLASSES = [
    {"id": 2, "name": "ship", "threshold": 0.4, "clicks": 9, "table": [[0.4, 0.5, 0.75]]},
    {"id": 5, "name": "plane", "threshold": 0.5, "clicks": 0, "table": []},
]


def with_prompter(base: Base, classes: int = 2) -> Prompter:
    """Give a base a prompter with random weights, whose heat is well away from 0."""
    architecture = base.architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = Prompter(architecture.embedding_dim, classes, architecture.image_size, architecture.grid, width=16)
    with torch.no_grad():
        head.heat.weight.mul_(20)
        head.heat.bias.zero_()
    base.sam.add_module("prompter", head.eval())
    return head


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A base of toy size, `toy.pth`, and an adapter that holds nothing but a prompter."""
    torch.save(with_masks(shaken(TOY)).sam.state_dict(), tmp_path / "toy.pth")
    base = load_base(tmp_path / "toy.pth")
    state = {f"prompter.{name}": value for name, value in with_prompter(base).state_dict().items()}
    options = TrainOptions(base=str(tmp_path / "toy.pth"), scale=0.5, fit_within=64).to_dict()
    provenance = {"base": describe_base(base), "options": options, "prompter": {"classes": CLASSES, "steps": 1}}
    write_adapter(tmp_path / "adapter.safetensors", state, provenance)
    return tmp_path / "adapter.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-fp32"])
def test_an_engine_finds_what_the_head_in_torch_finds(
    adapter: Path, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # synthetic scenes of 64 px hold little, and a loop without a prompt calibrates nothing
    held = [tile for tile in calibration(64, Framing(64, 1.0)) if len(tile.coords)]
    monkeypatch.setattr("resam_export.engine.calibration", lambda *about: held)
    base, opened = load_adapted(adapter, adapter.with_name("toy.pth"))
    head = prompter_of(base.sam)
    assert head is not None
    path = tmp_path / "model.resam"
    report = export_engine(base, opened, path, precision=precision, scenes=1, keep_anyway=True)
    assert {"prompter.heat", "prompter.boxes"} <= report["relative_error"].keys()
    assert not [line for line in report["misses"] if "graph prompter" in line]
    manifest = EngineFile.open(path).manifest
    assert manifest.prompter is not None
    assert [dataclasses.asdict(one) for one in manifest.prompter.classes] == [
        {**one, "table": tuple(map(tuple, one["table"]))}  # type: ignore[call-overload]
        for one in CLASSES
    ]
    segmenter = Segmenter(path, "cpu", 1)
    embedding = np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)
    heat, boxes = segmenter.backend.run("prompter", {"embedding": embedding}, ["heat", "boxes"])
    with torch.no_grad():
        wanted = head(torch.from_numpy(embedding))
    for mine, theirs in zip((heat, boxes), wanted):
        assert np.linalg.norm(mine - theirs.numpy()) < 5e-3 * np.linalg.norm(theirs.numpy())
    found = segmenter(np.random.default_rng(1).integers(0, 256, (150, 120, 3), dtype=np.uint8))
    assert found
    assert {one.category for one in found} <= {Category(2, "ship"), Category(5, "plane")}


def test_in_fp16_the_head_is_fp16_and_its_boxes_are_not() -> None:
    base = random_base(TOY)
    with_prompter(base)
    model = to_fp16(onnx_export.export_graph(build_graphs(base.sam)["prompter"]))
    kinds = {node.op_type: node.outputs[0].dtype for node in model.graph}
    assert half_values(model) >= 5
    assert kinds["ConvTranspose"] == ir.DataType.FLOAT16
    assert kinds["Exp"] == ir.DataType.FLOAT


def test_an_adapter_that_says_no_classes_is_refused_before_the_work_starts(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("resam_export.engine.export_graphs")
    opened = Adapter.open(adapter)
    provenance = {name: value for name, value in opened.provenance.items() if name != "prompter"}
    write_adapter(adapter, opened.state, provenance)
    with pytest.raises(ResamError, match="does not say what its prompter finds"):
        export_engine(*load_adapted(adapter, adapter.with_name("toy.pth")), tmp_path / "model.resam")


def test_a_prompter_compiles_for_tensorrt(tmp_path: Path) -> None:
    base = random_base(TOY)
    head = Prompter(16, 2, 64, 8, width=16)
    base.sam.add_module("prompter", head.eval())
    graph = build_graphs(base.sam)["prompter"]
    embedding = dataclasses.replace(graph.inputs[0], shape=("B", 16, 8, 8))
    graph = dataclasses.replace(graph, inputs=(embedding,))
    manifest = engine_manifest(finds=True, precision="fp16")
    specs = {**manifest.graphs, "prompter": GraphSpec("prompter.onnx", "", graph.inputs, graph.outputs)}
    manifest = dataclasses.replace(manifest, graphs=specs)
    graphs = {**engine_graphs(finds=True), "prompter": to_bytes(to_fp16(onnx_export.export_graph(graph)))}
    onnx.checker.check_model(onnx.ModelProto.FromString(graphs["prompter"]))
    write_engine_file(tmp_path / "small.resam", manifest, graphs)
    plan = tmp_path / "small.plan"
    outcome = resam_export(tmp_path / "scratch", tmp_path / "small.resam", "-o", plan)
    assert outcome.code == 0, outcome.err
    built = EngineFile.open(plan)
    assert built.manifest.prompter == manifest.prompter
    assert built.manifest.verification["plan"]["graphs"]["prompter"]["warnings"] == []
