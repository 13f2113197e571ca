"""Photographs with instance masks, from COCO folders, and the tiles that pretraining cuts from them.

Sizes come first: for each part of a tile an object is drawn, then the size, in pixels of the tile, that it shall have,
evenly on a logarithmic scale. That gives small objects, as in imagery from above, their share, whatever the size at
which they were photographed. Where an object is to be so small that its photograph would not fill the tile, the tile is
a mosaic of several.

Masks are kept instance by instance: those of one image may overlap (a person and the coat). What is not labelled is
never asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resam.data.coco import CocoData, CocoScene
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.crops import mask_bounds

SMALLEST, LARGEST = 6.0, 200.0  # sizes of objects in pixels of the tile: the square root of their area
MOST_ENLARGED = 4.0
SIDES = (1, 2, 3)  # photographs along a side of a tile ...
SIDE_SHARES = (0.6, 0.25, 0.15)  # ... and how often
MIN_AREA = 16  # pixels of the tile that an instance must show to be prompted
MOST_COVERED = 0.9  # of the tile's part, by an instance
MIN_VISIBLE = 0.3  # and the share of it that the tile's part must show
LOOKED_AT = 12  # instances of a photograph that are cut out for one tile
JPEG_QUALITY = 95  # of the copies in memory
MOST_IMAGES = 400  # of a source, as far as its weight goes


@dataclass(frozen=True)
class LabelledTile:
    """image: (S, S, 3) uint8 RGB; masks: (N, S, S) bool, N >= 1, which may overlap."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class _Instance:
    """A mask as bits within its bounds x, y, width, height in pixels; `size`: the square root of its area."""

    bounds: tuple[int, int, int, int]
    size: float
    bits: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.uint8]:
        _, _, width, height = self.bounds
        return np.unpackbits(self.bits, count=width * height).reshape(height, width)


class Photograph:
    """One image and its instances; read when first asked for, and kept in little memory."""

    def __init__(self, scene: CocoScene) -> None:
        self._scene = scene
        self.width, self.height = scene.width, scene.height

    @cached_property
    def _encoded(self) -> NDArray[np.uint8]:
        pixels = np.ascontiguousarray(self._scene.read()[..., ::-1])
        return np.asarray(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return np.asarray(cv2.imdecode(self._encoded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]

    @cached_property
    def instances(self) -> tuple[_Instance, ...]:
        """Those that have a pixel."""
        found = []
        for instance in self._scene.instances:
            mask = self._scene.mask(instance)
            if (bounds := mask_bounds(mask)) is not None:
                x0, y0, x1, y1 = bounds
                crop = mask[y0:y1, x0:x1]
                found.append(_Instance((x0, y0, x1 - x0, y1 - y0), float(crop.sum()) ** 0.5, np.packbits(crop)))
        return tuple(found)


@dataclass(frozen=True)
class Source:
    """The photographs of one data set that have instances, and those set aside for validation, as COCO has them."""

    name: str
    photographs: tuple[Photograph, ...]
    validation: CocoData | None

    @property
    def weight(self) -> float:
        """How often it is drawn from, to a common factor: the root of its size, so that small ones count."""
        return float(min(MOST_IMAGES, len(self.photographs)) ** 0.5)


def open_sources(folders: Iterable[Path]) -> list[Source]:
    """The data sets in `folders`: each a folder with train.json, images/ and perhaps val.json, or one of such folders.

    Raises `ResamError` for a folder that is neither, and for annotations that cannot be read.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/train.json"))
        own = [folder] if (folder / "train.json").is_file() else inside
        if not own:
            raise ResamError(f"{folder}: no train.json in it or in its folders; expected COCO data sets")
        for path in own:
            if path.name in found:
                raise ResamError(f"{path}: another source is called {path.name}; rename one of the folders")
            found[path.name] = path
    sources = []
    for name, path in found.items():
        photographs = tuple(Photograph(scene) for scene in CocoData.open(path / "train.json").scenes if scene.instances)
        if not photographs:
            raise ResamError(f"{path / 'train.json'}: has no instances")
        held_out = path / "val.json"
        sources.append(Source(name, photographs, CocoData.open(held_out) if held_out.is_file() else None))
    return sources


def photograph_tile(sources: Sequence[Source], side: int, rng: np.random.Generator) -> LabelledTile:
    """A tile of `side` pixels from one to nine photographs; its first mask is that of an object drawn for its size."""
    weights = np.array([source.weight for source in sources])
    count = int(rng.choice(SIDES, p=SIDE_SHARES))
    edges = np.linspace(0, side, count + 1).round().astype(int).tolist()
    image, masks = np.empty((side, side, 3), np.uint8), []
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            part: _Part | None = None
            while part is None:
                source = sources[int(rng.choice(len(sources), p=weights / weights.sum()))]
                photograph = source.photographs[int(rng.integers(len(source.photographs)))]
                part = _cut(photograph, right - left, bottom - top, rng)
            image[top:bottom, left:right] = part[0]
            for mask in part[1]:
                whole = np.zeros((side, side), bool)
                whole[top:bottom, left:right] = mask
                masks.append(whole)
    return LabelledTile(image, np.stack(masks))


_Part = tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]


def _cut(photograph: Photograph, width: int, height: int, rng: np.random.Generator) -> _Part | None:
    """A window of a photograph scaled to (height, width), and masks of instances in it, that it was cut for first.

    None where the photograph has no instance, or too little of the instance drawn is in the window.
    """
    if not photograph.instances:
        return None
    wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(min(LARGEST, 1.2 * min(width, height)))))
    stretch = np.exp(rng.normal(0, 0.08, 2))
    least = float(np.max(np.array([width, height]) / stretch / (photograph.width, photograph.height)))
    order = rng.permutation(len(photograph.instances))[:LOOKED_AT].tolist()
    scales = [wanted / photograph.instances[index].size for index in order]
    fitting = [place for place, scale in enumerate(scales) if least <= scale <= MOST_ENLARGED]
    chosen = fitting[0] if fitting else 0
    scale = max(least, min(MOST_ENLARGED, scales[chosen]))
    order.insert(0, order.pop(chosen))

    extent = np.minimum(np.ceil(np.array([width, height]) / (scale * stretch)), (photograph.width, photograph.height))
    cut_width, cut_height = (int(value) for value in extent)
    x, y, w, h = photograph.instances[order[0]].bounds
    middle = np.array([x + w / 2, y + h / 2])
    corner = middle - rng.uniform(0.1, 0.9, 2) * extent
    left = int(np.clip(corner[0], 0, photograph.width - cut_width))
    top = int(np.clip(corner[1], 0, photograph.height - cut_height))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    window = np.ascontiguousarray(photograph.pixels[top : top + cut_height, left : left + cut_width])
    masks = []
    for place, index in enumerate(order):
        shown = _within(photograph.instances[index], left, top, cut_width, cut_height)
        if shown is not None:
            mask = np.asarray(cv2.resize(shown, (width, height), interpolation=how) >= 128, bool)
            if MIN_AREA <= mask.sum() <= MOST_COVERED * mask.size:
                masks.append(mask)
        if place == 0 and not masks:
            return None
    return np.asarray(cv2.resize(window, (width, height), interpolation=how), np.uint8), masks


def _within(instance: _Instance, left: int, top: int, width: int, height: int) -> NDArray[np.uint8] | None:
    """An instance's mask in a window, (height, width) of 0 and 255; None where the window shows too little of it."""
    x, y, w, h = instance.bounds
    x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + width), min(y + h, top + height)
    if x0 >= x1 or y0 >= y1:
        return None
    shown = instance.mask[y0 - y : y1 - y, x0 - x : x1 - x]
    if shown.sum() < MIN_VISIBLE * instance.size**2:
        return None
    canvas = np.zeros((height, width), np.uint8)
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = shown * 255
    return canvas
