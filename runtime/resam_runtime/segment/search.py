"""How instances are found where no points are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resam_runtime.masks.instance import FoundBy, Instance
from resam_runtime.segment.encoded_tile import EncodedTile
from resam_runtime.tiles.tiling import Tile


class Search(Protocol):
    """Looks at the tiles of a scene one by one, and makes one list of what they hold."""

    @property
    def found_by(self) -> FoundBy:
        """What its instances say of how they were found."""
        ...

    def plan(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """Each tile of a scene, and where on it to look: the tile's own part, so that neighbours do not look twice."""
        ...

    def on_tile(
        self,
        encoded: EncodedTile,
        tile: Tile,
        where: NDArray[np.float32],
        scene_hw: tuple[int, int],
        valid: NDArray[np.bool_] | None = None,
        keep_logits: bool = False,
    ) -> list[Instance]:
        """What one tile holds. tile, where: as `plan` gives them; valid: which of the window's pixels have data,
        (tile.height, tile.width), None: all; keep_logits: for `make_exclusive`."""
        ...

    def merge(self, instances: Sequence[Instance], tiles: Sequence[Tile]) -> list[Instance]:
        """The instances of a scene from those of its tiles: each once, the best first, numbered anew."""
        ...
