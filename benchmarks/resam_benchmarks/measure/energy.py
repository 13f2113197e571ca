"""Energy of a stretch of time, where the machine tells it: a Jetson's power rail, the processor's counter, NVIDIA's
power reading.
"""

from __future__ import annotations

import functools
import glob
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from resam_benchmarks.measure.machine import output

Read = Callable[[], float]
_SAMPLE_SECONDS = 0.02  # between two looks at a power sensor


class EnergyMeter:
    """Energy between `start` and `stop`, in joules, of the whole board, or of processor and GPUs, idle power included.

    `source` says where it comes from: the rail that feeds a Jetson's module; else the processor's RAPL counter and the
    GPUs' power (nvidia-smi), added where there are both. None where nothing can be read; then `stop` returns None.
    """

    def __init__(self) -> None:
        rail = jetson_rail()
        counter, gpus = (None, None) if rail else (rapl_counter(), gpu_power())
        self._joules = counter[1] if counter else None
        self._watts = rail[1] if rail else gpus[1] if gpus else None
        self.source = " + ".join(found[0] for found in (rail, counter, gpus) if found) or None

    @property
    def sampled(self) -> bool:
        """Whether a thread reads a sensor meanwhile, which would disturb a clock: let it run on a turn of its own."""
        return self._watts is not None

    def start(self) -> None:
        """Begin an interval."""
        self._power: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True) if self._watts else None
        if self._thread is not None:
            self._thread.start()
        self._first = self._joules() if self._joules else 0.0
        self._began = time.perf_counter()

    def stop(self) -> float | None:
        """End the interval; joules since `start`, None where they cannot be read."""
        seconds = time.perf_counter() - self._began
        spent = self._joules() - self._first if self._joules else 0.0
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            # a reading may take longer than what is measured: so the mean power counts, not the time of the readings
            spent += seconds * mean_power(self._power)
        return spent if self.source and spent >= 0 else None  # below zero: a counter wrapped around

    def _sample(self) -> None:
        assert self._watts is not None
        while True:
            ended = self._ended.wait(_SAMPLE_SECONDS if self._power else 0)
            self._power.append((time.perf_counter(), self._watts()))
            if ended:
                return


def mean_power(samples: Sequence[tuple[float, float]]) -> float:
    """Mean of (seconds, watts), the power between two samples being their mean."""
    first, last = samples[0][0], samples[-1][0]
    if last <= first:
        return samples[0][1]
    area = sum((w0 + w1) / 2 * (t1 - t0) for (t0, w0), (t1, w1) in itertools.pairwise(samples))
    return area / (last - first)


def jetson_rail(root: str = "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*") -> tuple[str, Read] | None:
    """Watts of the rail that feeds the whole module: millivolts times milliamperes of the INA3221 channel so
    labelled."""
    for name in ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0"):
        for label in sorted(glob.glob(f"{root}/in*_label")):
            if _text(label) != name:
                continue
            volts = Path(label.replace("_label", "_input"))
            amperes = volts.with_name(volts.name.replace("in", "curr", 1))
            if _number(volts) is not None and _number(amperes) is not None:
                return f"INA3221 {name}", functools.partial(_watts, volts, amperes)
    return None


def _watts(volts: Path, amperes: Path) -> float:
    """From files of millivolts and milliamperes."""
    return (_number(volts) or 0) * (_number(amperes) or 0) * 1e-6


def rapl_counter(root: str = "/sys/class/powercap") -> tuple[str, Read] | None:
    """Joules of all processor packages. The other domains are parts of a package, or hold it ("psys")."""
    domains = [Path(path) for path in sorted(glob.glob(f"{root}/intel-rapl:*"))]
    counters = [path / "energy_uj" for path in domains if (_text(path / "name") or "").startswith("package")]
    if not counters or any(_number(counter) is None for counter in counters):
        return None
    return "RAPL, processor packages", lambda: sum((_number(counter) or 0) * 1e-6 for counter in counters)


def gpu_power() -> tuple[str, Read] | None:
    """Watts of all NVIDIA devices."""
    command = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")

    def read() -> float:
        return sum(float(line) for line in (output(*command) or "0").splitlines())

    try:
        return ("NVML, all devices", read) if read() > 0 else None
    except ValueError:  # "[N/A]"
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\x00\n ") or None
    except OSError:
        return None
