"""Optics out of focus."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.robustness.corruptions.corruption import Corruption, Image


def _apply(image: Image, sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    return cv2.GaussianBlur(image, (0, 0), sigma)


BLUR = Corruption("blur", (0.7, 1.2, 2.0, 3.0, 4.5), "Gaussian, sigma {} px", _apply)
