"""Simplified outlines that stay valid polygons, as GeoJSON's readers want them.

Each line of a simplified ring is near its pixel edges, but two lines may be nearer to each other than that: then they
cross, or one jumps over a small part or hole. Polygons that do so keep their pixel edges, which never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.masks.crops import BoolMask, Origin, Ring, inside_ring, mask_polygons


def valid_polygons(mask: BoolMask, origin: Origin, tolerance: float) -> list[list[Ring]]:
    """`mask_polygons`, where polygons that simplified would touch, cross or swallow each other keep their pixel edges.

    So one polygon is valid, and all of them together are a valid MultiPolygon: rings meet at pixel corners, if at all.
    """
    polygons = mask_polygons(mask, origin, tolerance)
    if tolerance <= 0:
        return polygons
    exact: list[list[Ring]] | None = None
    kept: set[int] = set()
    while True:
        owners = [number for number, polygon in enumerate(polygons) for _ in polygon]
        rings = [ring for polygon in polygons for ring in polygon]
        # Where lines cross, "inside" says nothing: so nesting is looked at once no lines do.
        wrong = meeting(rings, owners) - kept or misplaced(rings, owners) - kept
        if not wrong:
            return polygons
        exact = exact or mask_polygons(mask, origin)
        for number in wrong:
            polygons[number] = exact[number]
        kept |= wrong


def meeting(rings: Sequence[Ring], owners: Sequence[int]) -> set[int]:
    """The owners of segments that meet others, but their neighbours at their common vertex. owners: one per ring."""
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    counts = [len(ring) for ring in rings]
    following = np.concatenate([np.roll(np.arange(count), -1) for count in counts])
    following += np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    owner = np.repeat(owners, counts)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    order = np.argsort(low[:, 0], kind="stable")
    reach = np.searchsorted(low[order, 0], high[order, 0], side="right").tolist()
    top, bottom = low[order, 1], high[order, 1]
    found: set[int] = set()
    for place, segment in enumerate(order.tolist()):  # sweep along x: only segments whose boxes meet are compared
        near = slice(place + 1, reach[place])
        others = order[near][(top[near] <= bottom[place]) & (bottom[near] >= top[place])]
        others = others[(following[others] != segment) & (following[segment] != others)]
        if len(others):
            met = others[_meet(starts[segment], ends[segment], starts[others], ends[others])]
            if len(met):
                found.update([int(owner[segment]), *owner[met].tolist()])
    return found


def misplaced(rings: Sequence[Ring], owners: Sequence[int]) -> set[int]:
    """The owners of rings that lie inside a ring they should not, and of those rings. No two of them may cross.

    rings: an outer one first, then its holes, for each owner. What is around an outer ring comes in pairs, an outer
    ring and its hole; around a hole there is its own outer ring besides.
    """
    lows, highs = np.array([ring.min(0) for ring in rings]), np.array([ring.max(0) for ring in rings])
    found: set[int] = set()
    for number, ring in enumerate(rings):
        hole = number > 0 and owners[number] == owners[number - 1]
        middle: NDArray[np.float64] = (ring[0] + ring[1]) / 2  # no vertex: pixel edges touch other rings there
        boxed = np.asarray(((lows < middle) & (middle < highs)).all(1))
        boxed[number] = False
        around = [
            owners[other] for other in np.flatnonzero(boxed).tolist() if inside_ring(middle[0], middle[1], rings[other])
        ]
        if len(around) % 2 != hole or (hole and owners[number] not in around):
            found.update([owners[number], *around])
    return found


def _meet(a: Ring, b: Ring, c: Ring, d: Ring) -> NDArray[np.bool_]:
    """Which segments c-d (K, 2) share a point with the segment a-b (2,); their boxes do."""

    def side(p: Ring, q: Ring, r: Ring) -> NDArray[Any]:
        return np.asarray(
            np.sign(
                (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
            )
        )

    return np.asarray((side(a, b, c) * side(a, b, d) <= 0) & (side(c, d, a) * side(c, d, b) <= 0))
