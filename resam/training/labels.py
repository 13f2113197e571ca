"""What is taught of a consensus. With p its probabilities and A(t) the area of p > t:

    plain   T = [p > 1/2]
    soft    T = p, and the instance counts by how far the views agree,
            w = (sum of p where p > 1/2) / (area of p > 1/2 + sum of p elsewhere), the IoU that p expects of [p > 1/2]
    sized   T = [p > t] with A(t) the area that is likely, `LOWEST` <= t <= `HIGHEST`

One click does not say how large the object is, and that is what a SAM gets wrong from it: where the size is known, the
order of the cells by p is worth more than any threshold. But a mask that all views agree on has its own area, which is
closer to the truth than that of its class. The likely area A weighs both by their inverse variances, as the mean of the
product of two normal densities of log2 A: one of the `Size` (mean, s), the other of A(1/2), with standard deviation

    d(w) = `DOUBT` (1 - w)^1.5

which is how far log2 A(1/2) was from the truth for w of 0.4 to 0.95, on training images of aircraft, ships, vehicles,
tanks, fields and buildings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resam.data.taught import SoftMask, SoftMasks
from resam.training.sizes import Size

LOWEST, HIGHEST = 0.02, 0.98
DOUBT = 3.0


@dataclass(frozen=True)
class Labels:
    """Masks to teach, and what each counts; all alike where it is not said."""

    masks: SoftMasks
    weights: dict[tuple[int, int], float] = field(default_factory=dict)


def make_labels(consensus: SoftMasks, soft: bool, known: Callable[[tuple[int, int]], Size | None]) -> Labels:
    """The labels of all instances. known: the size of an instance, in cells of the mask grid, where there is one."""
    masks, weights = {}, {}
    for key, mask in consensus.items():
        p, size = mask.full(), known(key)
        if size is not None:
            masks[key] = SoftMask.of(sized(p, likely_area(p, size)))
        elif soft:
            masks[key], weights[key] = mask, agreement(p)
        else:
            masks[key] = SoftMask.of((p > 0.5).astype(np.float32))
    return Labels(masks, weights)


def likely_area(p: NDArray[np.float32], size: Size) -> float:
    """A of probabilities (M, M), in cells as `size` is, see above."""
    own = max(0.5, float((p > 0.5).sum()))
    doubt, spread = (DOUBT * (1 - agreement(p)) ** 1.5) ** 2, size.spread**2
    trust = spread / (spread + doubt) if spread + doubt else 1.0
    return float(own**trust * size.area ** (1 - trust))


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
