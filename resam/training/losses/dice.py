"""Dice loss (Milletari et al., arXiv 1606.04797): with p = sigmoid(L) and targets t in 0..1

dice = 1 - (2 sum p t + 1) / (sum p + sum t + 1)
"""

from __future__ import annotations

import torch

from resam.training.losses.term import Decoded, Loss


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, h, w) -> (N,)."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)


def _value(seen: Decoded) -> torch.Tensor:
    return dice_loss(seen.logits, seen.target)


DICE = Loss("dice", "mask", _value)
