"""The loop in one picture, `loop.jpg`: the README's is one of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from resam_benchmarks.demo.strips import LOOP_MASKS, ShownScene
from resam_runtime.common.files import atomic_write

GAP = 6  # px of white between two pictures


def write_picture(path: Path, scenes: Sequence[ShownScene], engine: str, rows: int = 1) -> None:
    """Rows of points, coarse, refined and final masks, of those scenes that have the most instances."""
    busiest = sorted(scenes, key=lambda scene: -scene.instances)[:rows]
    strips = [_joined([s.points, *(s.stages[engine][stage] for stage in LOOP_MASKS)], axis=1) for s in busiest]
    with atomic_write(path) as temporary:
        whole = cv2.cvtColor(_joined(strips, axis=0), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(temporary), whole, [cv2.IMWRITE_JPEG_QUALITY, 82])


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=axis)
