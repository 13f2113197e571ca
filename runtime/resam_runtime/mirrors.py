"""A tile and its mirror images: four opinions of one mask, whose mean is better than any.

A network is not quite indifferent to which way up an image is held; what depends on it is mostly error. What is image
in the tile is mirrored, the padding stays below and to the right of it. Training teaches the same mean
(`resam.training.step.mirrored_masks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resam_runtime.tiling import Tile


@dataclass(frozen=True)
class Mirror:
    """One of the ways to hold a tile. across, down: mirrored in x, in y."""

    across: bool = False
    down: bool = False

    def image(self, tile_image: NDArray[np.uint8], extent: tuple[int, int]) -> NDArray[np.uint8]:
        """The tile (S, S, 3) held this way; extent: width and height of what is mirrored, in pixels."""
        if not (self.across or self.down):
            return tile_image
        turned = tile_image.copy()
        turned[: extent[1], : extent[0]] = self._turn(tile_image, extent)
        return turned

    def coords(self, coords: NDArray[np.float32], extent: tuple[int, int]) -> NDArray[np.float32]:
        """Points (..., 2) in tile pixels, where they are in the tile held this way."""
        turned = np.array((self.across, self.down))
        return np.where(turned, np.array(extent, np.float32) - 1 - coords, coords)

    def masks(self, masks: NDArray[np.float32], extent: tuple[int, int]) -> NDArray[np.float32]:
        """Mask grids (N, M, M) of the tile held this way, turned back, in a new array; extent in cells."""
        back = masks.copy()
        back[:, : extent[1], : extent[0]] = self._turn(masks.transpose(1, 2, 0), extent).transpose(2, 0, 1)
        return back

    def _turn(self, grid: NDArray[np.generic], extent: tuple[int, int]) -> NDArray[np.generic]:
        part = grid[: extent[1], : extent[0]]
        return part[:: -1 if self.down else 1, :: -1 if self.across else 1]


UPRIGHT = (Mirror(),)
MIRRORS = (Mirror(), Mirror(across=True), Mirror(down=True), Mirror(True, True))


def extent_in_cells(tile: Tile, cells: int, size: int) -> tuple[int, int]:
    """Columns and rows of the mask grid (`cells` a side, in a tile of `size` pixels) that are not padding."""
    columns, rows = (math.ceil(side * tile.scale * cells / size - 1e-6) for side in (tile.width, tile.height))
    return min(cells, max(1, columns)), min(cells, max(1, rows))


def mean_logits(masks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The logits (N, M, M) of the mean of the probabilities that masks (N, M, M) of logits stand for."""
    mean = np.zeros_like(masks[0])
    for logits in masks:
        mean += np.tanh(logits * np.float32(0.5))  # 2 sigmoid - 1
    return np.asarray(2 * np.arctanh(np.clip(mean / len(masks), -1 + 1e-6, 1 - 1e-6)), np.float32)
