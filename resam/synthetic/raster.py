"""Polygons to samples, in whole numbers, so that every machine and every version of OpenCV agrees on a mask's edge.

OpenCV's `fillPoly` changed between versions; `fillConvexPoly` did not, and is fast, so it fills what is convex. For the
rest all edges are walked at once: where an edge crosses a row of samples, the winding number changes by one from the
first sample right of it. A running sum along the row then gives each sample's winding number, and a sample lies in
the union where that is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

UNIT_BITS = 4
UNIT = 1 << UNIT_BITS  # fixed point: steps per sample

Samples = npt.NDArray[np.uint8]


def fill(
    polygons: Sequence[npt.NDArray[np.float64]], origin: tuple[float, float], scale: int, height: int, width: int
) -> Samples:
    """Samples inside the union of simple `polygons`: (height, width) uint8, 1 inside.

    `polygons`: (n, 2) x, y, of either orientation. Sample (row r, column c) lies at `origin` + (c, r) / `scale`.
    """
    inside = np.zeros((height, width), np.uint8)
    corner, factor = np.array(origin), scale * UNIT
    concave = []
    for polygon in polygons:
        fixed = np.rint((polygon - corner) * factor).astype(np.int32)
        if is_convex(fixed.tolist()):
            cv2.fillConvexPoly(inside, fixed, 1, shift=UNIT_BITS)
        else:
            concave.append(fixed.astype(np.int64))
    if concave:
        inside |= wind(concave, height, width)
    return inside


def is_convex(corners: Sequence[Sequence[float]]) -> bool:
    """Whether a simple polygon never turns back; one without area counts as convex."""
    left = right = False
    x0, y0 = corners[-2]
    x1, y1 = corners[-1]
    for x2, y2 in corners:
        bend = (x1 - x0) * (y2 - y1) - (y1 - y0) * (x2 - x1)
        left |= bend > 0
        right |= bend < 0
        if left and right:
            return False
        if (x2, y2) != (x1, y1):
            x0, y0, x1, y1 = x1, y1, x2, y2
    return True


def wind(polygons: Sequence[npt.NDArray[np.int64]], height: int, width: int) -> Samples:
    """Samples with a winding number other than zero: (height, width) uint8. `polygons`: corners in `UNIT`s.

    A sample on a left or upper edge is in, on a right or lower one out.
    """
    lengths = np.array([len(polygon) for polygon in polygons])
    here = np.concatenate(polygons)
    starts = np.cumsum(lengths) - lengths
    following = np.arange(1, len(here) + 1)
    following[starts + lengths - 1] = starts
    there = here[following]
    xa, ya, xb, yb = here[:, 0], here[:, 1], there[:, 0], there[:, 1]

    # Turn every polygon the same way round, so that where two overlap their windings add.
    turn = np.sign(np.add.reduceat(xa * yb - xb * ya, starts))
    down = yb > ya
    change = np.where(down, 1, -1) * np.repeat(turn, lengths)
    top, bottom = np.where(down, ya, yb), np.where(down, yb, ya)
    x_top, x_step = np.where(down, xa, xb), np.where(down, xb - xa, xa - xb)

    # The rows that each edge crosses: top <= row * UNIT < bottom.
    first = np.clip(-(-top // UNIT), 0, height)
    count = np.clip(-(-bottom // UNIT), 0, height) - first
    edge = np.repeat(np.arange(len(here)), count)
    if not edge.size:
        return np.zeros((height, width), np.uint8)
    row = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
    drop = (bottom - top)[edge]
    crossing = x_top[edge] * drop + (row * UNIT - top[edge]) * x_step[edge]
    column = np.clip(-(-crossing // (drop * UNIT)), 0, width)

    winding = np.zeros((height, width + 1), np.int16)
    np.add.at(winding.reshape(-1), row * (width + 1) + column, change[edge].astype(np.int16))
    return (np.cumsum(winding, axis=1, dtype=np.int16)[:, :width] != 0).view(np.uint8)
