"""The stages of pretraining.

Most steps run on images of half the tile's side, each placed at random in the tile (`resam.pretrain.placed`). Then
whole tiles follow, with a falling learning rate.
"""

from __future__ import annotations

import copy
import io
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from segment_anything.modeling import Sam

from resam.pretrain.batches import Batch, sample_batch
from resam.pretrain.muon import Muon
from resam.pretrain.placed import PlacedSam
from resam.pretrain.procedural import ProceduralImage, generate
from resam.pretrain.step import evaluate, step_loss
from resam.training.outputs import write_bytes
from resam_runtime.common.errors import ResamError

HELD_OUT_SEED = 1_000_000_000  # procedural images from here on are never trained on
NO_ROOM = "make room there"


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
            write_bytes(log.with_suffix(".pt"), data.getbuffer(), NO_ROOM)
    return average
