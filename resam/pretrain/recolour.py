"""Other cameras, weathers and sensors: how a tile is turned and recoloured before pretraining sees it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from resam.pretrain.photographs import LabelledTile


def turned(tile: LabelledTile, rng: np.random.Generator) -> LabelledTile:
    """A copy turned by quarters and mirrored."""
    turns, mirror = int(rng.integers(0, 4)), rng.random() < 0.5
    image, masks = np.rot90(tile.image, turns), np.rot90(tile.masks, turns, (1, 2))
    return LabelledTile(image[:, ::-1], masks[:, :, ::-1]) if mirror else LabelledTile(image, masks)


def recoloured(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy (S, S, 3) with channels swapped, inverted, brighter or darker, gray; blurred, hazy, noisy or compressed.

    One in eight is gray with multiplicative noise, as a radar picture.
    """
    pixels = np.ascontiguousarray(image).astype(np.float32)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.12:
        pixels = 255 - pixels
    if rng.random() < 0.3:
        low, high = np.percentile(pixels[::4, ::4], (1, 99))
        pixels = np.clip((pixels - low) * np.float32(255 / max(16.0, high - low)), 0, 255)
    pixels = 255 * (pixels / 255) ** np.float32(np.exp(rng.normal(0, 0.25)))
    pixels = (pixels - 128) * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(128 + rng.normal(0, 12))
    if rng.random() < 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.12:
        haze = np.float32(rng.uniform(0.1, 0.5))
        pixels = pixels * (1 - haze) + haze * np.float32(rng.uniform(130, 240))
    kind = rng.random()
    if kind < 0.125:
        pixels = _radar(pixels, rng)
    elif kind < 0.25:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:
        pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(2, 14))
    result = np.clip(pixels, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        _, encoded = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
        result = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return result


def _radar(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Gray with speckle of one to twelve looks, (S, S, 3): amplitudes, and mostly a dark ground with bright parts."""
    gray = np.clip(pixels.mean(axis=2), 0, 255) / 255
    power = (gray ** np.float32(rng.uniform(0.8, 2.5))) ** 2
    looks = rng.uniform(1, 12)
    power = power * rng.gamma(looks, 1 / looks, power.shape).astype(np.float32)
    if rng.random() < 0.5:
        power = cv2.GaussianBlur(power, (0, 0), rng.uniform(0.4, 1.0))
    amplitude = np.sqrt(power) * np.float32(255 * rng.uniform(0.8, 1.6))
    return np.repeat(amplitude[..., None], 3, axis=2).astype(np.float32)
