"""What every command has: -h beside --help, and --version; and how one ends that hangs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of a command; the commands of a group have its."""


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
