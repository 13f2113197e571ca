"""What the prompter's maps should be on one tile, from its instances.

Heat of a class: 1 at the cell of each centre, around it a Gaussian as wide as the object (CornerNet's and CenterNet's
softened negatives, arXiv 1808.01244 and 1904.07850). The rest of an instance's own pseudo-mask is no negative of its
class: its click may lie anywhere on it, and its mask may be wrong. Boxes are taught around the centres, where several
overlap the smaller object's (FCOS, arXiv 1904.01355).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPREAD = 0.12  # standard deviation of the Gaussian, in widths and heights of the object
LEAST_SPREAD = 0.6  # and in cells at least
SEEN = 0.01  # a Gaussian's tail below this is nothing


@dataclass(frozen=True, eq=False)
class TileInstances:
    """The instances that lie on a tile, in tile pixels, pixel centres at integers.

    centres: (N, 2). boxes: (N, 4) x0, y0, x1, y1 along the outer edges, clipped to the tile. classes: (N,) numbers of
    the heat maps. weights: (N,) in 0..1, how far the boxes are to be trusted. inside: (N, H, W) bool, the pseudo-masks
    on the heat's grid. extent: height and width of the tile that are not padding.
    """

    centres: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.intp]
    weights: NDArray[np.float32]
    inside: NDArray[np.bool_]
    extent: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Targets:
    """heat: (K, H, W) in 0..1, 1 at centres. counted: (K, H, W) bool, where the heat is judged. boxes: (4, H, W)
    corners in tile pixels. weight: (H, W) in 0..1, how much the box of a cell counts."""

    heat: NDArray[np.float32]
    counted: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    weight: NDArray[np.float32]


def make_targets(instances: TileInstances, classes: int, image_size: int, grid: int) -> Targets:
    """The targets of a tile of `image_size` pixels on maps of `grid` cells a side, for K = `classes` heat maps."""
    cell = image_size / grid
    middles = (np.arange(grid, dtype=np.float32) + 0.5) * cell - 0.5
    heat = np.zeros((classes, grid, grid), np.float32)
    inside = np.zeros((classes, grid, grid), bool)
    boxes, weight = np.zeros((4, grid, grid), np.float32), np.zeros((grid, grid), np.float32)
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    largest_first = np.argsort(-sides.prod(axis=1), kind="stable")
    for i in largest_first:
        number, (x, y) = instances.classes[i], instances.centres[i]
        inside[number] |= instances.inside[i]
        column, row = int((x + 0.5) // cell), int((y + 0.5) // cell)
        if not (0 <= column < grid and 0 <= row < grid):
            continue
        spread = np.maximum(LEAST_SPREAD * cell, SPREAD * sides[i])
        along_x = np.exp(-0.5 * ((middles - middles[column]) / spread[0]) ** 2)
        along_y = np.exp(-0.5 * ((middles - middles[row]) / spread[1]) ** 2)
        bump = along_y[:, None] * along_x
        bump[bump < SEEN] = 0
        heat[number] = np.maximum(heat[number], bump)
        if sides[i].min() <= 0 or instances.weights[i] <= 0:
            continue
        x0, y0, x1, y1 = instances.boxes[i]
        taught = (
            (bump > np.exp(-1.0)) & (x0 < middles) & (middles < x1) & (y0 < middles[:, None]) & (middles[:, None] < y1)
        )
        taught[row, column] = True
        boxes[:, taught] = instances.boxes[i][:, None]
        weight[taught] = instances.weights[i] * bump[taught]
    height, width = instances.extent
    on_image = (middles[:, None] < height) & (middles < width)
    return Targets(heat, (~inside | (heat > 0)) & on_image, boxes, weight)
