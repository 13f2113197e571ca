"""A baseline on scenes larger than a tile: cut into the engine's own tiles, each point given to the tile that the
engine gives it to. Else the engine would see a scene at full scale in many tiles, and the baseline a reduced one in
one: other work and other masks, which says nothing about either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resam_benchmarks.measure.contender import Contender, Image
from resam_benchmarks.measure.metrics import Crop
from resam_benchmarks.measure.worker import resolve
from resam_runtime.tiles.letterbox import PAD_VALUE
from resam_runtime.tiles.placement import owners  # who owns a prompt is decided in one place
from resam_runtime.tiles.prompt_batch import PADDING, PromptBatch
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles


class Tiled:
    """See `Contender`. Made of a contender that scales any image into one tile, the longer side to `size` px."""

    def __init__(self, factory: str, options: Mapping[str, Any], size: int, framing: Framing) -> None:
        """factory, options: of the contender, as for a `Worker`; size, framing: the engine's."""
        self._inner: Contender = resolve(factory)(**options)
        self._size, self._framing = size, framing

    def one_pass(self, image: Image) -> bool:
        """See `Contender`."""
        tiles = self._tiles(image)
        return len(tiles) == 1 and _padded_side(tiles[0], self._size) <= max(image.shape[:2])

    def encode(self, image: Image) -> Any:
        """See `Contender`. An image of several tiles is kept, for each tile to be encoded when it is prompted."""
        return self._inner.encode(image) if self.one_pass(image) else image

    def loop(self, embedding: Any, points: PromptBatch) -> Any:
        """See `Contender`."""
        return self._inner.loop(embedding, points)

    def segment(self, image: Image, points: PromptBatch) -> Any:
        """See `Contender`. Per tile that owns prompts: the tile, their numbers, the inner result."""
        return [
            (tile, own, self._inner.loop(self._inner.encode(self._window(image, tile)), inside))
            for tile, own, inside in self._plan(image, points)
        ]

    def masks(self, result: Any) -> list[tuple[Crop, float]]:
        """See `Contender`."""
        if not (
            isinstance(result, list) and result and isinstance(result[0], tuple) and isinstance(result[0][0], Tile)
        ):
            return self._inner.masks(result)
        found = {}
        for tile, own, part in result:
            for number, (crop, score) in zip(own, self._inner.masks(part)):
                found[int(number)] = (_placed(crop, tile), score)
        return [found[number] for number in sorted(found)]

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        """See `Contender`."""
        if not isinstance(embedding, np.ndarray):
            return self._inner.coarse(embedding, points)
        found = {}
        for tile, own, inside in self._plan(embedding, points):
            window = self._inner.encode(self._window(embedding, tile))
            found.update({int(n): _placed(crop, tile) for n, crop in zip(own, self._inner.coarse(window, inside))})
        return [found[number] for number in sorted(found)]

    def graph_seconds(self) -> dict[str, float] | None:
        """See `Contender`."""
        return self._inner.graph_seconds()

    def synchronize(self) -> None:
        """See `Contender`."""
        self._inner.synchronize()

    def describe(self) -> str:
        """See `Contender`."""
        return self._inner.describe()

    def _tiles(self, image: Image) -> list[Tile]:
        return plan_tiles(image.shape[1], image.shape[0], self._size, self._framing)

    def _plan(self, image: Image, points: PromptBatch) -> list[tuple[Tile, Any, PromptBatch]]:
        """The tiles that own prompts: each with the numbers of its prompts and these, in pixels of its window."""
        tiles, planned = self._tiles(image), []
        owner = owners(tiles, points)
        for place in np.unique(owner):
            tile, own = tiles[place], np.flatnonzero(owner == place)
            coords = points.coords[own] - np.float32(tile.origin)
            labels = np.where(tile.holds(points.coords[own]), points.labels[own], np.int32(PADDING))
            planned.append((tile, own, PromptBatch(coords, labels)))
        return planned

    def _window(self, image: Image, tile: Tile) -> Image:
        """The pixels of a tile; padded where it is so small that the contender would enlarge it more than the
        engine."""
        window = tile.cut(image)
        missing = _padded_side(tile, self._size) - max(window.shape[:2])
        if missing <= 0:
            return np.ascontiguousarray(window)
        padded = np.empty((window.shape[0] + missing, window.shape[1] + missing, 3), np.uint8)
        padded[:] = PAD_VALUE
        padded[: window.shape[0], : window.shape[1]] = window
        return padded


def _padded_side(tile: Tile, size: int) -> int:
    """Scene pixels along a side of the whole tile, padding included."""
    return round(size / tile.scale)


def _placed(crop: Crop, tile: Tile) -> Crop:
    """A crop of a tile's window in the scene, without what lies in padding."""
    x, y = crop.origin
    mask = crop.mask[: max(0, tile.height - y), : max(0, tile.width - x)]
    return Crop(mask, (tile.x + x, tile.y + y))
