"""Ranges: the smallest and largest value of every floating-point tensor of a graph, over given inputs.

The graph itself is measured: each tensor gets a minimum and a maximum as further outputs, worked out right after it,
so that nothing large is kept, and one run of the graph measures all its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from .models import Feeds, open_session, run_session
from .precision import FP16_MAX, MOVES

HEADROOM = 4.0  # images that were not measured may reach this many times further; the decoder's own -1e4 still fits
Ranges = dict[str, tuple[float, float]]


def measure_ranges(model: ir.Model, inputs: Iterable[Feeds]) -> Ranges:
    """Name -> (minimum, maximum) of every float32 value that a node of an fp32 model computes."""
    probe = model.clone()
    graph = probe.graph
    names = []
    for node in list(graph):
        if node.op_type in MOVES:
            continue
        last = node
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT or value.name is None:
                continue
            names.append(value.name)
            for kind in ("Min", "Max"):
                probe_node = ir.node(f"Reduce{kind}", [value], {"keepdims": 0}, name=f"{kind}({value.name})")
                output = probe_node.outputs[0]
                output.name, output.shape = probe_node.name, ir.Shape([])
                output.type = ir.TensorType(ir.DataType.FLOAT)
                graph.insert_after(last, probe_node)
                last = probe_node
                graph.outputs.append(output)
    # In another order ViT-B's encoder would keep every attention's scores: 17 GB instead of 2.
    session = open_session(probe, in_order=True)
    ranges: Ranges = {}
    for feeds in inputs:
        found = run_session(session, feeds, [f"{kind}({name})" for name in names for kind in ("Min", "Max")])
        for name in names:
            low, high = float(found[f"Min({name})"]), float(found[f"Max({name})"])
            before = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(before[0], low), max(before[1], high))
    return ranges


def too_large(ranges: Mapping[str, tuple[float, float]], headroom: float = HEADROOM) -> frozenset[str]:
    """Names of the values that fp16 cannot hold with `headroom` to spare."""
    limit = FP16_MAX / headroom
    return frozenset(name for name, (low, high) in ranges.items() if not max(-low, high) <= limit)
