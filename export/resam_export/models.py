"""ONNX models in memory: copies, bytes, and ONNX Runtime sessions of any size. No torch here."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)  # bytes of a protobuf message, some room left for what is not weights
Feeds = Mapping[str, NDArray[Any]]


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def to_bytes(model: ir.Model) -> bytes:
    """The model as the bytes of a `.onnx` file. `ResamError` where a protobuf cannot hold it."""
    size = weight_bytes(model)
    if size > PROTOBUF_LIMIT:
        raise ResamError(
            f"graph {model.graph.name}: {size / 1e9:.1f} GB of weights, and one ONNX file holds 2.1 GB; "
            "export with --fp16 or --int8"
        )
    return bytes(ir.to_proto(model).SerializeToString())


def open_session(model: ir.Model | bytes, threads: int | None = None, in_order: bool = False) -> Any:
    """An ONNX Runtime session on the CPU. A model too large for one protobuf goes through a temporary folder.

    in_order: run nodes in the order of the graph, which bounds memory where that order lets go of tensors early.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    # Memory goes back after use: an arena per session would keep each one's peak while the others run.
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = threads or 0
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = ["CPUExecutionProvider"]
    if isinstance(model, bytes):
        return onnxruntime.InferenceSession(model, options, providers=providers)
    if weight_bytes(model) <= PROTOBUF_LIMIT:
        return onnxruntime.InferenceSession(to_bytes(model), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="resam-export-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="weights")
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def run_session(session: Any, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Run a session; outputs by name (all for None)."""
    names = list(outputs) if outputs is not None else [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of a graph, under a name that is not taken yet."""
    base, number = name, 1
    while name in graph.initializers:
        number += 1
        name = f"{base}_{number}"
    array = np.array(array, order="C")  # a scalar stays one
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer; None for a value that is computed, or absent."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def merge_equal(graph: ir.Graph) -> None:
    """Store equal initializers once. (onnx_ir's own pass for this fails on arrays that are not contiguous.)"""
    seen: dict[tuple[Any, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        if array is None or value.is_graph_output():
            continue
        digest = hashlib.sha256(array.tobytes()).digest()
        first = seen.setdefault((value.dtype, array.shape, digest), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[name]


def drop_unused(graph: ir.Graph) -> None:
    """Remove initializers that no node reads any more."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
