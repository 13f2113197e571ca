"""What a figure was measured on: the machine, the versions, the commit; and what the machine itself can tell:
memory of this process and of the device.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from resam_runtime.common.cpu import find_cpu

_PACKAGES = ("resam", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt",
             "segment-anything")  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine as plain JSON data: processor and its instructions, cores, memory, system, devices, board."""
    return {
        "system": platform.platform(),
        "processor": find_cpu().name,
        "instructions": list(find_cpu().instructions or ()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _meminfo("MemTotal"),
        "board": _text("/proc/device-tree/model"),
        "power_mode": output("nvpmodel", "-q"),
        "devices": (
            output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or ""
        ).splitlines(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree this package runs from, with "+" where a file of it was changed; None if
    installed."""
    here = Path(__file__).resolve()
    git = ("git", "-C", str(here.parent))
    if output(*git, "ls-files", "--error-unmatch", here.name) is None:
        return None  # no repository, or one that this package merely lies in, as in a project's .venv
    found = output(*git, "rev-parse", "HEAD")
    if found is None:
        return None
    return found + ("+" if output(*git, "status", "--porcelain", "-uno") else "")


def process_memory() -> dict[str, int]:
    """Resident memory of this process in bytes: {"peak", "current"}. Linux; elsewhere the peak alone."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}
        return {"peak": sizes["VmHWM"], "current": sizes["VmRSS"]}
    except (OSError, KeyError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak * (1 if sys.platform == "darwin" else 1024)}


def reset_peak_memory() -> None:
    """Make the peak of `process_memory` start from now, where the kernel can (Linux, `clear_refs`)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def device_memory() -> int | None:
    """Device memory that this process holds, in bytes, as the NVIDIA driver reports it; None where it does not."""
    table = output("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    for line in (table or "").splitlines():
        pid, _, used = line.partition(",")
        if pid.strip() == str(os.getpid()) and used.strip().isdigit():
            return int(used) << 20
    return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").rstrip("\x00\n") or None
    except OSError:
        return None


def output(*command: str) -> str | None:
    """What a program prints, None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _meminfo(key: str) -> int | None:
    for line in (_text("/proc/meminfo") or "").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None
