"""One step of the method on one tile: Coarse, Refine, Requery on the weak view; Reinforce on the strong one.

    pseudo-masks:  E = encoder(weak), no gradient;  T = [final masks of RefineRequery(E, points) > 0],
                   or masks made before (`resam.training.consensus`)
    reinforce:     E' = encoder(strong);  L, score = decoder(E', points)
                   loss = sum over the terms of `resam.training.losses.LOSSES`, each times its weight:
                          those of masks as means over the instances with a pseudo-label, of (L, T, score),
                          those of tiles of E' and of what the weak view left

All prompts of a tile are decoded together, in chunks that bound memory: Refine still compares all of them, and the
gradients of the chunks add up in E' before the encoder is walked back once. So memory does not grow with the number of
instances, and the gradient is that of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from resam.model.decoder import PromptDecoder
from resam.model.refine_requery import LoopOutput, RefineRequery, refine, tight_boxes
from resam.training.losses import LOSSES
from resam.training.losses.alignment import box_embeddings, remembered
from resam.training.losses.score import overlap
from resam.training.losses.term import Decoded, TileSeen
from resam.training.options import PseudoKind, TrainOptions
from resam.training.tile import Pseudo, TileTensors


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


@dataclass
class StepLosses:
    """A step's losses as plain numbers, by the names of `LOSSES`, and their weighted sum `total`; how many instances
    there were and how many had a pseudo-label; and what the queue shall receive."""

    values: dict[str, float]
    total: float
    instances: int
    labelled: int
    remembered: torch.Tensor


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
    weights: Mapping[str, float],
    queue: torch.Tensor,
    options: TrainOptions,
    *,
    scale: float = 1.0,
    requery: RefineRequery | None = None,
    sam: nn.Module | None = None,
) -> StepLosses:
    """Walk the loss of one tile back into all parameters that want a gradient (gradients are added, times `scale`).

    weights: of the terms, by name. queue: (K, C), what the tiles before it left. requery: the losses of masks are the
    mean of two, of the masks decoded from the points and of those that this loop's Requery asks for, with the boxes of
    the pseudo-labels or, where the tile says so, of the student's refined masks; else Requery is not taught. sam: the
    model, for terms that train further parts of it. Raises `FloatingPointError` for a loss that is not finite; the
    gradients are then worthless.
    """
    known = torch.nonzero(pseudo.known)[:, 0]
    sums = {loss.name: 0.0 for loss in LOSSES}
    fresh = pseudo.embeddings.new_zeros(0, queue.shape[1])
    if len(known):
        embedding = encoder(tile.strong)
        leaf = embedding.detach().requires_grad_()
        student = _Student(decoder, leaf, tile, pseudo, weights, known, scale, 1 if requery is None else 2)
        masks = [student.ask(part, *points) for part, points in _prompts(tile, known, options.chunk)]
        if requery is not None:
            boxes = _asked_boxes(requery, torch.cat(masks), tile, pseudo, known)
            for place, (part, points) in enumerate(_prompts(tile, known, options.chunk)):
                own = boxes[place * options.chunk :][: len(part)]
                student.ask(part, *requery.prompts(own, pseudo.known[part], *points), ends_in_corner=True)
        sums |= student.sums
        seen = TileSeen(leaf, tile, pseudo, queue, options, sam)
        for loss in LOSSES:
            if loss.of == "tile" and weights[loss.name]:
                value = loss.value(seen)
                sums[loss.name] = float(value.detach())
                if value.requires_grad:
                    (weights[loss.name] * scale * value).backward()
        if options.ssa != "off":
            fresh = remembered(seen, decoder.image_size)
        if embedding.requires_grad:
            embedding.backward(leaf.grad)
    if not all(value - value == 0 for value in sums.values()):
        raise FloatingPointError(", ".join(f"{name} {value}" for name, value in sums.items()))
    total = sum(weights[name] * value for name, value in sums.items())
    return StepLosses(sums, total, len(pseudo.known), len(known), fresh)


def _prompts(
    tile: TileTensors, known: torch.Tensor, chunk: int
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
    """The known instances in chunks, and what the student is asked with: coords and labels of their points."""
    labels = tile.labels if tile.asked is None else tile.asked
    for part in known.split(chunk):
        yield part, (tile.coords[part], labels[part])


def _asked_boxes(
    requery: RefineRequery, masks: torch.Tensor, tile: TileTensors, pseudo: Pseudo, known: torch.Tensor
) -> torch.Tensor:
    """The boxes (n, 4) that the taught Requery asks with, of the known instances; masks: (n, M, M), the student's."""
    boxes = pseudo.boxes[known]
    if tile.own is None or not tile.own.any():
        return boxes
    cell = requery.decoder.image_size / masks.shape[-1]
    own, found = tight_boxes(refine(masks, requery.threshold), requery.threshold, cell)
    return torch.where((found & tile.own[known])[:, None], own, boxes)


class _Student:
    """Decodes chunks of prompts from one embedding, and walks the losses of their masks back at once."""

    def __init__(
        self,
        decoder: PromptDecoder,
        leaf: torch.Tensor,
        tile: TileTensors,
        pseudo: Pseudo,
        weights: Mapping[str, float],
        known: torch.Tensor,
        scale: float,
        times: int,
    ) -> None:
        """times: how often each instance will be asked."""
        self._decoder, self._leaf, self._tile, self._pseudo = decoder, leaf, tile, pseudo
        self._scale, self._share = scale, 1 / (len(known) * times)
        self._terms = [(loss, weights[loss.name]) for loss in LOSSES if loss.of == "mask" and weights[loss.name]]
        self.sums = {loss.name: 0.0 for loss, _ in self._terms}

    def ask(
        self, part: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, ends_in_corner: bool = False
    ) -> torch.Tensor:
        """The logits (n, M, M) of some instances, without gradient."""
        height, width = self._tile.extent
        logits, scores = self._decoder(self._leaf, coords, labels, ends_in_corner)
        target = self._pseudo.target[part, :height, :width].detach()
        # sums over cells want more than bfloat16
        decoded = Decoded(logits[:, :height, :width].float(), target, scores.float())
        counts = 1.0 if self._tile.weight is None else self._tile.weight[part]
        total = logits.new_zeros((), dtype=torch.float32)
        for loss, weight in self._terms:
            value = (loss.value(decoded) * counts).sum() * self._share
            self.sums[loss.name] += float(value.detach())
            total = total + weight * value
        (total * self._scale).backward()
        return logits.detach()


def agreement(output: LoopOutput) -> torch.Tensor:
    """IoU of coarse and final mask per instance, (N,): how much the loop changed, a figure that needs no true mask."""
    return overlap(output.coarse_masks > 0, output.masks > 0)
