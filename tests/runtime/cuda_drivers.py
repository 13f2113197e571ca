"""The CUDA driver as pycuda and as cuda-python show it, over host memory: what our two device classes are tested on.

Both refuse what the real driver would crash on or call an error: calls outside the context, unknown pointers, copies
that overrun, and copies while something is recorded.
"""

from __future__ import annotations

import ctypes
import enum
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from resam_runtime.engine.backends.cuda_pycuda import PycudaDevice
from resam_runtime.engine.backends.cuda_python import CudaPythonDevice

PLAN = Path("model.plan")


class Gpu:
    """What both drivers drive. `full`: allocations fail. `records`: whether a stream can be recorded."""

    def __init__(self, records: bool = True) -> None:
        self.allocations: dict[int, np.ndarray] = {}
        self.pinned: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.graphs: dict[int, Callable[[], None]] = {}
        self.diary: list[str] = []
        self.depth, self.full, self.records = 0, False, records
        self._recording: list[Callable[[], None]] | None = None
        self._next = 4096

    def address(self, nbytes: int = 0) -> int:
        pointer, self._next = self._next, self._next + nbytes + 256
        return pointer

    def allocate(self, nbytes: int) -> int:
        assert self.depth
        pointer = self.address(nbytes)
        self.allocations[pointer] = np.zeros(nbytes, np.uint8)
        return pointer

    def upload(self, target: int, source: np.ndarray) -> None:
        self._copies("upload")
        self.allocations[target][: source.size][:] = source

    def download(self, target: np.ndarray, source: int) -> None:
        self._copies("download")
        target[:] = self.allocations[source][: target.size]

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._copies("copy")
        self.allocations[target][:nbytes] = self.allocations[source][:nbytes]

    def _copies(self, word: str) -> None:
        assert self.depth
        assert self._recording is None
        self.diary.append(word)

    def enqueue(self, work: Callable[[], None]) -> None:
        """What TensorRT does with the stream."""
        if self._recording is None:
            self.diary.append("enqueue")
            work()
        else:
            self._recording.append(work)

    def begin(self) -> bool:
        self.diary.append("capture")
        self._recording = [] if self.records else None
        return self.records

    def end(self) -> int:
        works, self._recording = list(self._recording or ()), None
        pointer = self.address()
        self.graphs[pointer] = lambda: [work() for work in works] and None
        return pointer

    def launch(self, graph: int) -> None:
        assert self.depth
        self.diary.append("launch")
        self.graphs[graph]()


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_SUPPORTED = 801


class CudaPythonDriver:
    """As `cuda.bindings.driver`: each call gives a status, then what it made."""

    CUresult = Result
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return (Result.CUDA_SUCCESS,)

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, 1

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, 40 + ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, b"Orin".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, {75: 8, 76: 7}[attribute]

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, "context"

    def cuCtxPushCurrent(self, context: str) -> tuple[Any, ...]:
        self.gpu.depth += 1
        return (Result.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        self.gpu.depth -= 1
        return Result.CUDA_SUCCESS, "context"

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        assert self.gpu.depth
        return Result.CUDA_SUCCESS, 7

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        if self.gpu.full:
            return Result.CUDA_ERROR_OUT_OF_MEMORY, None
        return Result.CUDA_SUCCESS, self.gpu.allocate(nbytes)

    def cuMemFree(self, pointer: int) -> tuple[Any, ...]:
        del self.gpu.allocations[pointer]
        return (Result.CUDA_SUCCESS,)

    def cuMemAllocHost(self, nbytes: int) -> tuple[Any, ...]:
        memory = ctypes.create_string_buffer(nbytes)
        self.gpu.pinned[ctypes.addressof(memory)] = memory
        return Result.CUDA_SUCCESS, ctypes.addressof(memory)

    def cuMemFreeHost(self, pointer: int) -> tuple[Any, ...]:
        del self.gpu.pinned[pointer]
        return (Result.CUDA_SUCCESS,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self.gpu.upload(target, np.frombuffer(ctypes.string_at(source, nbytes), np.uint8))
        return (Result.CUDA_SUCCESS,)

    def cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self.gpu.download(np.frombuffer((ctypes.c_char * nbytes).from_address(target), np.uint8), source)
        return (Result.CUDA_SUCCESS,)

    def cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self.gpu.copy(target, source, nbytes)
        return (Result.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self.gpu.diary.append("synchronize")
        return (Result.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        return (Result.CUDA_SUCCESS if self.gpu.begin() else Result.CUDA_ERROR_NOT_SUPPORTED,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, self.gpu.end()

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        made = self.gpu.address()
        self.gpu.graphs[made] = self.gpu.graphs[graph]
        return Result.CUDA_SUCCESS, made

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.gpu.graphs[graph]
        return (Result.CUDA_SUCCESS,)

    def cuGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        return self.cuGraphDestroy(graph)

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        self.gpu.launch(graph)
        return (Result.CUDA_SUCCESS,)

    def cuGetErrorName(self, status: Result) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, status.name.encode()


def pycuda_driver(gpu: Gpu) -> Any:
    """As `pycuda.driver`."""

    class Error(Exception):
        pass

    class Allocation:
        def __init__(self, nbytes: int) -> None:
            if gpu.full:
                raise Error("cuMemAlloc failed: out of memory")
            self.pointer = gpu.allocate(nbytes)

        def __int__(self) -> int:
            return self.pointer

        def __del__(self) -> None:
            if hasattr(self, "pointer"):
                del gpu.allocations[self.pointer]

    class Context:
        def push(self) -> None:
            gpu.depth += 1

        def pop(self) -> None:
            gpu.depth -= 1

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "Orin"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def retain_primary_context(self) -> Context:
            return Context()

    stream = SimpleNamespace(handle=7, synchronize=lambda: gpu.diary.append("synchronize"))
    return SimpleNamespace(
        Error=Error,
        Device=Device,
        init=lambda: None,
        Stream=lambda: stream,
        mem_alloc=Allocation,
        pagelocked_empty=lambda size, dtype: np.zeros(size, dtype),
        memcpy_htod_async=lambda target, source, stream: gpu.upload(int(target), source),
        memcpy_dtoh_async=lambda target, source, stream: gpu.download(target, int(source)),
        memcpy_dtod_async=lambda target, source, nbytes, stream: gpu.copy(target, source, nbytes),
    )


class CudaLibrary:
    """As libcuda's C interface, as far as pycuda lacks it: 0 is success."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        return 0 if self.gpu.begin() else 801

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        graph._obj.value = self.gpu.end()
        return 0

    def cuGraphInstantiateWithFlags(self, made: Any, graph: Any, flags: Any) -> int:
        made._obj.value = self.gpu.address()
        self.gpu.graphs[made._obj.value] = self.gpu.graphs[graph.value]
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        del self.gpu.graphs[graph.value]
        return 0

    cuGraphExecDestroy = cuGraphDestroy

    def cuGraphLaunch(self, graph: Any, stream: Any) -> int:
        self.gpu.launch(graph.value)
        return 0


def over_cuda_python(gpu: Gpu, number: int = 0) -> CudaPythonDevice:
    return CudaPythonDevice(CudaPythonDriver(gpu), PLAN, number)


def over_pycuda(gpu: Gpu, number: int = 0) -> PycudaDevice:
    return PycudaDevice(pycuda_driver(gpu), PLAN, number, CudaLibrary(gpu))


def left_over(gpu: Gpu) -> tuple[int, int, int]:
    """Device memory, pinned memory and graphs that nobody has given back."""
    gc.collect()
    return len(gpu.allocations), len(gpu.pinned), len(gpu.graphs)
