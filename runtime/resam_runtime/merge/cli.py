"""`resam-merge`: parsing and printing; `resam_runtime.merge.merge` does the work."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from resam_runtime.common.commands import HELP, output_folder, version
from resam_runtime.common.errors import command_errors, counted, printable

EPILOG = """
\b
Examples:
  resam-merge out-0 out-1 out-2 -o merged
  resam-merge out/shard-* -o merged

\b
Exit codes:
  0  merged
  1  merged; some scenes failed, or shards are missing (see summary.json)
  2  nothing was merged: parts of different engines or options, or an unfinished one
"""


@click.command("resam-merge", context_settings=HELP, epilog=EPILOG)
@click.argument("parts", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_folder("merged", "Output folder.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier merge wrote.")
@version
@command_errors
def merge(parts: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Merge PARTS, the output folders of resam-run --shard, into one run: instances.json, summary.json, ...

    The result equals that of one run over all scenes, byte for byte except for timings. Files of single scenes stay
    where they are.
    """
    from resam_runtime.merge.merge import merge as merged

    report = merged(parts, out, overwrite)
    line = f"{counted(report.instances, 'instance')} in {counted(report.scenes - report.failed, 'scene')}"
    line += f", {counted(report.failed, 'scene')} failed" if report.failed else ""
    line += f", {counted(len(report.lacking), 'shard')} not given" if report.lacking else ""
    click.echo(printable(f"{line}; see {report.out}"))
    sys.exit(report.exit_code)
