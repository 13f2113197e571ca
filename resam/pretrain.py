"""Make the tiny base: `python -m resam.pretrain` trains a small SAM from nothing on procedural images.

Two stages. Most steps run on images of half the tile's side, each placed at random in the tile: its tokens get the
position embeddings of that place, so every position is trained at a quarter of the cost. Then whole tiles follow, with
a falling learning rate. Prompts as SAM's: 1 to 3 points, some negative; a box, jittered; a box drawn around the mask
decoded from the points; with or without the points.
"""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from segment_anything.modeling import Sam
from torch.nn import functional as F

from resam.data.procedural import ProceduralImage, generate
from resam.data.procedural_batches import Batch, jittered_box, sample_batch, sample_points
from resam.model.bases import load_base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import refine_logit, tight_boxes
from resam.model.sam import ARCHITECTURES, build_sam
from resam.training.muon import Muon
from resam.training.outputs import write_bytes
from resam_runtime.commands import HELP, version
from resam_runtime.errors import ResamError, command_errors

HELD_OUT_SEED = 1_000_000_000  # procedural images from here on are never trained on

_NO_ROOM = "make room there"


@dataclass(frozen=True)
class Stage:
    """One stretch of pretraining at one image size (pixels)."""

    image_size: int
    steps: int
    images: int  # per step
    instances: int  # per image
    pool: int  # procedural images drawn from
    learning_rate: float
    falling: bool  # cosine to zero, else constant after a warm-up


def mask_loss(logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, dice and IoU-head error of logits (N, M, M) against soft targets (N, M, M) in 0..1."""
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    with torch.no_grad():
        iou = intersection_over_union(logits > 0, target > 0.5)
    return 4 * entropy + dice.mean() + F.mse_loss(scores, iou)


def intersection_over_union(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of masks (N, H, W) bool, (N,) float."""
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return both / either.clamp(min=1)


class PlacedSam:
    """A SAM seen on an image smaller than its tile, placed `offset` tokens right of and below the tile's corner."""

    def __init__(self, sam: Sam) -> None:
        self.encoder, self.decoder = ImageEncoder(sam), PlacedDecoder(sam)

    def encode(self, images: torch.Tensor, offset: tuple[int, int]) -> torch.Tensor:
        """(B, s, s, 3) uint8 -> (B, C, g, g), with the position embeddings of tokens offset ... offset + g."""
        encoder, vit = self.encoder, self.encoder.vit
        pixels = (images.permute(0, 3, 1, 2).float() - encoder.pixel_mean) / encoder.pixel_std
        x = vit.patch_embed(pixels)
        (dx, dy), side = offset, x.shape[1]
        self.decoder.window = (slice(dy, dy + side), slice(dx, dx + side))
        x = x + vit.pos_embed[:, dy : dy + side, dx : dx + side]
        for block in vit.blocks:
            x = block(x)
        return vit.neck(x.permute(0, 3, 1, 2))


class PlacedDecoder(PromptDecoder):
    """A `PromptDecoder` for a window of the tile; its prompts are in pixels of the whole tile."""

    window: tuple[slice, slice] = (slice(None), slice(None))

    def positions(self) -> torch.Tensor:
        """Position encoding of the window's tokens, (1, C, g, g)."""
        return super().positions()[:, :, self.window[0], self.window[1]]


def step_loss(sam: PlacedSam, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """Decode every instance from its points, then from a box; the mean loss of both."""
    size, grid = batch.images.shape[1], sam.decoder.prompt_encoder.image_embedding_size[0]
    patch = sam.decoder.image_size // grid
    free = grid - size // patch
    dx, dy = rng.integers(0, free + 1, 2).tolist()
    embedding = sam.encode(batch.images, (dx, dy))
    shift = torch.tensor([dx, dy], device=embedding.device) * float(patch)
    coords = batch.coords + shift
    logits, scores = sam.decoder(embedding, coords, batch.labels)
    cell = size // logits.shape[-1]
    target = F.avg_pool2d(batch.masks.unsqueeze(1).float(), cell).squeeze(1)
    loss = mask_loss(logits, target, scores)
    own, found = tight_boxes(logits.detach(), refine_logit(0.3), cell)
    overlap = (
        intersection_over_union(logits.detach() > 0, target > 0.5) > 0.3
    )  # a box of something else teaches nothing
    coin = torch.from_numpy(rng.random((len(own), 2))).to(own.device)
    boxes = torch.where((found & overlap & (coin[:, 0] < 0.5)).unsqueeze(1), own, batch.boxes)
    kept = torch.where(coin[:, 1:] < 0.5, batch.labels, -1)
    corners = torch.tensor([[2, 3]], device=kept.device).expand(len(kept), 2)
    coords = torch.cat((coords, boxes.reshape(-1, 2, 2) + shift), 1)
    box_logits, box_scores = sam.decoder(embedding, coords, torch.cat((kept, corners), 1))
    return loss + mask_loss(box_logits, target, box_scores)


@torch.no_grad()
def evaluate(sam: Sam, images: list[ProceduralImage], seed: int = 0) -> dict[str, float]:
    """mIoU at full resolution over all instances: from one random point each, and from the tight box."""
    encoder, decoder = ImageEncoder(sam), PromptDecoder(sam)
    device = next(sam.parameters()).device
    rng = np.random.default_rng(seed)
    ious: dict[str, list[float]] = {"point": [], "box": []}
    for image in images:
        masks = image.masks
        embedding = encoder(torch.from_numpy(image.image)[None].to(device))
        points = np.stack([sample_points(mask, 1, rng)[0][:1] for mask in masks])
        boxes = np.stack([jittered_box(mask, rng, 0.0) for mask in masks]).reshape(-1, 2, 2)
        for name, coords, label in (("point", points, [1]), ("box", boxes, [2, 3])):
            labels = torch.tensor([label] * len(masks), device=device)
            logits, _ = decoder(embedding, torch.from_numpy(coords).to(device), labels)
            full = F.interpolate(logits[:, None], image.image.shape[:2], mode="bilinear", align_corners=False)
            truth = torch.from_numpy(masks).to(device)
            ious[name] += intersection_over_union(full[:, 0] > 0, truth).tolist()
    return {name: float(np.mean(values)) for name, values in ious.items()} | {"instances": len(ious["point"])}


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


def _generate(job: tuple[int, int]) -> ProceduralImage:
    return generate(*job)


def make_pool(start: int, count: int, size: int, workers: int) -> list[ProceduralImage]:
    """`count` procedural images from seed `start` on."""
    jobs = [(start + index, size) for index in range(count)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return pool.map(_generate, jobs, chunksize=16)


def learning_rates(stage: Stage, warmup: int) -> Iterator[float]:
    """The learning rate of each step of a stage."""
    for step in range(stage.steps):
        rate = stage.learning_rate * min(1.0, (step + 1) / max(1, warmup))
        yield rate * (0.5 * (1 + math.cos(math.pi * step / stage.steps)) if stage.falling else 1.0)


def make_optimizers(sam: Sam, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformers, AdamW for all else."""
    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in sam.named_parameters():
        vectors = ("point_embeddings", "not_a_point", "no_mask", "iou_token", "mask_tokens", "rel_pos")
        is_matrix = parameter.ndim == 2 and not any(word in name for word in vectors)
        (matrices if is_matrix else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=learning_rate, weight_decay=0.02), adam]


def train_stage(
    sam: Sam, stage: Stage, seed: int, device: torch.device, bf16: bool, workers: int, log: Path, progress: Progress
) -> Sam:
    """Train `sam` in place for one stage (bf16: under autocast); returns the exponential average of its weights."""
    pool = make_pool(seed * 1_000_003 + stage.image_size * 100_000, stage.pool, stage.image_size, workers)
    held_out = make_pool(HELD_OUT_SEED, 8, sam.image_encoder.img_size, workers)
    rng = np.random.default_rng((seed, stage.image_size))
    placed = PlacedSam(sam)
    placed.encoder.to(device)
    average = copy.deepcopy(sam)
    parameters = [p for p in sam.parameters() if p.requires_grad]
    optimizers = make_optimizers(sam, stage.learning_rate)
    task = progress.add_task(f"{stage.image_size} px", total=stage.steps, loss=math.nan)
    started, recent = time.time(), []
    for step, rate in enumerate(learning_rates(stage, 200)):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batch = sample_batch(pool, stage.images, stage.instances, rng)
        batch = Batch(**{name: value.to(device) for name, value in vars(batch).items()})
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = step_loss(placed, batch, rng)
        sam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        recent.append(float(loss.detach()))
        if not math.isfinite(recent[-1]):
            raise ResamError(f"pretraining diverged at step {step} (loss {recent[-1]}); try a lower learning rate")
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, value in zip(average.parameters(), sam.parameters(), strict=True):
                kept.lerp_(value, 1 - decay)
        progress.update(task, advance=1, loss=float(np.mean(recent[-50:])))
        if (step + 1) % 200 == 0 or step + 1 == stage.steps:
            row = {"size": stage.image_size, "step": step + 1, "loss": float(np.mean(recent[-200:])), "lr": rate}
            row |= evaluate(average, held_out) | {"seconds": round(time.time() - started, 1)}
            with log.open("a") as out:
                out.write(json.dumps(row) + "\n")
            progress.console.print(row, highlight=False)
            data = io.BytesIO()
            torch.save({"sam": average.state_dict(), "row": row}, data)
            write_bytes(log.with_suffix(".pt"), data.getbuffer(), _NO_ROOM)
    return average


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
        "architecture": asdict(full),
        "seed": seed,
        "minutes": round((time.time() - began) / 60, 1),
        "device": device,
        "held_out": result,
    }
    state = {name: value.contiguous().cpu() for name, value in sam.state_dict().items()}
    write_bytes(output, save(state, metadata={"resam": json.dumps(record)}), _NO_ROOM)
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    pretrain(prog_name="python -m resam.pretrain")
