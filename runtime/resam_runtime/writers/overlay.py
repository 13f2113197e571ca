"""`NAME.png`: a scene with its instances drawn on it, for a person to look at.

Each instance is outlined in its own colour and lightly filled; beside it its score, on it its points (a ring: on the
instance, a cross: off it). Georeferenced scenes carry a scale bar. Large scenes are shrunk, small ones enlarged.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.writers.writer import OutputOptions, SceneResult, SceneWriter

LONGEST = 2048
"""Longer side of an overlay at most, px."""
_SHORT = 900  # scenes whose longer side is below are enlarged by a whole factor, so that text is legible
_SHIFT = 4  # OpenCV's fixed-point coordinates: 1 / 16 px
_FILL = 0.22
Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
WHITE, BLACK, POSITIVE, NEGATIVE = (255, 255, 255), (18, 18, 18), (40, 225, 110), (255, 70, 70)


class OverlayWriter(SceneWriter):
    """Draws a scene and writes it."""

    name, files, default = "overlay", "NAME.png", True
    suffixes = (".png",)
    needs_overview = True

    def write(self, path: Path, result: SceneResult, options: OutputOptions) -> Sequence[str]:
        import cv2

        done, data = cv2.imencode(".png", draw_overlay(result)[..., ::-1])
        if not done:
            raise ResamError(f"{result.scene.name}: its overlay cannot be encoded as PNG")
        with atomic_write(path) as temporary:
            temporary.write_bytes(data.tobytes())
        return ()


def draw_overlay(result: SceneResult) -> Picture:
    """The overlay (h, w, 3) uint8 RGB of a scene whose `overview` is there."""
    import cv2

    if result.overview is None:
        raise ValueError("an overlay needs the scene's overview")
    scene = result.scene
    picture = result.overview.copy()
    factor = _SHORT // max(picture.shape[:2]) + 1 if max(picture.shape[:2]) < _SHORT else 1
    if factor > 1:
        picture = np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)
    height, width = picture.shape[:2]
    scale = np.array([width / scene.width, height / scene.height])
    unit = max(1.0, max(height, width) / 1024)  # what one "pixel" of a line is at this size

    outlines = []
    tint = picture.copy()
    for instance in sorted(result.instances, key=lambda one: (-one.area, one.index)):
        rings = [_fixed((ring + 0.5) * scale - 0.5) for polygon in instance.polygons for ring in polygon]
        colour = instance_colour(instance.index)
        cv2.fillPoly(tint, rings, colour, cv2.LINE_AA, _SHIFT)
        outlines.append((rings, colour))
    cv2.addWeighted(tint, _FILL, picture, 1 - _FILL, 0, picture)
    for rings, colour in outlines:
        if unit >= 1 and len(outlines) <= 400:  # a dark rim keeps a line readable on any ground
            cv2.polylines(picture, rings, True, BLACK, round(unit) + 2, cv2.LINE_AA, _SHIFT)
        cv2.polylines(picture, rings, True, colour, max(1, round(unit)), cv2.LINE_AA, _SHIFT)
    sizes = [math.sqrt(max(instance.area, 1) * scale[0] * scale[1]) for instance in result.instances]
    radius = float(np.clip((np.median(sizes) if sizes else 30) / 9, 1.6, 4.0) * unit)
    for instance in result.instances:
        for point, label in zip((instance.points + 0.5) * scale - 0.5, instance.labels):
            if label in (0, 1):
                _point(picture, point, bool(label), radius)
    _scores(picture, result, scale, unit)
    if scene.georeference is not None:
        ground = scene.georeference.metres_per_pixel(scene.size_wh)
        if ground is not None:
            _scale_bar(picture, ground / float(scale[0]), unit)
    return picture


def instance_colour(index: int) -> Colour:
    """A bright colour, far from those of the instances before: hues one golden angle apart."""
    hue = (0.13 + index * 0.6180339887) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.9)[index % 3], 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def nice_length(metres: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `metres`."""
    power = 10.0 ** math.floor(math.log10(metres))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= metres * (1 + 1e-9))


def _fixed(points: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)


def _point(picture: Picture, point: npt.NDArray[Any], positive: bool, radius: float) -> None:
    import cv2

    x, y = (round(float(value) * (1 << _SHIFT)) for value in point)
    size = round(radius * (1 << _SHIFT))
    if positive:
        cv2.circle(picture, (x, y), size + (1 << _SHIFT), BLACK, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, (x, y), size, WHITE, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, (x, y), round(size * 0.55), POSITIVE, -1, cv2.LINE_AA, _SHIFT)
        return
    for colour, thickness in ((BLACK, 4), (NEGATIVE, 2)):
        for step in ((1, 1), (1, -1)):
            first, last = (x - size * step[0], y - size * step[1]), (x + size * step[0], y + size * step[1])
            cv2.line(picture, first, last, colour, thickness, cv2.LINE_AA, _SHIFT)


def _scores(picture: Picture, result: SceneResult, scale: npt.NDArray[Any], unit: float) -> None:
    """A score above each instance, best first, left out where it would cover another score or a point."""
    import cv2

    font, size, thick = cv2.FONT_HERSHEY_SIMPLEX, 0.36 * unit, max(1, round(unit))
    pad = max(2, round(2 * unit))
    height, width = picture.shape[:2]
    taken: list[tuple[float, float, float, float]] = []
    for instance in result.instances:
        for x, y in (instance.points + 0.5) * scale - 0.5:
            taken.append((x - 3 * unit, y - 3 * unit, x + 3 * unit, y + 3 * unit))
    for instance in sorted(result.instances, key=lambda one: (-one.score, one.index)):
        text = f"{instance.score:.2f}"
        (text_width, text_height), _ = cv2.getTextSize(text, font, size, thick)
        wide, high = text_width + 2 * pad, text_height + 2 * pad
        corners = np.concatenate([instance.box[:2], instance.box[2:] + 1]).reshape(2, 2) * scale
        x0, y0, x1, y1 = (float(value) for value in corners.flat)
        if min(x1 - x0, y1 - y0) < 4:
            continue
        middle = (x0 + x1 - wide) / 2
        for left, top in (
            (middle, y0 - high - 2 * unit),
            (middle, y1 + 2 * unit),
            (x1 + 2 * unit, y0),
            (x0 - wide, y0),
        ):
            left, top = round(min(max(left, 0), width - wide)), round(min(max(top, 0), height - high))
            box = (left, top, left + wide, top + high)
            if all(box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken):
                break
        else:
            continue
        taken.append(box)
        _plate(picture, box, 0.62)
        base = (left + pad, top + pad + text_height)
        cv2.putText(picture, text, base, font, size, instance_colour(instance.index), thick, cv2.LINE_AA)


def _scale_bar(picture: Picture, metres_per_px: float, unit: float) -> None:
    import cv2

    height, width = picture.shape[:2]
    length = nice_length(metres_per_px * width * 0.22)
    pixels = round(length / metres_per_px)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m" if length >= 1 else f"{length * 100:g} cm"
    font, size, thick = cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, max(1, round(unit))
    (text_width, text_height), _ = cv2.getTextSize(text, font, size, thick)
    pad, bar = round(8 * unit), max(3, round(4 * unit))
    wide, high = max(pixels, text_width) + 2 * pad, text_height + bar + 3 * pad
    margin = round(12 * unit)
    left, top = margin, height - margin - high
    if top < 0 or left + wide > width:
        return
    _plate(picture, (left, top, left + wide, top + high), 0.62)
    start = left + (wide - pixels) // 2
    level = top + high - pad - bar
    cv2.putText(
        picture, text, (left + (wide - text_width) // 2, top + pad + text_height), font, size, WHITE, thick, cv2.LINE_AA
    )
    for part in range(4):
        first, last = start + pixels * part // 4, start + pixels * (part + 1) // 4
        cv2.rectangle(picture, (first, level), (last - 1, level + bar - 1), BLACK if part % 2 else WHITE, -1)
    cv2.rectangle(picture, (start - 1, level - 1), (start + pixels, level + bar), WHITE, 1)


def _plate(picture: Picture, box: tuple[int, int, int, int], strength: float) -> None:
    left, top, right, bottom = box
    view = picture[max(top, 0) : bottom, max(left, 0) : right]
    view[...] = (view * (1 - strength) + np.array(BLACK) * strength).astype(np.uint8)
