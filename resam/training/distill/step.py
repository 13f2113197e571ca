"""One step on one window: the teacher looks, the student imitates its embedding and the masks decoded from it.

T = teacher's embedding, brought to the student's grid          E = student's embedding
the teacher's masks, decoded from its own embedding: of points, then of points and the tight boxes of those masks
the student's, of the same prompts, decoded from E by the same decoder, which is frozen
loss = the terms of `resam.training.distill.losses`
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery, tight_boxes
from resam.training.distill.losses import DISTILLED, embedding_loss, mask_losses
from resam.training.distill.options import DistillOptions
from resam.training.distill.windows import TwoTiles
from resam.training.losses.score import overlap
from resam.training.step import ChunkedDecoder


class Model(nn.Module):
    """A base as it is asked here."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.encoder, self.decoder = ImageEncoder(base.sam), PromptDecoder(base.sam)
        self.loop = RefineRequery(self.decoder)
        self.size, self.grid, self.mask_size = (
            base.architecture.image_size,
            base.architecture.grid,
            base.architecture.mask_size,
        )


@dataclass(frozen=True)
class Asked:
    """Prompts in 0..1 of the tile: coords (N, P, 2), labels (N, P); and what the teacher makes of them: target
    (N, M, M) probabilities on the student's mask grid, scores (N,). boxed: each prompt ends in a box, as
    Requery's do."""

    coords: torch.Tensor
    labels: torch.Tensor
    target: torch.Tensor
    scores: torch.Tensor
    boxed: bool

    def pixels(self, size: int) -> torch.Tensor:
        """The coords in the pixels of a tile of `size` px, whose centres are whole numbers."""
        return self.coords * size - 0.5


@torch.no_grad()
def teach(teacher: Model, student: Model, tiles: TwoTiles, chunk: int, masks: bool) -> tuple[torch.Tensor, list[Asked]]:
    """The teacher's embedding on the student's grid, (1, C, G, G) float32; what it makes of the points alone, and of
    the points with boxes (neither without `masks`)."""
    device = teacher.encoder.pixel_mean.device
    embedding = teacher.encoder(torch.from_numpy(tiles.teacher)[None].to(device))
    asked: list[Asked] = []
    decode = ChunkedDecoder(teacher.decoder, chunk)
    if masks:
        points = torch.from_numpy(tiles.points)[:, None].to(device)  # (N, 1, 2)
        labels = torch.ones(points.shape[:2], dtype=torch.int32, device=device)
        logits, scores = decode(embedding, points * teacher.size - 0.5, labels)
        asked.append(Asked(points, labels, _probabilities(logits, student.mask_size), scores.float(), False))
        # not Refine: its contest is between objects, and points of a grid share them
        threshold = teacher.loop.threshold
        boxes, found = tight_boxes(logits.float(), threshold, teacher.size / logits.shape[-1])
        coords, labels = teacher.loop.prompts(boxes, found, points * teacher.size - 0.5, labels)
        logits, scores = decode(embedding, coords, labels, ends_in_corner=True)
        target = _probabilities(logits, student.mask_size)
        asked.append(Asked((coords + 0.5) / teacher.size, labels, target, scores.float(), True))
    return resampled(embedding.float(), student.grid), asked


def imitate(
    student: Model,
    tiles: TwoTiles,
    target: torch.Tensor,
    asked: list[Asked],
    options: DistillOptions,
    scale: float,
) -> dict[str, float]:
    """Walk the student's loss back into its encoder (gradients are added, times `scale`); the terms, their `total`, and
    `agreement`: mean IoU with the teacher's masks. `FloatingPointError` for a loss that is not finite."""
    image = torch.from_numpy(tiles.student)[None].to(target.device)
    embedding = student.encoder(image)
    leaf = embedding.detach().requires_grad_()
    loss = embedding_loss(leaf.float(), target)
    (loss * DISTILLED["embedding"] * scale).backward()
    values = dict.fromkeys(DISTILLED, 0.0) | {"embedding": float(loss.detach())}
    agreement, count = 0.0, sum(len(one.coords) for one in asked)
    for part, logits, scores in _masks(student, leaf, tiles, asked, options.chunk):
        terms = mask_losses(logits, scores, part.target, part.scores)
        total = sum((DISTILLED[name] * value.sum() for name, value in terms.items()), logits.new_zeros(()))
        (total * options.masks * scale / count).backward()
        for name, value in terms.items():
            values[name] += float(value.detach().sum()) / count
        agreement += float(overlap(logits > 0, part.target > 0.5).sum()) / count
    if not all(value - value == 0 for value in values.values()):
        raise FloatingPointError(", ".join(f"{name} {value}" for name, value in values.items()))
    embedding.backward(leaf.grad)
    weights = {name: weight * (1 if name == "embedding" else options.masks) for name, weight in DISTILLED.items()}
    values["total"] = sum(weights[name] * value for name, value in values.items())
    return values | {"agreement": agreement}


@torch.no_grad()
def compare(teacher: Model, student: Model, tiles: TwoTiles, chunk: int) -> dict[str, float]:
    """How far the student has come on one window: `embedding` as in the loss, and the mean IoU with the teacher's masks
    asked with `points` and with `boxes`."""
    target, asked = teach(teacher, student, tiles, chunk, True)
    embedding = student.encoder(torch.from_numpy(tiles.student)[None].to(target.device))
    found = {"embedding": float(embedding_loss(embedding.float(), target))}
    for name, one in zip(("points", "boxes"), asked):
        parts = _masks(student, embedding, tiles, [one], chunk)
        ious = torch.cat([overlap(logits > 0, part.target > 0.5) for part, logits, _ in parts])
        found[name] = float(ious.mean())
    return found


def resampled(embedding: torch.Tensor, grid: int) -> torch.Tensor:
    """(1, C, G, G) on another grid, (1, C, grid, grid): bilinear, averaging where it shrinks. The same on the same."""
    if embedding.shape[-1] == grid:
        return embedding
    return F.interpolate(embedding, (grid, grid), mode="bilinear", antialias=True, align_corners=False)


def _probabilities(logits: torch.Tensor, size: int) -> torch.Tensor:
    return resampled(logits.float().sigmoid()[None], size)[0].clamp(0, 1)


def _masks(
    student: Model, embedding: torch.Tensor, tiles: TwoTiles, asked: list[Asked], chunk: int
) -> Iterator[tuple[Asked, torch.Tensor, torch.Tensor]]:
    """Chunks of the prompts, and the student's logits (n, h, w) and scores (n,); all masks without the padding."""
    height, width = (math.ceil(side * student.mask_size) for side in tiles.filled)
    for one in asked:
        fields = (one.coords, one.labels, one.target[:, :height, :width], one.scores)
        for pieces in zip(*(field.split(chunk) for field in fields)):
            coords, labels, target, target_scores = pieces
            part = Asked(coords, labels, target, target_scores, one.boxed)
            logits, scores = student.decoder(embedding, part.pixels(student.size), part.labels, part.boxed)
            yield part, logits[:, :height, :width].float(), scores.float()
