"""What `resam-export` shows while it works, and when a file is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def step_progress() -> Iterator[Callable[[str, float | None, str], None]]:
    """On a terminal, a bar for the step at hand; elsewhere one line a step. Call with (step, fraction, detail)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[detail]}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("", total=None, detail="")
    last: list[str] = []

    def show(step: str, fraction: float | None, detail: str) -> None:
        if last != [step]:
            last[:] = [step]
            bar.reset(task, total=None, description=step, detail="")
            if not console.is_terminal:
                click.echo(step, err=True)
        bar.update(task, total=None if fraction is None else 1.0, completed=fraction or 0.0, detail=detail)

    with bar:
        yield show


def print_written(path: Path, console: Console) -> None:
    """The line that names the file and its size."""
    console.print(f"engine  {path} ({path.stat().st_size / 1e6:.1f} MB)", markup=False, highlight=False, soft_wrap=True)
