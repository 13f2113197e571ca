"""What every command has: -h beside --help, and --version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of a command; the commands of a group have its."""


def version(command: Command) -> Command:
    """Decorate a command with --version. (An option for each: click's remembers the first command's name.)"""
    return click.version_option(package_name="resam")(command)
