"""How far a build is: TensorRT reports nested phases, each with a number of steps, from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Phases:
    """The phases that are open. `report(fraction, innermost phase)` is called at every change; fraction in [0, 1]."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int, int]] = {}  # phase -> parent, steps, steps done
        self._most = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            above, seen = parent, {phase}
            while above in self._open and above not in seen:
                seen.add(above)
                above = self._open[above][0]
            # A name that is open already, in another thread, must not become its own ancestor.
            self._open[phase] = (None if above in seen else parent, max(1, steps), 0)
        self._tell()

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, counted from 0, is done."""
        with self._lock:
            if phase in self._open:
                parent, steps, _ = self._open[phase]
                self._open[phase] = (parent, steps, min(steps, step + 1))
        self._tell()

    def finish(self, phase: str) -> None:
        with self._lock:
            self._open.pop(phase, None)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            roots = [phase for phase, (parent, _, _) in self._open.items() if parent not in self._open]
            if not roots:
                return
            # Never backwards: a child that ends a moment before its parent's step is counted would jump.
            self._most = max(self._most, self._fraction(roots[0]))
            most, innermost = self._most, next(reversed(self._open))
        self._report(most, innermost)

    def _fraction(self, phase: str) -> float:
        _, steps, done = self._open[phase]
        inner = [self._fraction(child) for child, (parent, _, _) in self._open.items() if parent == phase]
        return min(1.0, (done + max(inner, default=0.0)) / steps)


def trt_monitor(trt: Any, phases: Phases, cancelled: Callable[[], bool]) -> Any:
    """A TensorRT progress monitor that writes to `phases`, and ends the build once `cancelled()`."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
