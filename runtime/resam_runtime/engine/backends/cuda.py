"""The few things the TensorRT backend asks of CUDA: the seam at which tests put a device of their own.

Two packages give them, a class each: NVIDIA's cuda-python, which comes as a wheel, and pycuda, which is compiled where
it is installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.engine.backends.cuda_pycuda import PycudaDevice
from resam_runtime.engine.backends.cuda_python import CudaPythonDevice


class Device(Protocol):
    """One GPU and one stream. Pointers are whatever `int()` turns into an address; freed with their last reference."""

    name: str
    compute_capability: str
    stream: int

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Makes the device current in this thread; all other calls happen inside."""
        ...

    def allocate(self, nbytes: int) -> Any: ...

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, from and to which copies need no staging."""
        ...

    def upload(self, target: Any, source: NDArray[np.uint8]) -> None: ...

    def download(self, target: NDArray[np.uint8], source: Any) -> None: ...

    def copy(self, target: Any, source: Any, nbytes: int) -> None: ...

    def synchronize(self) -> None: ...

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        """Record what `enqueue` puts on the stream, without running it; None where it cannot be recorded."""
        ...

    def launch(self, recording: Any) -> None: ...


# cuda-python may be there for torch's sake: pycuda only where somebody chose it.
DEVICE_TYPES: tuple[type[PycudaDevice] | type[CudaPythonDevice], ...] = (PycudaDevice, CudaPythonDevice)
"""`Device` over each package; the first whose package can be imported is taken."""


def open_device(path: Path, number: int) -> Device:
    """GPU `number`, through whichever package is installed. `ResamError`, naming the engine file, where none is or
    there is no such GPU."""
    reasons = []
    for device in DEVICE_TYPES:
        try:
            driver = device.driver()
        except ImportError as error:
            reasons.append(one_line(error))
            continue
        return device(driver, path, number)
    raise ResamError(
        f"{path}: a TensorRT plan needs cuda-python or pycuda, and none can be imported ({'; '.join(reasons)}); "
        "pip install 'cuda-bindings<13' for CUDA 12, 'cuda-bindings<14' for CUDA 13, or run the .resam file"
    )
