"""`Device` over pycuda, which has no CUDA graphs: those five calls go to the driver's C interface."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line

_CAPTURE_THREAD_LOCAL = 1


class PycudaDevice:
    """On the primary context, which it shares with TensorRT and others in the process."""

    package: ClassVar[str] = "pycuda"
    """What pip calls it."""

    @staticmethod
    def driver() -> Any:
        """The package's module of CUDA's driver; ImportError where it cannot be imported."""
        import pycuda.driver as driver

        return driver

    def __init__(self, driver: Any, path: Path, number: int, library: Any = None) -> None:
        """Open GPU `number`; `ResamError`, naming the engine file at `path`, where there is none.

        library: stands in for CUDA's own in tests.
        """
        try:
            driver.init()
            count = driver.Device.count()
            if number >= count:
                raise ResamError(f"{path}: no GPU {number} (found {count}); choose another device")
            device = driver.Device(number)
            self._context = device.retain_primary_context()
            self.name = str(device.name())
            self.compute_capability = ".".join(str(part) for part in device.compute_capability())
            self._driver = driver
            with self.active():
                self._stream = driver.Stream()
        except driver.Error as error:
            raise ResamError(
                f"{path}: a TensorRT plan needs an NVIDIA GPU, but CUDA does not start ({one_line(error)}); "
                "check the driver with nvidia-smi, or run the .resam file on the CPU"
            ) from None
        self.stream = int(self._stream.handle)
        self._graphs = _DriverGraphs(library or ctypes.CDLL("libcuda.so.1"))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def allocate(self, nbytes: int) -> Any:
        try:
            return self._driver.mem_alloc(max(1, nbytes))
        except self._driver.Error as error:
            raise ResamError(f"GPU {self.name}: no memory for {nbytes} bytes ({one_line(error)}); free some") from None

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.asarray(self._driver.pagelocked_empty(max(1, nbytes), np.uint8))

    def upload(self, target: Any, source: NDArray[np.uint8]) -> None:
        self._driver.memcpy_htod_async(target, source, self._stream)

    def download(self, target: NDArray[np.uint8], source: Any) -> None:
        self._driver.memcpy_dtoh_async(target, source, self._stream)

    def copy(self, target: Any, source: Any, nbytes: int) -> None:
        self._driver.memcpy_dtod_async(int(target), int(source), nbytes, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        return self._graphs.capture(self.stream, enqueue)

    def launch(self, recording: Any) -> None:
        self._graphs.launch(recording, self.stream)


class _Recording:
    """An executable CUDA graph; destroyed with its last reference."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self.handle = handle
        self._library = library

    def __del__(self) -> None:
        self._library.cuGraphExecDestroy(self.handle)


class _DriverGraphs:
    def __init__(self, library: Any) -> None:
        self._library = library

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> _Recording | None:
        library, handle = self._library, ctypes.c_void_p(stream)
        if library.cuStreamBeginCapture_v2(handle, _CAPTURE_THREAD_LOCAL):
            return None
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            recorded = enqueue()
        finally:
            ended = library.cuStreamEndCapture(handle, ctypes.byref(graph))
        if ended or not graph.value:
            return None
        failed = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        library.cuGraphDestroy(graph)
        if failed:
            return None
        recording = _Recording(library, executable)
        return recording if recorded else None

    def launch(self, recording: _Recording, stream: int) -> None:
        status = self._library.cuGraphLaunch(recording.handle, ctypes.c_void_p(stream))
        if status:
            raise ResamError(f"GPU: a recorded run could not be launched (CUDA error {status})")
