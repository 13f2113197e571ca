"""Devices, processes and memory of a run, the first two through lightning-fabric."""

from __future__ import annotations

import atexit
import ctypes
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from resam_runtime.common.errors import ResamError, one_line, system_error

T = TypeVar("T")
WIDE = 768  # channels, ViT-B's: bf16 halves a step on a CPU; the tiny base's takes a fifth less, and more memory
MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4  # parameters of glibc's mallopt, from its malloc.h


def make_fabric(devices: int = 1, accelerator: str = "auto", precision: str = "auto", encoder_width: int = 0) -> Fabric:
    """Devices and precision. precision: "fp32", "bf16" or "auto", which is bf16 on CUDA, and on a CPU that has
    instructions for it where the encoder is wide (`encoder_width` channels, `WIDE` or more); else fp32. More than one
    device: DDP. On a CPU the process keeps its freed memory from then on, see `keep_freed_memory`.

    Raises `ResamError` for devices that are not there.
    """
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    if accelerator == "auto" and not on_gpu:
        accelerator = "cpu"  # "auto" would pick Apple's, which lacks operators that the encoder needs
    if accelerator == "cpu":
        most = max(8, os.cpu_count() or 1)  # a few more than there are cores do no harm
        if devices > most:
            raise ResamError(f"--devices {devices}: at most {most} processes on this machine's cores")
        keep_freed_memory()
    halved = on_gpu or (accelerator == "cpu" and encoder_width >= WIDE and multiplies_bfloat16())
    chosen = {"auto": "bf16-mixed" if halved else "32-true", "bf16": "bf16-mixed", "fp32": "32-true"}[precision]
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=chosen,  # type: ignore[arg-type]
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ResamError(f"--accelerator {accelerator} --devices {devices}: {one_line(error)}") from None


def launch(fabric: Fabric) -> None:
    """Start the other processes, if there are to be any. Their connections are closed before Python ends: threads of
    theirs that are left by then make a finished run end with SIGABRT now and then."""
    fabric.launch()
    atexit.register(_close_connections)


def _close_connections() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16. False also where torch cannot say."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.9
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def keep_freed_memory() -> bool:
    """Have this process use again what it frees. False where its C library is not glibc: all stays as it was.

    glibc gives blocks above 32 MB back to the system as soon as they are freed, and the system zeroes the next one page
    by page when it is first touched. A step makes hundreds of such blocks, which it needs again in the next: ViT-B's
    decoding of 16 instances takes half the time without that, and the encoder 4 % less (two cores).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return False
    return bool(mallopt(MALLOC_MMAP_MAX, 0)) and bool(mallopt(MALLOC_TRIM_THRESHOLD, -1))


def on_main(fabric: Fabric, work: Callable[[], T]) -> T | None:
    """Do `work` in the main process alone: its result there, None elsewhere.

    A `ResamError` in it is raised in every process, so that none waits for one that has ended; so is an `OSError`, as
    a `ResamError` with its file and cause.
    """
    result, message = None, None
    if fabric.is_global_zero:
        try:
            result = work()
        except ResamError as error:
            message = str(error)
        except OSError as error:
            message = system_error(error)
    message = fabric.broadcast(message)
    if message is not None:
        raise ResamError(message)
    return result
