"""Refine and Requery: the loop of ReSAM (arXiv 2511.21606), written once.

Training calls this module, the exporter traces it, the engine is it.

Refine. With p = sigmoid(L) and H(p) the binary entropy in nats, instance i keeps a pixel where p (1 - H) > tau
and no other instance of the image keeps it. Where p (1 - H) can exceed tau it rises with p, so the test is one
comparison, L > `refine_logit(tau)`. An instance that loses nearly all it kept loses the rest as well: two prompts on
one object would leave each other crumbs of its rim, whose boxes mean nothing.

Requery. The tight box of each refined mask becomes a prompt on the same embedding. An instance whose refined mask
is empty keeps its place: its box tokens turn into padding, so that it is decoded from its points again. With "none"
nothing is asked again, and the coarse mask is the final one.

Sizes. One click does not say how large an object is: SAM answers it with several masks, of which the loop takes the
first. Where the object's area is known, a `sized` loop takes the one that is nearest to the likely area, asks again
with the box of its cells above 0, since it no longer guards against a mask that is too large, and gives the final mask
its likely area (`resam.model.object_size`). A box in the prompt says more than a class: then nothing of this is done.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from resam.model.decoder import PromptDecoder
from resam.model.object_size import at_likely_area, nearest_in_size
from resam_runtime.tiles.prompt_batch import BOX_TOP_LEFT, PADDING, SIDE

Requery = Literal["none", "box", "box+points"]
Answers = tuple[torch.Tensor, torch.Tensor]  # mask logits (N, M, M) and predicted IoU (N,)
HIDDEN = -1e4  # stands for the logit of a cell that Refine took away
CRUMBS = 0.15  # the share of its cells below which what the others left of an instance is taken away too


class LoopOutput(NamedTuple):
    """What the loop makes of N prompts; M is the side of the mask grid."""

    masks: torch.Tensor  # (N, M, M) final logits
    scores: torch.Tensor  # (N,) predicted IoU of the final masks
    boxes: torch.Tensor  # (N, 4) box prompts x0, y0, x1, y1 in tile pixels; zeros where the refined mask is empty
    coarse_masks: torch.Tensor  # (N, M, M) logits decoded from the points alone
    coarse_scores: torch.Tensor  # (N,) predicted IoU of the coarse masks


def refine_logit(tau: float) -> float:
    """The logit L above which p (1 - H(p)) > tau, with p = sigmoid(L), H in nats. `ValueError` unless 0.25 <= tau < 1.

    Below about 0.25 the left side is not monotonic where it crosses tau, and one comparison would not do.
    """
    if not 0.25 <= tau < 1.0:
        raise ValueError(f"the refine threshold must lie in [0.25, 1), not {tau}")
    low, high = 0.5, 1.0 - 1e-15
    for _ in range(200):
        p = (low + high) / 2
        entropy = -p * math.log(p) - (1 - p) * math.log1p(-p)
        low, high = (p, high) if p * (1 - entropy) <= tau else (low, p)
    return math.log(high) - math.log1p(-high)


def refine(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Logits of the cells that each instance keeps, `HIDDEN` where another keeps them too or only crumbs are left.

    logits: (N, M, M) of all instances of one image, since the overlap test compares them. A cell of the result
    is part of the refined mask where it exceeds `threshold` (a logit).
    """
    kept = logits > threshold
    contested = kept.to(logits.dtype).sum(dim=0, keepdim=True) > 1.5
    # means along x first: fp16 could not count the cells of a whole mask
    before, after = (cells.to(logits.dtype).mean(dim=2).sum(dim=1) for cells in (kept, kept & ~contested))
    crumbs = (after < CRUMBS * before)[:, None, None]
    return torch.where(kept & (contested | crumbs), torch.full_like(logits, HIDDEN), logits)


def tight_boxes(refined: torch.Tensor, threshold: float, cell: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around the cells above `threshold`, at sub-cell precision.

    refined: (N, M, M) logits as `refine` returns them; cell: side of a cell in tile pixels (S / M). An edge lies
    where the straight line between the logits of the outermost cell and its outer neighbour crosses the
    threshold, as it does in a bilinearly upsampled mask; half-way where the neighbour was taken away.

    Returns boxes (N, 4) float32, x0, y0, x1, y1 in tile pixels (zeros where empty), and found (N,) bool.
    """
    if refined.dtype != torch.float32:
        refined = refined.float()  # places and boxes in bfloat16 would be whole cells
    size = refined.shape[-1]
    highest = profiles(refined)
    inside = (highest > threshold).to(highest.dtype)
    # places counted from the outside: the first cell inside holds the largest weight
    place = torch.arange(size, device=refined.device, dtype=highest.dtype)
    first = size - (inside * (size - place)).amax(dim=2)  # (N, 2), `size` where nothing is inside
    last = (inside * (place + 1)).amax(dim=2) - 1
    first = first.clamp(max=size - 1.0)
    last = last.clamp(min=0.0)
    first = first - _overhang(highest, first, -1, threshold)
    last = last + _overhang(highest, last, 1, threshold)
    boxes = (torch.cat((first, last), dim=1) + 0.5) * cell - 0.5
    found = highest[:, 0].amax(dim=1) > threshold
    boxes = boxes.clamp(0.0, size * cell - 1.0) * found.to(boxes.dtype).unsqueeze(1)
    return boxes, found


def profiles(logits: torch.Tensor) -> torch.Tensor:
    """The highest logit of each column and of each row of masks (N, M, M): (N, 2, M), along x and along y."""
    return torch.stack((logits.amax(dim=1), logits.amax(dim=2)), dim=1)


def _overhang(highest: torch.Tensor, edge: torch.Tensor, step: int, threshold: float) -> torch.Tensor:
    """How far (0..1 cells) the mask reaches from the centre of cell `edge` (N, 2) towards its neighbour."""
    size = highest.shape[2]
    index = edge.long().unsqueeze(2)
    neighbour = (index + step).clamp(0, size - 1)
    inner, outer = highest.gather(2, index), highest.gather(2, neighbour)
    reach = (inner - threshold) / (inner - outer).clamp(min=1e-6)
    hard = (outer < HIDDEN / 2) | (neighbour == index)  # taken away, or the rim of the tile
    return torch.where(hard, torch.full_like(reach, 0.5), reach.clamp(0.0, 1.0)).squeeze(2)


class RefineRequery(nn.Module):
    """Points in; coarse masks, box prompts and final masks out. sized: an object's size may be given among its points:
    a place labelled `SIDE`, whose x is the side of a square of its area."""

    def __init__(
        self,
        decoder: PromptDecoder,
        tau: float = 0.3,
        requery: Requery = "box+points",
        rounds: int = 1,
        sized: bool = False,
    ) -> None:
        super().__init__()
        if requery not in get_args(Requery):
            raise ValueError(f"requery must be one of {', '.join(get_args(Requery))}, not {requery!r}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {rounds}")
        self.decoder = decoder
        self.tau, self.requery, self.rounds, self.sized = tau, requery, rounds, sized
        self.threshold = refine_logit(tau)

    def forward(self, embedding: torch.Tensor, point_coords: torch.Tensor, point_labels: torch.Tensor) -> LoopOutput:
        """Decode, refine, requery all instances of one image.

        embedding: (1, C, G, G); point_coords: (N, P, 2) in tile pixels; point_labels: (N, P), see `PromptDecoder`.
        """
        if not self.sized:
            masks, scores = self.decoder(embedding, point_coords, point_labels)
            return self.requery_from(masks, scores, embedding, point_coords, point_labels)
        says_size = point_labels == SIDE  # (N, P)
        sides = (point_coords[..., 0] * says_size.to(point_coords.dtype)).sum(dim=1)  # (N,)
        sides = sides * (1 - (point_labels == BOX_TOP_LEFT).to(sides.dtype).amax(dim=1))
        point_labels = torch.where(says_size, torch.full_like(point_labels, PADDING), point_labels)
        every, every_score = self.decoder.every_mask(embedding, point_coords, point_labels)
        cell = self.decoder.image_size / every.shape[-1]
        masks, scores = nearest_in_size(every, every_score, sides, cell)
        return self.requery_from(masks, scores, embedding, point_coords, point_labels, sides)

    def requery_from(
        self,
        coarse_masks: torch.Tensor,
        coarse_scores: torch.Tensor,
        embedding: torch.Tensor,
        point_coords: torch.Tensor,
        point_labels: torch.Tensor,
        sides: torch.Tensor | None = None,
    ) -> LoopOutput:
        """The loop from coarse masks (N, M, M) and scores (N,) on; the other arguments as in `forward`, sides as in
        `nearest_in_size`."""
        masks, scores = coarse_masks, coarse_scores
        raised: torch.Tensor | float = 0.0  # lifts the cells above 0 of masks of known size over Refine's threshold
        if sides is not None:
            raised = self.threshold * (sides > 0).to(masks.dtype)[:, None, None]
        boxes = masks.new_zeros(masks.shape[0], 4)
        cell = self.decoder.image_size / masks.shape[-1]
        for _ in range(self.rounds):
            boxes, found = tight_boxes(refine(masks + raised, self.threshold), self.threshold, cell)
            if self.requery == "none":
                break
            coords, labels = self.prompts(boxes, found, point_coords, point_labels)
            masks, scores = self.ask_again(embedding, coords, labels, found, (coarse_masks, coarse_scores))
        if sides is not None:
            masks = at_likely_area(masks, sides, cell)
        return LoopOutput(masks, scores, boxes, coarse_masks, coarse_scores)

    def ask_again(
        self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, found: torch.Tensor, coarse: Answers
    ) -> Answers:
        """Masks and scores of what `prompts` gives. Those whose box was not found are those of the coarse masks again:
        a loop that is to be fast need not decode them."""
        return self.decoder(embedding, coords, labels, ends_in_corner=True)

    def prompts(
        self, boxes: torch.Tensor, found: torch.Tensor, point_coords: torch.Tensor, point_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What Requery asks with: coords (N, P + 2, 2) and labels (N, P + 2) of the points and the two box corners.

        boxes: (N, 4) in tile pixels; found: (N,) bool, instances without a box are asked for by their points.
        """
        coords = torch.cat((point_coords, boxes.reshape(-1, 2, 2)), dim=1)
        has_box = found.to(point_labels.dtype).unsqueeze(1)  # (N, 1)
        corners = torch.tensor([[2, 3]], dtype=point_labels.dtype, device=point_labels.device)
        corners = (corners + 1) * has_box - 1  # 2, 3 or -1, -1
        if self.requery == "box":
            point_labels = (point_labels + 1) * (1 - has_box) - 1  # the points give way to the box
        return coords, torch.cat((point_labels, corners), dim=1)
