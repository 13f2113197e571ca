"""`Device` over NVIDIA's cuda-python (package cuda-bindings, 12.6 or later; its first number is that of CUDA)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line


class CudaPythonDevice:
    """On the primary context, which it shares with TensorRT and others in the process."""

    package: ClassVar[str] = "cuda-bindings"
    """What pip calls it."""

    @staticmethod
    def driver() -> Any:
        """The package's module of CUDA's driver; ImportError where it cannot be imported."""
        from cuda.bindings import driver

        return driver

    def __init__(self, driver: Any, path: Path, number: int) -> None:
        """Open GPU `number`; `ResamError`, naming the engine file at `path`, where there is none."""
        self._driver = driver
        try:
            self._call(driver.cuInit(0))
            count = self._call(driver.cuDeviceGetCount())
            if number >= count:
                raise ResamError(f"{path}: no GPU {number} (found {count}); choose another device")
            device = self._call(driver.cuDeviceGet(number))
            self.name = self._call(driver.cuDeviceGetName(256, device)).split(b"\0")[0].decode()
            kinds = driver.CUdevice_attribute
            self.compute_capability = ".".join(
                str(self._call(driver.cuDeviceGetAttribute(kind, device)))
                for kind in (
                    kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                    kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                )
            )
            self._context = self._call(driver.cuDevicePrimaryCtxRetain(device))
            with self.active():
                self._stream = self._call(driver.cuStreamCreate(0))
        except (_CudaError, RuntimeError) as error:  # RuntimeError: the driver's library is not there
            raise ResamError(
                f"{path}: a TensorRT plan needs an NVIDIA GPU, but CUDA does not start ({one_line(error)}); "
                "check the driver with nvidia-smi, or run the .resam file on the CPU"
            ) from None
        self.stream = int(self._stream)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._call(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._call(self._driver.cuCtxPopCurrent())

    def allocate(self, nbytes: int) -> Any:
        try:
            return _Memory(self._driver.cuMemFree, self._call(self._driver.cuMemAlloc(max(1, nbytes))))
        except _CudaError as error:
            raise ResamError(f"GPU {self.name}: no memory for {nbytes} bytes ({error}); free some") from None

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        size = max(1, nbytes)
        memory = _Memory(self._driver.cuMemFreeHost, self._call(self._driver.cuMemAllocHost(size)))
        memory.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (int(memory), False), "version": 3}
        return np.asarray(memory)  # which keeps the memory, as every view of it does

    def upload(self, target: Any, source: NDArray[np.uint8]) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync(int(target), source.ctypes.data, source.nbytes, self._stream))

    def download(self, target: NDArray[np.uint8], source: Any) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync(target.ctypes.data, int(source), target.nbytes, self._stream))

    def copy(self, target: Any, source: Any, nbytes: int) -> None:
        self._call(self._driver.cuMemcpyDtoDAsync(int(target), int(source), nbytes, self._stream))

    def synchronize(self) -> None:
        self._call(self._driver.cuStreamSynchronize(self._stream))

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        driver = self._driver
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        graph = None
        try:
            self._call(driver.cuStreamBeginCapture(self._stream, mode))
            try:
                recorded = enqueue()
            finally:
                ended = driver.cuStreamEndCapture(self._stream)
            graph = self._call(ended)
            recording = _Memory(driver.cuGraphExecDestroy, self._call(driver.cuGraphInstantiate(graph, 0)))
        except _CudaError:
            return None
        finally:
            if graph is not None:
                driver.cuGraphDestroy(graph)
        return recording if recorded else None

    def launch(self, recording: Any) -> None:
        self._call(self._driver.cuGraphLaunch(recording.handle, self._stream))

    def _call(self, outcome: tuple[Any, ...]) -> Any:
        """What a call of the driver gave beside its status. Raises `_CudaError`."""
        status, *values = outcome
        if status != self._driver.CUresult.CUDA_SUCCESS:
            _, name = self._driver.cuGetErrorName(status)
            raise _CudaError(f"CUDA: {name.decode() if isinstance(name, bytes) else f'error {int(status)}'}")
        return values[0] if values else None


class _CudaError(ResamError):
    """With the name of the error, such as CUDA_ERROR_OUT_OF_MEMORY."""


class _Memory:
    """What the driver gave and takes back with the last reference: memory, or a recording."""

    __array_interface__: dict[str, Any]

    def __init__(self, free: Callable[[Any], Any], handle: Any) -> None:
        self.handle, self._free = handle, free

    def __int__(self) -> int:
        return int(self.handle)

    def __del__(self) -> None:
        self._free(self.handle)
