"""The downlink's compression."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.robustness.corruptions.corruption import Corruption, Image


def _apply(image: Image, quality: float, rng: np.random.Generator) -> NDArray[Any]:
    coded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None, "a picture that was coded here decodes"
    return decoded[..., ::-1]


JPEG = Corruption("JPEG", (40, 25, 15, 10, 6), "quality {}", _apply)
