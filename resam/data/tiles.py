"""Training samples: the tiles in which instances lie, and the arrays that one step sees of them.

Each instance belongs to the one tile in which the runtime would decode it (`resam_runtime.tiles.placement`), so that
an epoch shows every instance once, framed as the device will frame it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.points import Prompt
from resam_runtime.tiles.letterbox import mirrored, scale_to_tile
from resam_runtime.tiles.placement import into_tile, owners
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING, PromptBatch, padded
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles


@dataclass(frozen=True)
class Sample:
    """A tile of scene number `scene`, and which of the scene's prompts belong to it."""

    scene: int
    tile: Tile
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class TileArrays:
    """What a step sees of a sample.

    image: (S, S, 3) uint8, padded. coords: (N, P, 2) float32 tile pixels; labels: (N, P) int32, padded with -1.
    extent: height and width, in tile pixels, of what is not padding.
    """

    image: NDArray[np.uint8]
    coords: NDArray[np.float32]
    labels: NDArray[np.int32]
    extent: tuple[int, int]


def plan_samples(
    sizes: Sequence[tuple[int, int]], prompts: Sequence[Sequence[Prompt]], tile_size: int, framing: Framing
) -> list[Sample]:
    """The samples of all scenes. sizes: (width, height) of each. Every prompt is in exactly one sample."""
    samples = []
    for number, ((width, height), own) in enumerate(zip(sizes, prompts, strict=True)):
        if own:
            tiles = plan_tiles(width, height, tile_size, framing)
            owner = owners(tiles, _batch(own))
            samples += [Sample(number, tiles[i], tuple(np.flatnonzero(owner == i).tolist())) for i in np.unique(owner)]
    return samples


def tile_points(
    prompts: Sequence[Prompt], tile: Tile, mirror: tuple[bool, bool] = (False, False)
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Prompts as the decoder takes them: coords (N, P, 2) in tile pixels, labels (N, P); points outside are padding.

    mirror: whether the window was mirrored in x and in y before it was scaled into the tile.
    """
    coords, labels = into_tile(_batch(prompts), np.arange(len(prompts)), tile)
    first, last = labels == BOX_TOP_LEFT, labels == BOX_BOTTOM_RIGHT
    for axis, length in ((0, tile.width), (1, tile.height)):
        if mirror[axis]:
            along = np.where(labels == PADDING, 0, length * tile.scale - 1 - coords[..., axis])
            along[first], along[last] = along[last], along[first]  # a mirrored box begins where it ended
            coords[..., axis] = along
    used = (labels != PADDING).any(axis=0)
    return np.ascontiguousarray(coords[:, used]), np.ascontiguousarray(labels[:, used])


def tile_arrays(
    window: NDArray[np.uint8],
    tile: Tile,
    prompts: Sequence[Prompt],
    tile_size: int,
    mirror: tuple[bool, bool] = (False, False),
) -> TileArrays:
    """One sample's arrays from its window of the scene (h, w, 3) uint8; `mirror` as in `tile_points`."""
    image = scale_to_tile(mirrored(window, mirror), tile_size, tile.scale)
    coords, labels = tile_points(prompts, tile, mirror)
    return TileArrays(image, coords, labels, tile.filled_hw(tile_size))


def tile_masks(
    masks: Sequence[NDArray[np.bool_]], tile: Tile, grid: int, tile_size: int, mirror: tuple[bool, bool]
) -> NDArray[np.float32]:
    """True masks of whole scenes (H, W) as targets on the mask grid, (N, grid, grid): the share of each cell covered.

    For `supervised` training alone: nothing else may see a true mask.
    """
    import cv2

    cell = tile_size // grid
    target = np.zeros((len(masks), grid, grid), np.float32)
    how = cv2.INTER_AREA if tile.scale < 1 else cv2.INTER_LINEAR  # as the picture is scaled
    for i, mask in enumerate(masks):
        crop: NDArray[Any] = mirrored(tile.cut(mask), mirror).astype(np.float32)
        if tile.scale != 1.0:
            crop = cv2.resize(crop, None, fx=tile.scale, fy=tile.scale, interpolation=how)
        full = np.zeros((tile_size, tile_size), np.float32)
        full[: crop.shape[0], : crop.shape[1]] = crop
        target[i] = full.reshape(grid, cell, grid, cell).mean(axis=(1, 3))
    return target


def _batch(prompts: Sequence[Prompt]) -> PromptBatch:
    return padded([prompt.coords for prompt in prompts], [prompt.labels for prompt in prompts])
