"""Scenes cut into pieces for the screen.

A piece is a square of 512 px at a zoom level: level 0 is the scene's own pixels, each further level half of the one
before, up to the one that fits in a single piece. Fine levels are read window by window, coarse ones come from
an overview that is kept, so that a scene of 10,000 px is read once and pans from then on.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.scene import SCENE_SUFFIXES, Scene, open_scene
from resam_runtime.scenes.scene_files import walk_scenes

PIECE = 512
OVERVIEW = 4096
"""Longest side of the overview from which coarse levels are cut, px."""
_OPEN_SCENES = 4
_OPEN_PIXELS = 250_000_000
_JPEG_QUALITY = 92
_Result = TypeVar("_Result")
Image = NDArray[np.uint8]


def list_scenes(path: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """A folder and the names of the scenes in it: paths relative to it with slashes, in natural order.

    The scenes and names that `resam-run` finds there; a path to one image gives its folder and its name. Raises
    `ResamError` when there is no such folder or no image in it.
    """
    root = Path(path)
    if root.is_file() and root.suffix.lower() in SCENE_SUFFIXES:
        return root.parent, [root.name]
    if not root.is_dir():
        what = "not an image" if root.is_file() else "no such folder"
        raise ResamError(f"{root}: {what}; give a folder of images")
    names = [path.relative_to(root).as_posix() for path in walk_scenes(root, out=root)]
    if not names:
        raise ResamError(f"{root}: no images; looked for {' '.join(sorted(SCENE_SUFFIXES))}")
    return root, sorted(names, key=_natural)


def _natural(name: str) -> list[Any]:
    """img2 before img10: texts at even places, numbers at odd ones."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name.lower())]


def levels(width: int, height: int) -> int:
    """Number of zoom levels of a scene."""
    count = 1
    while max(width, height) > PIECE << (count - 1):
        count += 1
    return count


class SceneImages:
    """Reads the scenes of one folder for many threads, keeping the last few open.

    Scenes are not thread-safe, so one thread of its own opens, reads and closes them all.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root, self.names = root, names
        self._open: OrderedDict[int, Scene] = OrderedDict()
        self._overviews: dict[int, dict[int, Image]] = {}
        self._reader = ThreadPoolExecutor(1, "scene-reader")

    def size(self, index: int) -> tuple[int, int]:
        """Width and height in px. Raises `ResamError` for an image that cannot be read, as all methods do."""
        return self._read(index, lambda scene: (scene.width, scene.height))

    def window(self, index: int, x: int, y: int, width: int, height: int) -> Image:
        """A window of the scene's own pixels: (height, width, 3) uint8 RGB."""
        return self._read(index, lambda scene: scene.read(x, y, width, height))

    def window_with_data(
        self, index: int, x: int, y: int, width: int, height: int
    ) -> tuple[Image, NDArray[np.bool_] | None]:
        """A window, and which of its pixels have data, (height, width); None: all."""
        return self._read(index, lambda scene: scene.read_with_data(x, y, width, height))

    def piece(self, index: int, level: int, column: int, row: int) -> bytes:
        """One piece as JPEG. Raises `IndexError` where the scene has none."""
        import cv2

        pixels = self._read(index, lambda scene: self._cut(index, scene, level, column, row))
        parameters = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        # full colour resolution: a ship is ten pixels long
        parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        whole, encoded = cv2.imencode(".jpg", pixels[..., ::-1], parameters)
        if not whole:
            raise ResamError(f"{self.names[index]}: cannot be encoded for the page")
        return encoded.tobytes()

    def close(self) -> None:
        """Close all scenes."""
        self._reader.submit(self._close_all).result()
        self._reader.shutdown()

    def _read(self, index: int, read: Callable[[Scene], _Result]) -> _Result:
        return self._reader.submit(lambda: read(self._scene(index))).result()

    def _scene(self, index: int) -> Scene:
        if index not in self._open:
            scene = open_scene(self.root / self.names[index], name=self.names[index])
            self._open[index] = scene
        self._open.move_to_end(index)
        while len(self._open) > 1 and (
            len(self._open) > _OPEN_SCENES or sum(s.width * s.height for s in self._open.values()) > _OPEN_PIXELS
        ):
            oldest, scene = self._open.popitem(last=False)
            self._overviews.pop(oldest, None)
            scene.close()
        return self._open[index]

    def _close_all(self) -> None:
        for scene in self._open.values():
            scene.close()
        self._open.clear()
        self._overviews.clear()

    def _cut(self, index: int, scene: Scene, level: int, column: int, row: int) -> Image:
        if not 0 <= level < levels(scene.width, scene.height):
            raise IndexError(f"no level {level}")
        step = PIECE << level
        x, y = column * step, row * step
        if not (0 <= x < scene.width and 0 <= y < scene.height):
            raise IndexError(f"no piece {column}, {row} at level {level}")
        if level and max(scene.width, scene.height) <= OVERVIEW << level:
            whole = self._level(index, scene, level)
            return whole[row * PIECE : (row + 1) * PIECE, column * PIECE : (column + 1) * PIECE]
        width, height = min(step, scene.width - x), min(step, scene.height - y)
        pixels = scene.read(x, y, width, height)
        return pixels if level == 0 else _shrink(pixels, -(-width >> level), -(-height >> level))

    def _level(self, index: int, scene: Scene, level: int) -> Image:
        """The whole scene at a level, from the next finer one that an overview holds."""
        kept = self._overviews.setdefault(index, {})
        if level not in kept:
            width, height = -(-scene.width >> level), -(-scene.height >> level)
            if max(scene.width, scene.height) <= OVERVIEW << (level - 1) and level > 1:
                pixels = self._level(index, scene, level - 1)
            else:
                pixels = scene.overview(max(width, height))
            kept[level] = pixels if pixels.shape[:2] == (height, width) else _shrink(pixels, width, height)
        return kept[level]


def _shrink(pixels: Image, width: int, height: int) -> Image:
    import cv2

    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
