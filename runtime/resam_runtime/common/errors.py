"""Errors meant for people: one line that names the file, the cause and what to do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any


class ResamError(Exception):
    """A failure the user can act on. Its message is one line: what was expected, what was found, what to do."""


def printable(text: str) -> str:
    """The text as one line that any terminal takes: what cannot be printed (a file name may hold it) is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def counted(number: int, what: str) -> str:
    """A number of things in words: 1 scene, 2 scenes."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def words(names: Iterable[str], last: str = "or") -> str:
    """Names in a sentence: "a, b or c"."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end


def one_line(error: BaseException) -> str:
    """What a library says of its error, for a line of ours: short, and the error's kind where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def system_error(error: OSError, path: object = None) -> str:
    """What the system refused, as "file: reason". path: the file, where the error itself names none."""
    file = error.filename2 or error.filename or path
    reason = error.strerror or str(error)
    return reason if file is None else f"{file}: {reason}"


def command_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the body of a command: a `ResamError` or an error of the system's is one line on stderr, exit code 2.

    Other exceptions pass through: they are defects of ours, and a traceback is what a bug report needs.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ResamError as error:
            line = str(error)
        except OSError as error:
            # click ends a command quietly whose reader went away. Without a number the error is not the system's:
            # some library took the class for a use of its own.
            if isinstance(error, BrokenPipeError) or error.errno is None:
                raise
            line = system_error(error)
        print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(2)

    return wrapped
