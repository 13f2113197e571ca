"""How a run is asked to end early."""

from __future__ import annotations

import time


class StopRequest:
    """`request()` once: scenes in hand are finished; twice: the run ends at the next tile."""

    def __init__(self) -> None:
        # Plain numbers, not an Event: its lock could be held by the very thread that a signal handler interrupts.
        self._requests = 0

    def request(self) -> None:
        """Ask; safe in a signal handler, also in one that interrupts another."""
        self._requests += 1

    @property
    def requested(self) -> bool:
        """Whether the run was asked to end."""
        return self._requests > 0

    @property
    def at_once(self) -> bool:
        """Whether it was asked twice."""
        return self._requests > 1

    def wait(self, seconds: float) -> bool:
        """Sleep, but not longer than until a request comes; returns whether there is one."""
        # A plain wait would leave a signal unheard where its handler runs in this very thread between two locks.
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self.requested
