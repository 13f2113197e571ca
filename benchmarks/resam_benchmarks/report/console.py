"""What the commands share: parsing of lists and percentages, the progress bar, tables in the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from resam_benchmarks.measure.runner import Progress
from resam_benchmarks.report.tables import Table, tables

if TYPE_CHECKING:
    from resam_benchmarks.report.compare import Comparison


def numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers from 1, separated by commas: "1,2,3"."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in value.split(",")))
        if min(found) >= 1:
            return found
    except ValueError:
        pass
    raise click.BadParameter(f"expected whole numbers from 1, separated by commas, got {value!r}")


def not_negative(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A finite number from 0."""
    if 0 <= value < float("inf"):
        return value
    raise click.BadParameter(f"expected a number from 0, got {value!r}")


def percent(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A share: "10%" or "0.1". A bare number above 1 is refused: 10 would be 1000 %, and no limit."""
    try:
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        if 0 <= share <= (float("inf") if value.endswith("%") else 1) and share < float("inf"):
            return share
    except ValueError:
        pass
    raise click.BadParameter(f"expected a share such as 10% or 0.1, got {value!r}")


@contextlib.contextmanager
def ends_cleanly() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: workers end, and temporary graphs, gigabytes of a large model, go."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A bar on stderr with what is being done; nothing where that is no terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total, what: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),  # file names may hold brackets
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None, description=what)


def print_tables(data: Mapping[str, Any] | None, made: Sequence[Table] = ()) -> None:
    """The tables of a `bench.json`, or those given, on stdout; never cut to the terminal's width when piped."""
    from rich.table import Table as RichTable

    console = Console(width=None if Console().is_terminal else 200, emoji=False)
    for table in [*(tables(data) if data is not None else ()), *made]:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for i, name in enumerate(table.head):
            shown.add_column(name, justify="left" if i in table.words else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, markup=False)
        if table.note:
            console.print(table.note, style="dim", markup=False)
        console.print()


def print_comparison(found: Comparison) -> None:
    """Warnings, every change, and which of them are regressions."""
    for line in found.warnings:
        click.echo(f"warning: {line}", err=True)
    for name in found.added:
        click.echo(f"warning: {name}: in the second run only", err=True)
    rows = []
    for change in found.changes:
        worse = change.worse
        value = _risen(worse.value) if change.share else f"x {worse.value:.3f}"
        if worse.known:
            ends = (worse.high, worse.low) if change.share else (worse.low, worse.high)
            low, high = (_risen(end) if change.share else f"{end:.3f}" for end in ends)
            value += f" [{low}, {high}]"
        verdict = "REGRESSION" if change.regression else "inside the noise" if change.noisy else "within the limit"
        rows.append([change.case, change.figure, change.before, change.after, value, verdict])
    rows += [[*missing, "", "MISSING"] for missing in found.missing]
    head = ["", "figure", "before", "after", "change", ""]
    note = "Latency: change per scene, or of the medians if there are few scenes. Brackets: 95 % intervals."
    print_tables(None, [Table("Compared", head, rows, note, frozenset({0, 1, 5}))])
    count, lost = len(found.regressions), len(found.missing)
    click.echo(f"{count} regression{'s' * (count != 1)}" + (f", {lost} missing" if lost else ""))


def _risen(fall: float) -> str:
    """A share's fall as the change that it is: -0.0200 for 0.02, and no "-0.0000"."""
    return f"{round(-fall, 4) + 0.0:+.4f}"
