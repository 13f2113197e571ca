"""A few of many, evenly spread: how scenes, points and tiles are picked where not all are looked at."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 ... count - 1, rising and evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
