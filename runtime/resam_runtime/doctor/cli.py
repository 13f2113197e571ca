"""`resam-doctor`: parsing and printing."""

from __future__ import annotations

import click

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import command_errors


@click.command("resam-doctor", context_settings=HELP, epilog="Example: resam-doctor")
@version
@command_errors
def doctor() -> None:
    """Check this machine for resam: what works, what each missing part would add, and the command to install it.

    Also shows which engine precisions suit the machine.
    """
    from resam_runtime.common.cpu import find_cpu
    from resam_runtime.doctor.report import report

    for line in report(find_cpu()):
        click.echo(line.rstrip())
