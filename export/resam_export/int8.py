"""INT8 for products with a constant matrix and for convolutions, as explicit QuantizeLinear / DequantizeLinear pairs.

Symmetric int8 everywhere, zero point 0: activations with one scale per tensor, weights with one per output channel.
TensorRT takes nothing else, and ONNX Runtime turns the same pairs into integer products on a CPU. What is quantised are
projections, MLPs and, for CPUs, the upscaling of masks. The products inside attention, norms and softmax are not: they
stay fp32 (for CPUs) or become fp16 afterwards (`resam_export.precision`, for GPUs).

Calibration, for each product A W on rows of A from the given images:

* where a layer norm feeds the product, channels that are large in A are made smaller there and larger in W (exact, the
  factor goes into the norm's own weights), as far as both grow equally: s = sqrt(max |A| / max |W|), per channel
  (SmoothQuant, arXiv 2211.10438);
* the scale of A is the one with the smallest squared error among shares of its largest value, so that a few massive
  activations do not take the whole range;
* the error that this makes in A W, relative to A W, is the product's sensitivity. Beyond `SENSITIVE` it stays as it is.

A convolution is such a product, too: a row of A is what the kernel sees at one place. Those of single channels
(depthwise) take no time and stay. ONNX Runtime makes an integer convolution only where the result has a pair as well,
read by one node: the bias, added behind it. So a convolution without a bias stays, as SAM's neck does.

No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .models import Feeds, add_constant, constant, drop_unused, open_session, run_session
from .product_rows import Array, Kernel, matrix_of, spread_and_peaks

SENSITIVE = 0.1  # relative error of a product beyond which it is not quantised
ROWS = 256  # rows of A that are kept from each image
LEVELS = 127
MIN_SIZE = 32  # a product with a smaller matrix gains nothing


@dataclass(frozen=True)
class Quantised:
    """A model with integer products, and what was decided: plain data for the manifest."""

    model: ir.Model
    report: dict[str, Any]


@dataclass(frozen=True)
class _Group:
    """Products of one A: those with matrices together, as one joined product, a convolution alone."""

    source: ir.Value
    nodes: list[ir.Node]

    @property
    def kernel(self) -> Kernel | None:
        return Kernel.of(self.nodes[0]) if self.nodes[0].op_type == "Conv" else None


@dataclass(frozen=True)
class _Product:
    node: ir.Node
    source: str  # name of A
    weight: Array  # (K, N), smoothed
    scale: float
    error: float
    result_scale: float  # of what a convolution gives


def quantise(
    model: ir.Model,
    inputs: Sequence[Feeds],
    sensitive: float = SENSITIVE,
    keep: frozenset[str] = frozenset(),
    tallest: int = 0,
) -> Quantised:
    """A copy of an fp32 model with int8 products where they are accurate enough.

    inputs: what to calibrate on. keep: names of product nodes that stay as they are whatever their sensitivity; so do
    those whose A has at most `tallest` rows in each of the inputs, which take no time.
    """
    model = model.clone()
    graph = model.graph
    groups = _groups(graph)
    samples = _sample(model, groups, inputs)
    products, chosen = [], []
    for group, (rows, height) in zip(groups, samples, strict=True):
        if height > tallest:
            found = _calibrate(graph, group, rows)
            taken = [p for p in found if p.error <= sensitive and p.node.name not in keep]
            products += found
            chosen += taken
            if taken and group.kernel is None:
                _insert(graph, taken)
            elif taken:
                _insert_convolution(graph, taken[0])
    drop_unused(graph)
    return Quantised(
        model,
        {
            "products": len(chosen),
            "left": {str(p.node.name): round(p.error, 4) for p in products if p not in chosen},
            "sensitivity_limit": sensitive,
            "largest_sensitivity": round(max((p.error for p in chosen), default=0.0), 4),
        },
    )


def quantise_rows(rows: Array, scale: float) -> Array:
    """Rows as their int8 codes would give them back."""
    return (np.clip(np.rint(rows / scale), -LEVELS, LEVELS) * scale).astype(np.float32)


def quantise_weight(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Codes (K, N) int8 and scales (N,) of a weight, one scale per output channel.

    Every kernel sums the products of these codes exactly. On x86 without VNNI a pair of them, of rows 2 k and 2 k + 1,
    is added up in 16 bits with saturation, the activations in 0 ... 255. So those of a pair that have one sign may come
    to 128 at most (255 * 128 < 2^15): the scale grows until they do, a third on average, where 7 bits would double it.
    """
    tallest = np.abs(weight).max(axis=0)
    rows = np.concatenate([weight, np.zeros_like(weight[: len(weight) % 2])]).reshape(-1, 2, weight.shape[1])
    for signed in (rows, -rows):
        tallest = np.maximum(tallest, np.maximum(signed, 0).sum(axis=1).max(axis=0))
    scale = np.maximum(tallest, 1e-12).astype(np.float32) / LEVELS  # both round up: 127 becomes 128 at most
    return np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8), scale


def best_scale(rows: Array) -> float:
    """The scale with the smallest squared error among shares of the largest value."""
    top = max(float(np.abs(rows).max()), 1e-12)
    rows = rows[:: max(1, len(rows) // 1024)]
    scales = [top * share / LEVELS for share in np.linspace(0.2, 1.0, 33)]
    return float(
        min(scales, key=lambda scale: float(np.square(quantise_rows(rows, scale) - rows).sum(dtype=np.float64)))
    )


def _groups(graph: ir.Graph) -> list[_Group]:
    """The products of computed values with constant matrices and kernels, in the order of their first ones."""
    groups: dict[ir.Value | ir.Node, _Group] = {}
    for node in graph:
        source = node.inputs[0] if node.op_type in ("MatMul", "Conv") else None
        weight = None if source is None or source.producer() is None else constant(node.inputs[1])
        if source is None or weight is None:
            continue
        if node.op_type == "MatMul" and weight.ndim == 2 and min(weight.shape) >= MIN_SIZE:
            groups.setdefault(source, _Group(source, [])).nodes.append(node)
        whole = node.op_type == "Conv" and weight.ndim == 4 and node.attributes.get_int("group", 1) == 1
        if whole and len(node.inputs) > 2 and min(weight[0].size, len(weight)) >= MIN_SIZE:
            groups[node] = _Group(source, [node])
    return list(groups.values())


def _sample(model: ir.Model, groups: Sequence[_Group], inputs: Sequence[Feeds]) -> list[tuple[Array, int]]:
    """Of each group rows of A, evenly spread, from a run of the model on every input, and the most that one had."""
    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    names = list(dict.fromkeys(group.source.name or "" for group in groups))
    probe.graph.outputs.extend(values[name] for name in names)
    session = open_session(probe)
    kept: list[list[Array]] = [[] for _ in groups]
    heights = [0] * len(groups)
    for feeds in inputs:
        found = run_session(session, feeds, names)
        for number, group in enumerate(groups):
            value, kernel = found[group.source.name or ""], group.kernel
            if kernel is not None:
                rows, height = kernel.rows(value, ROWS // max(kernel.size))
            else:
                flat = value.reshape(-1, value.shape[-1])
                rows, height = flat[spread_and_peaks(np.abs(flat).max(axis=1), ROWS)], len(flat)
            kept[number].append(rows)
            heights[number] = max(heights[number], height)
    return [(np.concatenate(blocks), height) for blocks, height in zip(kept, heights)]


def _calibrate(graph: ir.Graph, group: _Group, sample: Array) -> list[_Product]:
    source, nodes = group.source, group.nodes
    name = source.name or ""
    weights = [matrix_of(np.asarray(constant(node.inputs[1]), np.float32)) for node in nodes]
    norm = source.producer()
    users = {user for user, _ in source.uses()}
    if norm is not None and norm.op_type == "LayerNormalization" and users == set(nodes):
        largest = np.abs(sample).max(axis=0)
        against = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        factor = np.sqrt(np.maximum(largest, 1e-5) / np.maximum(against, 1e-5)).astype(np.float32)
        factor /= np.exp(np.log(factor).mean())
        for index in (1, 2):
            old = constant(norm.inputs[index]) if index < len(norm.inputs) else None
            if old is not None:
                norm.replace_input_with(index, add_constant(graph, f"{norm.name}:{index}.smooth", old / factor))
        sample = sample / factor
        weights = [weight * factor[:, None] for weight in weights]
        for node, weight in zip(nodes, weights):
            node.replace_input_with(1, add_constant(graph, f"{node.name}:1.smooth", weight))
    scale = best_scale(sample)
    coded = quantise_rows(sample, scale)
    found = []
    for node, weight in zip(nodes, weights):
        codes, steps = quantise_weight(weight)
        exact = sample @ weight
        error = np.linalg.norm(coded @ (codes * steps) - exact) / max(1e-12, float(np.linalg.norm(exact)))
        found.append(_Product(node, name, weight, scale, float(error), best_scale(exact)))
    return found


def _insert(graph: ir.Graph, products: Sequence[_Product]) -> None:
    """Put the pairs before both factors of the products of one A, made one product of all their columns: ONNX Runtime
    makes an integer product of a pair that serves one product alone."""
    node, scale = products[0].node, products[0].scale
    if len(products) > 1:
        node = _joined(graph, [p.node for p in products], [p.weight.shape[1] for p in products])
    codes, steps = quantise_weight(np.concatenate([product.weight for product in products], axis=1))
    name = products[0].source
    step = add_constant(graph, f"{name}.scale", np.array(scale, np.float32))
    zero = add_constant(graph, f"{name}.zero", np.array(0, np.int8))
    _insert_pair(graph, node, step, zero, name)
    _insert_back(graph, node, 1, codes, steps, axis=1)


def _insert_convolution(graph: ir.Graph, product: _Product) -> None:
    """Put the pairs around a convolution, and its bias behind them."""
    node, name = product.node, product.node.name or ""
    height, width = Kernel.of(node).size
    codes, steps = quantise_weight(product.weight)
    kernel = codes.reshape(height, width, -1, codes.shape[1]).transpose(3, 2, 0, 1)
    step = add_constant(graph, f"{name}:0.scale", np.array(product.scale, np.float32))
    zero = add_constant(graph, f"{name}:0.zero", np.array(0, np.int8))
    _insert_pair(graph, node, step, zero, f"{name}:0")
    _insert_back(graph, node, 1, kernel, steps, axis=0)
    result, bias = node.outputs[0], constant(node.inputs[2])
    assert bias is not None
    users = list(result.uses())
    step = add_constant(graph, f"{name}.scale", np.array(product.result_scale, np.float32))
    there = ir.node("QuantizeLinear", [result, step, zero], name=f"{name}/QuantizeLinear")
    _describe(there, ir.DataType.INT8, result.shape)
    back = ir.node("DequantizeLinear", [there.outputs[0], step, zero], name=f"{name}/DequantizeLinear")
    _describe(back, ir.DataType.FLOAT, result.shape)
    node.resize_inputs(2)
    added = add_constant(graph, f"{name}.bias", bias[:, None, None])
    last = ir.node("Add", [back.outputs[0], added], name=f"{name}/Add")
    _describe(last, ir.DataType.FLOAT, result.shape)
    graph.insert_after(node, [there, back, last])
    for user, index in users:
        user.replace_input_with(index, last.outputs[0])


def _insert_back(graph: ir.Graph, node: ir.Node, index: int, codes: NDArray[Any], steps: Array, axis: int) -> None:
    """Put the codes of a constant, and what gives their values back, in place of a product's input `index`."""
    name = f"{node.name}:{index}"
    value = add_constant(graph, f"{name}.int8", codes)
    step = add_constant(graph, f"{name}.scale", steps)
    zero = add_constant(graph, f"{name}.zero", np.zeros(len(steps), codes.dtype))
    back = ir.node("DequantizeLinear", [value, step, zero], {"axis": axis}, name=f"{name}/DequantizeLinear")
    _describe(back, ir.DataType.FLOAT, value.shape)
    graph.insert_before(node, back)
    node.replace_input_with(index, back.outputs[0])


def _joined(graph: ir.Graph, nodes: Sequence[ir.Node], widths: Sequence[int]) -> ir.Node:
    """One product in place of several of one A, its columns (as many as in `widths`) split among what they
    gave. Its weight is to be set."""
    first = nodes[0]
    joined = ir.node("MatMul", [first.inputs[0], first.inputs[1]], name=f"{first.name}.joined")
    output = joined.outputs[0]
    output.name, output.type = joined.name, ir.TensorType(ir.DataType.FLOAT)
    sizes = add_constant(graph, f"{joined.name}.columns", np.array(widths, np.int64))
    split = ir.node("Split", [output, sizes], {"axis": -1}, num_outputs=len(nodes), name=f"{joined.name}/Split")
    graph.insert_before(first, [joined, split])
    for node, part in zip(nodes, split.outputs, strict=True):
        whole = node.outputs[0]
        part.name, part.type, part.shape = whole.name, whole.type, whole.shape
        whole.replace_all_uses_with(part)
        whole.name = None
        graph.remove(node, safe=True)
    return joined


def _insert_pair(graph: ir.Graph, node: ir.Node, scale: ir.Value, zero: ir.Value, name: str) -> None:
    value = node.inputs[0]
    assert value is not None
    there = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/QuantizeLinear")
    _describe(there, ir.DataType.INT8, value.shape)
    back = ir.node("DequantizeLinear", [there.outputs[0], scale, zero], name=f"{name}/DequantizeLinear")
    _describe(back, ir.DataType.FLOAT, value.shape)
    graph.insert_before(node, [there, back])
    node.replace_input_with(0, back.outputs[0])


def _describe(node: ir.Node, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    output = node.outputs[0]
    output.name, output.type, output.shape = node.name, ir.TensorType(dtype), shape
