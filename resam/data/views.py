"""Weak and strong views of a tile. Weak: mirrored or not. Strong: the weak view, photometric change only.

So both views share their geometry, and a mask made from the one is a target for the other. The strong operations are
the method's: posterize, equalize, sharpen, solarize, brightness and contrast, shadow; each happens with its own coin.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def draw_mirror(rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether the weak view is mirrored in x and in y, evenly drawn."""
    x, y = rng.integers(0, 2, 2)
    return bool(x), bool(y)


def strong_view(
    image: Image, rng: np.random.Generator, extent: tuple[int, int] | None = None, probability: float = 0.5
) -> Image:
    """The strong view of a weak one, (H, W, 3) uint8; each operation happens with `probability`.

    extent: height and width that are not padding (None: all); padding keeps its value.
    """
    height, width = extent or image.shape[:2]
    content = image[:height, :width]
    for operation in OPERATIONS:
        # the coin is thrown and the numbers are drawn either way, so that one operation's fate moves no other's
        happens, own = rng.random() < probability, np.random.default_rng(rng.integers(1 << 62))
        if happens:
            content = operation(content, own)
    out = image.copy()
    out[:height, :width] = content
    return out


def posterize(image: Image, rng: np.random.Generator) -> Image:
    """Keep 4 to 6 of the 8 bits of each value."""
    dropped = 8 - int(rng.integers(4, 7))
    return (image >> dropped << dropped).astype(np.uint8)


def equalize(image: Image, rng: np.random.Generator) -> Image:
    """Spread each band's histogram evenly."""
    bands = [np.asarray(cv2.equalizeHist(np.ascontiguousarray(image[..., band])), np.uint8) for band in range(3)]
    return np.stack(bands, axis=-1)


def sharpen(image: Image, rng: np.random.Generator) -> Image:
    """Unsharp mask, 0.2 to 1 times what a 3 px blur takes away."""
    amount = float(rng.uniform(0.2, 1.0))
    out = cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)
    return np.asarray(out, np.uint8)


def solarize(image: Image, rng: np.random.Generator) -> Image:
    """Invert the values above a threshold in the upper half of the range."""
    return np.where(image >= rng.integers(128, 256), 255 - image, image).astype(np.uint8)


def brightness_contrast(image: Image, rng: np.random.Generator) -> Image:
    """Contrast and brightness by up to 0.2 each way."""
    contrast, brightness = rng.uniform(-0.2, 0.2, 2)
    return np.asarray(
        cv2.convertScaleAbs(np.maximum((1 + contrast) * image.astype(np.float32) + 255 * brightness, 0)), np.uint8
    )


def shadow(image: Image, rng: np.random.Generator) -> Image:
    """Darken one or two quadrilaterals to half their brightness, as a cloud would."""
    height, width = image.shape[:2]
    lit = np.ones((height, width), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        corners = rng.random((4, 2)) * (width, height)
        angles = np.arctan2(*(corners - corners.mean(axis=0)).T)
        cv2.fillPoly(lit, [np.rint(corners[np.argsort(angles)]).astype(np.int32)], 0.5)
    return (image * lit[..., None]).astype(np.uint8)


OPERATIONS: tuple[Callable[[Image, np.random.Generator], Image], ...] = (
    posterize,
    equalize,
    sharpen,
    solarize,
    brightness_contrast,
    shadow,
)
