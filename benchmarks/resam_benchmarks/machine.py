"""What a figure was measured on: the machine, the versions, the commit; and what the machine itself can tell:
memory of this process, memory of the device, power.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGES = ("resam", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt",
             "segment-anything")  # fmt: skip
_SAMPLE_SECONDS = 0.02  # between two looks at a power sensor


def describe() -> dict[str, Any]:
    """The machine as plain JSON data: processor, cores, memory, system, devices, board."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _meminfo("MemTotal"),
        "board": _text("/proc/device-tree/model"),
        "power_mode": _output("nvpmodel", "-q"),
        "devices": (
            _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or ""
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
    """The commit of the source tree this package runs from, with "+" where it was changed; None if installed."""
    here = str(Path(__file__).resolve().parent)
    found = _output("git", "-C", here, "rev-parse", "HEAD")
    if found is None:
        return None
    return found + ("+" if _output("git", "-C", here, "status", "--porcelain") else "")


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
    table = _output("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    for line in (table or "").splitlines():
        pid, _, used = line.partition(",")
        if pid.strip() == str(os.getpid()) and used.strip().isdigit():
            return int(used) << 20
    return None


class EnergyMeter:
    """Energy between `start` and `stop`, in joules, of the whole board or device, idle power included.

    `source` says where it comes from: a Jetson's INA3221 rail (`VDD_IN` and its kin), NVML through nvidia-smi, the
    processor's RAPL counter; None where nothing can be read, and then `stop` returns None.
    """

    def __init__(self) -> None:
        self.source: str | None = None
        self._counter: Callable[[], float] | None = None
        self._watts: Callable[[], float] | None = None
        self._thread: threading.Thread | None = None
        for find in (_jetson_rail, _rapl, _nvml):
            found = find()
            if found is not None:
                self.source, kind, read = found
                if kind == "joules":
                    self._counter = read
                else:
                    self._watts = read
                break

    def start(self) -> None:
        """Begin an interval."""
        if self._counter is not None:
            self._first = self._counter()
        elif self._watts is not None:
            self._joules, self._ended = 0.0, threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def stop(self) -> float | None:
        """End the interval; joules since `start`, None where they cannot be read."""
        if self._counter is not None:
            spent = self._counter() - self._first
            return spent if spent >= 0 else None  # the counter wrapped around
        if self._thread is None:
            return None
        self._ended.set()
        self._thread.join()
        self._thread = None
        return self._joules

    def _sample(self) -> None:
        assert self._watts is not None
        last = time.perf_counter()
        watts = self._watts()
        while True:
            ended = self._ended.wait(_SAMPLE_SECONDS)
            now, power = time.perf_counter(), self._watts()
            self._joules += (watts + power) / 2 * (now - last)
            if ended:
                return
            last, watts = now, power


_Source = tuple[str, str, Callable[[], float]]


def _jetson_rail(root: str = "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*") -> _Source | None:
    """The rail that feeds the whole module: millivolts times milliamperes of the INA3221 channel so labelled."""
    for name in ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0"):
        for label in sorted(glob.glob(f"{root}/in*_label")):
            if (_text(label) or "").strip() != name:
                continue
            volts = Path(label.replace("_label", "_input"))
            amperes = volts.with_name(volts.name.replace("in", "curr", 1))
            if _number(volts) is not None and _number(amperes) is not None:
                return f"INA3221 {name}", "watts", lambda: (_number(volts) or 0) * (_number(amperes) or 0) * 1e-6
    return None


def _rapl(root: str = "/sys/class/powercap") -> _Source | None:
    counters = [Path(path) for path in sorted(glob.glob(f"{root}/intel-rapl:[0-9]/energy_uj"))]
    if not counters or any(_number(counter) is None for counter in counters):
        return None
    return "RAPL, processor packages", "joules", lambda: sum((_number(counter) or 0) * 1e-6 for counter in counters)


def _nvml() -> _Source | None:
    command = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")

    def read() -> float:
        return sum(float(line) for line in (_output(*command) or "0").splitlines())

    try:
        return ("NVML, all devices", "watts", read) if _output(*command) and read() > 0 else None
    except ValueError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").rstrip("\x00\n") or None
    except OSError:
        return None


def _output(*command: str) -> str | None:
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


def _processor() -> str:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
