"""An image that is encoded once and prompted many times."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from resam_runtime.masks.instance import Instance, in_order
from resam_runtime.segment.encoded_tile import EncodedTile, Image
from resam_runtime.tiles.tiling import Tile

if TYPE_CHECKING:
    from resam_runtime.segment.segmenter import Segmenter


class Embedding:
    """One encoded image: answers many prompts without encoding again. Made by `Segmenter.embed`.

    May be prompted from several threads. Its memory is freed with the last reference to it.
    """

    def __init__(self, segmenter: Segmenter, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        self._segmenter = segmenter
        self._image = image
        self._lock = threading.Lock()
        self._encoded: dict[Tile, EncodedTile] = {}
        tiles = segmenter.tiles(self.width, self.height)
        if len(tiles) == 1:
            self._encoding(tiles[0])

    def prompt(
        self, points: Any = None, labels: Any = None, boxes: Any = None, refine: bool = True, exclusive: bool = False
    ) -> list[Instance]:
        """Segment the instances that points, boxes or both mark.

        points and labels as in `Segmenter.__call__`; boxes: (N, 4) x0, y0, x1, y1 in pixels, outer pixels
        included. refine=False answers with the coarse mask: one pass of the decoder, no Refine and Requery.
        Returns one `Instance` per prompt, in order. Raises `ResamError` as `Segmenter.__call__` does.
        """
        segmenter, scene_size = self._segmenter, (self.height, self.width)
        prompts = segmenter.prompts(points, labels, boxes, self.width, self.height)
        graph = "loop" if refine else "decoder"
        found: list[Instance] = []
        for tile, indices in segmenter.plan(prompts, self.width, self.height):
            encoded = self._encoding(tile)
            found += encoded.instances(graph, tile, prompts, indices, scene_size, exclusive)
        return in_order(found, exclusive)

    def _encoding(self, tile: Tile) -> EncodedTile:
        with self._lock:
            if tile not in self._encoded:
                tile_image = self._segmenter.prepare_tile(tile.cut(self._image), tile)
                self._encoded[tile] = self._segmenter.encode_tile(tile_image)
            return self._encoded[tile]
