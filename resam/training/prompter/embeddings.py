"""The windows that the prompter is taught on, each encoded once: on disk, since they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from resam.data.coco import CocoScene
from resam.model.encoder import ImageEncoder
from resam.training.outputs import writing
from resam.training.prompter.examples import Mirror
from resam_runtime.tiles.letterbox import mirrored, scale_to_tile
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles

ZOOMS = (1.0, 1.414, 0.707)  # of the run's own scale: every object is seen in three sizes
BATCH = 4  # windows encoded at once


class Seen(NamedTuple):
    """A window of scene number `scene`, mirrored or not."""

    scene: int
    tile: Tile
    mirror: Mirror


@dataclass(frozen=True, eq=False)
class Embeddings:
    """windows, and their embeddings (len(windows), C, G, G) float16, a file's contents in memory as far as needed."""

    windows: Sequence[Seen]
    values: NDArray[np.float16]

    def batch(self, numbers: Sequence[int] | NDArray[np.intp]) -> torch.Tensor:
        """Some of the embeddings, (len(numbers), C, G, G) float32."""
        return torch.from_numpy(self.values[np.asarray(numbers)].astype(np.float32))


def own_tiles(scene: CocoScene, tile_size: int, framing: Framing) -> list[Tile]:
    """The tiles that the engine will cut a scene into."""
    return plan_tiles(scene.width, scene.height, tile_size, framing)


def zoomed(framing: Framing, zoom: float) -> Framing:
    """The framing that shows everything `zoom` times as large; of 1 the same."""
    if zoom == 1.0:
        return framing
    return Framing(max(1, round(framing.fit_within / zoom)), framing.scale * zoom)


def windows_to_teach(
    scenes: Sequence[CocoScene], numbers: Sequence[int], tile_size: int, framing: Framing, seed: int
) -> list[Seen]:
    """All tiles of the scenes `numbers` at all of `ZOOMS`, each mirrored by chance: those without a click too, which
    teach what is none."""
    rng = np.random.default_rng((seed, len(scenes)))
    seen = []
    for number in numbers:
        for zoom in ZOOMS:
            tiles = own_tiles(scenes[number], tile_size, zoomed(framing, zoom))
            mirrors = rng.integers(0, 2, (len(tiles), 2)).astype(bool).tolist()
            seen += [Seen(number, tile, (across, down)) for tile, (across, down) in zip(tiles, mirrors)]
    return list(dict.fromkeys(seen))


def windows_to_choose(
    scenes: Sequence[CocoScene], numbers: Sequence[int], tile_size: int, framing: Framing
) -> list[Seen]:
    """The tiles of the scenes `numbers` as the engine sees them."""
    return [
        Seen(number, tile, (False, False))
        for number in numbers
        for tile in own_tiles(scenes[number], tile_size, framing)
    ]


@torch.no_grad()
def encode_windows(
    path: Path,
    scenes: Sequence[CocoScene],
    windows: Sequence[Seen],
    encoder: ImageEncoder,
    tile_size: int,
    fabric: Fabric,
    advance: Callable[[], None] = lambda: None,
) -> Embeddings:
    """Encode windows into the file `path`, which the caller removes. advance: called after each. `ResamError` for an
    image that cannot be read, and a file that cannot be written."""
    shape: tuple[int, ...] = ()
    with writing(path), path.open("wb") as file:
        for batch in _batches(windows):
            images = [
                scale_to_tile(mirrored(scenes[one.scene].read(one.tile), one.mirror), tile_size, one.tile.scale)
                for one in batch
            ]
            with fabric.autocast():
                found = encoder(torch.from_numpy(np.stack(images)).to(fabric.device))
            shape = tuple(found.shape[1:])
            file.write(found.half().cpu().numpy().tobytes())
            for _ in batch:
                advance()
    return Embeddings(windows, np.memmap(path, np.float16, "r", shape=(len(windows), *shape)))


def _batches(windows: Sequence[Seen]) -> Iterator[Sequence[Seen]]:
    for at in range(0, len(windows), BATCH):
        yield windows[at : at + BATCH]
