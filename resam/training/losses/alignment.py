"""Soft semantic alignment (SSA): instances should look alike, to the encoder, in the weak and the strong view.

With z(box) the mean of the embedding inside a box, scaled to length 1, s = z of the weak view, h of the strong one,
and Q a FIFO queue of the pairs (s, h) of earlier tiles:

    L_SSA = mean over i and over s in {s_i} and Q of (1 - s . h_i)            as the paper writes it
    L_SSA = mean over the pairs (s, h) of {(s_i, h_i)} and Q of (1 - s . h)   "paired", as the reference code has it

Only h_i carries gradient. So the first draws every instance towards those of other tiles, whatever they show; in the
second the queue has no part in the gradient but to make it smaller. "detached" is the first without any gradient: the
reference detaches both sides. beta ramps as a sigmoid over training: beta(t) = beta_max / (1 + exp(-10 (t - 1/2))).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resam.model.full_precision import full_precision
from resam.training.losses.term import Loss, TileSeen

if TYPE_CHECKING:
    from resam.training.options import TrainOptions


def box_embeddings(embedding: torch.Tensor, boxes: torch.Tensor, tile_size: int) -> torch.Tensor:
    """Mean of an embedding (1, C, G, G) inside boxes (N, 4) in tile pixels, each of length 1: (N, C).

    A token counts by the share of it that the box covers, so a box smaller than a token has a mean too.
    """
    grid = embedding.shape[-1]
    token = tile_size / grid
    edges = torch.arange(grid, device=boxes.device, dtype=torch.float32)
    weights = []
    for low, high in ((0, 2), (1, 3)):  # x, then y; a box includes its outer pixels
        begin, end = boxes[:, low].float() / token, (boxes[:, high].float() + 1) / token
        covered = torch.minimum(end[:, None], edges + 1) - torch.maximum(begin[:, None], edges)
        weights.append(covered.clamp(min=0))
    across, down = weights
    total = (across.sum(1) * down.sum(1)).clamp(min=1e-6)
    with full_precision(embedding):
        mean = torch.einsum("cyx,ny,nx->nc", embedding[0].float(), down, across) / total[:, None]
    return F.normalize(mean, dim=1)


def alignment_loss(strong: torch.Tensor, weak: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """L_SSA of strong h (N, C), weak s (N, C) and the queue's s (K, C), all of length 1; 0 for N = 0. Gradient to h
    only."""
    if len(strong) == 0:
        return strong.sum()
    own = 1 - (weak.detach() * strong).sum(1)
    with full_precision(strong):
        earlier = (1 - strong @ queue.detach().T).sum(1)
    return ((own + earlier) / (1 + len(queue))).mean()


def paired_loss(strong: torch.Tensor, weak: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """The paired L_SSA of strong h (N, C), weak s (N, C) and a queue (K, 2C) of earlier s and h; 0 for N = 0."""
    own = (1 - (weak.detach() * strong).sum(1)).sum()
    before, after = queue.detach().chunk(2, dim=1)
    return (own + (1 - (before * after).sum(1)).sum()) / max(1, len(strong) + len(queue))


def push(queue: torch.Tensor, fresh: torch.Tensor, length: int) -> torch.Tensor:
    """The queue (K, C) after `fresh` (N, C) came in, the oldest first, at most `length` long."""
    return torch.cat((queue, fresh.detach()))[-length:] if length else queue[:0]


def ramp(progress: float, maximum: float) -> float:
    """beta at `progress` 0..1 of training."""
    return maximum / (1 + math.exp(-10 * (progress - 0.5)))


def queue_width(options: TrainOptions, channels: int) -> int:
    """Numbers that the queue keeps of an instance whose embedding has `channels`."""
    return (2 if options.ssa == "paired" else 1) * channels


@torch.no_grad()
def remembered(seen: TileSeen, size: int) -> torch.Tensor:
    """What a tile leaves to the queue: (n, C), or (n, 2C) where it keeps pairs, of the instances with a pseudo-label.
    size: S."""
    known = seen.pseudo.known
    weak = seen.pseudo.embeddings[known]
    if seen.options.ssa != "paired":
        return weak
    return torch.cat((weak, box_embeddings(seen.embedding, seen.pseudo.boxes[known], size)), dim=1)


def _value(seen: TileSeen) -> torch.Tensor:
    known, kind = seen.pseudo.known, seen.options.ssa
    embedding = seen.embedding.detach() if kind == "detached" else seen.embedding
    strong = box_embeddings(embedding, seen.pseudo.boxes[known], seen.tile.strong.shape[1])
    loss = paired_loss if kind == "paired" else alignment_loss
    return loss(strong, seen.pseudo.embeddings[known], seen.queue)


def _weight(options: TrainOptions, progress: float) -> float:
    return 0.0 if options.ssa == "off" else ramp(progress, options.beta)


ALIGNMENT = Loss("alignment", "tile", _value, _weight)
