"""TensorRT plans, through TensorRT's own bindings (10.3 to 11) and cuda-python or pycuda.

Device buffers are allocated once, at the plan's largest shapes, and everything runs on one stream. An embedding that is
kept stays in device memory of its own. A shape that comes back gets an execution context of its own, and from its third
run on a CUDA graph: a graph is tied to its context's shapes, so contexts are not shared between shapes, while
their scratch memory is (one run at a time uses it).

Not run on a device so far: tests cover the loading errors, the version and device checks, the buffer plan against
recorded tensors, and the order of copies, runs and recordings on a simulated device, under
both packages' classes.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.engine.backends.base import parse_device
from resam_runtime.engine.backends.cuda import Device, open_device
from resam_runtime.engine.backends.plan import Buffer, TensorRecord, check_target, input_sizes, plan_buffers
from resam_runtime.engine.engine_file import EngineFile

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_KEPT_SHAPES = 8  # contexts with a recording, per graph; each costs host memory and a little of the device's
_POOLED = 4  # unused embeddings whose memory is kept for the next ones


class TensorRTBackend:
    """An engine file's plans on one GPU. Calls from several threads take turns."""

    reads: ClassVar[str] = "tensorrt"
    suffix: ClassVar[str] = ".plan"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def __init__(self, device: Device, graphs: Mapping[str, _Graph], description: str) -> None:
        """Use `TensorRTBackend.load`."""
        self._device = device
        self._graphs = dict(graphs)
        self._description = description
        self._lock = threading.Lock()
        self._pool: list[tuple[int, Any]] = []

    @classmethod
    def load(
        cls,
        engine: EngineFile,
        device: str | None = None,
        threads: int | None = None,
        *,
        tensorrt: Any = None,
        gpu: Device | None = None,
    ) -> TensorRTBackend:
        """Load every plan onto a GPU.

        device: None or "cuda" for the first GPU, "cuda:1" for another. threads: not used, the CPU only waits.
        `tensorrt` and `gpu` stand in for the library and the device in tests. Raises `ResamError` when TensorRT, the
        package for CUDA or the GPU is missing, or when the plan was built for another version or device.
        """
        target = engine.manifest.tensorrt
        if target is None:
            raise ResamError(f"{engine.path}: names no TensorRT version; export the engine again")
        _, number = parse_device(engine.path, device or cls.devices[0], cls.devices)
        trt = tensorrt or _import_tensorrt(engine.path)
        gpu = gpu or open_device(engine.path, number)
        check_target(engine.path, target, engine.manifest.precision, trt.__version__, gpu.compute_capability, gpu.name)
        with gpu.active():
            logger = _logger(trt)
            runtime = trt.Runtime(logger)
            if target.version_compatible:
                runtime.engine_host_code_allowed = True  # such plans carry code; the digest has vouched for the file
            graphs, scratch_size = {}, 1
            for name, spec in engine.manifest.graphs.items():
                plan = runtime.deserialize_cuda_engine(engine.graph(name))
                if plan is None:
                    reason = logger.last or "no reason given"
                    raise ResamError(
                        f"{engine.path}: TensorRT {trt.__version__} cannot load plan {name} ({reason}); build it here: "
                        f"resam-export MODEL.resam --{engine.manifest.precision} -o {engine.path.name}"
                    )
                buffers = plan_buffers(engine.path, name, _records(trt, plan), spec)
                graphs[name] = _Graph(name, trt, plan, buffers, gpu, logger)
                scratch_size = max(scratch_size, int(plan.device_memory_size_v2))
            scratch = gpu.allocate(scratch_size)
            for graph in graphs.values():
                graph.use_scratch(scratch, scratch_size)
        line = (
            f"TensorRT {trt.__version__}, {gpu.name} (compute capability {gpu.compute_capability}), "
            f"{engine.manifest.precision}"
        )
        return cls(gpu, graphs, line)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        """See `Backend.run`."""
        with self._lock, self._device.active():
            # Here, since memory is freed only where the device is current; a tensor may die in any thread.
            del self._pool[: max(0, len(self._pool) - _POOLED)]
            engine = self._graphs[graph]
            sizes = engine.run(inputs)
            results: list[Any] = []
            for name in outputs:
                buffer = engine.buffers[name]
                shape = buffer.shape(sizes)
                if keep:
                    kept = self._keep(shape, buffer.dtype)
                    self._device.copy(kept.pointer, engine.memory[name], kept.nbytes)
                    results.append(kept)
                else:
                    results.append(engine.start_download(name, shape))
            self._device.synchronize()
            # Pinned memory is reused by the next run: hand out copies.
            return [result if keep else result.copy() for result in results]

    @property
    def on_gpu(self) -> bool:
        """See `Backend.on_gpu`."""
        return True

    def split(self, kept: Any) -> list[Any]:
        """See `Backend.split`. Plans are compiled for one tile (`max_batch` of their manifests)."""
        return [kept]

    def describe(self) -> str:
        """For instance "TensorRT 10.3.0, Orin (compute capability 8.7), fp16"."""
        return self._description

    def _keep(self, shape: tuple[int, ...], dtype: str) -> DeviceTensor:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pooled = [i for i, (size, _) in enumerate(self._pool) if size == nbytes]
        pointer = self._pool.pop(pooled[0])[1] if pooled else self._device.allocate(nbytes)
        return DeviceTensor(shape, dtype, nbytes, pointer, self._pool)


class DeviceTensor:
    """An output kept in device memory. Its memory goes back to the backend's pool with the last reference."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str, nbytes: int, pointer: Any, pool: list[tuple[int, Any]]
    ) -> None:
        self.shape, self.dtype, self.nbytes, self.pointer = shape, dtype, nbytes, pointer
        self._pool = pool

    def __del__(self) -> None:
        self._pool.append((self.nbytes, self.pointer))


class _Graph:
    """One plan: its buffers, and an execution context per shape that keeps coming back."""

    def __init__(
        self, name: str, trt: Any, plan: Any, buffers: Mapping[str, Buffer], device: Device, logger: Any
    ) -> None:
        self.name = name
        self.buffers = dict(buffers)
        self.memory = {tensor: device.allocate(buffer.nbytes) for tensor, buffer in buffers.items()}
        self._staging: dict[str, NDArray[np.uint8]] = {}
        self._trt, self._plan, self._device, self._logger = trt, plan, device, logger
        self._scratch: tuple[Any, int] = (None, 0)
        self._general: _Context | None = None
        self._own: collections.OrderedDict[tuple[tuple[str, int], ...], _Context] = collections.OrderedDict()
        self._seen: set[tuple[tuple[str, int], ...]] = set()

    def use_scratch(self, pointer: Any, size: int) -> None:
        self._scratch = (pointer, size)
        self._general = self._context()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """Copy the inputs to the device and start the run; returns the sizes of the dynamic dimensions."""
        sizes = input_sizes(self.name, self.buffers, {name: tuple(value.shape) for name, value in inputs.items()})
        for name, value in inputs.items():
            buffer = self.buffers[name]
            if str(value.dtype) != buffer.dtype:
                raise ResamError(f"graph {self.name}: {name} takes {buffer.dtype}, got {value.dtype}")
            if isinstance(value, DeviceTensor):
                self._device.copy(self.memory[name], value.pointer, value.nbytes)
            else:
                source = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                pinned = self._pinned(name)[: source.size]
                pinned[:] = source
                self._device.upload(self.memory[name], pinned)
        self._context_for(sizes).run(sizes)
        return sizes

    def start_download(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Begin copying an output to pinned memory; valid after the stream is done, until the next run."""
        dtype = np.dtype(self.buffers[name].dtype)
        pinned = self._pinned(name)[: int(np.prod(shape)) * dtype.itemsize]
        self._device.download(pinned, self.memory[name])
        return pinned.view(dtype).reshape(shape)

    def _pinned(self, name: str) -> NDArray[np.uint8]:
        if name not in self._staging:
            self._staging[name] = self._device.pinned(self.buffers[name].nbytes)
        return self._staging[name]

    def _context_for(self, sizes: Mapping[str, int]) -> _Context:
        """The context of this shape if it has come before, else the one for all shapes."""
        key = tuple(sorted(sizes.items()))
        if key in self._own:
            self._own.move_to_end(key)
            return self._own[key]
        if key not in self._seen:
            self._seen.add(key)
            assert self._general is not None
            return self._general
        if len(self._own) >= _KEPT_SHAPES:
            self._own.popitem(last=False)
        self._own[key] = self._context(records=True)
        return self._own[key]

    def _context(self, records: bool = False) -> _Context:
        context = self._plan.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise ResamError(f"graph {self.name}: no memory for an execution context ({self._logger.last}); free some")
        context.set_device_memory(int(self._scratch[0]), self._scratch[1])
        for name, pointer in self.memory.items():
            context.set_tensor_address(name, int(pointer))
        return _Context(self.name, context, self.buffers, self._device, self._logger, records)


class _Context:
    """An execution context: sets shapes, runs, and, where it serves one shape, records a CUDA graph."""

    def __init__(
        self, graph: str, context: Any, buffers: Mapping[str, Buffer], device: Device, logger: Any, records: bool
    ) -> None:
        self._graph, self._context, self._buffers = graph, context, buffers
        self._device, self._logger = device, logger
        self._records = records
        self._recording: Any = None
        self._sizes: dict[str, int] | None = None

    def run(self, sizes: Mapping[str, int]) -> None:
        if self._recording is not None:
            self._device.launch(self._recording)
            return
        if self._sizes != sizes:
            for buffer in self._buffers.values():
                if buffer.is_input:
                    self._check(self._context.set_input_shape(buffer.name, buffer.shape(sizes)))
            self._sizes = dict(sizes)
        elif self._records:
            # The first run after a change of shape prepares; this is the second, so it may be recorded.
            self._recording = self._device.capture(self._enqueue)
            self._records = False
            if self._recording is not None:
                self._device.launch(self._recording)
                return
        self._check(self._enqueue())

    def _enqueue(self) -> bool:
        return bool(self._context.execute_async_v3(self._device.stream))

    def _check(self, done: bool) -> None:
        if not done:
            raise ResamError(f"graph {self._graph}: TensorRT failed: {self._logger.last or 'no reason given'}")


def _records(trt: Any, plan: Any) -> list[TensorRecord]:
    """A plan's tensors as plain data."""
    records = []
    for i in range(plan.num_io_tensors):
        name = plan.get_tensor_name(i)
        is_input = plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        maximum = tuple(int(d) for d in plan.get_tensor_profile_shape(name, 0)[2]) if is_input else None
        kind = plan.get_tensor_dtype(name).name
        shape = tuple(int(d) for d in plan.get_tensor_shape(name))
        records.append(TensorRecord(name, is_input, _DTYPES.get(kind, kind), shape, maximum))
    return records


def _import_tensorrt(path: Path) -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise ResamError(
            f"{path}: a TensorRT plan, but TensorRT cannot be imported ({one_line(error)}); install it (JetPack: "
            "apt install python3-libnvinfer; elsewhere: pip install 'resam[tensorrt]'), or run the .resam file"
        ) from None
    return tensorrt


def _logger(trt: Any) -> Any:
    """A TensorRT logger that prints nothing and remembers the last error, for our own message."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:200]

    return Logger()
