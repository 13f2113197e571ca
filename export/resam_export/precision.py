"""fp16 with fp32 islands, decided in the ONNX graph, so that every backend runs the same types.

Every node that computes with floating-point numbers gets fp16 inputs and outputs, except the islands, which stay in
fp32; casts stand explicitly at their shores, so that no backend has to guess (TensorRT's strongly typed networks take
the graph as it is). Islands:

* what sums squares: layer norms. A token of a trained SAM has channels in the hundreds to thousands, whose squares
  pass fp16's largest number, 65504;
* softmax, and quotients with a computed denominator back to the products that they come from: linear attention
  divides by a sum over all tokens, which fp16 may neither hold nor, where it is nearly zero, tell from zero;
* geometry: everything between `point_coords` or a mask's logits and the position encoding or `boxes`. Pixels of a
  1024 px tile are half a pixel apart in fp16;
* pixels, up to the patch embedding: from bytes to centred values;
* what measurement asks for: each node that touches a tensor in `hot`, see `resam_export.ranges`.

The graph's inputs and outputs keep their types. docs/precision.md has the measurements. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import onnx_ir as ir

from .models import add_constant, drop_unused

FP16_MAX = 65504.0
SUM_SQUARES = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceL2", "ReduceSumSquare", "Pow"}
)
MOVES = frozenset(  # take elements from place to place: exact in either type
    {"Reshape", "Transpose", "Concat", "Expand", "Slice", "Squeeze", "Unsqueeze", "Pad", "Split", "Identity", "Gather"}
)
PRODUCTS = frozenset({"MatMul", "Conv", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_fp16(model: ir.Model, hot: Set[str] = frozenset(), islands: frozenset[str] | None = None) -> ir.Model:
    """A copy of an fp32 model in fp16 with fp32 islands.

    hot: names of values whose neighbours must be islands too, because fp16 cannot hold them. islands: node names,
    instead of the rules above (for measurements and tests).
    """
    model = model.clone()
    graph = model.graph
    kept = _islands(graph, hot) if islands is None else {node for node in graph if node.name in islands}
    if islands is None:
        _extend(graph, kept)
    _Converter(graph).convert(kept)
    drop_unused(graph)
    return model


def island_names(model: ir.Model, hot: Set[str] = frozenset()) -> frozenset[str]:
    """Names of the nodes that `to_fp16` keeps in fp32."""
    kept = _islands(model.graph, hot)
    _extend(model.graph, kept)
    return frozenset(node.name or "" for node in kept)


def half_values(model: ir.Model) -> int:
    """How many nodes of a model write fp16 values that are computed, not only moved or cast."""
    return sum(
        node.op_type not in MOVES | {"Cast"} and any(value.dtype == _HALF for value in node.outputs)
        for node in model.graph
    )


def _islands(graph: ir.Graph, hot: Set[str]) -> set[ir.Node]:
    kept = {node for node in graph if node.op_type in SUM_SQUARES or node.op_type == "Softmax"}
    kept |= _pixels(graph) | _quantised(graph)
    geometry = _geometry(graph)
    kept |= geometry | _quotients(graph, geometry)
    if hot:
        touched = {value for node in graph for value in node.outputs if value.name in hot}
        kept |= {node for value in touched for node in (value.producer(), *(user for user, _ in value.uses())) if node}
        kept = {node for node in kept if node.op_type != "Shape"}
    return kept


def _geometry(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that sines, cosines and `boxes` are computed from, back to the graph's inputs or to a mask's logits.

    A mask is the product of two computed tensors; the position encoding's own product has a constant factor.
    """
    found: set[ir.Node] = {node for node in graph if node.op_type in ("Sin", "Cos")}
    found |= {producer for value in graph.outputs if value.name == "boxes" and (producer := value.producer())}
    return _back_to_products(found)


def _quotients(graph: ir.Graph, geometry: set[ir.Node]) -> set[ir.Node]:
    """Quotients with a computed denominator, and what they are computed from since the last product with a constant."""
    quotients = {node for node in graph if node.op_type == "Div" and _float_producer(node.inputs[1]) is not None}
    quotients -= geometry
    return _back_to_products(quotients, constant_factor=True)


def _back_to_products(found: set[ir.Node], constant_factor: bool = False) -> set[ir.Node]:
    """The nodes and all that they are computed from, as far as the products of two computed tensors, or with
    `constant_factor` those with a constant one."""
    waiting = list(found)
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if value is None or producer is None or producer in found or value.dtype not in (_FLOAT, ir.DataType.BOOL):
                continue
            if producer.op_type in CONVOLUTIONS:  # what they compute is features, no places
                continue
            if producer.op_type in PRODUCTS and any(map(_is_constant, producer.inputs)) == constant_factor:
                continue
            found.add(producer)
            waiting.append(producer)
    return found


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a weight, perhaps one that is stored in INT8."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]
    return value is not None and value.is_initializer()


def _pixels(graph: ir.Graph) -> set[ir.Node]:
    """Nodes between an input of bytes and the first matrix product."""
    found: set[ir.Node] = set()
    waiting = [value for value in graph.inputs if value.dtype == ir.DataType.UINT8]
    while waiting:
        for node, _ in waiting.pop().uses():
            if node not in found and node.op_type not in PRODUCTS and node.op_type != "Shape":
                found.add(node)
                waiting.extend(node.outputs)
    return found


def _quantised(graph: ir.Graph) -> set[ir.Node]:
    """QuantizeLinear and DequantizeLinear, which know fp32 only before opset 19, and the products between them."""
    pairs = {node for node in graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    users = {user for node in pairs for value in node.outputs for user, _ in value.uses()}
    return pairs | {user for user in users if user.op_type in PRODUCTS}


def _extend(graph: ir.Graph, kept: set[ir.Node]) -> None:
    """Let nodes that only move elements join an island when that saves casts, and leave it when it costs them."""
    for node in reversed(list(graph)):
        if node.op_type not in MOVES:
            continue
        wide = [value.is_graph_output() or all(user in kept for user, _ in value.uses()) for value in node.outputs]
        if not all(wide):
            kept.discard(node)
        elif all(producer in kept for value in node.inputs if (producer := _float_producer(value)) is not None):
            kept.add(node)


def _float_producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None and value.dtype == _FLOAT else None


class _Converter:
    """Rewrites types in place. Every value exists once in each type that is asked for."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.other: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self, kept: Iterable[ir.Node]) -> None:
        kept = set(kept)
        outputs = {value: value.name for value in self.graph.outputs}
        for node in list(self.graph):
            wanted = _FLOAT if node in kept else _HALF
            if node.op_type == "Cast":
                if node.outputs[0].dtype == _FLOAT and wanted == _HALF:
                    node.attributes["to"] = ir.AttrInt64("to", _HALF.value)
                    node.outputs[0].type = ir.TensorType(_HALF)
                continue
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in (_FLOAT, _HALF) and value.dtype != wanted:
                    node.replace_input_with(index, self._as(value, wanted, node))
            if wanted == _HALF and any(value.dtype == _FLOAT for value in node.outputs):
                for value in node.outputs:
                    if value.dtype == _FLOAT:
                        value.type = ir.TensorType(_HALF)
        for index, value in enumerate(list(self.graph.outputs)):
            if value.dtype == _HALF:
                self._cast_output(index, value, outputs[value] or "")

    def _as(self, value: ir.Value, dtype: ir.DataType, node: ir.Node) -> ir.Value:
        """The value in another type: a converted constant, or a cast placed right after it (before `node`)."""
        key = (value, dtype)
        if key not in self.other:
            if value.is_initializer() and value.const_value is not None:
                array = value.const_value.numpy().astype(dtype.numpy())
                self.other[key] = add_constant(self.graph, f"{value.name}.{_short(dtype)}", array)
            else:
                cast = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}.{_short(dtype)}")
                cast.outputs[0].name, cast.outputs[0].type = cast.name, ir.TensorType(dtype)
                cast.outputs[0].shape = value.shape
                producer = value.producer()
                if producer is None:
                    self.graph.insert_before(self.graph[0], cast)
                else:
                    self.graph.insert_after(producer, cast)
                self.other[key] = cast.outputs[0]
        return self.other[key]

    def _cast_output(self, index: int, value: ir.Value, name: str) -> None:
        value.name = f"{name}.fp16"
        cast = ir.node("Cast", [value], {"to": _FLOAT.value}, name=f"{name}.fp32")
        output = cast.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(_FLOAT), value.shape
        self.graph.append(cast)
        self.graph.outputs[index] = output


def _short(dtype: ir.DataType) -> str:
    return "fp16" if dtype == _HALF else "fp32"
