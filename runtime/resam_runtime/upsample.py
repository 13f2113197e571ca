"""From the coarse grid of mask logits to masks at scene resolution, computed inside each instance's box only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resam_runtime.masks import BoolMask, Origin, mask_bounds
from resam_runtime.tiling import Tile


def grid_boxes(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Half-open cell bounds x0, y0, x1, y1 of the positive cells of each mask: (N, M, M) -> (N, 4), zeros if none."""
    boxes = np.zeros((len(logits), 4), np.intp)
    inside: NDArray[np.bool_] = np.asarray(logits > 0)
    for axis, low, high in ((1, 0, 2), (2, 1, 3)):  # any over the rows leaves the columns, and so x
        line = np.asarray(np.any(inside, axis))
        boxes[:, low] = line.argmax(1)
        boxes[:, high] = np.where(line.any(1), line.shape[1] - line[:, ::-1].argmax(1), 0)
    return boxes


def crop_logits(
    logits: NDArray[np.float32], cells: NDArray[np.intp], tile: Tile, tile_size: int
) -> tuple[NDArray[np.float32], Origin]:
    """The logits of one mask at scene resolution, where they can be positive.

    logits (M, M); cells: its row of `grid_boxes`; -> (h, w) float32 and the scene pixel of [0, 0]. Every value equals
    that of a full bilinear upsampling (align_corners=False) at its pixel's centre. The crop is the box of positive
    cells and one cell around it: further out all four neighbours are negative, and so is their mean. One
    resampling leads from grid to scene, whatever the tile's scale.
    """
    x0, y0, x1, y1 = (int(cell) for cell in cells)
    size = logits.shape[0]
    step = tile.scale * size / tile_size  # cells per scene pixel
    left, right = _pixels(x0, x1, step, tile.width)
    top, bottom = _pixels(y0, y1, step, tile.height)
    if x0 >= x1 or left >= right or top >= bottom:
        return np.empty((0, 0), np.float32), (0, 0)
    low_y, high_y, weight_y = _neighbours(top, bottom, step, size)
    low_x, high_x, weight_x = _neighbours(left, right, step, size)
    first = int(low_x[0])
    columns = logits[:, first : int(high_x[-1]) + 1]
    rows = columns[low_y]
    rows += (columns[high_y] - rows) * weight_y[:, None]
    crop = rows[:, low_x - first]
    crop += (rows[:, high_x - first] - crop) * weight_x
    return crop, (tile.x + left, tile.y + top)


def scene_mask(
    logits: NDArray[np.float32], cells: NDArray[np.intp], tile: Tile, tile_size: int
) -> tuple[BoolMask, Origin, NDArray[np.float32]]:
    """The mask of one instance cropped to its own box, its origin in the scene, and the logits of the crop.

    As `crop_logits`, then thresholded at 0 and tightened. An empty mask is (0, 0) at origin (0, 0).
    """
    crop, (x, y) = crop_logits(logits, cells, tile, tile_size)
    mask = crop > 0
    bounds = mask_bounds(mask) if mask.size else None
    if bounds is None:
        return np.zeros((0, 0), bool), (0, 0), np.empty((0, 0), np.float32)
    x0, y0, x1, y1 = bounds
    return np.ascontiguousarray(mask[y0:y1, x0:x1]), (x + x0, y + y0), crop[y0:y1, x0:x1]


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
