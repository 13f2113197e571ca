"""What commands share: -h beside --help, --version, how -o is spelled, and how one ends that hangs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of a command."""


def version(command: Command) -> Command:
    """Decorate a command with --version. (An option for each: click's remembers the first command's name.)"""
    return click.version_option(package_name="resam")(command)


@contextlib.contextmanager
def second_signal_ends(received: Sequence[int], grace: float = 10.0) -> Iterator[None]:
    """Around work that signals ask to end: `grace` seconds after the second one the process ends, wherever it hangs.

    received: the signals' numbers, to which their handler adds. The exit code is that of the first.
    """
    over = threading.Event()

    def watch() -> None:
        while len(received) < 2:
            if over.wait(0.2):
                return
        if not over.wait(grace):
            print("error: ended in the middle of it; what is done is kept", file=sys.stderr, flush=True)
            os._exit(128 + received[0])

    threading.Thread(target=watch, name="resam-second-signal", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def output_folder(default: str, text: str) -> Callable[[Command], Command]:
    """Decorate a command with -o/--output, a folder. `--out`, its spelling in version 0.1, is understood until 0.3."""
    path = click.Path(path_type=Path)
    names = ("-o", "--output", "--out", "out")
    return click.option(*names, cls=_Output, type=path, default=Path(default), show_default=True, help=text)


class _Output(click.Option):
    """An option whose last spelling is not shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        spellings, self.opts = self.opts, self.opts[:-1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = spellings
