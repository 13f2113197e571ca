"""What a graph's fp16 really computes, on a CPU.

ONNX Runtime's CPU runs most fp16 nodes in fp32 and drops the rounding between them: a value that fp16 cannot hold
passes there unharmed, and turns into infinity on a GPU. `rounded` makes the same graph in fp32 with every result of an
fp16 node rounded to fp16 by a pair of casts, which ONNX Runtime keeps: the numbers of a backend that accumulates in
fp32 and stores in fp16, as tensor cores do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .models import add_constant, drop_unused
from .precision import MOVES

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def rounded(model: ir.Model) -> ir.Model:
    """A copy of a model in which fp16 is fp32, rounded after every node. Models without fp16 come back unchanged."""
    model = model.clone()
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype == _HALF and value.const_value is not None:
            wide = add_constant(graph, f"{value.name}.wide", value.const_value.numpy().astype(np.float32))
            value.replace_all_uses_with(wide)
    for node in list(graph):
        for value in node.outputs:
            if value.dtype != _HALF:
                continue
            if node.op_type == "Cast":
                _widen(graph, node, value, [])
            else:
                value.type = ir.TensorType(_FLOAT)
                if node.op_type not in MOVES:
                    _widen(graph, node, value, [_HALF])
    drop_unused(graph)
    return model


def _widen(graph: ir.Graph, node: ir.Node, value: ir.Value, through: list[ir.DataType]) -> None:
    """After `node`, cast `value` through the types given and to fp32; its readers take the result."""
    users = list(value.uses())
    last, place = value, node
    for dtype in (*through, _FLOAT):
        cast = ir.node("Cast", [last], {"to": dtype.value}, name=f"{value.name}.round{dtype.value}")
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = cast.name, ir.TensorType(dtype), value.shape
        graph.insert_after(place, cast)
        last, place = cast.outputs[0], cast
    for user, index in users:
        user.replace_input_with(index, last)
