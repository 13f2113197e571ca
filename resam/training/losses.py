"""The losses of Reinforce between predicted logits L, p = sigmoid(L), and targets t in 0..1.

    focal = mean over cells of (1 - p_t)^2 BCE(p, t)           (Lin et al., arXiv 1708.02002, without their alpha)
    dice  = 1 - (2 sum p t + 1) / (sum p + sum t + 1)          (Milletari et al., arXiv 1606.04797)
    iou   = (score - IoU(L > 0, t > 0.5))^2
    loss  = 20 focal + dice + iou

with p_t = p t + (1 - p)(1 - t) and BCE the binary cross-entropy, -log p_t where t is 0 or 1. All per instance, (N,).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

FOCAL_WEIGHT = 20.0


class MaskLosses(NamedTuple):
    """Losses per instance, each (N,)."""

    focal: torch.Tensor
    dice: torch.Tensor
    iou: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """The weighted sum, (N,)."""
        return FOCAL_WEIGHT * self.focal + self.dice + self.iou


def mask_losses(logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor) -> MaskLosses:
    """logits (N, h, w), target (N, h, w) in 0..1, scores (N,): the predicted IoU. The target gets no gradient."""
    target = target.detach()
    logits = logits.float()  # sums over cells want more than bfloat16
    actual = overlap(logits.detach() > 0, target > 0.5)
    return MaskLosses(focal_loss(logits, target), dice_loss(logits, target), (scores.float() - actual) ** 2)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """(N, h, w) -> (N,)."""
    p = logits.sigmoid()
    p_target = p * target + (1 - p) * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((1 - p_target) ** gamma * entropy).flatten(1).mean(1)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, h, w) -> (N,)."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of masks (N, h, w) bool, (N,) float; 0 where both are empty."""
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return both / either.clamp(min=1)
