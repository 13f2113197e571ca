"""`resam-demo`: parsing and printing; `resam_benchmarks.demo.steps` does the work."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import command_errors
from resam_runtime.common.extras import needs_extra


@click.command(
    "resam-demo",
    context_settings=HELP,
    epilog="Example: resam-demo -o demo",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Output folder."
)
@click.option("--scenes", type=click.IntRange(1), default=24, show_default=True, help="Scenes to train on.")
@click.option("--epochs", type=click.IntRange(1), default=2, show_default=True, help="Passes over them.")
@click.option("--limit", type=click.IntRange(2), default=16, show_default=True, help="Test scenes to measure on.")
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Timings of every test scene.")
@version
@command_errors
def demo(output: Path, scenes: int, epochs: int, limit: int, repeats: int) -> None:
    """Run everything once, on synthetic scenes and without downloads, and show the results on one page.

    Draws scenes, adapts the tiny base to them from one point per object, exports the engine in fp32, fp16 and INT8,
    runs it on unseen scenes, measures everything, and writes demo.html. About ten minutes on two CPU cores.
    Run again after a stop, it resumes where it was.
    """
    with needs_extra("resam-demo", "train,export"):
        # what the later steps import: nobody waits for training to hear that the export cannot be done
        import resam.training.run  # noqa: F401
        import resam_export.engine  # noqa: F401
        from resam_benchmarks.demo.steps import DemoOptions, run_demo

    try:
        page = run_demo(output, DemoOptions(scenes, epochs, limit, repeats), lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"stopped; run the same command to resume (resam-demo -o {output})", err=True)
        sys.exit(130)
    click.echo(f"{page}\nopen it in a browser: {page.resolve().as_uri()}")
