"""python -m resam.synthetic FOLDER: write a synthetic COCO data set."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from resam.synthetic.dataset import write_dataset
from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import command_errors


@click.command(
    context_settings=HELP,
    epilog="Example: python -m resam.synthetic scenes --train 40 --val 8 --test 16 --seed 0",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", default=40, show_default=True, help="Scenes in the training split.")
@click.option("--val", default=8, show_default=True, help="Scenes in the validation split.")
@click.option("--test", default=16, show_default=True, help="Scenes in the test split.")
@click.option("--seed", default=0, show_default=True, help="Seed of the whole data set.")
@click.option("--size", default=512, show_default=True, help="Side of a scene in pixels.")
@version
@command_errors
def main(folder: Path, train: int, val: int, test: int, seed: int, size: int) -> None:
    """Write synthetic satellite-like scenes with exact masks to FOLDER, as a COCO data set."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("scenes", total=None)
        write_dataset(
            folder, train, val, test, seed, size, lambda done, total: bar.update(task, completed=done, total=total)
        )
    click.echo(f"{folder}: {train} train, {val} val and {test} test scenes of {size} px")


if __name__ == "__main__":
    main(prog_name="python -m resam.synthetic")
