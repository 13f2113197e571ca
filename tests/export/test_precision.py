"""fp16 and INT8: types as claimed, results within the limits, also where activations are large."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from resam.model.bases import load_base
from resam_export import onnx_export
from resam_export.engine import calibration, set_precision
from resam_export.graphs import build_graphs
from resam_export.int8 import quantise, quantise_weight
from resam_export.models import add_constant, constant, open_session, run_session, to_bytes
from resam_export.precision import to_fp16
from resam_export.prompted_tiles import PromptedTile, synthetic_tiles
from resam_export.ranges import measure_ranges, too_large
from resam_export.rounding import rounded
from resam_export.verify import Verification, verify
from resam_runtime.engine.precisions import FP16, FP32, INT8, INT8_FP32
from resam_runtime.tiles.tiling import Framing

from .conftest import Traced


def few(count: int = 3) -> list[PromptedTile]:
    return list(islice(calibration(256, Framing(256)), count))


@pytest.fixture(scope="module")
def fp16(traced: Traced) -> dict[str, ir.Model]:
    return set_precision(traced.models, FP16, few())[0]


def proto_types(model: ir.Model) -> dict[str, int]:
    """Element types of all values, as ONNX's own strict inference finds them from the nodes alone."""
    proto = onnx.load_model_from_string(to_bytes(model))
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("name", ["encoder", "decoder", "loop"])
def test_fp16_graphs_have_the_types_they_claim(fp16: dict[str, ir.Model], name: str) -> None:
    model = fp16[name]
    types = proto_types(model)
    products = []
    for node in model.graph:
        inputs = [types[v.name or ""] for v in node.inputs if v is not None]
        outputs = [types[v.name or ""] for v in node.outputs]
        if node.op_type in ("LayerNormalization", "Softmax", "Sin", "Cos"):
            assert set(inputs + outputs) == {TensorProto.FLOAT}, node.name
        elif node.op_type in ("MatMul", "Conv"):
            products.append(inputs[0] == TensorProto.FLOAT16)
        if node.op_type != "Cast":
            assert len({t for t in inputs if t in (TensorProto.FLOAT, TensorProto.FLOAT16)}) <= 1, node.name
    # the position encoding of coordinates is the one product in fp32
    assert products.count(False) == {"encoder": 0, "decoder": 1, "loop": 2}[name]
    proto = onnx.load_model_from_string(to_bytes(model))
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type != TensorProto.FLOAT16


@pytest.mark.slow
def test_fp16_keeps_its_limits_on_the_tiny_base(traced: Traced, fp16: dict[str, ir.Model]) -> None:
    found = verify(traced.graphs, fp16, FP16, synthetic_tiles(256, 6))
    assert found.misses == []
    masks = found.report["masks"]["rounded"]
    assert masks["iou"] >= 0.99
    assert masks["miou_torch"] - masks["miou"] <= 0.002


@pytest.mark.slow
def test_int8_keeps_its_limits_on_the_tiny_base(traced: Traced) -> None:
    models, made = set_precision(traced.models, INT8, few(4))
    assert made["int8"]["encoder"]["products"] >= 6 * traced.base.architecture.encoder_depth
    found = verify(traced.graphs, models, INT8, synthetic_tiles(256, 6))
    masks = found.report["masks"]["rounded"]
    assert masks["iou"] >= INT8.tolerances.iou
    assert masks["miou_torch"] - masks["miou"] <= 0.01
    # Its decoder is no INT8, and has fp16's limit.
    decoder = models["decoder"].clone()
    norm = [node for node in decoder.graph if node.op_type == "LayerNormalization"][-1]
    weight = constant(norm.inputs[1])
    assert weight is not None
    norm.replace_input_with(1, add_constant(decoder.graph, "scaled", weight * np.float32(1.05)))
    (miss, *_) = verify(traced.graphs, {**models, "decoder": decoder}, INT8, []).misses
    assert "graph decoder" in miss
    assert miss.endswith("limit 0.01")


@pytest.fixture(scope="module")
def for_cpus(traced: Traced) -> dict[str, ir.Model]:
    encoder = onnx_export.export_graph(build_graphs(traced.base.sam, fold=False)["encoder"])
    return set_precision({**traced.models, "encoder": encoder}, INT8_FP32, few(4))[0]


@pytest.mark.slow
def test_int8_with_the_rest_in_fp32_keeps_its_limits(traced: Traced, for_cpus: dict[str, ir.Model]) -> None:
    assert not any(TensorProto.FLOAT16 in proto_types(model).values() for model in for_cpus.values())
    found = verify(traced.graphs, for_cpus, INT8_FP32, synthetic_tiles(256, 6))
    assert found.misses == []
    # What upscales the masks is in INT8 too, and nothing else of the decoder.
    errors = found.report["relative_error"]
    assert 1e-4 < errors["decoder.masks"]["stored"] < errors["decoder.masks"]["limit"] == 0.1
    assert errors["decoder.scores"]["stored"] < FP32.tolerances.prompted


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["encoder", "decoder", "loop"])
def test_a_cpu_makes_integer_products_of_all_pairs(
    traced: Traced, for_cpus: dict[str, ir.Model], graph: str, tmp_path: Path
) -> None:
    """ONNX Runtime leaves a pair alone that serves two products: each would be made in fp32, and from int8 weights."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(to_bytes(for_cpus[graph]), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["DequantizeLinear"] == 0
    # encoder: q, k and v as one; out, lin1, lin2; the patch embedding and the neck's first product. The others: the two
    # products that upscale masks, in each pass
    expected = {"encoder": 4 * traced.base.architecture.encoder_depth + 2, "decoder": 2, "loop": 4}
    assert operators["MatMulIntegerToFloat"] == expected[graph]


def test_int8_pairs_are_what_tensorrt_accepts(traced: Traced) -> None:
    model = quantise(traced.models["encoder"], [{"image": s.image} for s in few(1)]).model
    proto = onnx.load_model_from_string(to_bytes(model))
    onnx.checker.check_model(proto, full_check=True)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    pairs = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        if node.input[0] in constants:  # a weight: one scale per output channel
            weight = constants[node.input[0]]
            assert weight.dtype == np.int8
            assert scale.shape == (weight.shape[1],)
            assert -127 <= weight.min() <= weight.max() <= 127
            assert node.attribute[0].i == 1
        else:
            assert scale.shape == ()


def int8_weights(model: ir.Model) -> list[np.ndarray]:
    """Codes (K, N) of every product's weight."""
    arrays = (constant(value) for value in model.graph.initializers.values())
    return [array for array in arrays if array is not None and array.dtype == np.int8 and array.ndim == 2]


def saturating_sums(activations: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(M, K) uint8 times (K, N) int8 as AVX2 sums it (vpmaddubsw): two neighbours in 16 bits, which saturate."""
    products = activations.astype(np.int32)[:, :, None] * codes.astype(np.int32)[None]
    products = np.concatenate([products, np.zeros_like(products[:, : products.shape[1] % 2])], axis=1)
    pairs = products.reshape(len(products), -1, 2, products.shape[2]).sum(axis=2)
    return np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(axis=1)


def worst_activations(codes: np.ndarray) -> np.ndarray:
    """For some columns of a weight the activations that drive it as far up, and as far down, as any can."""
    columns = codes[:, np.argsort(np.abs(codes.astype(int)).sum(axis=0))[-8:]].T
    return np.concatenate([np.where(columns > 0, 255, 0), np.where(columns < 0, 255, 0)]).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["encoder", "decoder", "loop"])
def test_int8_products_sum_exactly_in_16_bits(for_cpus: dict[str, ir.Model], graph: str) -> None:
    """On a CPU with AVX2 alone ONNX Runtime adds up pairs of products in 16 bits; there is none here to show it."""
    for codes in int8_weights(for_cpus[graph]):
        whole = codes.astype(np.int32)
        whole = np.concatenate([whole, np.zeros_like(whole[: len(whole) % 2])]).reshape(-1, 2, codes.shape[1])
        assert 255 * np.maximum(whole, 0).sum(axis=1).max() < 1 << 15
        assert 255 * np.minimum(whole, 0).sum(axis=1).min() >= -(1 << 15)
        some = codes[:, :16]
        activations = worst_activations(some)
        exact = activations.astype(np.int32) @ some.astype(np.int32)
        assert np.array_equal(saturating_sums(activations, some), exact)


def test_scales_from_single_weights_would_saturate() -> None:
    """What the scale by pairs is for; and the most that it takes from the precision of a weight."""
    weight = np.random.default_rng(5).standard_normal((257, 16)).astype(np.float32)
    alone = np.rint(weight / (np.abs(weight).max(axis=0) / 127)).astype(np.int8)
    codes, steps = quantise_weight(weight)
    for found, exactly in ((alone, False), (codes, True)):
        activations = worst_activations(found)
        exact = activations.astype(np.int32) @ found.astype(np.int32)
        assert np.array_equal(saturating_sums(activations, found), exact) is exactly
    assert np.abs(codes * steps - weight).max() <= 1.001 * steps.max() / 2
    assert 1.1 < (steps / (np.abs(weight).max(axis=0) / 127)).mean() < 1.6


def test_onnx_runtimes_integer_products_are_numpys() -> None:
    rng = np.random.default_rng(3)
    first, second = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    x = rng.standard_normal((50, 64)).astype(np.float32)
    model = quantise(_products(first, second), [{"x": x}], sensitive=1.0).model
    (codes,) = int8_weights(model)  # the second one: the first's factor is the graph's input
    there = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    back = next(node for node in model.graph if node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.INT8
                and node.inputs[0].is_initializer())  # fmt: skip
    scale, steps = constant(there.inputs[1]), constant(back.inputs[1])
    assert scale is not None
    assert steps is not None
    activations = np.clip(np.rint((x @ first) / scale), -128, 127).astype(np.int32)
    wanted = (activations @ codes.astype(np.int32)).astype(np.float64) * (scale * steps)
    found = run_session(open_session(model), {"x": x})["y"]
    # one code of an activation that lies on an edge may differ; a sum that wrapped or saturated is off by thousands
    assert np.quantile(np.abs(found - wanted), 0.9) < 1e-5 * np.abs(wanted).max()


def test_a_sensitive_product_is_left_alone(traced: Traced) -> None:
    inputs = [{"image": s.image} for s in few(1)]
    report = quantise(traced.models["encoder"], inputs).report
    limit = report["largest_sensitivity"] * 0.98  # it is rounded
    stricter = quantise(traced.models["encoder"], inputs, sensitive=limit)
    assert stricter.report["products"] < report["products"]
    (name, *_) = stricter.report["left"]
    node = next(node for node in stricter.model.graph if node.name == name)
    assert node.inputs[1] is not None
    assert node.inputs[1].dtype == ir.DataType.FLOAT
    assert node.inputs[1].is_initializer()


@pytest.fixture(scope="module")
def large(traced: Traced) -> tuple[Traced, Any]:
    """The tiny base with a residual stream 1500 times as large. Layer norms take the factor out again: the same SAM."""
    base = load_base("tiny")
    vit, factor = base.sam.image_encoder, 1500.0
    with torch.no_grad():
        scaled = [vit.patch_embed.proj.weight, vit.patch_embed.proj.bias, vit.pos_embed]
        for block in vit.blocks:
            scaled += [block.attn.proj.weight, block.attn.proj.bias, block.mlp.lin2.weight, block.mlp.lin2.bias]
        for parameter in scaled:
            parameter.mul_(factor)
    graphs = build_graphs(base.sam)
    models = {**traced.models, "encoder": onnx_export.export_graph(graphs["encoder"])}
    return Traced(base, graphs, models), few(2)


@pytest.mark.slow
def test_activations_that_fp16_cannot_hold_become_islands(large: tuple[Traced, Any]) -> None:
    it, tiles = large
    models, made = set_precision(it.models, FP16, tiles)
    assert any("blocks.5" in name for name in made["measured_islands"]["encoder"])
    found = _verify_large(it, models)
    assert found.misses == []
    assert found.report["masks"]["rounded"]["iou"] >= 0.99


@pytest.mark.slow
def test_without_those_islands_verification_refuses(large: tuple[Traced, Any]) -> None:
    it, _ = large
    models = {name: to_fp16(model) for name, model in it.models.items()}
    found = _verify_large(it, models)
    assert any(miss.startswith("graph encoder: embedding") and "rounded" in miss for miss in found.misses)


def _verify_large(it: Traced, models: dict[str, ir.Model]) -> Verification:
    return verify(it.graphs, models, FP16, synthetic_tiles(256, 2))


def test_ranges_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((8, 4)).astype(np.float32) * 1e5
    model = _products(w.astype(np.float32), np.eye(4, dtype=np.float32))
    ranges = measure_ranges(model, [{"x": x}, {"x": 2 * x}])
    both = np.concatenate((x @ w, 2 * x @ w))
    assert ranges["a"] == pytest.approx((both.min(), both.max()), rel=1e-5)
    assert too_large(ranges) == {"a", "y"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_ranges_keep_no_tensors() -> None:
    code = """
import numpy as np, onnx_ir as ir
from onnx import parser
from resam_export.ranges import measure_ranges
steps = "".join(f"s{i} = Sin (x{i}) x{i + 1} = Add (x{i}, s{i}) " for i in range(25))
text = '<ir_version: 8, opset_import: ["" : 18]> g (float[4000000] x0) => (float[4000000] x25) {' + steps + "}"
model = ir.from_proto(parser.parse_model(text))
for node in model.graph:
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([4000000])
inputs = [{"x0": np.linspace(0, 1, 4000000, dtype=np.float32)}]
def peak():  # KiB; getrusage would count the parent's, too
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
assert len(measure_ranges(model, inputs)) == 50
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000, "all 50 tensors are 800 MB"


def test_rounding_overflows_and_rounds_as_fp16_does() -> None:
    w, v = np.array([[1000.0]], np.float32), np.array([[0.001]], np.float32)
    model = to_fp16(_products(w, v))
    x = np.array([[1.0], [100.0], [1.0009], [3.3]], np.float32)
    half = x.astype(np.float16).astype(np.float32)
    with np.errstate(over="ignore"):
        first = (half * np.float32(1000)).astype(np.float16).astype(np.float32)
        wanted = (first * np.float32(np.float16(0.001))).astype(np.float16).astype(np.float32)
    assert np.isinf(wanted[1, 0])
    assert np.array_equal(run_session(open_session(rounded(model)), {"x": x})["y"], wanted)


def _products(first: Any, second: Any) -> ir.Model:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="a"), helper.make_node("MatMul", ["a", "v"], ["y"])]
    info = helper.make_tensor_value_info
    values = [info("x", TensorProto.FLOAT, ["N", len(first)]), info("y", TensorProto.FLOAT, ["N", second.shape[1]])]
    weights = [onnx.numpy_helper.from_array(first, "w"), onnx.numpy_helper.from_array(second, "v")]
    inner = [info("a", TensorProto.FLOAT, ["N", first.shape[1]])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights, value_info=inner)
    opset = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=8))
