"""What a run says while it works: a live display on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from resam.training.distill.losses import DISTILLED
from resam.training.losses import LOSSES
from resam_runtime.common.errors import counted

TERMS = tuple(dict.fromkeys((*(loss.name for loss in LOSSES), *DISTILLED)))  # of what is shown of a loss


class Reporter(Protocol):
    """What `resam.training.run` tells; every method may do nothing."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def start(self, what: str, total: int) -> None:
        """A stretch of `total` steps begins."""

    def step(self, row: dict[str, float] | None = None) -> None:
        """One of them is done; row: running means."""

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """An epoch is done; row: as in metrics.jsonl."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def start(self, what: str, total: int) -> None: ...

    def step(self, row: dict[str, float] | None = None) -> None: ...

    def epoch(self, row: dict[str, Any], epochs: int) -> None: ...


class Live:
    """Progress on a terminal: a bar with losses, mIoU, images/s, memory and time left; plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            columns: tuple[ProgressColumn, ...] = (
                TextColumn("{task.description}"),
                BarColumn(24),
                MofNCompleteColumn(),
            )
            columns += (TextColumn("{task.fields[text]}"), TimeElapsedColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=self._console, transient=True)
        self._task: Any = None
        self._miou = ""

    def __enter__(self) -> Live:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, what: str, total: int) -> None:
        if self._bars is not None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(what, total=total, text="")

    def step(self, row: dict[str, float] | None = None) -> None:
        if self._bars is None or self._task is None:
            return
        text = ""
        if row:
            left = round(row["seconds_left"])
            text = (
                f"loss {row['total']:.3f}  {_losses(row)}{self._miou}  {row['images_per_second']:.1f} images/s  "
                f"{row['memory_mb'] / 1024:.1f} GiB  "
                f"all epochs {left // 60}:{left % 60:02d}"
            )
        self._bars.update(self._task, advance=1, text=text)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        miou = row["watched"]["final"]["miou"] if row.get("watched") else None
        self._miou = "" if miou is None else f"  mIoU {miou:.3f}"
        self.note(epoch_line(row, epochs))


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """One epoch in one line."""
    watched = ""
    if row.get("watched") and row["watched"]["instances"]:
        coarse, final = (row["watched"][stage]["miou"] for stage in ("coarse", "final"))
        watched = f"  mIoU {coarse:.3f} coarse {final:.3f} final"
    if "held_boxes" in row:
        watched = f"  IoU with the teacher {row['held_points']:.3f} points {row['held_boxes']:.3f} boxes"
    labelled = f"  labelled {100 * row['labelled']:.0f}%" if "labelled" in row else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['total']:.4f}  {_losses(row)}{labelled}{watched}  "
        f"{row['images_per_second']:.1f} images/s  {row['memory_mb'] / 1024:.1f} GiB  {row['seconds']:.0f} s"
    )


def _losses(row: Mapping[str, float]) -> str:
    """The terms of the loss that were computed."""
    return "  ".join(f"{name} {row[name]:.4f}" for name in TERMS if row.get(name))


def print_result(tested: Mapping[str, dict[str, Any]]) -> None:
    """A table of evaluations of the same instances, by name, on stdout."""
    first = next(iter(tested.values()))
    table = Table(
        title=f"{counted(first['instances'], 'instance')} in {counted(first['images'], 'scene')}", title_justify="left"
    )
    for column in ("", "after", "mIoU", "per image", "precision", "recall", "F1", "small", "medium", "large"):
        table.add_column(column, justify="left" if column in ("", "after") else "right")
    keys = ("miou", "miou_images", "precision", "recall", "f1", "miou_small", "miou_medium", "miou_large")
    for name, result in tested.items():
        for stage, called in (("coarse", "Coarse"), ("final", "Requery")):
            values = (result[stage][key] for key in keys)
            table.add_row(name, called, *("-" if value is None else f"{value:.3f}" for value in values))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110).print(table)
