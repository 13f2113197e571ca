"""The head's own training, on embeddings that are encoded already.

Half of each batch are drawn evenly, half by how much was wrong when they were last seen: hard negatives and positives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from resam.model.prompter import Prompter, box_corners
from resam.training.options import TrainOptions
from resam.training.prompter.embeddings import Embeddings
from resam.training.prompter.examples import Example, tile_instances
from resam.training.prompter.losses import box_loss, centre_loss
from resam.training.prompter.targets import Targets, make_targets

BATCH = 8
WARMUP = 30  # steps
WEIGHT_DECAY = 1e-2


def fit(
    head: Prompter,
    known: Embeddings,
    examples: Mapping[int, Sequence[Example]],
    options: TrainOptions,
    fabric: Fabric,
    step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Teach `head`, in place. Returns the mean losses of the last quarter of the steps."""
    size, grid = head.image_size, round(head.image_size / head.cell)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.prompter_rate, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng((options.seed, len(known.windows)))
    hardness = np.full(len(known.windows), np.nan)
    rows: list[tuple[float, float]] = []
    for number in range(options.prompter_steps):
        progress = number / options.prompter_steps
        for group in optimizer.param_groups:
            rise = min(1.0, (number + 1) / WARMUP)
            group["lr"] = options.prompter_rate * rise * (0.505 + 0.495 * math.cos(math.pi * progress))
        drawn = _draw(rng, hardness)
        seen = [known.windows[row] for row in drawn]
        shown = (tile_instances(examples[one.scene], one.tile, one.mirror, size, grid) for one in seen)
        targets = [make_targets(instances, head.classes, size, grid) for instances in shown]
        heat, counted, boxes, weight = _stack(targets, fabric.device)
        with fabric.autocast():
            logits, distances = head(known.batch(drawn).to(fabric.device))
        centres = centre_loss(logits, heat, counted, options.clicked)
        sizes = box_loss(box_corners(distances.float(), head.cell), boxes, weight)
        (centres + sizes).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        hardness[drawn] = wrongness(logits.detach(), heat, counted)
        rows.append((float(centres.detach()), float(sizes.detach())))
        step()
    last = np.array(rows[-max(1, len(rows) // 4) :] or [(0.0, 0.0)])
    return {"centre_loss": round(float(last[:, 0].mean()), 4), "box_loss": round(float(last[:, 1].mean()), 4)}


def _draw(rng: np.random.Generator, hardness: NDArray[np.float64]) -> NDArray[np.intp]:
    """A batch of rows: half of it drawn evenly, half in proportion to its hardness, which is NaN for what was not seen
    yet: that is taken to be as hard as the others."""
    count = min(BATCH, len(hardness))
    drawn = rng.choice(len(hardness), count - count // 2, replace=False)
    left = np.setdiff1d(np.arange(len(hardness)), drawn)
    if len(drawn) == count:
        return drawn
    known = ~np.isnan(hardness)
    share = np.where(known, hardness, hardness[known].mean() if known.any() else 1.0)[left] + 1e-9
    return np.concatenate((drawn, rng.choice(left, count - len(drawn), replace=False, p=share / share.sum())))


@torch.no_grad()
def wrongness(logits: torch.Tensor, heat: torch.Tensor, counted: torch.Tensor) -> NDArray[np.float64]:
    """How much of each tile (B, K, H, W) the heat is wrong about: the sum of the centre loss, (B,)."""
    return np.array([float(centre_loss(*one)) for one in zip(logits[:, None], heat[:, None], counted[:, None])])


def _stack(targets: Sequence[Targets], device: torch.device) -> list[torch.Tensor]:
    """heat, counted, boxes and weight of several tiles, each (B, ...) float32."""
    names = ("heat", "counted", "boxes", "weight")
    stacked = (np.stack([getattr(target, name) for target in targets]).astype(np.float32) for name in names)
    return [torch.from_numpy(values).to(device) for values in stacked]
