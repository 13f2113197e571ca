"""Masks as crops: a boolean array and the scene pixel its corner lies on. No function makes a scene-size array
for one instance.

Pixel centres are at integers; a polygon runs along pixel edges, hence at half-integers: the outline of the
single pixel (0, 0) is the square from (-0.5, -0.5) to (0.5, 0.5). So polygons have exactly their mask's area,
however small it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
Origin = tuple[int, int]
Ring = NDArray[np.float64]  # (K, 2), x and y, not closed (the first point is not repeated)


def mask_bounds(mask: BoolMask) -> tuple[int, int, int, int] | None:
    """The half-open bounds (x0, y0, x1, y1) of the True pixels of (h, w), or None when there are none."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_polygons(mask: BoolMask, origin: Origin = (0, 0), tolerance: float = 0.0) -> list[list[Ring]]:
    """The polygons of a mask crop, in scene pixels, the largest first.

    Each polygon is [outer ring, hole, hole, ...]; each ring float64 (K, 2), not closed, K >= 4. As drawn with y
    downwards, outer rings run clockwise and holes counter-clockwise. Pixels that touch by a corner alone are not
    joined by it, and no ring touches itself; a hole may touch its outer ring at corners. `tolerance` in pixels drops
    vertices (Douglas and Peucker) that lie nearer than that to the simplified line; a ring that would collapse is
    kept as it is, holes smaller than tolerance squared are dropped if no other part lies in them. Simplified rings may
    cross where they were nearer to each other than the tolerance; exact ones never do.
    """
    if not mask.any():
        return []
    rings = _trace(mask)
    areas = [ring_area(ring) for ring in rings]
    outers = [rings[i] for i in sorted(range(len(rings)), key=lambda i: -areas[i]) if areas[i] > 0]
    lows, highs = np.array([ring.min(0) for ring in outers]), np.array([ring.max(0) for ring in outers])

    def stays(hole: Ring, area: float) -> bool:
        # A small hole around a part of the mask stays: without it one part would lie within another.
        return -area >= tolerance * tolerance or bool(((lows >= hole.min(0)) & (highs <= hole.max(0))).all(1).any())

    holes = [ring for ring, area in zip(rings, areas) if area < 0 and stays(ring, area)]
    polygons = [[ring] for ring in outers]
    for hole, owner in zip(holes, _hole_owners(holes, outers)):
        polygons[owner].append(hole)
    polygons = [[ring + np.asarray(origin, np.float64) for ring in polygon] for polygon in polygons]
    if tolerance > 0:
        polygons = [[_simplify(ring, tolerance) for ring in polygon] for polygon in polygons]
    return polygons


def ring_area(ring: Ring) -> float:
    """Signed area in square pixels (shoelace); positive for a ring clockwise on the screen (y downwards)."""
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _trace(mask: BoolMask) -> list[Ring]:
    """All rings of a mask along its pixel edges; outer rings positive, holes negative by `ring_area`.

    Each pixel edge between in and out is a step with the inside on its right: tops go east, right sides
    south, bottoms west, left sides north. At a corner shared by two diagonal pixels each path turns right,
    which keeps the pixels apart. Maximal horizontal runs and their successors are found for the whole mask
    at once; the one loop left, `_walk`, goes over runs, not pixels.
    """
    rows, columns = mask.shape
    padded = np.zeros((rows + 2, columns + 2), bool)
    padded[1:-1, 1:-1] = mask
    # The four pixels around each pixel corner; corner (y, x) lies at (x - 0.5, y - 0.5).
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    leaves_east, came_east = se & ~ne, sw & ~nw
    leaves_west, came_west = nw & ~sw, ne & ~se
    # In a row of corners the runs of one direction follow one another, so starts and ends pair up by index.
    start = np.concatenate([np.flatnonzero(leaves_east & ~came_east), np.flatnonzero(leaves_west & ~came_west)])
    stop = np.concatenate([np.flatnonzero(came_east & ~leaves_east), np.flatnonzero(came_west & ~leaves_west)])
    goes_east = np.arange(len(start)) < np.count_nonzero(leaves_east & ~came_east)
    (start_y, start_x), (stop_y, stop_x) = np.divmod(start, columns + 1), np.divmod(stop, columns + 1)
    # A run's end continues along its column, down or up, to the nearest start that is reached that way.
    turns_down = np.where(goes_east, ~se[stop_y, stop_x], nw[stop_y, stop_x])
    from_above = np.where(goes_east, sw[start_y, start_x], ~ne[start_y, start_x])
    start_key, stop_key = (x * np.int64(rows + 1) + y for x, y in ((start_x, start_y), (stop_x, stop_y)))
    order = np.argsort(start_key, kind="stable")
    following = np.empty(len(start), np.intp)
    below, above = order[from_above[order]], order[~from_above[order]]
    following[turns_down] = below[np.searchsorted(start_key[below], stop_key[turns_down], side="right")]
    following[~turns_down] = above[np.searchsorted(start_key[above], stop_key[~turns_down], side="left") - 1]
    corners = np.column_stack([start_x, start_y, stop_x, stop_y]).reshape(-1, 2, 2) - 0.5
    return [ring for runs in _walk(following.tolist()) for ring in _split(corners[runs].reshape(-1, 2))]


def _walk(following: list[int]) -> list[list[int]]:
    """The cycles of a permutation."""
    seen = [False] * len(following)
    cycles = []
    for first in range(len(following)):
        run, cycle = first, []
        while not seen[run]:
            seen[run] = True
            cycle.append(run)
            run = following[run]
        if cycle:
            cycles.append(cycle)
    return cycles


def _split(ring: Ring) -> list[Ring]:
    """A ring that passes through a corner twice (a hole that meets the outside there) as rings that do not."""
    keys = (ring[:, 0] * (1 << 32) + ring[:, 1]).tolist()
    if len(set(keys)) == len(keys):
        return [ring]
    rings = []
    path: list[int] = []
    place: dict[float, int] = {}
    for vertex, key in enumerate(keys):
        if key in place:
            begin = place[key]
            rings.append(ring[path[begin:]])
            for dropped in path[begin:]:
                del place[keys[dropped]]
            del path[begin:]
        place[key] = len(path)
        path.append(vertex)
    return [*rings, ring[path]]


def _hole_owners(holes: Sequence[Ring], outers: Sequence[Ring]) -> list[int]:
    """For each hole the index of the innermost outer ring around it; `outers` are the largest first."""
    boxes = np.array([[*ring.min(0), *ring.max(0)] for ring in outers])
    owners = []
    for hole in holes:
        # To the left of a ring's steps is what is outside the mask, here the inside of the hole.
        step = np.sign(hole[1] - hole[0])
        x, y = hole[0] + 0.5 * step + 0.5 * np.array([step[1], -step[0]])
        around = (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])
        candidates = np.flatnonzero(around)[::-1]
        owners.append(next((int(i) for i in candidates if inside_ring(x, y, outers[i])), 0))
    return owners


def inside_ring(x: float, y: float, ring: Ring) -> bool:
    """Whether a point that is on no edge is inside a ring: the eastward ray crosses an odd number of its edges."""
    following = np.roll(ring, -1, 0)
    crossed = (ring[:, 1] > y) != (following[:, 1] > y)
    (x0, y0), (x1, y1) = ring[crossed].T, following[crossed].T
    return bool(np.count_nonzero(x0 + (y - y0) * (x1 - x0) / (y1 - y0) > x) % 2)


def _simplify(ring: Ring, tolerance: float) -> Ring:
    import cv2

    base = ring[0]
    near = cv2.approxPolyDP((ring - base).astype(np.float32).reshape(-1, 1, 2), tolerance, True)
    simple = near.reshape(-1, 2).astype(np.float64) + base
    if len(simple) < 4 or ring_area(simple) * ring_area(ring) <= 0:
        return ring
    return simple


def mask_iou(mask: BoolMask, origin: Origin, other: BoolMask, other_origin: Origin) -> float:
    """Intersection over union of two crops of one scene, 0 to 1; two empty masks have 0."""
    overlap = crop_overlap(mask.shape, origin, other.shape, other_origin)
    if overlap is None:
        return 0.0
    both = int(np.count_nonzero(mask[overlap[0]] & other[overlap[1]]))
    union = int(np.count_nonzero(mask)) + int(np.count_nonzero(other)) - both
    return both / union if union else 0.0


def crop_overlap(
    shape: tuple[int, ...], origin: Origin, other_shape: tuple[int, ...], other_origin: Origin
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where two crops (h, w) at their origins overlap: index pairs into the one and the other, or None."""
    x0, y0 = max(origin[0], other_origin[0]), max(origin[1], other_origin[1])
    x1 = min(origin[0] + shape[1], other_origin[0] + other_shape[1])
    y1 = min(origin[1] + shape[0], other_origin[1] + other_shape[0])
    if x0 >= x1 or y0 >= y1:
        return None

    def index(corner: Origin) -> tuple[slice, slice]:
        return slice(y0 - corner[1], y1 - corner[1]), slice(x0 - corner[0], x1 - corner[0])

    return index(origin), index(other_origin)


def meeting_pairs(boxes: NDArray[Any]) -> NDArray[np.intp]:
    """The pairs of inclusive boxes x0, y0, x1, y1 (N, 4) that share a pixel: (K, 2) indices.

    A sweep along x: time follows the pairs that share columns, not all pairs.
    """
    order = np.argsort(boxes[:, 0], kind="stable")
    x0, y0, x1, y1 = boxes[order].T
    ends = np.searchsorted(x0, x1, side="right")
    found = []
    for i, end in enumerate(ends.tolist()):
        meets = np.flatnonzero((y0[i + 1 : end] <= y1[i]) & (y1[i + 1 : end] >= y0[i])) + i + 1
        found.append(np.column_stack([np.full(len(meets), i), meets]))
    return order[np.concatenate(found)] if found else np.empty((0, 2), np.intp)
