"""`resam-demo`: parsing and printing; `resam_benchmarks.demo.steps` does the work."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from resam_runtime.common.browser import open_browser
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
@click.option("--scenes", type=click.IntRange(1), default=16, show_default=True, help="Scenes to train on.")
@click.option("--epochs", type=click.IntRange(1), default=2, show_default=True, help="Passes over them.")
@click.option("--limit", type=click.IntRange(2), default=16, show_default=True, help="Test scenes to measure on.")
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Timings of every test scene.")
@version
@command_errors
def demo(output: Path, scenes: int, epochs: int, limit: int, repeats: int) -> None:
    """Run everything once, on synthetic scenes and without downloads, and show the results on one page.

    Draws scenes, adapts the tiny base to them from clicks, exports the engine in fp32, fp16 and INT8, runs it on unseen
    scenes, with and without clicks, and measures everything. The page demo.html opens after the first minute and fills
    up as the work proceeds: ten to fifteen minutes on two CPU cores. Run the same command again to resume.
    """
    with needs_extra("resam-demo", "train,export"):
        # what the later steps import: nobody waits for training to hear that the export cannot be done
        import resam.training.run  # noqa: F401
        import resam_export.engine  # noqa: F401
        from resam_benchmarks.demo.steps import DemoOptions, run_demo

    try:
        page = run_demo(output, DemoOptions(scenes, epochs, limit, repeats), _say, _show)
    except KeyboardInterrupt:
        click.echo(f"stopped; run the same command to resume (resam-demo -o {output})", err=True)
        sys.exit(130)
    click.echo(page)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(page: Path) -> None:
    """Open the page for a person; a script gets its address alone."""
    _say(f"      the page, which fills up as the work proceeds: {page.resolve().as_uri()}")
    if sys.stderr.isatty():
        open_browser(page.resolve().as_uri())
