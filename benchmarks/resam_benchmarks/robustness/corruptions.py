"""What the atmosphere, the optics, the sensor and the downlink do to a scene, at five severities.

In the manner of Hendrycks and Dietterich (arXiv 1903.12261), with what matters from above: noise, blur, haze,
brightness, JPEG.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
SEVERITIES = (1, 2, 3, 4, 5)

_NOISE = (8.0, 16.0, 26.0, 40.0, 60.0)  # standard deviation, of 255
_BLUR = (0.7, 1.2, 2.0, 3.0, 4.5)  # sigma in pixels
_HAZE = (0.82, 0.66, 0.5, 0.36, 0.24)  # transmission: the share of light that comes from the ground
_BRIGHTNESS = (0.12, 0.24, 0.36, 0.48, 0.6)  # added, of 255
_JPEG = (40, 25, 15, 10, 6)  # quality
_AIRLIGHT = np.float32([214, 220, 226])


def _noise(image: Image, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return image + rng.normal(0, _NOISE[level], image.shape).astype(np.float32)


def _blur(image: Image, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return cv2.GaussianBlur(image, (0, 0), _BLUR[level]).astype(np.float32)


def _haze(image: Image, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Koschmieder's law, J t + A (1 - t), with a transmission that varies smoothly over the scene."""
    height, width = image.shape[:2]
    veil = cv2.resize(rng.uniform(-1, 1, (4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    through = np.clip(_HAZE[level] + 0.12 * veil, 0.05, 1)[..., None].astype(np.float32)
    return image * through + _AIRLIGHT * (1 - through)


def _brightness(image: Image, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return image.astype(np.float32) + np.float32(255 * _BRIGHTNESS[level])


def _jpeg(image: Image, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    bgr = np.ascontiguousarray(image[..., ::-1])
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG[level]])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)


CORRUPTIONS: dict[str, Callable[[Image, int, np.random.Generator], NDArray[np.float32]]] = {
    "noise": _noise,
    "blur": _blur,
    "haze": _haze,
    "brightness": _brightness,
    "JPEG": _jpeg,
}


SEVERITY_WORDS = {
    "noise": f"Gaussian, standard deviation {', '.join(f'{v:g}' for v in _NOISE)} of 255",
    "blur": f"Gaussian, sigma {', '.join(f'{v:g}' for v in _BLUR)} px",
    "haze": f"transmission {', '.join(f'{v:g}' for v in _HAZE)}, varying over the scene",
    "brightness": f"plus {', '.join(f'{255 * v:.0f}' for v in _BRIGHTNESS)} of 255",
    "JPEG": f"quality {', '.join(str(v) for v in _JPEG)}",
}


def corrupt(image: Image, kind: str, severity: int, seed: int = 0) -> Image:
    """The image (H, W, 3) uint8 after a corruption of `CORRUPTIONS` at severity 1 to 5; severity 0 changes nothing.

    The same arguments give the same bytes. Raises `ValueError` for another kind or severity.
    """
    if kind not in CORRUPTIONS or severity not in (0, *SEVERITIES):
        raise ValueError(f"expected one of {', '.join(CORRUPTIONS)} at 0 to 5, got {kind!r} at {severity}")
    if severity == 0:
        return image
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(kind), severity])
    changed = CORRUPTIONS[kind](image, severity - 1, rng)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
