"""The squared error of the predicted IoU: (score - IoU(L > 0, t > 0.5))^2."""

from __future__ import annotations

import torch

from resam.training.losses.term import Decoded, Loss


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of masks (N, h, w) bool, (N,) float; 0 where both are empty."""
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return both / either.clamp(min=1)


def _value(seen: Decoded) -> torch.Tensor:
    actual = overlap(seen.logits.detach() > 0, seen.target > 0.5)
    return (seen.scores - actual) ** 2


SCORE = Loss("iou", "mask", _value)
