"""What a distillation walks through: windows of images that nobody has labelled, as teacher and student see them.

Both see the same window, each in a tile of its own size, after the same turns and photometric changes. Everything
random about sample number i in epoch e follows from (seed, e, i), as in `resam.data.training_set`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resam.data.spread import spread
from resam.data.training_set import ENOUGH
from resam.data.views import draw_mirror, strong_view
from resam.training.distill.options import DistillOptions
from resam.training.progress import Reporter
from resam_runtime.common.errors import ResamError, counted
from resam_runtime.scenes.scene import open_scene
from resam_runtime.scenes.scene_files import STATE_FOLDER, find_scenes
from resam_runtime.tiles.letterbox import mirrored, scale_to_tile
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles

HELD = 16  # windows, at most, on which student and teacher are compared after each epoch


@dataclass(frozen=True)
class Image:
    """An image and its size in pixels."""

    path: Path
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class TwoTiles:
    """A window as both see it. teacher: (S, S, 3), student: (S', S', 3), both uint8, padded. filled: the share of their
    height and width that is not padding. points: (N, 2) float32, x and y in 0..1 of the tile."""

    teacher: NDArray[np.uint8]
    student: NDArray[np.uint8]
    filled: tuple[float, float]
    points: NDArray[np.float32]
    name: str


class Windows:
    """The windows of a folder's images, framed as the runtime would frame the images for the student."""

    def __init__(
        self,
        folder: Path,
        sizes: tuple[int, int],
        framing: Framing,
        options: DistillOptions,
        reporter: Reporter,
    ) -> None:
        """sizes: sides of the teacher's and the student's tile. framing: for the student. Every image is opened once;
        one that cannot be read is left out, and noted. `ResamError` for a folder that is missing or holds no image."""
        self._sizes, self._options = sizes, options
        images = _open_images(folder, reporter)
        count = max(1, round(options.set_aside * len(images))) if options.set_aside and len(images) >= ENOUGH else 0
        aside = set(spread(len(images), count))
        self.images = images
        own: list[tuple[int, Tile]] = []
        held: list[tuple[int, Tile]] = []
        for number, image in enumerate(images):
            tiles = plan_tiles(image.width, image.height, sizes[1], framing)
            (held if number in aside else own).extend((number, tile) for tile in tiles)
        self._windows: list[tuple[int, Tile]] = own
        self.held = [held[i] for i in spread(len(held), HELD)]
        self.shown = [own[i] for i in spread(len(own), 4)]
        known = json.dumps([[image.name, image.width, image.height] for image in images])
        self.digest = hashlib.sha256(known.encode()).hexdigest()

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._options.tiles or len(self._windows)

    def order(self, epoch: int) -> list[int]:
        """The samples' numbers as epoch `epoch` (from 0) visits them: all windows once before any comes again, however
        few an epoch takes."""
        total, count = len(self._windows), len(self)
        first = epoch * count
        rounds = range(first // total, (first + count - 1) // total + 1)
        drawn = [np.random.default_rng((self._options.seed, 0, turn)).permutation(total) for turn in rounds]
        return np.concatenate(drawn)[first % total :][:count].tolist()

    def load(self, number: int, epoch: int) -> TwoTiles:
        """Sample `number` as epoch `epoch` sees it. `ResamError` for an image that cannot be read any more."""
        rng = np.random.default_rng((self._options.seed, 1, epoch, number))
        place, tile = self._windows[number]
        image = self.images[place]
        tile = _moved(tile, image, self._options.zoom, rng)
        window = mirrored(_read(image, tile), draw_mirror(rng))
        if rng.random() < 0.5:
            window = np.ascontiguousarray(window.swapaxes(0, 1))
        window = strong_view(window, rng, probability=self._options.strength)
        filled = self._filled(tile.scale, window)
        return self._tiles(window, tile.scale, grid_points(self._options.prompts, filled, rng), image.name)

    def plain(self, window: tuple[int, Tile], prompts: int) -> TwoTiles:
        """A window as the runtime sees it, with the middles of the cells of a grid as points."""
        number, tile = window
        pixels = _read(self.images[number], tile)
        points = grid_points(prompts, self._filled(tile.scale, pixels))
        return self._tiles(pixels, tile.scale, points, self.images[number].name)

    def _filled(self, scale: float, window: NDArray[np.uint8]) -> tuple[float, float]:
        height, width = (min(1.0, side * scale / self._sizes[1]) for side in window.shape[:2])
        return height, width

    def _tiles(self, window: NDArray[np.uint8], scale: float, points: NDArray[np.float32], name: str) -> TwoTiles:
        teacher, student = (scale_to_tile(window, size, scale * size / self._sizes[1]) for size in self._sizes)
        return TwoTiles(teacher, student, self._filled(scale, window), points, name)


def grid_points(count: int, filled: tuple[float, float], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """`count` points (N, 2), x and y in 0..1 of the tile, over the share of its height and width that is filled: one in
    each cell of a square grid, anywhere in it (its middle without `rng`); of a larger grid than needed some cells."""
    side = math.isqrt(count - 1) + 1
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    chosen = np.sort(rng.permutation(len(cells))[:count]) if rng else np.array(spread(len(cells), count))
    within = rng.random((count, 2)) if rng else 0.5
    return ((cells[chosen] + within) / side * filled[::-1]).astype(np.float32)


def _moved(tile: Tile, image: Image, zoom: float, rng: np.random.Generator) -> Tile:
    """A tile's window up to `zoom` times as large or as small, and aside by up to a quarter of its side."""
    factor = zoom ** rng.uniform(-1, 1)
    sides, starts = [], []
    for start, side, whole in ((tile.x, tile.width, image.width), (tile.y, tile.height, image.height)):
        new = min(whole, max(1, int(side / factor)))
        middle = start + side * (0.5 + rng.uniform(-0.25, 0.25))
        sides.append(new)
        starts.append(int(np.clip(round(middle - new / 2), 0, whole - new)))
    return Tile(starts[0], starts[1], sides[0], sides[1], tile.scale * factor)


def _read(image: Image, tile: Tile) -> NDArray[np.uint8]:
    with open_scene(image.path) as scene:
        if (scene.width, scene.height) != (image.width, image.height):
            raise ResamError(f"{image.path}: has changed since the run began; start a new run")
        return scene.read(tile.x, tile.y, tile.width, tile.height)


def _open_images(folder: Path, reporter: Reporter) -> list[Image]:
    if not folder.is_dir():
        raise ResamError(f"{folder}: no such folder of images; say with --images where they lie")
    found = find_scenes([folder], folder / STATE_FOLDER)
    reporter.start("checking images", len(found))
    images = []
    for one in found:
        assert isinstance(one.path, Path)  # a folder's own
        reporter.step()
        try:
            with open_scene(one.path) as scene:
                images.append(Image(one.path, one.name, scene.width, scene.height))
        except ResamError as error:
            reporter.note(f"left out: {error}")
    if not images:
        raise ResamError(f"{folder}: none of its {counted(len(found), 'image')} can be read; give another --images")
    return images
