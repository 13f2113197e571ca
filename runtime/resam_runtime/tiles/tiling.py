"""Tiles over a scene, the one tile each instance belongs to, and batches of neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T", bound=np.generic)
MIN_SCALE, MAX_SCALE = 1 / 64, 64.0  # of a framing
DEFAULT_OVERLAP = 0.25  # of a tile: every point inside the scene is at least S / 8 from its tile's cut edges


@dataclass(frozen=True)
class Tile:
    """A window of a scene, in scene pixels, and the scale from scene pixels to tile pixels."""

    x: int
    y: int
    width: int
    height: int
    scale: float = 1.0

    @property
    def origin(self) -> tuple[int, int]:
        return self.x, self.y

    def cut(self, pixels: NDArray[T]) -> NDArray[T]:
        """What of the scene's pixels (H, W, ...) lies in the window: (height, width, ...), a view of them."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]

    def holds(self, coords: NDArray[Any]) -> NDArray[np.bool_]:
        """Which points (..., 2), in scene pixels, lie in the window, its rim included: (...)."""
        shifted = np.asarray(coords) - np.array(self.origin) + 0.5
        return np.asarray(((shifted >= 0) & (shifted <= (self.width, self.height))).all(-1))

    def filled_hw(self, size: int) -> tuple[int, int]:
        """Height and width, in pixels of a tile of `size` pixels a side, of the window once scaled: not padding."""
        height, width = (min(size, max(1, round(side * self.scale))) for side in (self.height, self.width))
        return height, width


@dataclass(frozen=True)
class Framing:
    """How scenes are brought to the tile. fit_within: a scene whose longer side is at most so many pixels becomes one
    tile. scale: tile pixels for each scene pixel in the windows that a larger scene is cut into."""

    fit_within: int
    scale: float = 1.0


def plan_tiles(width: int, height: int, size: int, framing: Framing, overlap: float = DEFAULT_OVERLAP) -> list[Tile]:
    """The tiles of a scene of width x height pixels, row by row.

    A scene that fits within `framing.fit_within` becomes one tile (longest side -> `size`, up or down). A larger one is
    cut into windows of size / scale px a side (the whole side where the scene is shorter), evenly spread, neighbours
    sharing at least `overlap` (0 to 0.9) of their side. Raises `ValueError` for sizes below one pixel, a scale that
    leaves none, or an overlap out of range.
    """
    if width < 1 or height < 1 or size < 1:
        raise ValueError(f"expected sizes of at least one pixel, got {width} x {height} and tile {size}")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"expected an overlap from 0 to 0.9, got {overlap}")
    if max(width, height) <= framing.fit_within:
        return [Tile(0, 0, width, height, size / max(width, height))]
    side = round(size / framing.scale) if framing.scale > 0 else 0
    if side < 1:
        raise ValueError(f"expected a scale that leaves a tile of {size} px a pixel of the scene, got {framing.scale}")
    columns, rows = _starts(width, side, overlap), _starts(height, side, overlap)
    return [Tile(x, y, min(side, width), min(side, height), size / side) for y in rows for x in columns]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    if length <= size:
        return [0]
    stride = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((length - size) / stride) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def assign_points(tiles: Sequence[Tile], centroids: ArrayLike) -> NDArray[np.intp]:
    """For each centroid (N, 2) in scene pixels, the index of the tile in which it lies most centrally: (N,).

    tiles: all those of a scene, a grid as `plan_tiles` makes it. Central means far from the nearest *cut*: a tile's
    edge that is the scene's own edge cuts nothing. A centroid between pixels of two tiles, or just outside all, goes to
    the nearest tile. Raises `ValueError` for tiles that are no grid.
    """
    points = np.asarray(centroids, np.float64).reshape(-1, 2)
    columns = sorted({(tile.x, tile.width) for tile in tiles})
    rows = sorted({(tile.y, tile.height) for tile in tiles})
    places = {(tile.x, tile.y): number for number, tile in enumerate(tiles)}
    if len(tiles) != len(columns) * len(rows) or len(places) != len(tiles):
        raise ValueError(f"expected a grid of tiles, got {len(tiles)} in {len(columns)} columns and {len(rows)} rows")
    grid = np.array([[places[x, y] for x, _ in columns] for y, _ in rows], np.intp)
    # The distance to the nearest cut is the lesser of that along x and that along y, so each axis can be settled alone:
    # no table of points x tiles, which would grow with the square of a scene's size.
    return grid[most_central(rows, points[:, 1]), most_central(columns, points[:, 0])]


def most_central(spans: Sequence[tuple[int, int]], values: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each coordinate (N,) the index of the span (start, length) whose cut ends are farthest from it: (N,)."""
    starts = np.array([start for start, _ in spans], np.float64)
    ends = starts + [length for _, length in spans]
    best = np.empty(len(values), np.intp)
    for begin in range(0, len(values), 4096):  # bounds the (values x spans) tables below
        x = values[begin : begin + 4096, None] + 0.5
        margins = np.stack([x - starts, ends - x])
        is_cut = np.stack([starts != starts.min(), ends != ends.max()])[:, None]
        nearest = np.where(is_cut | (margins < 0), margins, np.inf).min(0)
        # Several spans may be equally far from any cut: take the one whose middle is nearest, which also settles
        # ties the same way however the tiles are listed.
        offset = np.abs(x - (starts + ends) / 2)
        tied = nearest == nearest.max(1, keepdims=True)
        best[begin : begin + 4096] = np.where(tied, offset, np.inf).argmin(1)
    return best


def owned_windows(tiles: Sequence[Tile]) -> NDArray[np.float32]:
    """For each tile of a grid, as of `plan_tiles`, the window (N, 4) x0, y0, x1, y1 in scene pixels whose points
    `assign_points` gives to it: up to the middle of what it shares with its neighbours, and beyond the scene's edge."""
    across = _borders({(tile.x, tile.width) for tile in tiles})
    down = _borders({(tile.y, tile.height) for tile in tiles})
    corners = [list(zip(across[tile.x], down[tile.y])) for tile in tiles]
    return np.array(corners, np.float32).reshape(-1, 4)


def _borders(spans: Iterable[tuple[int, int]]) -> dict[int, tuple[float, float]]:
    """Start of each span (start, length) along one axis -> where what it owns begins and ends."""
    ordered = sorted(spans)
    middles = [(a + length + b) / 2 - 0.5 for (a, length), (b, _) in itertools.pairwise(ordered)]
    return {start: ends for (start, _), ends in zip(ordered, itertools.pairwise([-np.inf, *middles, np.inf]))}


def neighbour_batches(centroids: ArrayLike, max_points: int) -> list[NDArray[np.intp]]:
    """Split instances into batches of at most `max_points`, each a spatial neighbourhood.

    centroids (N, 2) -> lists of indices that together hold each of 0..N-1 once, as few batches as possible.
    Refine compares the instances of one batch, so neighbours should share one: the set is halved across its
    longer side until it fits (a k-d tree's splits).
    """
    points = np.asarray(centroids, np.float64).reshape(-1, 2)
    if max_points < 1:
        raise ValueError(f"expected max_points of at least 1, got {max_points}")
    done: list[NDArray[np.intp]] = []
    pending = [np.arange(len(points))] if len(points) else []
    while pending:
        indices = pending.pop()
        count = math.ceil(len(indices) / max_points)
        if count == 1:
            done.append(np.sort(indices))
            continue
        spread = np.ptp(points[indices], axis=0)
        order = indices[np.argsort(points[indices, int(spread[1] > spread[0])], kind="stable")]
        # Whole batches on both sides, of near equal size: never more batches than N / max_points rounded up.
        middle = min(math.ceil(len(order) * (count // 2) / count), count // 2 * max_points)
        pending += [order[middle:], order[:middle]]
    return done
