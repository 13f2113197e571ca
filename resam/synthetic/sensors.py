"""From the ground truth of colours to what a sensor delivers: optics, air, noise, compression; and radar speckle."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from resam.synthetic.chance import Chance
from resam.synthetic.textures import Field, fractal, grey, row

Picture = npt.NDArray[np.uint8]


def _blur(pixels: Field, sigma: float) -> Field:
    """Gaussian blur of values 0..255. In 16-bit fixed point, OpenCV's blur gives the same bits everywhere."""
    fixed = np.clip(pixels, 0, 255)
    fixed *= np.float32(256)
    blurred = cv2.GaussianBlur(fixed.astype(np.uint16), (5, 5), sigma)
    return blurred * np.float32(1 / 256)


def _jpeg(picture: Picture, quality: int) -> Picture:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _quantise(pixels: Field) -> Picture:
    pixels += np.float32(0.5)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def optical(chance: Chance, pixels: Field) -> Picture:
    """An optical camera: haze or thin cloud, blur, exposure and cast, noise, sometimes grey, sometimes JPEG.

    `pixels` (H, W, 3) float32 RGB 0..255 -> (H, W, 3) uint8.
    """
    height, width = pixels.shape[:2]
    pixels = _blur(pixels, chance.uniform(0.35, 0.95))
    air = np.array([196, 206, 216], np.float32)
    veil = chance.uniform(0.0, 0.1)
    if chance.flip(0.3):
        veil += chance.uniform(0.05, 0.2)
    if chance.flip(0.2):
        cloud = np.clip(fractal(chance, height, width, 256, 8, 0.55) * 0.5 - chance.uniform(0.0, 0.15), 0, 0.45)
        pixels += (row(air + 20, width) - pixels) * grey(cloud)
    contrast, middle = chance.uniform(0.85, 1.2), chance.uniform(96, 116)
    gain = np.array([chance.uniform(0.95, 1.05) for _ in range(3)], np.float32) * np.float32(chance.uniform(0.82, 1.12))
    # Veil, contrast and gain are one line per channel: pixel * slope + shift.
    slope = gain * np.float32((1 - veil) * contrast)
    shift = ((air * np.float32(veil) - np.float32(middle)) * np.float32(contrast) + np.float32(middle)) * gain
    pixels *= row(slope, width)
    pixels += row(shift, width)
    if chance.flip(0.12):
        red, green, blue = (pixels[..., i] for i in range(3))
        pixels = grey(red * np.float32(0.35) + green * np.float32(0.45) + blue * np.float32(0.2))
    level = chance.uniform(0.8, 4.5)
    pixels += grey(chance.noise(height, width) * np.float32(level))
    colour_noise = chance.octets(height, width, 3).view(np.int8)
    pixels += colour_noise * np.float32(level * 0.4 / 73.9)  # a uniform byte deviates by 73.9
    picture = _quantise(pixels)
    return _jpeg(picture, chance.integer(55, 94)) if chance.flip(0.7) else picture


@functools.cache
def _exponential() -> Field:
    """4096 quantiles of the exponential distribution, mean 1."""
    return np.array([-math.log((i + 0.5) / 4096) for i in range(4096)], np.float32)


def radar(chance: Chance, pixels: Field) -> Picture:
    """A radar image: amplitude times the root of gamma speckle (`looks` looks), grey, slightly correlated.

    `pixels` (H, W, 3) float32, amplitude 0..255 in all channels -> (H, W, 3) uint8, channels equal.
    """
    height, width = pixels.shape[:2]
    looks = chance.integer(1, 5)
    table = _exponential()
    power = np.zeros((height, width), np.float32)
    for _ in range(looks):
        octets = chance.octets(2, height, width).astype(np.uint16)
        power += table[octets[0] | (octets[1] & 15) << 8]
    speckle = np.sqrt(power * np.float32(1 / looks))
    image = np.clip(pixels[..., 0], 0, 255) * speckle
    if chance.flip(0.5):
        image = _blur(np.minimum(image, 255), chance.uniform(0.4, 0.7))
    picture = np.repeat(_quantise(image)[..., None], 3, axis=2)
    return _jpeg(picture, chance.integer(75, 95)) if chance.flip(0.4) else picture
