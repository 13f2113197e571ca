"""What a student is told of its teacher: each term is 0 where both agree, so that what is left says how far they are.

    embedding = mean of huber((E - T) / s)              E, T (C, G, G): student's and teacher's; s: deviation of T
    cells     = mean over cells of KL(t || p)           p, t: probabilities of a mask's cells, student's and teacher's
    overlap   = 1 - 2 sum p t / (sum p^2 + sum t^2)     dice as Milletari et al. (arXiv 1606.04797) wrote it
    score     = (predicted IoU - the teacher's)^2

The embedding's is that of MobileSAM (Zhang et al., arXiv 2306.14289), with Huber's function (delta 1) in place of the
square; by the teacher's own deviation, since SAMs differ in the size of their embeddings.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

DISTILLED = {"embedding": 1.0, "cells": 2.0, "overlap": 1.0, "score": 1.0}
"""The terms and their weights; of all but the first, times the option `masks`."""


def embedding_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(1, C, G, G) both, float32 -> ()."""
    deviation = teacher.std().clamp(min=1e-6)
    return F.huber_loss(student / deviation, teacher / deviation)


def mask_losses(
    logits: torch.Tensor, scores: torch.Tensor, target: torch.Tensor, target_scores: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The terms of masks, each (n,). logits: (n, h, w) float32, the student's; target: (n, h, w) float32 in 0..1, the
    teacher's; both scores: (n,) float32."""
    p, t = logits.sigmoid(), target
    entropy = -torch.xlogy(t, t) - torch.xlogy(1 - t, 1 - t)  # of the target itself: the least there can be
    cells = F.binary_cross_entropy_with_logits(logits, t, reduction="none") - entropy
    shared, all_of = (p * t).flatten(1).sum(1), (p * p + t * t).flatten(1).sum(1)
    return {
        "cells": cells.flatten(1).mean(1),
        "overlap": 1 - (2 * shared + 1) / (all_of + 1),
        "score": (scores - target_scores) ** 2,
    }
