"""How large an object is likely to be, of its mask and of what is known before: its class, or a person's word.

A mask whose probabilities p are near 0 and 1 has an area of its own; of a doubtful one the class says more. With A the
area of p > 1/2 and w = `agreement(p)`, the likely area weighs log2 A and the log2 of the known size by their inverse
variances, d^2 and s^2, as the mean of the product of two normal densities:

    d(w) = `DOUBT` (1 - w)^1.5

which is how far log2 A was from the truth for w of 0.4 to 0.95, for means over views and for single masks alike, on
training images of aircraft, ships, vehicles, tanks, fields and buildings.

Areas are in rows of M cells, counted as means along x first: float16 could not count the cells of a whole mask.
"""

from __future__ import annotations

import torch
from torch import nn

DOUBT = 3.0
SPREAD = 0.75  # s of the objects of a class whose sizes agree, in powers of two of the area
BOUND, STEPS = 6.0, 7  # thresholds lie between -BOUND and BOUND (logits) and are halved STEPS times


def agreement(p: torch.Tensor) -> torch.Tensor:
    """The IoU with [p > 1/2] that probabilities (..., M, M) in 0..1 expect, (...): 1 where all are 0 or 1, 0 where none
    exceeds 1/2."""
    inside = (p > 0.5).to(p.dtype)
    return _rows(p * inside) / (_rows(inside) + _rows(p * (1 - inside))).clamp(min=1e-4)


def likely_area(p: torch.Tensor, known: torch.Tensor, spread: float = SPREAD) -> torch.Tensor:
    """log2 of the likely areas (N,) of probabilities (N, M, M). known: (N,) the log2 that is known before; both in
    rows of cells. spread: s."""
    unsure = (1 - agreement(p)).clamp(min=0.0)
    doubt = DOUBT**2 * unsure * unsure * unsure
    trust = spread**2 / (spread**2 + doubt)
    return trust * _log(_rows((p > 0.5).to(p.dtype)), p.shape[-1]) + (1 - trust) * known


def nearest_in_size(
    masks: torch.Tensor, scores: torch.Tensor, sides: torch.Tensor, cell: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of K masks of each prompt the one whose area is nearest to the likely one of the first, as a ratio; the first
    where no size is known.

    masks: (N, K, M, M) logits; scores: (N, K); sides: (N,) tile pixels, of a square of the object's area, 0 where it is
    not known; cell: side of a cell in tile pixels. Returns logits (N, M, M) and scores (N,).
    """
    areas = _log(_rows((masks > 0).to(masks.dtype)), masks.shape[-1])  # (N, K)
    wanted = likely_area(masks[:, 0].sigmoid(), _known(sides, cell, masks.shape[-1]))
    distance = (areas - wanted.unsqueeze(1)).abs() * _is_known(sides).unsqueeze(1)
    chosen = nn.functional.one_hot(distance.argmin(dim=1), masks.shape[1]).to(masks.dtype)  # (N, K)
    return (masks * chosen[:, :, None, None]).sum(dim=1), (scores * chosen).sum(dim=1)


def at_likely_area(masks: torch.Tensor, sides: torch.Tensor, cell: float) -> torch.Tensor:
    """Logits (N, M, M) moved so that what exceeds 0 has the likely area, by at most `BOUND`; as they are where no size
    is known. The other arguments as in `nearest_in_size`."""
    size = masks.shape[-1]
    wanted = likely_area(masks.sigmoid(), _known(sides, cell, size))
    threshold, step = torch.zeros_like(wanted), BOUND / 2
    for _ in range(STEPS):
        areas = _log(_rows((masks > threshold[:, None, None]).to(masks.dtype)), size)
        threshold = threshold + step * (2 * (areas > wanted).to(masks.dtype) - 1)
        step /= 2
    return masks - (threshold * _is_known(sides))[:, None, None]


def _rows(cells: torch.Tensor) -> torch.Tensor:
    return cells.mean(dim=-1).sum(dim=-1)


def _log(rows: torch.Tensor, size: int) -> torch.Tensor:
    return rows.clamp(min=0.5 / size).log2()  # half a cell where there is none


def _known(sides: torch.Tensor, cell: float, size: int) -> torch.Tensor:
    return _log((sides / cell).square() / size, size)


def _is_known(sides: torch.Tensor) -> torch.Tensor:
    return (sides > 0).to(sides.dtype)
