"""From the coarse grid of mask logits to masks at scene resolution, computed inside each instance's box only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resam_runtime.masks.crops import BoolMask, Origin, mask_bounds
from resam_runtime.tiles.tiling import Tile

BAND = 1 << 16  # pixels at a time: what lies between grid and mask stays in the cache, and no page of memory is new


def grid_boxes(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Half-open cell bounds x0, y0, x1, y1 of the positive cells of each mask: (N, M, M) -> (N, 4), zeros if none."""
    boxes = np.zeros((len(logits), 4), np.intp)
    inside: NDArray[np.bool_] = np.asarray(logits > 0)
    for axis, low, high in ((1, 0, 2), (2, 1, 3)):  # any over the rows leaves the columns, and so x
        line = np.asarray(np.any(inside, axis))
        boxes[:, low] = line.argmax(1)
        boxes[:, high] = np.where(line.any(1), line.shape[1] - line[:, ::-1].argmax(1), 0)
    return boxes


def scene_mask(
    logits: NDArray[np.float32], cells: NDArray[np.intp], tile: Tile, tile_size: int, keep_logits: bool = False
) -> tuple[BoolMask, Origin, NDArray[np.float16] | None]:
    """The mask of one instance cropped to its own box, its origin in the scene, and, if asked for, the crop's logits.

    logits (M, M); cells: its row of `grid_boxes`. A pixel is inside where a full bilinear upsampling
    (align_corners=False) is positive at its centre: one resampling leads from grid to scene, whatever the tile's scale.
    An empty mask is (0, 0) at origin (0, 0). What is computed is the box of positive cells and one cell around it:
    further out all four neighbours are negative, and so is their mean.
    """
    x0, y0, x1, y1 = (int(cell) for cell in cells)
    size = logits.shape[0]
    step = tile.scale * size / tile_size  # cells per scene pixel
    left, right = _pixels(x0, x1, step, tile.width)
    top, bottom = _pixels(y0, y1, step, tile.height)
    mask = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
    values = np.empty(mask.shape, np.float16) if keep_logits else None
    if x0 < x1 and mask.size:
        low_y, high_y, weight_y = _neighbours(top, bottom, step, size)
        low_x, high_x, weight_x = _neighbours(left, right, step, size)
        first = int(low_y[0])
        # along x first, on the few rows of the grid, so that the many rows of the scene are copied whole
        rows = _between(logits[first : int(high_y[-1]) + 1], low_x, high_x, weight_x, axis=1)
        band = max(1, BAND // mask.shape[1])
        for start in range(0, len(mask), band):
            own = slice(start, start + band)
            found = _between(rows, low_y[own] - first, high_y[own] - first, weight_y[own, None], axis=0)
            np.greater(found, 0, out=mask[own])
            if values is not None:
                values[own] = found
    bounds = mask_bounds(mask) if mask.size else None
    if bounds is None:
        return np.zeros((0, 0), bool), (0, 0), np.empty((0, 0), np.float16) if keep_logits else None
    x0, y0, x1, y1 = bounds
    tight = np.ascontiguousarray(mask[y0:y1, x0:x1])
    return tight, (tile.x + left + x0, tile.y + top + y0), None if values is None else values[y0:y1, x0:x1]


def _between(
    values: NDArray[np.float32], low: NDArray[np.intp], high: NDArray[np.intp], weight: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Linear interpolation along an axis. `take` is six times as fast as indexing with an array."""
    near, step = values.take(low, axis), values.take(high, axis)
    step -= near
    step *= weight
    near += step
    return near


def _pixels(low: int, high: int, step: float, length: int) -> tuple[int, int]:
    """The pixels, half-open, whose centres lie within a cell of the cells low..high-1, inside 0..length."""
    begin = math.ceil((low - 0.5) / step - 0.5)
    end = math.floor((high + 0.5) / step - 0.5) + 1
    return max(0, begin), min(length, end)


def _neighbours(
    begin: int, end: int, step: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For pixels begin..end-1: the two cells around each centre and the second one's weight."""
    position = np.clip((np.arange(begin, end) + 0.5) * step - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)
