"""The prompter's losses.

    centres = 1/n [ sum over centres of -(1 - p)^2 log p  +  sum over other cells of -(1 - Y)^4 p^2 log(1 - p) ]

with Y the target heat, p = sigmoid(heat), n the number of centres (CenterNet's focal loss, arXiv 1904.07850).

    boxes = sum w (1 - GIoU) / sum w                            (Rezatofighi et al., arXiv 1902.09630)

Where images are not clicked exhaustively only a share c of the instances has a click. A cell that is no centre may be
one then, and its loss as a negative is unbiased once what the unclicked centres add is taken away: with N+ and N- the
sums over clicked centres of the losses above as a centre and as another cell, and N the sum over all other cells,

    centres = 1/n [ N+ / c  +  max(0, N - (1 - c)/c N-) ]       (non-negative PU, Kiryo et al., arXiv 1703.00593)

in which N+ / n stands for the mean over all instances, clicked or not.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def centre_loss(heat: torch.Tensor, target: torch.Tensor, counted: torch.Tensor, clicked: float = 1.0) -> torch.Tensor:
    """heat: (B, K, H, W) logits; target: (B, K, H, W) in 0..1; counted: (B, K, H, W), 1 where a cell counts; clicked:
    c, the share of instances that have a click. Returns a scalar."""
    heat = heat.float()
    p = heat.sigmoid()
    centre = (target >= 1).float()
    as_centre = (1 - p) ** 2 * F.softplus(-heat)
    as_other = p**2 * F.softplus(heat)
    count = centre.sum().clamp(min=1)
    positive = (as_centre * centre).sum()
    negative = ((1 - target) ** 4 * as_other * counted * (1 - centre)).sum()
    if clicked >= 1:
        return (positive + negative) / count
    hidden = (as_other * centre).sum() * ((1 - clicked) / clicked)
    return (positive / clicked + (negative - hidden).clamp(min=0)) / count


def box_loss(corners: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """corners, target: (B, 4, H, W) x0, y0, x1, y1 in tile pixels; weight: (B, H, W). Returns a scalar."""
    return ((1 - giou(corners.float(), target)) * weight).sum() / weight.sum().clamp(min=1e-6)


def giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalised IoU of boxes (B, 4, ...), -1 to 1: (B, ...). One that is empty where both have no area."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.unbind(1), b.unbind(1)
    both = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    both = both * (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    either = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both
    hull = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)) * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    return both / either.clamp(min=1e-6) - (hull - either) / hull.clamp(min=1e-6)
