"""python -m resam.pretrain: train the tiny base."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from segment_anything.modeling import Sam

from resam.encoders import ARCHITECTURES
from resam.encoders.family import describe_architecture
from resam.model.bases import load_base
from resam.model.sam import build_sam
from resam.pretrain.stages import HELD_OUT_SEED, NO_ROOM, Stage, make_pool, train_stage
from resam.pretrain.step import evaluate
from resam.training.outputs import write_bytes
from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors


@click.command(context_settings=HELP, epilog="Example: python -m resam.pretrain -o tiny.safetensors --seed 0")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Weights to write (safetensors).")
@click.option(
    "--steps", type=click.IntRange(0), default=2400, show_default=True, help="Steps on images of half the tile's side."
)
@click.option("--tile-steps", type=click.IntRange(0), default=500, show_default=True, help="Steps on whole tiles.")
@click.option(
    "--images", type=click.IntRange(1), default=12, show_default=True, help="Images per step (a third of it as tiles)."
)
@click.option("--pool", type=click.IntRange(1), default=4000, show_default=True, help="Procedural images drawn from.")
@click.option("--learning-rate", type=float, default=2e-3, show_default=True)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on from the weights of an earlier pretraining [default: random weights]; give another seed then.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--bf16/--fp32", default=torch.cuda.is_available(), help="Matrix products in bfloat16 [default: on CUDA]."
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes that draw images.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@version
@command_errors
def pretrain(
    output: Path,
    steps: int,
    tile_steps: int,
    images: int,
    pool: int,
    learning_rate: float,
    init: Path | None,
    seed: int,
    bf16: bool,
    workers: int,
    device: str,
) -> None:
    """Train the tiny base on procedural images, from nothing or from earlier weights, in two stages."""
    torch.manual_seed(seed)
    full = ARCHITECTURES["tiny"]
    log, began = output.with_suffix(".jsonl"), time.time()
    target = _device(device)
    sam, earlier = build_sam(full), None
    if init is not None:
        earlier = load_pretrained(sam, init)
    _check_output(output, log)
    sam.to(target)
    stages = (
        Stage(full.image_size // 2, steps, images, 4, pool, learning_rate, falling=False),
        Stage(full.image_size, tile_steps, max(1, images // 3), 6, max(1, pool // 8), learning_rate / 2, falling=True),
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        for stage in (stage for stage in stages if stage.steps):
            sam = train_stage(sam, stage, seed, target, bf16, workers, log, progress)
    held_out = make_pool(HELD_OUT_SEED, 64, full.image_size, workers)
    result = evaluate(sam, held_out)
    record = {
        "command": f"python -m resam.pretrain --steps {steps} --tile-steps {tile_steps} --images {images} "
        f"--pool {pool} --learning-rate {learning_rate} --seed {seed}"
        + " --bf16" * bf16
        + " --init EARLIER" * (init is not None),
        "earlier": earlier,
        "architecture": describe_architecture(full),
        "seed": seed,
        "minutes": round((time.time() - began) / 60, 1),
        "device": device,
        "held_out": result,
    }
    state = {name: value.contiguous().cpu() for name, value in sam.state_dict().items()}
    write_bytes(output, save(state, metadata={"resam": json.dumps(record)}), NO_ROOM)
    click.echo(json.dumps(record, indent=1))


def load_pretrained(sam: Sam, path: Path) -> dict[str, Any]:
    """Put the weights that an earlier pretraining wrote into `sam`; returns the record of how they were made.

    Raises `ResamError` for a file that is none of its own or of another architecture.
    """
    base = load_base(path)
    if base.architecture != ARCHITECTURES["tiny"]:
        raise ResamError(f"{path}: holds {base.name}, not the architecture that python -m resam.pretrain trains")
    try:
        with safe_open(path, "pt") as opened:
            record: dict[str, Any] = json.loads((opened.metadata() or {})["resam"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ResamError(f"{path}: has no record of how python -m resam.pretrain made it ({error})") from None
    sam.load_state_dict(base.sam.state_dict())
    return record


def _check_output(output: Path, log: Path) -> None:
    """`ResamError` where the weights could not be written: said before the hours of training, not after."""
    try:
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        output.parent.mkdir(parents=True, exist_ok=True)
        log.open("a").close()
    except OSError as error:
        raise ResamError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None


def _device(name: str) -> torch.device:
    """A device that torch can compute on here, else `ResamError`. torch knows names of more than a machine has."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ResamError(
            f"--device {name}: torch {torch.__version__} cannot compute on it here; "
            "use cpu, or cuda where there is a GPU"
        ) from None
    return device


if __name__ == "__main__":
    pretrain(prog_name="python -m resam.pretrain")
