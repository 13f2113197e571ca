"""The atmosphere: Koschmieder's law, J t + A (1 - t), with a transmission t that varies smoothly over the scene."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.robustness.corruptions.corruption import Corruption, Image

_AIRLIGHT = np.array([214, 220, 226], np.float32)


def _apply(image: Image, transmission: float, rng: np.random.Generator) -> NDArray[Any]:
    height, width = image.shape[:2]
    veil = cv2.resize(rng.uniform(-1, 1, (4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    through = np.clip(transmission + 0.12 * veil, 0.05, 1)[..., None].astype(np.float32)
    return image * through + _AIRLIGHT * (1 - through)


# Levels: the share of light that comes from the ground.
HAZE = Corruption("haze", (0.82, 0.66, 0.5, 0.36, 0.24), "transmission {}, varying over the scene", _apply)
