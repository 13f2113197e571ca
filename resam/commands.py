"""What every command of the training machine has: -h beside --help, and --version."""

from __future__ import annotations

import click

HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of a command; the commands of a group have its."""

version = click.version_option(package_name="resam")
