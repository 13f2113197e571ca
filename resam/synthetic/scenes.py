"""Whole synthetic scenes: a layout, seen by a sensor, with the mask of every instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from resam.synthetic import sensors
from resam.synthetic.canvas import Canvas
from resam.synthetic.chance import Chance
from resam.synthetic.layouts_open import airport, rural, tanks
from resam.synthetic.layouts_sar import sar_harbour, sar_sea
from resam.synthetic.layouts_town import parking, suburb, urban
from resam.synthetic.layouts_water import harbour, sea
from resam.synthetic.stage import MIN_PIXELS, Stage

CATEGORIES = ("ship", "building", "storage tank", "aircraft", "vehicle")

# The order is part of the seed's meaning: a new kind goes at the end, and VERSION rises with any change of output.
LAYOUTS: dict[str, Callable[[Chance, int, int], Stage]] = {
    "sea": sea,
    "harbour": harbour,
    "urban": urban,
    "suburb": suburb,
    "parking": parking,
    "tanks": tanks,
    "airport": airport,
    "rural": rural,
    "sar_sea": sar_sea,
    "sar_harbour": sar_harbour,
}
KINDS = tuple(LAYOUTS)
VERSION = 1

_MOST, _LEAST = 40, 3  # instances in a 512 px scene
_ATTEMPTS = 20


@dataclass(frozen=True)
class SyntheticScene:
    """A scene and its instances.

    `image`: (H, W, 3) uint8 RGB. `masks`: per instance (x, y, crop): `crop` (h, w) bool is the tight mask, `x`, `y` the
    pixel of its top-left corner; masks never overlap. `categories`: per instance one of `CATEGORIES`. `kind`: one of
    `KINDS`.
    """

    image: npt.NDArray[np.uint8]
    masks: list[tuple[int, int, npt.NDArray[np.bool_]]]
    categories: list[str]
    kind: str


def generate_scene(seed: int, size: int = 512, kind: str | None = None) -> SyntheticScene:
    """The scene of a seed: the same bytes for the same arguments.

    `seed`: non-negative. `size`: side in px, 64 or more. `kind`: one of `KINDS`; None draws one. A 512 px scene holds
    3 to 40 instances; a larger one more, in proportion to its area. Raises `ValueError` for other arguments.
    """
    if seed < 0 or size < 64:
        raise ValueError(f"seed {seed}, size {size}: the seed must not be negative, the size at least 64 px")
    if kind is not None and kind not in LAYOUTS:
        raise ValueError(f"kind {kind!r}: must be one of {', '.join(KINDS)}")
    chosen = kind if kind is not None else Chance(seed, 0).pick(KINDS)
    limit = max(_MOST * size * size // (512 * 512), 12) if size != 512 else _MOST
    best: SyntheticScene | None = None
    for attempt in range(1, _ATTEMPTS + 1):
        chance = Chance(seed, KINDS.index(chosen) + 1, attempt)
        canvas = LAYOUTS[chosen](chance, size, limit).finish()
        masks, categories = _instances(canvas)
        if len(masks) < _LEAST and attempt < _ATTEMPTS and (best is None or len(masks) <= len(best.masks)):
            continue
        sensor = sensors.radar if chosen.startswith("sar") else sensors.optical
        best = SyntheticScene(sensor(chance, canvas.pixels), masks, categories, chosen)
        if len(masks) >= _LEAST:
            break
    assert best is not None
    return best


def _instances(canvas: Canvas) -> tuple[list[tuple[int, int, npt.NDArray[np.bool_]]], list[str]]:
    """The visible pixels of every instance, cropped; instances that something covers almost wholly are left out."""
    masks, categories = [], []
    for number, (category, (x0, y0, x1, y1)) in enumerate(zip(canvas.categories, canvas.windows), start=1):
        mask = canvas.owner[y0:y1, x0:x1] == number
        if int(np.count_nonzero(mask)) < MIN_PIXELS // 2:
            continue
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        masks.append((x0 + int(x), y0 + int(y), mask[y : y + height, x : x + width].copy()))
        categories.append(category)
    return masks, categories
