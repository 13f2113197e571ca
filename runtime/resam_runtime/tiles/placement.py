"""Where a prompt is decoded: which tile owns it, and what of it that tile sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resam_runtime.tiles.letterbox import scene_to_tile
from resam_runtime.tiles.prompt_batch import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NEGATIVE,
    PADDING,
    POSITIVE,
    SIDE,
    PromptBatch,
)
from resam_runtime.tiles.tiling import Tile, assign_points


def compact(batch: PromptBatch, limit: int) -> PromptBatch:
    """Move padding behind the real points, so that instances of at most `limit` points need no more columns."""
    order = np.argsort(batch.labels == PADDING, axis=1, kind="stable")[:, :limit]
    coords = np.take_along_axis(batch.coords, order[..., None], 1)
    return PromptBatch(coords, np.take_along_axis(batch.labels, order, 1), batch.sides)


def owners(tiles: Sequence[Tile], prompts: PromptBatch) -> NDArray[np.intp]:
    """For each prompt the index of its tile: where its centroid is most central.

    The middle of far-apart points may lie in a tile that holds none of them: then the first of them decides.
    """
    owner = assign_points(tiles, prompts.centroids)
    if len(tiles) == 1:
        return owner
    windows = np.array([(tile.x, tile.y, tile.width, tile.height) for tile in tiles])[owner, None]  # (N, 1, 4)
    shifted = prompts.coords - windows[..., :2] + 0.5
    held = ((shifted >= 0) & (shifted <= windows[..., 2:])).all(-1)
    lost = np.flatnonzero(~(held & prompts.marking).any(1))
    if len(lost):
        first = prompts.marking[lost].argmax(1)
        owner[lost] = assign_points(tiles, prompts.coords[lost, first])
    return owner


def points_beyond(prompts: PromptBatch, indices: NDArray[np.intp], tile: Tile) -> NDArray[np.intp]:
    """How many points of each of some prompts lie outside a tile's window, where `into_tile` drops them: (K,)."""
    labels = prompts.labels[indices]
    points = (labels == POSITIVE) | (labels == NEGATIVE)
    return np.asarray((points & ~tile.holds(prompts.coords[indices])).sum(1))


def into_tile(
    prompts: PromptBatch, indices: NDArray[np.intp], tile: Tile
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Some prompts in tile pixels. Points outside the window turn into padding, box corners move to its edge, sizes are
    scaled."""
    own = PromptBatch(prompts.coords[indices], prompts.labels[indices])
    corner = (own.labels == BOX_TOP_LEFT) | (own.labels == BOX_BOTTOM_RIGHT)
    size = own.labels == SIDE
    labels = np.where(tile.holds(own.coords) | corner | size, own.labels, np.int32(PADDING))
    low = np.array(tile.origin, np.float32) - 0.5
    clipped = np.clip(own.coords, low, low + np.array([tile.width, tile.height], np.float32))
    coords = scene_to_tile(clipped, tile.scale, tile.origin)
    coords = np.where(size[..., None], own.coords * np.float32(tile.scale), coords)
    return np.where(labels[..., None] == PADDING, np.float32(0), coords), labels
