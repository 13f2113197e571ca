"""What the prompter learns from: clicks with the pseudo-masks that were made of them, in pixels of their scenes, so
that any tile of a scene can be taught, at any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resam.training.prompter.targets import TileInstances
from resam_runtime.masks.crops import BoolMask, Origin
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.tiles.letterbox import mirrored
from resam_runtime.tiles.tiling import Tile

Mirror = tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class Example:
    """An instance of a scene, in pixels of the scene: its first click (2,), its class's number, its pseudo-mask cropped
    to its box (empty where there is none) and where that lies, and in 0..1 how far the mask is to be trusted."""

    click: NDArray[np.float32]
    number: int
    mask: BoolMask
    origin: Origin
    weight: float

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,) x0, y0, x1, y1 along the mask's outer edges; without a mask no more than the click."""
        if not self.mask.size:
            return np.concatenate((self.click, self.click))
        (x, y), (height, width) = self.origin, self.mask.shape
        return np.array([x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5], np.float32)


def scene_crop(
    logits: NDArray[np.float32], tile: Tile, mirror: Mirror, tile_size: int
) -> tuple[BoolMask, tuple[int, int]]:
    """A mask (M, M) on the grid of a tile whose window was mirrored: cropped, and its origin, in scene pixels."""
    window = Tile(0, 0, tile.width, tile.height, tile.scale)
    mask, (x, y), _ = scene_mask(logits, grid_boxes(logits[None])[0], window, tile_size)
    height, width = mask.shape
    x, y = tile.width - x - width if mirror[0] else x, tile.height - y - height if mirror[1] else y
    return mirrored(mask, mirror), (tile.x + x, tile.y + y)


def tile_instances(examples: Sequence[Example], tile: Tile, mirror: Mirror, tile_size: int, grid: int) -> TileInstances:
    """The examples whose boxes or clicks reach into a window, as the tile shows them. tile_size: S; grid: cells along a
    side of the heat maps. The centre of an instance is that of its box as far as that is to be trusted, else its click.
    """
    low, high = np.array([tile.x, tile.y]) - 0.5, np.array([tile.x + tile.width, tile.y + tile.height]) - 0.5
    cell = tile_size / grid
    middles = (np.arange(grid) + 0.5) * cell - 0.5
    centres, boxes, numbers, weights, insides = [], [], [], [], []
    for one in examples:
        box = one.box
        if (box[2:] < low).any() or (box[:2] > high).any():
            continue
        centre = one.weight * (box[:2] + box[2:]) / 2 + (1 - one.weight) * one.click
        corners = np.concatenate((box[:2].clip(low, high), box[2:].clip(low, high)))
        places = (np.concatenate((centre, corners)).reshape(3, 2) - low) * tile.scale - 0.5
        for axis, length in ((0, tile.width), (1, tile.height)):
            if mirror[axis]:
                places[:, axis] = length * tile.scale - 1 - places[:, axis]
                places[1:, axis] = places[:0:-1, axis]
        rows, columns = (
            _back(middles, tile.scale, start, length, flipped)
            for start, length, flipped in ((tile.y, tile.height, mirror[1]), (tile.x, tile.width, mirror[0]))
        )
        centres.append(places[0])
        boxes.append(places[1:].ravel())
        numbers.append(one.number)
        weights.append(one.weight)
        insides.append(_look_up(one, rows, columns))
    return TileInstances(
        np.array(centres, np.float32).reshape(-1, 2),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(numbers, np.intp),
        np.array(weights, np.float32),
        np.array(insides, bool).reshape(-1, grid, grid),
        tile.filled_hw(tile_size),
    )


def _back(middles: NDArray[np.floating], scale: float, start: int, length: int, flipped: bool) -> NDArray[np.intp]:
    """The scene's pixel under each cell of a tile along one axis; -1 beyond the window."""
    if flipped:
        middles = length * scale - 1 - middles
    pixels = np.rint((middles + 0.5) / scale - 0.5)
    inside = (pixels >= 0) & (pixels < length)
    return np.where(inside, pixels + start, -1).astype(np.intp)


def _look_up(one: Example, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The mask at pixels of the scene, (len(rows), len(columns))."""
    out = np.zeros((len(rows), len(columns)), bool)
    (x, y), (height, width) = one.origin, one.mask.shape
    r, c = rows - y, columns - x
    on_rows, on_columns = (rows >= 0) & (r >= 0) & (r < height), (columns >= 0) & (c >= 0) & (c < width)
    out[np.ix_(on_rows, on_columns)] = one.mask[np.ix_(r[on_rows], c[on_columns])]
    return out
