"""The GPU of this machine, asked of the driver's C interface: no Python package is needed for four numbers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from resam_runtime.common.errors import ResamError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class NotHereError(ResamError):
    """This machine lacks what is asked for; the message says what, and neither which file nor what to do instead."""


@dataclass(frozen=True)
class GPU:
    """A GPU: its name ("Orin") and compute capability ("8.7")."""

    name: str
    compute_capability: str


def find_gpu() -> GPU:
    """The first GPU of this process (`CUDA_VISIBLE_DEVICES` counts). `NotHereError` where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NotHereError("no NVIDIA GPU found (its driver, libcuda.so.1, is not installed)") from None
    status = driver.cuInit(0)
    count, device = ctypes.c_int(), ctypes.c_int()
    status = status or driver.cuDeviceGetCount(ctypes.byref(count))
    if not status and count.value < 1:
        raise NotHereError("no NVIDIA GPU found (the driver finds none)")
    status = status or driver.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    status = status or driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    if status:
        raise NotHereError(f"the NVIDIA driver does not start (CUDA error {status}; see nvidia-smi)")
    return GPU(name.value.decode(errors="replace"), ".".join(capability))
