"""python -m resam.pretrain: train the tiny base."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from segment_anything.modeling import Sam

from resam.encoders import ARCHITECTURES, Architecture
from resam.encoders.family import describe_architecture
from resam.encoders.vit import VitArchitecture
from resam.model.bases import load_base
from resam.model.sam import build_sam
from resam.pretrain.batches import Batches, Mixture, Shape
from resam.pretrain.photographs import open_sources
from resam.pretrain.run import Plan, Pretraining
from resam.pretrain.validation import validation_tiles
from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors


@click.command(context_settings=HELP, epilog="Example: python -m resam.pretrain -o tiny.safetensors --seed 0")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Weights to write (safetensors).")
@click.option(
    "--photographs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A COCO data set (train.json, images/, perhaps val.json) or a folder of them; may be repeated.",
)
@click.option(
    "--procedural",
    type=click.FloatRange(0, 1),
    default=0.4,
    show_default=True,
    help="Share of procedural images among photographs.",
)
@click.option(
    "--architecture",
    type=click.Choice([name for name, known in ARCHITECTURES.items() if isinstance(known, VitArchitecture)]),
    default="tiny",
    show_default=True,
)
@click.option("--steps", type=click.IntRange(1), default=3000, show_default=True, help="Steps of the whole run.")
@click.option(
    "--falling",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Final steps over which the learning rate falls to zero.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Half-size images per step; steps on whole tiles have a quarter as many.",
)
@click.option(
    "--instances",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Instances per image; whole tiles have half as many again.",
)
@click.option(
    "--tiles", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Share of steps on whole tiles."
)
@click.option("--learning-rate", type=float, default=2e-3, show_default=True)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Start from the weights of an earlier pretraining, with another --seed.  [default: random weights]",
)
@click.option("--resume", is_flag=True, help="Resume the run that wrote --output; --steps may set a different end.")
@click.option("--every", type=click.IntRange(1), default=500, show_default=True, help="Steps between validations.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--bf16/--fp32", default=torch.cuda.is_available(), help="Matrix products in bfloat16 [default: on CUDA]."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Additional processes that draw images.",
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@version
@command_errors
def pretrain(
    output: Path,
    photographs: tuple[Path, ...],
    procedural: float,
    architecture: str,
    steps: int,
    falling: int,
    images: int,
    instances: int,
    tiles: float,
    learning_rate: float,
    init: Path | None,
    resume: bool,
    every: int,
    seed: int,
    bf16: bool,
    workers: int,
    device: str,
) -> None:
    """Train the tiny base on procedural images and on photographs, from nothing or from earlier weights.

    The output holds the moving average of the weights that was best in validation.
    """
    torch.manual_seed(seed)
    full = ARCHITECTURES[architecture]
    target = _device(device)
    sources = open_sources(photographs)
    sam, earlier = build_sam(full), None
    if init is not None:
        earlier = load_pretrained(sam, init, full)
    _check_output(output, output.with_suffix(".jsonl"))
    run = Pretraining(sam, Plan(steps, falling, learning_rate, every, bf16, workers), target)
    if resume:
        run.resume(output.with_suffix(".pt"))
    half = Shape(full.image_size // 2, images, instances)
    whole = Shape(full.image_size, max(1, images // 4), instances * 3 // 2)
    shares = [(half, 1 - tiles), (whole, tiles)]
    mixture = Mixture(sources, procedural if sources else 1.0)
    record = {
        "command": f"python -m resam.pretrain --steps {steps} --falling {falling} --images {images} "
        f"--instances {instances} --tiles {tiles} --learning-rate {learning_rate} --seed {seed}"
        + " --photographs FOLDER" * len(photographs)
        + f" --procedural {procedural}" * bool(sources)
        + f" --architecture {architecture}" * (architecture != "tiny")
        + " --bf16" * bf16
        + " --init EARLIER" * (init is not None),
        "sources": {source.name: len(source.photographs) for source in sources},
        "earlier": earlier,
        "architecture": describe_architecture(full),
        "seed": seed,
        "device": device,
    }
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        held_out = validation_tiles(sources, full.image_size)
        run.train(Batches(mixture, shares, seed), held_out, seed, output, record, progress)


def load_pretrained(sam: Sam, path: Path, wanted: Architecture = ARCHITECTURES["tiny"]) -> dict[str, Any]:
    """Put the weights that an earlier pretraining wrote into `sam`; returns the record of how they were made.

    Raises `ResamError` for a file that is none of its own or of another architecture than `wanted`. Weights with a
    single mask are taken too: the masks for ambiguous prompts begin as its copies, a little apart.
    """
    base = load_base(path)
    if base.architecture not in (wanted, replace(wanted, multimask_outputs=0)):
        raise ResamError(f"{path}: holds {base.name}, not the --architecture that python -m resam.pretrain is to train")
    try:
        with safe_open(path, "pt") as opened:
            record: dict[str, Any] = json.loads((opened.metadata() or {})["resam"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ResamError(f"{path}: has no record of how python -m resam.pretrain made it ({error})") from None
    state, own = base.sam.state_dict(), sam.state_dict()
    if base.architecture != wanted:
        state = {name: _widened(name, state, value) for name, value in own.items()}
    sam.load_state_dict(state)
    return record


def _widened(name: str, state: dict[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """A tensor of one mask as that of all masks, of the shape of `like`."""
    networks = "mask_decoder.output_hypernetworks_mlps."
    if name.startswith(networks):
        return state[networks + "0." + name.removeprefix(networks).partition(".")[2]]
    value = state[name]
    if value.shape == like.shape:
        return value
    copies = value.expand_as(like).clone()
    copies[1:] += 0.2 * value.square().mean().sqrt() * torch.randn_like(copies[1:])
    return copies


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
