"""Views of a tile: the same ground mirrored, smaller and larger. The mean of their masks is better than any one.

What a mask owes to the way the image is held, or to how large the object happens to be, is mostly error. A view weighs
more that is sure of its mask, and less that shows the object too small. `resam-run --views` and the pseudo-masks of
training (`resam.training.consensus`) are both made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resam_runtime.tiles.letterbox import mirrored, scale_to_tile
from resam_runtime.tiles.placement import into_tile, owners
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, SIDE, PromptBatch
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles

LARGE_ENOUGH = 12.0  # cells of the mask grid: of objects with a shorter side (the root of the area) a view sees less


@dataclass(frozen=True)
class View:
    """zoom: pixels of the view for each pixel of the tile. across, down: mirrored in x, in y."""

    zoom: float = 1.0
    across: bool = False
    down: bool = False


# In the order of what each adds to those before it: see docs/results.md.
VIEWS = (
    View(),
    View(1.0, True, True),
    View(0.7, True),
    View(1.4, False, True),
    View(0.5, False, True),
    View(2.0, True),
    View(0.35, True, True),
)


@dataclass(frozen=True)
class Window:
    """What a view sees at once. part: in pixels of the tile, its scale the view's zoom. size: S."""

    view: View
    part: Tile
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the tile as it is."""
        return self.view == View()

    @property
    def _axes(self) -> tuple[tuple[bool, int, int], tuple[bool, int, int]]:
        """Whether mirrored, where the part begins and how long it is: along x, along y."""
        view, part = self.view, self.part
        return (view.across, part.x, part.width), (view.down, part.y, part.height)

    def image(self, tile_image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its pixels (S, S, 3) of a tile (S, S, 3), padded as a tile is."""
        if self.is_whole:
            return tile_image
        part = mirrored(self.part.cut(tile_image), (self.view.across, self.view.down))
        return scale_to_tile(part, self.size, self.part.scale)

    def prompts(self, prompts: PromptBatch, indices: NDArray[np.intp]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Some prompts, given in pixels of the tile, as the decoder takes them: coords (N, P, 2), labels (N, P)."""
        coords, labels = into_tile(prompts, indices, self.part)
        first, last = labels == BOX_TOP_LEFT, labels == BOX_BOTTOM_RIGHT
        for axis, (is_mirrored, _, side) in enumerate(self._axes):
            if is_mirrored:
                along = side * self.part.scale - 1 - coords[..., axis]
                along[first], along[last] = along[last], along[first]  # a mirrored box begins where it ended
                coords[..., axis] = np.where(labels == SIDE, coords[..., axis], along)
        return coords, labels

    def back(self, masks: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Masks (N, M, M) of probabilities on the tile's grid; (M, M) in 0..1: where on it the window says anything."""
        import cv2

        grid = masks.shape[-1]
        cell, zoom = self.size / grid, self.part.scale
        columns, rows = (min(grid, math.ceil(side * zoom / cell)) for _, _, side in self._axes)
        seen = np.zeros((grid, grid), np.float32)
        seen[:rows, :columns] = 1
        matrix = np.zeros((2, 3))
        for axis, (is_mirrored, start, side) in enumerate(self._axes):
            # Cell u of the tile has its middle at (u + 1/2) cell px of the tile, measured from its edge.
            sign, offset = (-1, start + side) if is_mirrored else (1, -start)
            matrix[axis, axis] = sign * zoom
            matrix[axis, 2] = (sign * 0.5 * cell + offset) * zoom / cell - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        *values, known = (cv2.warpAffine(one, matrix, (grid, grid), flags=flags) for one in (*(masks * seen), seen))
        return np.asarray(values, np.float32), np.asarray(known, np.float32)


def windows(view: View, filled_wh: tuple[int, int], size: int) -> list[Window]:
    """What a view looks at, one after the other: one window, or a few that overlap where it enlarges.

    filled_wh: of what is image in the tile of `size` pixels.
    """
    return [Window(view, part, size) for part in plan_tiles(*filled_wh, size, Framing(0, view.zoom))]


Decoded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""masks (N, M, M) logits, scores (N,), coarse_scores (N,)"""


def decode_views(
    decode: Callable[[Window, NDArray[np.float32], NDArray[np.int32]], Decoded],
    coords: NDArray[np.float32],
    labels: NDArray[np.int32],
    filled_wh: tuple[int, int],
    size: int,
    views: tuple[View, ...] = VIEWS,
) -> Decoded:
    """The weighed mean of what `decode` makes of prompts in each view of a tile, the first of which is the tile itself.

    coords (N, P, 2) in tile pixels, labels (N, P). decode(window, coords, labels): of the prompts in that window.
    filled_wh: of what is image in the tile of `size` pixels. With one view its own result, unchanged.
    """
    first = Window(views[0], Tile(0, 0, *filled_wh), size)
    masks, scores, coarse_scores = decode(first, coords, labels)
    if len(views) == 1 or not len(coords):
        return masks, scores, coarse_scores
    count = len(views)
    values, known = np.zeros((2, count, *masks.shape), np.float32)
    values[0], known[0] = _probability(masks), 1
    both = np.zeros((count, 2, len(coords)), np.float32)  # scores, coarse_scores
    both[0] = scores, coarse_scores
    prompts = PromptBatch(coords, labels)
    for place, view in enumerate(views[1:], start=1):
        parts = windows(view, filled_wh, size)
        owner = owners([window.part for window in parts], prompts)
        for number in np.unique(owner):
            rows = np.flatnonzero(owner == number)
            found, *certain = decode(parts[number], *parts[number].prompts(prompts, rows))
            both[place][:, rows] = certain
            values[place, rows], known[place, rows] = parts[number].back(_probability(found))
    weights = _weights(values, known, both[:, 0], views)  # (views, N)
    total, weight = (np.einsum("vn,vnij->nij", weights, grids) for grids in (values, known))
    p = np.clip(total / weight, 1e-7, 1 - 1e-7)
    means = np.einsum("vn,vsn->sn", weights, both) / weights.sum(0)
    return np.asarray(np.log(p / (1 - p)), np.float32), means[0], means[1]


def _weights(
    values: NDArray[np.float32], known: NDArray[np.float32], scores: NDArray[np.float32], views: tuple[View, ...]
) -> NDArray[np.float32]:
    """What each view's mask of each instance weighs, (views, N): the square of the IoU that it predicts, and of how
    large it sees the instance in cells, up to `LARGE_ENOUGH`. How large it is they settle by their median: a view that
    sees next to nothing is a bad judge."""
    cells = np.median(np.sqrt((values > 0.5 * known).sum((2, 3))), axis=0)  # (N,) on the tile's grid
    zooms = np.array([view.zoom for view in views])[:, None]
    seen = np.clip(zooms * cells / LARGE_ENOUGH, 0.02, 1)
    return np.asarray((np.clip(scores, 0.01, 1) * seen) ** 2, np.float32)


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)
