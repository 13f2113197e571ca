"""Letterboxing: a scene (or a window of it) scaled into the square tile, padded bottom and right.

One definition for training and for the device, so that a picture is prepared the same way in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255, SAM's own
PIXEL_STD = (58.395, 57.12, 57.375)
PAD_VALUE = (124, 116, 104)  # the mean, rounded: padding is (nearly) zero after normalisation inside the graph


def letterbox(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], float]:
    """Resize the longer side to `size` and pad bottom and right with the mean pixel.

    image: (H, W, 3) uint8 RGB -> tile (size, size, 3) uint8, scale = size / max(H, W). The scale holds for
    both axes exactly (the shorter side is resized by it too, not by its own rounded length).
    Raises `ValueError` for anything but a non-empty (H, W, 3) uint8 array.
    """
    height, width = _check(image).shape[:2]
    scale = size / max(height, width)
    return scale_to_tile(image, size, scale), scale


def scale_to_tile(window: NDArray[np.uint8], size: int, scale: float) -> NDArray[np.uint8]:
    """Resize a window (h, w, 3) uint8 by `scale` and pad it to (size, size, 3); it must fit.

    Downscaling averages the covered area (no aliasing), upscaling is bilinear; both map pixel centres as
    `scene_to_tile` does.
    """
    import cv2

    height, width = _check(window).shape[:2]
    if scale != 1.0:
        # fx and fy, not a target size: so both axes share the scale however the shorter side rounds. A side
        # that would round to nothing keeps one pixel.
        if round(height * scale) < 1 or round(width * scale) < 1:
            target = (max(1, round(width * scale)), max(1, round(height * scale)))
            window = np.asarray(cv2.resize(window, target, interpolation=cv2.INTER_AREA), np.uint8)
        else:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            window = np.asarray(cv2.resize(window, None, fx=scale, fy=scale, interpolation=how), np.uint8)
        height, width = window.shape[:2]
    if height > size or width > size:
        raise ValueError(f"a window of {width} x {height} px does not fit the tile of {size} px")
    if height == size and width == size:
        return np.ascontiguousarray(window)
    tile = np.empty((size, size, 3), np.uint8)
    tile[:height, :width] = window
    tile[:height, width:] = PAD_VALUE
    tile[height:] = PAD_VALUE
    return tile


def mirrored(window: NDArray[Any], mirror: tuple[bool, bool]) -> NDArray[Any]:
    """A window (h, w, ...) mirrored in x, in y, in both or not."""
    if mirror[0]:
        window = window[:, ::-1]
    if mirror[1]:
        window = window[::-1]
    return np.ascontiguousarray(window)


def scene_to_tile(coords: ArrayLike, scale: float, origin: ArrayLike = (0.0, 0.0)) -> NDArray[np.float32]:
    """Scene pixels (..., 2) -> tile pixels (..., 2) float32, for the window at `origin` scaled by `scale`.

    Pixel centres are at integers in both, so a scene pixel's centre x lies at (x - x0 + 0.5) * scale - 0.5.
    """
    points = np.asarray(coords, np.float64)
    return ((points - np.asarray(origin) + 0.5) * scale - 0.5).astype(np.float32)


def tile_to_scene(coords: ArrayLike, scale: float, origin: ArrayLike = (0.0, 0.0)) -> NDArray[np.float32]:
    """The inverse of `scene_to_tile`; also of coordinates along one axis, with that axis' origin."""
    points = np.asarray(coords, np.float64)
    return ((points + 0.5) / scale - 0.5 + np.asarray(origin)).astype(np.float32)


def _check(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shape = getattr(image, "shape", None)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an (H, W, 3) uint8 RGB array, got {getattr(image, 'dtype', type(image))} {shape}")
    if image.shape[0] == 0 or image.shape[1] == 0:
        raise ValueError("the image has no pixels")
    return image
