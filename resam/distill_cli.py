"""`resam-distill`: parsing and printing; the work is `resam.training.distill.run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors
from resam_runtime.common.extras import needs_extra
from resam_runtime.common.option_types import TrainingPrecision

_PATH = click.Path(path_type=Path)
_FREE_ON_RESUME = ("resume", "devices", "accelerator", "precision")  # how it is computed, not what


@click.command(
    "resam-distill",
    context_settings=HELP,
    epilog="Example: resam-distill --teacher runs/ships --student mobile_sam --images scenes/ -o runs/small",
)
@click.option("--teacher", help="A run's folder or an adapter (as resam-export takes), or a base: tiny or a checkpoint "
              "file.")  # fmt: skip
@click.option("--base", help="The base that the teacher's adapter was trained on, where it is not found by itself.")
@click.option("--student", help="An architecture, which begins with random weights (mobile_sam, efficientvit_sam_l0, "
              "tiny_half, tiny, vit_b, ...), or a checkpoint file, whose encoder learns on.")  # fmt: skip
@click.option("--images", type=_PATH, help="Folder of images to learn on, searched with its subfolders; nothing in "
              "them need be labelled.")  # fmt: skip
@click.option("-o", "--output", type=_PATH, help="Run folder to make.")
@click.option("--resume", type=_PATH, help="Run folder to resume; takes its own options, teacher, student and images.")
@click.option("--epochs", type=int, help="Epochs  [default: 20]")
@click.option("--tiles", type=int, help="Tiles of an epoch, after each of which a stopped run can go on; 0: all "
              "that the images are cut into  [default: 0]")  # fmt: skip
@click.option("--batch", type=int, help="Tiles per step, over all devices  [default: 4]")
@click.option("--learning-rate", type=float, help="Peak learning rate  [default: 0.001]")
@click.option("--prompts", type=int, help="Points of each tile whose masks are imitated too  [default: 4]")
@click.option("--seed", type=int, help="Of the random weights, the order of tiles, and the views  [default: 0]")
@click.option("--set", "more", multiple=True, metavar="NAME=VALUE", help="Any other option, such as masks=0 (imitate "
              "the embedding alone) or zoom=2; may be repeated.")  # fmt: skip
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True,
              help="Devices (or CPU processes) that share each batch.")  # fmt: skip
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=TrainingPrecision(), default="auto", show_default=True,
              help="As of resam-train.")  # fmt: skip
@version
@command_errors
def distill(
    teacher: str | None,
    base: str | None,
    student: str | None,
    images: Path | None,
    output: Path | None,
    resume: Path | None,
    more: tuple[str, ...],
    devices: int,
    accelerator: str,
    precision: str,
    **changes: Any,
) -> None:
    """Teach a small encoder the embedding of an adapted one, on images without labels.

    Writes base.safetensors into the run's folder: the student's encoder with the teacher's mask decoder, a base as any
    other. resam-export --base exports it, resam-train --base adapts it further. Also report.html, metrics.jsonl and
    checkpoints.
    """
    with needs_extra("resam-distill", "train"):
        from resam.cli import all_changes, check_resume, quiet, said_once
        from resam.training.devices import launch, make_fabric
        from resam.training.distill.models import Teacher
        from resam.training.distill.options import DistillOptions, DistillSources, read_config
        from resam.training.distill.run import DistillRun
        from resam.training.options import parse_changes
        from resam.training.progress import Live
        from resam.training.run_folder import check_free

    if resume is not None:
        check_resume(resume, _FREE_ON_RESUME)
        options, sources = read_config(resume / "config.toml")
        folder = resume
    else:
        given = {"--teacher": teacher, "--student": student, "--images": images, "--output": output}
        missing = [name for name, value in given.items() if value is None]
        if teacher is None or student is None or images is None or output is None:
            raise ResamError(f"{', '.join(missing)}: not given; see resam-distill --help")
        options = DistillOptions.of("--set", all_changes(changes, parse_changes(more)))
        sources, folder = DistillSources.choose(teacher, student, images, base), output
        check_free(folder)
    opened = Teacher.open(sources.teacher, sources.base or None)
    fabric = make_fabric(devices, accelerator, precision, opened.base.architecture.width)
    launch(fabric)
    with said_once(fabric), Live() if fabric.is_global_zero else quiet() as reporter:
        result = DistillRun(folder, options, sources, opened, fabric, reporter, resume is not None).train()
    if fabric.is_global_zero:
        click.echo(f"base     {result.base}\nreport   {folder / 'report.html'}")


if __name__ == "__main__":
    distill()
