"""How a run goes, on a terminal: a bar with scenes/s, points/s and time left. Nothing but failures elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resam_runtime.common.errors import printable
from resam_runtime.run.report import Observer
from resam_runtime.writers import Record


class TerminalProgress(Observer):
    """Prints failures to stderr as they happen and draws the bar there; a context manager."""

    def __init__(self, each_scene: bool = False) -> None:
        """each_scene: print a line for each scene done too, for the journal of a service."""
        self._each = each_scene
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("scenes"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("run", total=None, rate="")
        self._begin = time.monotonic()
        self._scenes = self._points = 0

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, scenes: int, already: int) -> None:
        self._begin, self._scenes, self._points = time.monotonic(), 0, 0
        self._progress.reset(self._task, total=scenes, rate="")

    def points(self, count: int) -> None:
        self._points += count
        self._update()

    def scene(self, record: Record) -> None:
        self._scenes += 1
        self._progress.advance(self._task)
        self._update()
        if record.failed:
            self._print(f"failed: {record.name}: {record.reason}")
            return
        for one in record.skipped:
            self._print(f"skipped: {record.name}: instance {one.instance}: {one.reason}")
        if self._each:
            line = "; ".join([f"{record.name}: {len(record.annotations)} instances", *record.notes])
            print(printable(line), flush=True)

    def trouble(self, line: str) -> None:
        self._print(f"waiting: {line}")

    def _update(self) -> None:
        elapsed = max(time.monotonic() - self._begin, 1e-3)
        self._progress.update(self._task, rate=f"{self._scenes / elapsed:.2f}/s, {self._points / elapsed:.1f} points/s")

    def _print(self, line: str) -> None:
        line = printable(line)
        if self._progress.live.is_started:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
