"""What is taught of a consensus. With p its probabilities and A(t) the area of p > t:

    plain   T = [p > 1/2]
    soft    T = p, and the instance counts by how far the views agree,
            w = (sum of p where p > 1/2) / (area of p > 1/2 + sum of p elsewhere), the IoU that p expects of [p > 1/2]
    sized   T = [p > t] with A(t) the area that is likely, `LOWEST` <= t <= `HIGHEST`

One click does not say how large the object is, and that is what a SAM gets wrong from it: where the size is known, the
order of the cells by p is worth more than any threshold. But a mask that all views agree on has its own area, which is
closer to the truth than that of its class: A is the likely area of both (`resam.model.object_size`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from resam.data.taught import SoftMask, SoftMasks
from resam.model.object_size import agreement, likely_area
from resam.training.sizes import Size

LOWEST, HIGHEST = 0.02, 0.98


@dataclass(frozen=True)
class Labels:
    """Masks to teach, and what each counts; all alike where it is not said."""

    masks: SoftMasks
    weights: dict[tuple[int, int], float] = field(default_factory=dict)


def make_labels(consensus: SoftMasks, soft: bool, sizes: Callable[[tuple[int, int]], Size | None]) -> Labels:
    """The labels of all instances. sizes: the size of an instance, in cells of the mask grid, where there is one."""
    masks, weights = {}, {}
    for key, mask in consensus.items():
        p, size = mask.full(), sizes(key)
        if size is not None:
            known = torch.tensor([math.log2(size.area / len(p))])  # in rows of cells
            likely = likely_area(torch.from_numpy(p)[None], known, size.spread)
            masks[key] = SoftMask.of(sized(p, len(p) * 2 ** float(likely)))
        elif soft:
            masks[key], weights[key] = mask, certainty(p)
        else:
            masks[key] = SoftMask.of((p > 0.5).astype(np.float32))
    return Labels(masks, weights)


def sized(p: NDArray[np.float32], area: float) -> NDArray[np.float32]:
    """[p > t] (M, M), where t gives it the area, in cells, as near as `LOWEST` and `HIGHEST` let it."""
    order = np.sort(p, axis=None)[::-1]
    place = min(max(1, round(area)), len(order) - 1)
    threshold = np.clip(order[place], LOWEST, HIGHEST)
    return np.asarray(p > threshold, np.float32)


def certainty(p: NDArray[np.float32]) -> float:
    """w of probabilities (M, M), 0..1: 1 where the views agree on every cell."""
    return float(agreement(torch.from_numpy(p)))
