"""A scene being laid out: what goes where, with nothing on top of anything else, then drawn from the ground up."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from resam.synthetic.canvas import Canvas, Colour, Frame, Polygon, Thing, bounds, sweep
from resam.synthetic.chance import Chance
from resam.synthetic.objects import Light, rgb
from resam.synthetic.raster import fill
from resam.synthetic.textures import Field, fractal

MIN_INSIDE = 0.6  # share of an instance that must lie inside the picture: no slivers at the border
MIN_PIXELS = 14


class Stage:
    """The ground, the light, and the things queued to stand on it.

    `limit`: the most instances the scene may hold; `add` refuses more, so that nothing is drawn without a mask.
    """

    def __init__(self, chance: Chance, ground: Field, limit: int, light: Light | None = None) -> None:
        self.chance = chance
        height, width = ground.shape[:2]
        self.canvas = Canvas(ground, fractal(chance, height, width, 8, 1, 0.85))
        self.light = light if light is not None else sunlight(chance)
        self.shadow: Colour = rgb(0.42, 0.46, 0.55) + np.float32(chance.uniform(-0.06, 0.12))
        self.limit = limit
        self.count = 0
        self._reserved = np.zeros((height, width), np.uint8)
        self._queue: list[Thing] = []

    @property
    def size(self) -> int:
        """Side of the picture in px."""
        return self.canvas.width

    @property
    def full(self) -> bool:
        """No more instances are wanted."""
        return self.count >= self.limit

    def reserve(self, polygons: list[Polygon]) -> None:
        """Keep `polygons` free of things."""
        x0, y0, x1, y1 = window = self.canvas.window(polygons)
        if x1 > x0 and y1 > y0:
            self._reserved[y0:y1, x0:x1] |= _raster(polygons, window)

    def add(self, thing: Thing, margin: int = 0) -> bool:
        """Queue `thing` if it fits: enough of it inside the picture and `margin` px from whatever stands already."""
        if thing.category is not None and self.full:
            return False
        x0, y0, x1, y1 = window = bounds(thing.outline, 1 << 20, 1 << 20, low=-(1 << 20))
        cells = _raster(thing.outline, window)
        total = int(np.count_nonzero(cells))
        left, top = max(0, -x0), max(0, -y0)
        right, bottom = min(x1, self.canvas.width) - x0, min(y1, self.canvas.height) - y0
        if right <= left or bottom <= top:
            return False
        cells = np.ascontiguousarray(cells[top:bottom, left:right])
        inside = int(np.count_nonzero(cells))
        if thing.category is not None and (inside < MIN_INSIDE * total or inside < MIN_PIXELS):
            return False
        region = self._reserved[y0 + top : y0 + bottom, x0 + left : x0 + right]
        wide = cells
        if margin:
            wide = np.asarray(cv2.dilate(cells, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)), np.uint8)
        if np.any(region & wide):
            return False
        region |= cells
        self._queue.append(thing)
        self.count += thing.category is not None
        return True

    def near(self, frame: Frame, margin: float = 12.0) -> bool:
        """Whether the frame's origin lies in the picture or within `margin` px of it."""
        return -margin < frame.x < self.canvas.width + margin and -margin < frame.y < self.canvas.height + margin

    def vacant(self, frame: Frame) -> bool:
        """Whether nothing stands at the frame's origin: cheap to ask before building a thing that will not fit."""
        x, y = round(frame.x), round(frame.y)
        inside = 0 <= x < self.canvas.width and 0 <= y < self.canvas.height
        return not inside or not self._reserved[y, x]

    def finish(self) -> Canvas:
        """Draw everything: layer by layer, the shadows of a layer before its things."""
        for layer in sorted({thing.layer for thing in self._queue}):
            things = [thing for thing in self._queue if thing.layer == layer]
            reach = self.light.reach
            shadows = [
                piece
                for thing in things
                if thing.height * reach > 0.7
                for polygon in thing.outline
                for piece in sweep(polygon, *self._cast(thing.height * reach))
            ]
            if shadows:
                self.canvas.shade(shadows, self.shadow)
            for thing in things:
                self.canvas.draw(thing)
        self._queue = []
        return self.canvas

    def _cast(self, length: float) -> tuple[float, float]:
        return self.light.dx * length, self.light.dy * length


def sunlight(chance: Chance) -> Light:
    """A sun of random azimuth, 30 to 65 degrees high."""
    azimuth = chance.uniform(0, 2 * math.pi)
    return Light(math.cos(azimuth), math.sin(azimuth), chance.uniform(0.45, 1.6))


def _raster(polygons: list[Polygon], window: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Pixels of `window` whose centre `polygons` cover: enough to keep things apart."""
    x0, y0, x1, y1 = window
    return fill(polygons, (x0, y0), 1, y1 - y0, x1 - x0)
