"""What an export is verified and calibrated on: tiles with prompts, and true masks where they are known.

By default synthetic scenes, drawn from a fixed seed, whose masks are exact. A user's own images come without truth:
their prompts are a grid of points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam.data.prompts import draw_points
from resam.data.spread import spread
from resam.data.synthetic import KINDS, generate_scene
from resam_runtime.errors import ResamError
from resam_runtime.letterbox import letterbox
from resam_runtime.scene_files import find_scenes
from resam_runtime.scenes import open_scene

SEED = 20_251_121
SIDE = 4  # points along a side of the grid laid over an image without truth
Images = Any  # a folder or a file, or a sequence of files and (H, W, 3) uint8 RGB arrays


@dataclass(frozen=True, eq=False)
class Sample:
    """A tile and its prompts.

    image: (1, S, S, 3) uint8 RGB. coords: (N, 1, 2) float32 tile pixels; labels: (N, 1) int32. truths: (N, S, S)
    bool, or None where nobody knows them.
    """

    image: NDArray[np.uint8]
    coords: NDArray[np.float32]
    labels: NDArray[np.int32]
    truths: NDArray[np.bool_] | None


def default_count(size: int, precision: str) -> int:
    """Synthetic tiles to verify on: some 400 instances where numbers are rounded, two tiles where they are large."""
    return 2 if size > 512 else 4 if precision == "fp32" else 40


def synthetic_samples(size: int, count: int, seed: int = SEED, prompts: int = 24) -> Iterator[Sample]:
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
        yield Sample(scene.image[None], coords, np.ones((len(chosen), 1), np.int32), truths)


def image_samples(size: int, images: Images, count: int) -> Iterator[Sample]:
    """At most `count` of the images, evenly spread, each scaled into one tile. `ResamError` for what is no image."""
    found = _listed(images)
    if not found:
        raise ResamError(f"{images}: holds no image to verify and calibrate with; give a folder of scenes")
    middles = (np.arange(SIDE) + 0.5) / SIDE
    for index in spread(len(found), count):
        pixels = _pixels(found[index])
        tile, scale = letterbox(pixels, size)
        extent = np.array(pixels.shape[1::-1]) * scale
        coords = (np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2) * extent).astype(np.float32)
        yield Sample(tile[None], coords, np.ones((SIDE * SIDE, 1), np.int32), None)


def _listed(images: Images) -> list[Any]:
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        return [scene.path for scene in find_scenes([path], path / ".resam")] if path.is_dir() else [path]
    return list(images)


def _pixels(image: Any) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ResamError(f"an image to verify with must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        return image
    with open_scene(Path(image)) as scene:
        return scene.read(0, 0, scene.width, scene.height)
