"""Errors meant for people: one line that names the file, the cause and what to do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


class ResamError(Exception):
    """A failure the user can act on. Its message is one line: what was expected, what came, what to do."""


def printable(text: str) -> str:
    """The text as one line that any terminal takes: what cannot be printed (a file name may hold it) is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def command_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the body of a command: a `ResamError` becomes one line on stderr and exit code 2.

    Other exceptions pass through: they are defects of ours, and a traceback is what a bug report needs.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ResamError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            sys.exit(2)

    return wrapped
