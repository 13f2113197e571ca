"""How many tiles share a call of the encoder: as many as it gains from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends import Backend
from resam_runtime.engine.manifest import Manifest

_MOST = 8
_GAIN = 0.95  # of the time a tile takes: less is not worth the memory
_REPEATS = 3


def best_batch(seconds: Callable[[int], float], most: int) -> int:
    """The number of tiles, 1, 2, 4 ... up to `most`, beyond which a tile takes no less time. seconds: what a call with
    so many takes."""
    best, each = 1, seconds(1)
    while 2 * best <= most and (now := seconds(2 * best) / (2 * best)) < _GAIN * each:
        best, each = 2 * best, now
    return best


def measured_batch(backend: Backend, manifest: Manifest) -> int:
    """`best_batch` of an engine's encoder on a GPU, by running it; 1 on a CPU, whose cores one tile keeps busy."""
    most = min(_MOST, manifest.max_batch or _MOST)
    if not backend.on_gpu or most == 1:
        return 1

    def seconds(count: int) -> float:
        image = np.zeros((count, manifest.image_size, manifest.image_size, 3), np.uint8)
        taken = []
        try:
            for _ in range(1 + _REPEATS):  # the first prepares
                begin = time.perf_counter()
                backend.run("encoder", {"image": image}, ["embedding"], keep=True)
                taken.append(time.perf_counter() - begin)
        except ResamError:  # not enough memory, say
            if count == 1:
                raise
            return math.inf
        return min(taken[1:])

    return best_batch(seconds, most)
