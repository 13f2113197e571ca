"""Focal loss (Lin et al., arXiv 1708.02002), without their alpha: with p = sigmoid(L) and targets t in 0..1

    focal = mean over cells of (1 - p_t)^2 BCE(p, t)        p_t = p t + (1 - p)(1 - t)

BCE is the binary cross-entropy, -log p_t where t is 0 or 1.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from resam.training.losses.term import Decoded, Loss


def focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """(N, h, w) -> (N,)."""
    p = logits.sigmoid()
    p_target = p * target + (1 - p) * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((1 - p_target) ** gamma * entropy).flatten(1).mean(1)


def _value(seen: Decoded) -> torch.Tensor:
    return focal_loss(seen.logits, seen.target)


FOCAL = Loss("focal", "mask", _value, weight=20.0)
