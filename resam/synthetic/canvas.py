"""Exact drawing: polygons rasterised at 4 x 4 samples per pixel, and the record of which instance owns which pixel.

A pixel's colour is mixed by its coverage; it belongs to an instance where that coverage is at least one half and
nothing was drawn over it later. So picture and mask come from the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from resam.synthetic.raster import fill, is_convex
from resam.synthetic.textures import grey, row

Polygon = npt.NDArray[np.float64]  # (n, 2) x, y in pixels, pixel centres at integers
Colour = npt.NDArray[np.float32]  # (3,) RGB, 0..255

SAMPLES = 4
_FULL = 240  # divides by 16, so a pixel's mean over its samples is a whole number
_BAND = 64  # rows worked on at once


@dataclass(frozen=True)
class Frame:
    """A place and a direction: local (u, v) -> scene (x, y), u along `angle` (radians, y down)."""

    x: float
    y: float
    angle: float = 0.0

    def apply(self, points: Sequence[Sequence[float]] | Polygon) -> Polygon:
        """Local points (n, 2) to scene points (n, 2)."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([(self.x + u * cos - v * sin, self.y + u * sin + v * cos) for u, v in points], np.float64)

    def at(self, u: float, v: float, turn: float = 0.0) -> Frame:
        """The frame at local (u, v), turned by `turn` radians."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Frame(self.x + u * cos - v * sin, self.y + u * sin + v * cos, self.angle + turn)

    def box(self, u0: float, v0: float, u1: float, v1: float) -> Polygon:
        """The rectangle between two local corners, as a scene polygon."""
        return self.apply([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


@dataclass(frozen=True)
class Piece:
    """A patch of colour inside a thing, never beyond its outline."""

    polygon: Polygon
    colour: Colour
    opacity: float = 1.0


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground. `category` None: a distractor (tree, pier), part of no mask.

    `outline`: polygons whose union is the silhouette; `height`: px above ground, for the shadow; `layer`: things of
    a lower layer lie under, and receive the shadow of, those of a higher one; `contrast`: grain of its surface.
    """

    category: str | None
    outline: list[Polygon]
    colour: Colour
    parts: list[Piece] = field(default_factory=list)
    height: float = 0.0
    layer: int = 0
    grain: float = 5.0


def bounds(polygons: Sequence[Polygon], width: int, height: int, low: int = 0) -> tuple[int, int, int, int]:
    """Pixel window (x0, y0, x1, y1), end exclusive, that holds `polygons`, cut to `low`..`width`, `height`."""
    corners = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    x0, y0 = max(low, math.floor(left) - 1), max(low, math.floor(top) - 1)
    x1, y1 = min(width, math.ceil(right) + 2), min(height, math.ceil(bottom) + 2)
    return x0, y0, max(x0, x1), max(y0, y1)


def coverage(
    polygons: Sequence[Polygon], window: tuple[int, int, int, int], samples: int = SAMPLES
) -> npt.NDArray[np.float32]:
    """Share of each pixel of `window` covered by the union of `polygons`: (h, w) float32 in 0..1, in 1/16 steps.

    `samples`: per pixel and side; fewer than `SAMPLES` only for ground that is part of no mask.
    """
    x0, y0, x1, y1 = window
    # Samples lie evenly within the pixel: the first at (0.5 / samples - 0.5) from its centre.
    first = 0.5 / samples - 0.5
    inside = fill(polygons, (x0 + first, y0 + first), samples, (y1 - y0) * samples, (x1 - x0) * samples)
    grid = inside * np.uint8(_FULL)
    pixels = cv2.resize(grid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return pixels * np.float32(1.0 / _FULL)


def _ground(polygons: Sequence[Polygon], window: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """`coverage` for the ground: large windows at a quarter of the samples."""
    area = (window[2] - window[0]) * (window[3] - window[1])
    return coverage(polygons, window, SAMPLES if area < 1 << 14 else SAMPLES // 2)


def sweep(polygon: Polygon, dx: float, dy: float) -> list[Polygon]:
    """Polygons whose union is what `polygon` covers while it moves by (dx, dy): the cast shadow of a prism."""
    moved = polygon + np.array([dx, dy])
    if is_convex(polygon.tolist()):
        hull = cv2.convexHull(np.concatenate([polygon, moved]).astype(np.float32))
        return [hull.reshape(-1, 2).astype(np.float64)]
    following = np.concatenate([polygon[1:], polygon[:1]])
    moved_following = np.concatenate([moved[1:], moved[:1]])
    return [polygon, moved, *np.stack([polygon, following, moved_following, moved], axis=1)]


class Canvas:
    """A picture under construction: `pixels` (H, W, 3) float32, and `owner` (H, W) int32, 0 or instance number."""

    def __init__(self, ground: npt.NDArray[np.float32], grain: npt.NDArray[np.float32]) -> None:
        self.pixels = np.ascontiguousarray(ground, np.float32)
        self.height, self.width = self.pixels.shape[:2]
        self.owner = np.zeros((self.height, self.width), np.int32)
        self.categories: list[str] = []  # of instance n, at n - 1
        self.windows: list[tuple[int, int, int, int]] = []  # within which instance n lies, at n - 1
        self.grain = grain

    def window(self, polygons: Sequence[Polygon]) -> tuple[int, int, int, int]:
        """`bounds` for this picture."""
        return bounds(polygons, self.width, self.height)

    def paint(
        self, polygons: Sequence[Polygon], colour: npt.NDArray[np.float32], opacity: float = 1.0, grain: float = 4.0
    ) -> None:
        """Lay `colour`, (3,) or a whole picture (H, W, 3), over the union of `polygons`."""
        window = self.window(polygons)
        if window[2] > window[0] and window[3] > window[1]:
            self.mix(window, _ground(polygons, window) * np.float32(opacity), colour, grain)

    def mix(
        self,
        window: tuple[int, int, int, int],
        share: npt.NDArray[np.float32],
        colour: npt.NDArray[np.float32],
        grain: float = 0.0,
    ) -> None:
        """Mix `share` (h, w) of `colour` into `window`: one colour (3,) with grain, or a whole picture (H, W, 3)."""
        x0, y0, _, _ = window
        for rows, columns in _busy(share):
            place = slice(y0 + rows.start, y0 + rows.stop), slice(x0 + columns.start, x0 + columns.stop)
            view = self.pixels[place]
            if colour.ndim == 3:
                change = colour[place] - view
            else:
                change = row(colour, view.shape[1]) - view
                if grain:
                    change += grey(self.grain[place] * np.float32(grain))
            change *= grey(share[rows, columns])
            view += change

    def lay(self, polygon: Polygon, patch: npt.NDArray[np.float32]) -> None:
        """Fill `polygon` with `patch`, a picture (h, w, 3) of just its `window`."""
        x0, y0, x1, y1 = window = self.window([polygon])
        view = self.pixels[y0:y1, x0:x1]
        change = patch - view
        change *= grey(_ground([polygon], window))
        view += change

    def shade(self, polygons: Sequence[Polygon], factor: Colour, samples: int = SAMPLES // 2) -> None:
        """Multiply the union of `polygons` by `factor` (3,): a shadow, laid once however often it overlaps."""
        x0, y0, x1, y1 = window = self.window(polygons)
        if x1 == x0 or y1 == y0:
            return
        share = coverage(polygons, window, samples)
        for rows, columns in _busy(share):
            place = slice(y0 + rows.start, y0 + rows.stop), slice(x0 + columns.start, x0 + columns.stop)
            piece = grey(share[rows, columns])
            piece *= row(factor - 1, piece.shape[1])
            piece += 1
            self.pixels[place] *= piece

    def draw(self, thing: Thing) -> None:
        """Draw `thing`; where it is an instance its pixels become its own, else they become nobody's."""
        x0, y0, x1, y1 = window = self.window(thing.outline)
        if x1 == x0 or y1 == y0:
            return
        share = coverage(thing.outline, window)
        inner = grey(self.grain[y0:y1, x0:x1] * np.float32(thing.grain))
        inner += row(thing.colour, x1 - x0)
        for part in thing.parts:
            px0, py0, px1, py1 = self.window([part.polygon])
            px0, py0, px1, py1 = small = max(px0, x0), max(py0, y0), min(px1, x1), min(py1, y1)
            if px1 <= px0 or py1 <= py0:
                continue
            patch = grey(coverage([part.polygon], small) * np.float32(part.opacity))
            view = inner[py0 - y0 : py1 - y0, px0 - x0 : px1 - x0]
            patch *= row(part.colour, px1 - px0) - view
            view += patch
        target = self.pixels[y0:y1, x0:x1]
        inner -= target
        inner *= grey(share)
        target += inner
        number = 0
        inside = share >= 0.5
        if thing.category is not None:
            self.categories.append(thing.category)
            self.windows.append(window)
            number = len(self.categories)
        self.owner[y0:y1, x0:x1][inside] = number


def _busy(share: npt.NDArray[np.float32]) -> Iterator[tuple[slice, slice]]:
    """Parts of `share` (h, w) that hold all that is not 0: band by band, the columns in use.

    A road across the picture has a window as large as the picture; most of that is empty.
    """
    for start in range(0, share.shape[0], _BAND):
        band = share[start : start + _BAND]
        used = np.flatnonzero(band.any(axis=0))
        if used.size:
            yield slice(start, start + band.shape[0]), slice(int(used[0]), int(used[-1]) + 1)
