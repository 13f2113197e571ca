"""What an export is verified and calibrated on: tiles with prompts, and true masks where they are known.

By default synthetic scenes, drawn from a fixed seed, whose masks are exact. A user's own images are cut into tiles as
the engine will cut them, and come without truth: their prompts are a grid of points.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam.data.prompts import draw_points
from resam.data.spread import spread
from resam.synthetic import KINDS, generate_scene
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.precisions import Precision
from resam_runtime.scenes.scene import open_scene
from resam_runtime.scenes.scene_files import STATE_FOLDER, find_scenes
from resam_runtime.tiles.letterbox import scale_to_tile
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles

SEED = 20_251_121
SYNTHETIC = "synthetic"
SIDE = 4  # points along a side of the grid laid over a tile without truth
GOLDEN = 0.618  # a step that lands, modulo 1, ever between its earlier places
Images = Any  # a folder or a file, or a sequence of files and (H, W, 3) uint8 RGB arrays


@dataclass(frozen=True, eq=False)
class PromptedTile:
    """A tile and its prompts.

    image: (1, S, S, 3) uint8 RGB. coords: (N, 1, 2) float32 tile pixels; labels: (N, 1) int32. truths: (N, S, S)
    bool, or None where nobody knows them. source: name of the image that the tile is cut from, a digest where it has
    none, or `SYNTHETIC`.
    """

    image: NDArray[np.uint8]
    coords: NDArray[np.float32]
    labels: NDArray[np.int32]
    truths: NDArray[np.bool_] | None
    source: str = SYNTHETIC


def default_count(size: int, precision: Precision) -> int:
    """Synthetic tiles to verify on: some 400 instances where numbers are rounded, two tiles where they are large."""
    return 2 if size >= 512 else precision.checked_on


def synthetic_tiles(size: int, count: int, seed: int = SEED, prompts: int = 24) -> Iterator[PromptedTile]:
    """`count` synthetic tiles of `size` px, the kinds in turn, a point on each of at most `prompts` instances."""
    for number in range(count):
        scene = generate_scene(seed + number, size, KINDS[number % len(KINDS)])
        chosen = spread(len(scene.masks), prompts)
        truths = np.zeros((len(chosen), size, size), bool)
        coords = np.zeros((len(chosen), 1, 2), np.float32)
        for row, index in enumerate(chosen):
            x, y, mask = scene.masks[index]
            truths[row, y : y + mask.shape[0], x : x + mask.shape[1]] = mask
            coords[row] = draw_points(truths[row], 1, 0, [seed, number, row])[0]
        yield PromptedTile(scene.image[None], coords, np.ones((len(chosen), 1), np.int32), truths)


def image_tiles(size: int, framing: Framing, images: Images, count: int, phase: float = 0.5) -> Iterator[PromptedTile]:
    """At most `count` tiles of `size` px, evenly spread over the images, and over each image that gives several.

    phase: 0 to 1, where in its part of the images (or tiles) the chosen one lies: two phases choose different ones
    where there are enough. `ResamError` for what is no image.
    """
    found = _listed(images)
    if not found:
        raise ResamError(f"{images}: holds no image to verify and calibrate with; give a folder of scenes")
    left, chosen = count, _places(len(found), count, phase)
    for number, index in enumerate(chosen):
        name, image = found[index]
        with _opened(image) as (width, height, read):
            tiles = plan_tiles(width, height, size, framing)
            # what an image cannot fill goes to those after it
            places = _places(len(tiles), -(-left // (len(chosen) - number)), (phase + number * GOLDEN) % 1)
            for place in places:
                yield _tile(read(tiles[place]), tiles[place], size, name)
        left -= len(places)


def _places(count: int, most: int, phase: float) -> list[int]:
    """At most `most` of the numbers 0 ... count - 1: one from each of so many equal parts, at `phase` of the part."""
    parts = min(count, most)
    return [int((part + phase) * count / parts) for part in range(parts)]


def _tile(window: NDArray[np.uint8], tile: Tile, size: int, source: str) -> PromptedTile:
    """The window of `tile` as the engine sees it, under a grid of points over what is not padding."""
    middles = (np.arange(SIDE) + 0.5) / SIDE
    extent = np.array(tile.filled_hw(size)[::-1])  # width, height
    coords = (np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2) * extent).astype(np.float32)
    image = scale_to_tile(window, size, tile.scale)
    return PromptedTile(image[None], coords, np.ones((SIDE * SIDE, 1), np.int32), None, source)


def _listed(images: Images) -> list[tuple[str, Any]]:
    """Name (or digest) of each image, and the image: a path or an array."""
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        return [(scene.name, scene.path) for scene in find_scenes([path], path / STATE_FOLDER)]
    return [(_digest(image), image) if isinstance(image, np.ndarray) else (Path(image).name, image) for image in images]


def _digest(image: NDArray[Any]) -> str:
    return f"sha256:{hashlib.sha256(image.tobytes()).hexdigest()[:16]}"


@contextlib.contextmanager
def _opened(image: Any) -> Iterator[tuple[int, int, Callable[[Tile], NDArray[np.uint8]]]]:
    """Width and height of a file or an array, and what reads the window (h, w, 3) of a tile."""
    if not isinstance(image, np.ndarray):
        with open_scene(Path(image)) as scene:
            yield scene.width, scene.height, lambda tile: scene.read(tile.x, tile.y, tile.width, tile.height)
        return
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ResamError(f"an image to verify with must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    yield width, height, lambda tile: tile.cut(image)
