"""One step of the method on one tile: Coarse, Refine, Requery on the weak view; Reinforce on the strong one.

    pseudo-masks:  E = encoder(weak), no gradient;  T = [final masks of RefineRequery(E, points) > 0],
                   or masks made before (`resam.training.consensus`)
    reinforce:     E' = encoder(strong);  L, score = decoder(E', points)
                   loss = mean over instances with a pseudo-label of (20 focal + dice + iou)(L, T, score)
                          + beta L_SSA(z(E'), z(E), queue)

All prompts of a tile are decoded together, in chunks that bound memory: Refine still compares all of them, and the
gradients of the chunks add up in E' before the encoder is walked back once. So memory does not grow with the number of
instances, and the gradient is that of one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from resam.model.decoder import PromptDecoder
from resam.model.refine_requery import LoopOutput, RefineRequery, refine, tight_boxes
from resam.training.alignment import alignment_loss, box_embeddings
from resam.training.losses import mask_losses, overlap

PseudoKind = Literal["coarse", "refined", "final", "consensus"]


class ChunkedDecoder(nn.Module):
    """A `PromptDecoder` that decodes at most `chunk` prompts at a time; the same results in the same order."""

    def __init__(self, decoder: PromptDecoder, chunk: int = 8) -> None:
        super().__init__()
        self.decoder, self.chunk, self.image_size = decoder, chunk, decoder.image_size

    def forward(
        self,
        embedding: torch.Tensor,
        point_coords: torch.Tensor,
        point_labels: torch.Tensor,
        ends_in_corner: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `PromptDecoder.forward`, for an embedding of one image, (1, C, G, G)."""
        parts = zip(point_coords.split(self.chunk), point_labels.split(self.chunk))
        masks, scores = zip(*(self.decoder(embedding, coords, labels, ends_in_corner) for coords, labels in parts))
        return torch.cat(masks), torch.cat(scores)


@dataclass(frozen=True)
class TileTensors:
    """A sample on the device.

    weak, strong: (1, S, S, 3) uint8. coords: (N, P, 2), labels: (N, P). extent: height and width of the mask grid
    that are not padding. given: (N, M, M) in 0..1, masks to teach in place of the loop's: the true ones in supervised
    training, or a consensus.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    coords: torch.Tensor
    labels: torch.Tensor
    extent: tuple[int, int]
    given: torch.Tensor | None = None


@dataclass(frozen=True)
class Pseudo:
    """What the weak view teaches: target (N, M, M) in 0..1, known (N,) bool: has a pseudo-label; boxes (N, 4);
    embeddings (N, C) of length 1, meaningful where known; output: the loop's. Where the weak view was not looked at the
    embeddings are (N, 0) and there is no output."""

    target: torch.Tensor
    known: torch.Tensor
    boxes: torch.Tensor
    embeddings: torch.Tensor
    output: LoopOutput | None


@dataclass
class StepLosses:
    """Sums of a step as plain numbers, and what the queue shall receive."""

    focal: float
    dice: float
    iou: float
    alignment: float
    total: float
    instances: int
    labelled: int
    embeddings: torch.Tensor


@torch.no_grad()
def pseudo_masks(
    encoder: nn.Module,
    loop: RefineRequery,
    tile: TileTensors,
    kind: PseudoKind = "final",
    calibrate: bool = False,
    look: bool = True,
) -> Pseudo:
    """Encode the weak view once and run the loop on it. An instance whose refined mask is empty keeps its place, and
    is not `known`. kind: which of the loop's masks to teach (ablations), unless the tile is given some; calibrate: see
    `calibrated`; look: False leaves the weak view alone where the tile is given its masks. Raises `ValueError` for a
    consensus that the tile is not given."""
    size = loop.decoder.image_size
    if tile.given is not None and not look:
        known, boxes = _given(tile.given, size)
        return Pseudo(tile.given, known, boxes, tile.given.new_zeros(len(known), 0), None)
    embedding = encoder(tile.weak)
    coords, labels = tile.coords, tile.labels
    masks, scores = loop.decoder(embedding, coords, labels)
    if calibrate:
        coords, labels = calibrated(masks, coords, labels)
        masks, scores = loop.decoder(embedding, coords, labels)
    output = loop.requery_from(masks, scores, embedding, coords, labels)
    if tile.given is not None:
        target = tile.given
        known, boxes = _given(target, size)
    elif kind == "consensus":
        raise ValueError("a consensus is made before training and given with the tile")
    elif kind == "final":
        target, boxes = output.masks > 0, output.boxes
        known = (boxes[:, 2] > boxes[:, 0]) & target.flatten(1).any(1)
    else:
        threshold = loop.threshold if kind == "refined" else 0.0
        kept = refine(masks, threshold) if kind == "refined" else masks
        boxes, known = tight_boxes(kept, threshold, size / masks.shape[-1])
        target = kept > threshold
    return Pseudo(
        target=target.float(),
        known=known,
        boxes=boxes,
        embeddings=box_embeddings(embedding, boxes, size),
        output=output,
    )


def _given(masks: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the masks (N, M, M) in 0..1 hold something, (N,) bool, and their boxes (N, 4) in tile pixels."""
    boxes, _ = tight_boxes((masks - 0.5) * 20, 0.0, size / masks.shape[-1])
    return (masks > 0.5).flatten(1).any(1), boxes


def calibrated(
    coarse: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, threshold: float = 0.1, neighbours: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative prompt calibration (PointSAM, arXiv 2409.13401): instances do not overlap, so where two coarse masks do
    (IoU above `threshold`), the first positive point of each becomes a negative point of the other.

    coarse: (N, M, M) logits; coords: (N, P, 2), labels: (N, P). Returns both with up to `neighbours` points more, the
    worst overlaps first. A neighbour's point at (nearly) the same place as one of its own is left out.
    """
    count = len(coords)
    if count < 2:
        return coords, labels
    flat = (coarse > 0).flatten(1).float()
    shared = flat @ flat.T
    area = flat.sum(1)
    iou = shared / (area[:, None] + area[None] - shared).clamp(min=1)
    first = (labels == 1).to(torch.int).argmax(1)
    points = coords[torch.arange(count, device=coords.device), first]  # (N, 2)
    iou = iou * (torch.cdist(points, points) > 1.0)
    worst, which = iou.topk(min(neighbours, count - 1), dim=1)
    negative = torch.where(worst > threshold, 0, -1).to(labels.dtype)
    return torch.cat((coords, points[which]), dim=1), torch.cat((labels, negative), dim=1)


def reinforce(
    encoder: nn.Module,
    decoder: PromptDecoder,
    tile: TileTensors,
    pseudo: Pseudo,
    queue: torch.Tensor,
    beta: float,
    *,
    detach: bool = False,
    chunk: int = 8,
    scale: float = 1.0,
    requery: RefineRequery | None = None,
) -> StepLosses:
    """Walk the loss of one tile back into the encoder's parameters (gradients are added, times `scale`).

    queue: (K, C). beta: weight of SSA, 0 for none. detach: SSA without gradient, as the reference code has it. requery:
    the loss is the mean of two, of the masks decoded from the points and of those that this loop's Requery asks for
    with the pseudo-labels' boxes; else the encoder moves and Requery is not asked. Raises `FloatingPointError` for a
    loss that is not finite; the gradients are then worthless.
    """
    known = torch.nonzero(pseudo.known)[:, 0]
    sums = torch.zeros(4, dtype=torch.float64)
    fresh = pseudo.embeddings[known]
    if len(known):
        embedding = encoder(tile.strong)
        leaf = embedding.detach().requires_grad_()
        height, width = tile.extent
        for part in known.split(chunk):
            points = tile.coords[part], tile.labels[part]
            prompts = [(*points, False)]
            if requery is not None:
                prompts.append((*requery.prompts(pseudo.boxes[part], pseudo.known[part], *points), True))
            target, share = pseudo.target[part, :height, :width], 1 / (len(known) * len(prompts))
            for coords, labels, ends_in_corner in prompts:
                logits, scores = decoder(leaf, coords, labels, ends_in_corner)
                losses = mask_losses(logits[:, :height, :width], target, scores)
                (losses.total.sum() * (scale * share)).backward()
                sums[:3] += torch.stack([loss.detach().sum() for loss in losses]).double().cpu() * share
        if beta > 0:
            seen = leaf.detach() if detach else leaf
            strong = box_embeddings(seen, pseudo.boxes[known], decoder.image_size)
            alignment = alignment_loss(strong, fresh, queue)
            sums[3] = float(alignment.detach())
            if alignment.requires_grad:
                (beta * scale * alignment).backward()
        embedding.backward(leaf.grad)
    focal, dice, iou, alignment_value = sums.tolist()
    total = 20 * focal + dice + iou + beta * alignment_value
    if not torch.isfinite(sums).all():
        raise FloatingPointError(f"focal {focal}, dice {dice}, iou {iou}, alignment {alignment_value}")
    return StepLosses(focal, dice, iou, alignment_value, total, len(pseudo.known), len(known), fresh)


def agreement(output: LoopOutput) -> torch.Tensor:
    """IoU of coarse and final mask per instance, (N,): how much the loop changed, a figure that needs no true mask."""
    return overlap(output.coarse_masks > 0, output.masks > 0)
