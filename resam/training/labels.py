"""What is taught of a consensus. With p its probabilities and A(t) the area of p > t:

    plain   T = [p > 1/2]
    soft    T = p, and the instance counts by how far the views agree,
            w = (sum of p where p > 1/2) / (area of p > 1/2 + sum of p elsewhere), the IoU that p expects of [p > 1/2]
    sized   T = [p > t] with A(t) the size of the object's class, `LOWEST` <= t <= `HIGHEST`

One click does not say how large the object is, and that is what a SAM gets wrong from it: where the size is known, the
order of the cells by p is worth more than any threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resam.data.taught import SoftMask, SoftMasks

LOWEST, HIGHEST = 0.02, 0.98


@dataclass(frozen=True)
class Labels:
    """Masks to teach, and what each counts; all alike where it is not said."""

    masks: SoftMasks
    weights: dict[tuple[int, int], float] = field(default_factory=dict)


def make_labels(consensus: SoftMasks, soft: bool, cells: Callable[[tuple[int, int]], float | None]) -> Labels:
    """The labels of all instances. cells: the area, in cells of the mask grid, that an instance is known to have."""
    masks, weights = {}, {}
    for key, mask in consensus.items():
        p, area = mask.full(), cells(key)
        if area is not None:
            masks[key] = SoftMask.of(sized(p, area))
        elif soft:
            masks[key], weights[key] = mask, agreement(p)
        else:
            masks[key] = SoftMask.of((p > 0.5).astype(np.float32))
    return Labels(masks, weights)


def sized(p: NDArray[np.float32], area: float) -> NDArray[np.float32]:
    """[p > t] (M, M), where t gives it the area, in cells, as near as `LOWEST` and `HIGHEST` let it."""
    order = np.sort(p, axis=None)[::-1]
    place = min(max(1, round(area)), len(order) - 1)
    threshold = np.clip(order[place], LOWEST, HIGHEST)
    return np.asarray(p > threshold, np.float32)


def agreement(p: NDArray[np.float32]) -> float:
    """w of probabilities (M, M), 0..1: 1 where the views agree on every cell."""
    inside = p > 0.5
    within, around = float(p[inside].sum()), float(p[~inside].sum())
    return within / max(1e-6, float(inside.sum()) + around)
