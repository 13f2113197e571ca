"""From a base to an engine file: what is traced, what is verified, what is written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.overrides import TorchFunctionMode

import resam_export.engine as engine_module
import resam_export.models as models_module
from resam.encoders import ARCHITECTURES, vit_graph
from resam.model.bases import Base, load_base
from resam.model.sam import build_sam
from resam_export import onnx_export
from resam_export.engine import LimitError, check_size, export_engine
from resam_export.graphs import Graph, build_graphs
from resam_export.models import add_constant, constant, open_session, run_session
from resam_export.verify import mask_iou, relative_error, verify
from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import TensorSpec
from resam_runtime.engine.precisions import FP16, FP32

from .conftest import Traced


class _Twice(torch.nn.Module):
    """As a loop without Requery: the final mask is the coarse one."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        masks = image * 2 + 1
        return masks, image - 3, masks


def test_one_tensor_can_be_two_outputs() -> None:
    outputs = tuple(TensorSpec(name, "float32", ("N", 4)) for name in ("masks", "other", "coarse_masks"))
    graph = Graph("loop", _Twice(), _Twice(), (TensorSpec("image", "float32", ("N", 4)),), outputs)
    image = np.random.default_rng(0).standard_normal((5, 4), np.float32)
    found = run_session(open_session(onnx_export.export_graph(graph)), {"image": image})
    assert list(found) == ["masks", "other", "coarse_masks"]
    for name, wanted in (("masks", image * 2 + 1), ("other", image - 3), ("coarse_masks", image * 2 + 1)):
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)


@pytest.fixture
def no_tracing(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> dict[str, ir.Model]:
    """Let `export_engine` take these models, traced from the same base, instead of tracing again."""
    models = dict(traced.models)
    monkeypatch.setattr(engine_module, "export_graphs", lambda graphs, advance: models)
    return models


def test_a_loop_is_traced_again_only_where_it_is_another(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(onnx_export, "_last_traced", {})
    monkeypatch.setattr(onnx_export, "export_graph", lambda graph: made.append(graph.name) or traced.models[graph.name])
    sam = load_base("tiny").sam

    def traces(**settings: Any) -> int:
        made.clear()
        models = onnx_export.export_graphs(build_graphs(sam, **settings))
        assert [node.name for node in models["loop"].graph] == [node.name for node in traced.models["loop"].graph]
        return made.count("loop")

    assert [traces(), traces(), traces(fold=False)] == [1, 0, 0]
    for settings in ({"tau": 0.31}, {"requery": "box"}, {"rounds": 2}, {}):
        assert [traces(**settings), traces(**settings)] == [1, 0], settings
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] += 1e-6
    assert traces() == 1


def damage(model: ir.Model, factor: float = 1.01) -> ir.Model:
    """A copy with one weight changed."""
    model = model.clone()
    name = "blocks.3.lin1.bias"
    value = model.graph.initializers[name]
    assert value.const_value is not None
    other = value.const_value.numpy() * factor + 0.01
    value.replace_all_uses_with(add_constant(model.graph, f"{name}.changed", other.astype(np.float32)))
    return model


def test_the_tiny_base_exports_and_segments(tmp_path: Path, traced: Traced, no_tracing: dict[str, ir.Model]) -> None:
    path = tmp_path / "tiny.resam"
    report = export_engine(traced.base, None, path, scenes=3)
    manifest = EngineFile.open(path).manifest
    assert manifest.precision == "fp32"
    assert manifest.verification == report
    assert report["passed"]
    assert report["instances"] > 10
    image = np.full((256, 256, 3), 60, np.uint8)
    image[80:140, 60:150] = (200, 190, 180)
    (instance,) = Segmenter(path)(image, [(100, 110)])
    mask = np.zeros((256, 256), bool)
    x, y = instance.origin
    mask[y : y + instance.mask.shape[0], x : x + instance.mask.shape[1]] = instance.mask
    truth = np.zeros_like(mask)
    truth[80:140, 60:150] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_the_encoder_equals_segment_anything(traced: Traced) -> None:
    sam = load_base("tiny").sam  # the package's own encoder, nothing folded
    image = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float()
        wanted = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std).numpy()
    found = run_session(open_session(traced.models["encoder"]), {"image": image})["embedding"]
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-5


@pytest.mark.parametrize("pieces", [1, 4, 8])
def test_scores_made_in_pieces_are_the_same(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base("tiny")
    heads, grid = base.architecture.encoder_heads, base.architecture.grid
    monkeypatch.setattr(vit_graph, "LARGEST_SCORES", heads * grid**4 // pieces)
    graph = build_graphs(base.sam, fold=False)["encoder"]
    largest = 0

    class Softmax(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            if func is torch.Tensor.softmax:
                largest = max(largest, args[0].numel())
            return func(*args, **(kwargs or {}))

    image = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8))
    with torch.no_grad(), Softmax():
        found = graph.module(image).numpy()
    with torch.no_grad():
        wanted = graph.reference(image).numpy()
    assert relative_error(found, wanted) <= 1e-5
    assert largest == heads * grid**4 // pieces


def test_every_graph_equals_torch_on_random_inputs(traced: Traced) -> None:
    report = verify(traced.graphs, traced.models, FP32, []).report
    errors = {name: error["random"] for name, error in report["relative_error"].items()}
    assert len(errors) == 8
    assert max(errors.values()) <= 1e-5


@pytest.mark.parametrize("sizes", [{"B": 1, "N": 1, "P": 1}, {"B": 3, "N": 1, "P": 4}, {"B": 2, "N": 17, "P": 9}])
def test_every_batch_equals_torch(traced: Traced, sizes: dict[str, int]) -> None:
    rng = np.random.default_rng(1)
    for name, graph in traced.graphs.items():
        shapes = {spec.name: [sizes[n] if isinstance(n, str) else n for n in spec.shape] for spec in graph.inputs}
        feeds: dict[str, Any] = {
            "image": lambda shape: rng.integers(0, 256, shape, dtype=np.uint8),
            "embedding": lambda shape: rng.standard_normal(shape, np.float32),
            "point_coords": lambda shape: rng.uniform(0, 256, shape).astype(np.float32),
            "point_labels": lambda shape: rng.integers(-1, 4, shape).astype(np.int32),
        }
        feeds = {key: feeds[key](shape) for key, shape in shapes.items()}
        found = run_session(open_session(traced.models[name]), feeds)
        with torch.no_grad():
            wanted = graph.reference(*(torch.from_numpy(feeds[spec.name]) for spec in graph.inputs))
        for spec, value in zip(graph.outputs, wanted if isinstance(wanted, tuple) else [wanted], strict=True):
            assert found[spec.name].shape == value.shape
            assert relative_error(found[spec.name], value.numpy()) <= 1e-5, (name, spec.name)


def test_graphs_are_clean(traced: Traced) -> None:
    depth = traced.base.architecture.encoder_depth
    bounds = {"encoder": 48 * depth + 20, "decoder": 320, "loop": 740}
    for name, model in traced.models.items():
        nodes = list(model.graph)
        assert len(nodes) <= bounds[name], f"{name}: {len(nodes)} nodes"
        assert len({node.name for node in nodes}) == len(nodes)
        assert all(node.domain == "" for node in nodes)
        assert not {"Constant", "Identity", "If", "Loop", "Scan", "Dropout"} & {node.op_type for node in nodes}
        outputs = set(model.graph.outputs)
        assert all(v.uses() or v in outputs for node in nodes for v in node.outputs[:1]), "a dead branch"
        assert all(value.uses() for value in model.graph.initializers.values()), "a weight that nobody reads"
        constants = [n.name for n in nodes if n.inputs and all(v is None or v.is_initializer() for v in n.inputs)]
        assert constants == []
        assert model.opset_imports == {"": 18}


@pytest.mark.parametrize("name", ["decoder", "loop"])
def test_what_only_the_image_decides_is_computed_once(traced: Traced, name: str) -> None:
    graph = traced.models[name].graph
    constants = set(graph.initializers.values())
    from_image = {value for value in graph.inputs if value.name == "embedding"}
    products = []
    for node in graph:
        inputs = {value for value in node.inputs if value is not None}
        if inputs & from_image and inputs <= from_image | constants:
            from_image |= set(node.outputs)
            products += [node] * (node.op_type == "MatMul")
    # keys and values of the tokens' attention, queries of the image's: for all prompts and both passes
    assert len(products) == 3


def test_no_constant_is_stored_twice(traced: Traced) -> None:
    for model in traced.models.values():
        arrays = [constant(value) for value in model.graph.initializers.values()]
        keys = [(a.dtype.str, a.shape, a.tobytes()) for a in arrays if a is not None]
        assert len(set(keys)) == len(keys) == len(arrays)


@pytest.mark.parametrize("keep", [False, True])
def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, traced: Traced, no_tracing: dict[str, ir.Model], keep: bool
) -> None:
    no_tracing["encoder"] = damage(no_tracing["encoder"])
    path = tmp_path / "tiny.resam"
    if not keep:
        words = r"not written: graph encoder: embedding differs from torch by .*limit 1e-05 .*report it, or --keep"
        with pytest.raises(LimitError, match=words) as refusal:
            export_engine(traced.base, None, path, scenes=1)
        assert list(tmp_path.iterdir()) == []
        assert refusal.value.report["relative_error"]["encoder.embedding"]["stored"] > 1e-5
        return
    report = export_engine(traced.base, None, path, scenes=1, keep_anyway=True)
    kept = EngineFile.open(path).manifest.verification
    assert kept == report
    assert not kept["passed"]
    assert "graph encoder: embedding" in kept["misses"][0]


def test_numbers_that_are_not_finite_are_kept_as_valid_json(
    tmp_path: Path, traced: Traced, no_tracing: dict[str, ir.Model]
) -> None:
    no_tracing["encoder"] = damage(no_tracing["encoder"], np.inf)
    path = tmp_path / "tiny.resam"
    report = export_engine(traced.base, None, path, scenes=1, keep_anyway=True)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    with zipfile.ZipFile(path) as archive:
        written = json.loads(archive.read("manifest.json"), parse_constant=refuse)
    assert written["verification"] == report
    assert written["verification"]["relative_error"]["encoder.embedding"]["stored"] == "inf"
    assert written["verification"]["masks"]["stored"]["score_error"] == "nan"
    assert EngineFile.open(path).manifest.verification == report


def test_images_of_the_user_are_used_and_recorded(
    tmp_path: Path, traced: Traced, no_tracing: dict[str, ir.Model]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    report = export_engine(traced.base, None, tmp_path / "a.resam", images=[image], scenes=0)
    assert (report["images"], report["images_with_truth"]) == (2, 0)  # 300 x 200 px: two tiles of 256
    assert report["instances"] == 32
    assert "miou" not in report["masks"]["stored"]


def test_an_empty_folder_of_images_is_said_before_the_work_starts(
    tmp_path: Path, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(engine_module, "export_graphs")
    (tmp_path / "none").mkdir()
    with pytest.raises(ResamError, match="no image"):
        export_engine(traced.base, None, tmp_path / "a.resam", images=tmp_path / "none", scenes=1)


def test_a_graph_beyond_protobuf_is_refused_before_the_work_starts() -> None:
    with torch.device("meta"):  # shapes without memory
        sam = build_sam(ARCHITECTURES["vit_h"])
    base = Base(sam, ARCHITECTURES["vit_h"], "vit_h", "0" * 64)
    with pytest.raises(ResamError, match=r"vit_h: its encoder has 2\.5 GB .*--fp16"):
        check_size(base, FP32)
    check_size(base, FP16)


def test_a_model_beyond_protobuf_still_runs_for_measurements(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds: dict[str, Any] = {"image": np.zeros((1, 256, 256, 3), np.uint8)}
    wanted = run_session(open_session(traced.models["encoder"]), feeds)["embedding"]
    monkeypatch.setattr(models_module, "PROTOBUF_LIMIT", 1000)
    found = run_session(open_session(traced.models["encoder"]), feeds)["embedding"]
    assert np.array_equal(found, wanted)


def test_relative_error_and_iou_by_hand() -> None:
    assert relative_error(np.array([3.0, 4.1]), np.array([3.0, 4.0])) == pytest.approx(0.02)
    assert relative_error(np.array([np.nan]), np.array([1.0])) == float("inf")
    masks = np.zeros((2, 2, 2), bool)
    other = masks.copy()
    masks[0, 0], other[0, :, 0] = True, True
    assert mask_iou(masks, other).tolist() == pytest.approx([1 / 3, 1.0])
