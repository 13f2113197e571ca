"""An exposure that is too long."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.robustness.corruptions.corruption import Corruption, Image


def _apply(image: Image, added: float, rng: np.random.Generator) -> NDArray[Any]:
    return image.astype(np.float32) + np.float32(added)


BRIGHTNESS = Corruption("brightness", (30.6, 61.2, 91.8, 122.4, 153.0), "plus {} of 255", _apply)
