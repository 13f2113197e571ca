"""What commands share: -h beside --help, --version, and how -o is spelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of a command; the commands of a group have its."""


def version(command: Command) -> Command:
    """Decorate a command with --version. (An option for each: click's remembers the first command's name.)"""
    return click.version_option(package_name="resam")(command)


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
