"""What a run tells of itself: while it goes on, and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resam_runtime.writers import Record


class Observer:
    """Told how a run goes; every method may stay as it is. `scene` is called from another thread."""

    def begin(self, scenes: int, already: int) -> None:
        """`scenes` will be processed, `already` were in an earlier run."""

    def points(self, count: int) -> None:
        """So many more instances are decoded."""

    def scene(self, record: Record) -> None:
        """A scene is done or has failed; its record is saved."""

    def trouble(self, line: str) -> None:
        """A watched folder cannot be read at the moment; told once for each time that this begins."""


@dataclass(frozen=True)
class RunReport:
    """How a run ended. Counts include scenes of an earlier run that this one resumed.

    nowhere: instances of the points file that belong to scenes by their place on the map, and lie in none that is
    done; 0 for a run that is not complete. all_skipped: points were given, and not one instance of theirs could be
    prompted. without_points: scenes done that had none. notes: what a user should know of the run and of single scenes,
    one line each.
    """

    out: Path
    scenes: int
    failed: int
    instances: int
    skipped: int
    left_out: int
    nowhere: int
    complete: bool
    seconds: float
    all_skipped: bool = False
    without_points: int = 0
    notes: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """0: all good; 1: some scenes failed; 2: all did, or every instance was skipped. Signals are the caller's."""
        if self.all_skipped or (self.complete and self.scenes and self.failed == self.scenes):
            return 2
        return 1 if self.failed else 0
