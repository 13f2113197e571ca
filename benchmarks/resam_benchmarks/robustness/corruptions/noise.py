"""The sensor's noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.robustness.corruptions.corruption import Corruption, Image


def _apply(image: Image, deviation: float, rng: np.random.Generator) -> NDArray[Any]:
    return image + rng.normal(0, deviation, image.shape).astype(np.float32)


NOISE = Corruption("noise", (8.0, 16.0, 26.0, 40.0, 60.0), "Gaussian, standard deviation {} of 255", _apply)
