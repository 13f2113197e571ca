"""ONNX Runtime: CUDA where it is there, otherwise every physical core of the CPU; TensorRT's provider on request.

ONNX Runtime takes another provider, in silence, where the one asked for does not start. Here a device that was
named is used or an error is raised, and where none was named `describe` says what happened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from resam_runtime.common.cpu import find_cpu
from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.engine.backends.base import parse_device
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import DIGEST_KEY, GraphSpec
from resam_runtime.engine.precisions import precision_named
from resam_runtime.engine.shipped import SHIPPED

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-ep": "TensorrtExecutionProvider",
}
_WORDS = {provider: word for word, provider in _PROVIDERS.items()}
_DTYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "uint8": "tensor(uint8)",
    "int8": "tensor(int8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
}
_DTYPE_NAMES = {written: name for name, written in _DTYPES.items()}
# On a CPU these two do by single numbers what the operators they join do by vectors (ONNX Runtime 1.32:
# the loop of a ViT-B takes 1.27 s with them and 1.08 s without, 32 instances on two cores).
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]


class OnnxBackend:
    """An engine file's ONNX graphs in ONNX Runtime sessions. Runs from several threads go side by side."""

    reads: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".resam"
    devices: ClassVar[tuple[str, ...]] = tuple(_PROVIDERS)

    def __init__(
        self,
        sessions: Mapping[str, Any],
        graphs: Mapping[str, GraphSpec],
        device: tuple[str, int],
        description: str,
        ort: Any,
    ) -> None:
        """Use `OnnxBackend.load`."""
        self._sessions, self._graphs = dict(sessions), dict(graphs)
        self._device = device
        self._description = description
        self._ort = ort

    @classmethod
    def load(cls, engine: EngineFile, device: str | None = None, threads: int | None = None) -> OnnxBackend:
        """Load every graph.

        device: None (CUDA if it starts, else the CPU), "cpu", "cuda" or "tensorrt-ep", the last two also with a number
        ("cuda:1"). threads: for the CPU; None: all physical cores this process may use. Raises `ResamError` when
        ONNX Runtime is missing, does not have or cannot start the device, or refuses a graph.
        """
        ort = _import_onnxruntime(engine.path)
        kind, number = ("cpu", 0) if device is None else parse_device(engine.path, device, cls.devices)
        available = ort.get_available_providers()
        if threads is not None and threads < 1:
            raise ResamError(f"threads: expected at least 1, got {threads}")
        if device is not None and _PROVIDERS[kind] not in available:
            have = ", ".join(_WORDS[name] for name in available if name in _WORDS)
            raise ResamError(
                f"{engine.path}: device {device!r} is not in this ONNX Runtime {ort.__version__} (it has {have}); "
                "install onnxruntime-gpu in place of onnxruntime, or choose another device"
            )
        note = ""
        if device is None:
            kind = "cuda" if _PROVIDERS["cuda"] in available else "cpu"
        try:
            sessions = _load_sessions(ort, engine, kind, number, threads)
        except _NotStarted:
            if device is not None:
                raise ResamError(
                    f"{engine.path}: device {device!r} did not start (ONNX Runtime {ort.__version__} has its provider, "
                    "but no usable GPU, driver or CUDA library was found); check nvidia-smi, or use --device cpu"
                ) from None
            kind, note = "cpu", "; CUDA is installed but did not start"
            sessions = _load_sessions(ort, engine, kind, number, threads)
        used = threads or physical_cores()
        where = f"CPU, {used} thread{'s' * (used != 1)}" if kind == "cpu" else f"{kind} device {number}"
        if kind == "cpu" and engine.path not in SHIPPED.values():  # nobody exported the shipped one for this machine
            doubt = precision_named(engine.manifest.precision).doubt(find_cpu())
            note += f"; {doubt}" if doubt else ""
        line = f"ONNX Runtime {ort.__version__}, {where}, {engine.manifest.precision}{note}"
        return cls(sessions, engine.manifest.graphs, (kind, number), line, ort)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        """See `Backend.run`. On the CPU nothing is copied; on a GPU what is kept stays in its memory."""
        session = self._sessions[graph]
        try:
            if self._device[0] == "cpu":
                values = list(session.run(list(outputs), dict(inputs)))
            else:
                values = self._run_bound(session, inputs, outputs, keep)
        except Exception as error:  # ONNX Runtime raises its own types, each a plain Exception
            raise ResamError(f"graph {graph}: ONNX Runtime failed: {one_line(error)}") from error
        _check_shapes(graph, self._graphs[graph], inputs, dict(zip(outputs, values)))
        return values

    @property
    def on_gpu(self) -> bool:
        """See `Backend.on_gpu`."""
        return self._device[0] != "cpu"

    def split(self, kept: Any) -> list[Any]:
        """See `Backend.split`. The items share the batch's memory, which goes with the last of them."""
        if isinstance(kept, np.ndarray):
            return [kept[number : number + 1] for number in range(len(kept))]
        dtype = np.dtype(_DTYPE_NAMES[kept.data_type()])
        count, *rest = kept.shape()
        size = dtype.itemsize * int(np.prod(rest))
        return [_Part(kept, kept.data_ptr() + number * size, dtype, (1, *rest)) for number in range(count)]

    def describe(self) -> str:
        """For instance "ONNX Runtime 1.20.1, CPU, 8 threads, fp32"."""
        return self._description

    def _run_bound(self, session: Any, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool) -> list[Any]:
        binding = session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            elif isinstance(value, _Part):
                where = value.batch.device_name(), self._device[1]
                binding.bind_input(name, *where, value.dtype.type, value.shape, value.pointer)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            if keep:
                binding.bind_output(name, "cuda", self._device[1])
            else:
                binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        values = binding.get_outputs()
        return list(values) if keep else [value.numpy() for value in values]


def physical_cores() -> int:
    """The physical cores that this process may use (hyper-threads slow matrix products down)."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


@dataclass(frozen=True, eq=False)
class _Part:
    """An item of a batch that ONNX Runtime keeps on a device: the batch, and where in its memory the item begins."""

    batch: Any
    pointer: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _NotStarted(Exception):
    """The provider that was asked for is not the one that the session got."""


def _load_sessions(ort: Any, engine: EngineFile, kind: str, number: int, threads: int | None) -> dict[str, Any]:
    provider = _PROVIDERS[kind]
    sessions = {}
    for name, spec in engine.manifest.graphs.items():
        session = _session(ort, engine, name, kind, number, threads)
        if session.get_providers()[0] != provider:
            raise _NotStarted
        session.disable_fallback()
        _check_tensors(engine.path, name, spec, session)
        carried = session.get_modelmeta().custom_metadata_map.get(DIGEST_KEY)
        if carried != engine.manifest.digest:
            raise ResamError(
                f"{engine.path}: graph {name} belongs to another engine than the manifest; export the engine again"
            )
        sessions[name] = session
    return sessions


def _session(ort: Any, engine: EngineFile, name: str, kind: str, number: int, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised; the rest would be noise on a host program's stderr
    options.intra_op_num_threads = threads or physical_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # N and P change from call to call: a memory pattern learnt from one shape is no use to the next.
    options.enable_mem_pattern = False
    # Workers spin within a run, which is fast, and stop with it, so that three sessions do not fight for the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    on_device = {"device_id": str(number)}
    cuda = (_PROVIDERS["cuda"], {**on_device, "arena_extend_strategy": "kSameAsRequested"})
    providers: list[Any] = [_PROVIDERS["cpu"]]
    if kind != "cpu":
        providers.insert(0, cuda)
    if kind == "tensorrt-ep":
        providers.insert(0, (_PROVIDERS["tensorrt-ep"], on_device))
    content = engine.graph(name)
    if _has_external_data(content):
        raise ResamError(
            f"{engine.path}: graph {name} keeps weights in a file of their own, which no digest covers; "
            "export the engine again"
        )
    try:
        session = ort.InferenceSession(
            content,
            options,
            providers=providers,
            disabled_optimizers=_SLOW_FUSIONS if kind == "cpu" else None,
        )
    except Exception as error:  # as above
        if kind != "cpu" and ("CUDA" in str(error) or "provider" in str(error).lower()):
            raise _NotStarted from error
        raise ResamError(
            f"{engine.path}: ONNX Runtime {ort.__version__} cannot load graph {name}: {one_line(error)}; "
            "update onnxruntime or export the engine again"
        ) from error
    # The session keeps the model's bytes for a fallback that is switched off here: a second copy of the weights.
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None
    return session


def _check_tensors(path: Path, name: str, spec: GraphSpec, session: Any) -> None:
    """The graph must be the one the manifest describes."""
    for side, wanted, found in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        expected = {tensor.name: _DTYPES[tensor.dtype] for tensor in wanted}
        actual = {tensor.name: tensor.type for tensor in found}
        if expected != actual:
            raise ResamError(
                f"{path}: graph {name} has the {side} {_listing(actual)}, the manifest says {_listing(expected)}; "
                "export the engine again"
            )
        shapes = {tensor.name: tensor.shape for tensor in wanted}
        for tensor in found:
            if not _fits(tensor.shape, shapes[tensor.name]):
                raise ResamError(
                    f"{path}: graph {name} has {tensor.name} of shape {tensor.shape}, the manifest says "
                    f"{list(shapes[tensor.name])}; export the engine again"
                )


def _check_shapes(graph: str, spec: GraphSpec, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """What a run gave must have the shapes of the manifest: a graph may leave open what they are until it runs."""
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        named = zip(tensor.shape, _shape(inputs[tensor.name]))
        sizes.update({dim: size for dim, size in named if isinstance(dim, str)})
    for tensor in spec.outputs:
        if tensor.name in outputs:
            wanted = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in tensor.shape]
            if not _fits(shape := _shape(outputs[tensor.name]), wanted):
                raise ResamError(f"graph {graph}: gave {tensor.name} of shape {list(shape)}, expected {wanted}")


def _shape(value: Any) -> Sequence[int]:
    plain = isinstance(value, np.ndarray | _Part)
    return value.shape if plain else value.shape()  # the latter: ONNX Runtime's own, kept


def _fits(shape: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether the sizes that are known on both sides agree."""
    return len(shape) == len(wanted) and all(
        have == want for have, want in zip(shape, wanted) if isinstance(have, int) and isinstance(want, int)
    )


def _has_external_data(model: bytes) -> bool:
    """Whether a serialised ONNX model has tensors that name a file with their values.

    Such an entry's key is the text "location": found as protobuf writes it, a length of any width before it, since the
    base has no package that reads ONNX, and walking through every message would take longer than running it.
    """
    at = model.find(b"location")
    while at >= 0:
        if re.search(rb"\n(\x08|\x88\x80*\x00)$", model[max(0, at - 12) : at], re.DOTALL):
            return True
        at = model.find(b"location", at + 1)
    return False


def _listing(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in tensors.items())


def _import_onnxruntime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ResamError(
            f"{path}: holds ONNX graphs, but ONNX Runtime cannot be imported ({one_line(error)}); "
            "pip install onnxruntime"
        ) from None
    return onnxruntime
