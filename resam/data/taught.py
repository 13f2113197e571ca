"""Masks that are made before training and taught in it: soft, and on the grid of the tile that an instance lies in."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import atomic_write

LEAST = 3  # of 255: a probability below is none


@dataclass(frozen=True)
class SoftMask:
    """A mask (grid, grid) of probabilities in steps of 1/255, kept as the part of it that is not zero.

    values: (h, w) uint8. y, x: where the part lies.
    """

    values: NDArray[np.uint8]
    y: int
    x: int
    grid: int

    @classmethod
    def of(cls, probability: NDArray[np.floating]) -> SoftMask:
        """From (grid, grid) in 0..1."""
        values = np.rint(255 * probability).astype(np.uint8)
        values[values < LEAST] = 0
        rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
        if not len(rows):
            return cls(values[:0, :0], 0, 0, len(values))
        (y0, y1), (x0, x1) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        return cls(values[y0:y1, x0:x1].copy(), int(y0), int(x0), len(values))

    def full(self) -> NDArray[np.float32]:
        """(grid, grid) in 0..1."""
        whole = np.zeros((self.grid, self.grid), np.float32)
        height, width = self.values.shape
        whole[self.y : self.y + height, self.x : self.x + width] = self.values / np.float32(255)
        return whole


SoftMasks = Mapping[tuple[int, int], SoftMask]
"""By numbers of scene and prompt"""


def save_masks(path: Path, masks: SoftMasks) -> None:
    """Write masks; `load_masks` reads them back."""
    keys = np.array(list(masks), np.int64).reshape(-1, 2)
    places = np.array([(m.y, m.x, *m.values.shape, m.grid) for m in masks.values()], np.int64).reshape(-1, 5)
    flat = np.concatenate([np.zeros(0, np.uint8), *(mask.values.ravel() for mask in masks.values())])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, keys=keys, places=places, flat=flat)


def load_masks(path: Path) -> SoftMasks:
    """Masks that `save_masks` wrote. Raises `ResamError` for a file that is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys, places, flat = stored["keys"].tolist(), stored["places"].tolist(), stored["flat"]
        masks, at = {}, 0
        for (scene, prompt), (y, x, height, width, grid) in zip(keys, places, strict=True):
            values = flat[at : at + height * width].reshape(height, width)
            masks[scene, prompt] = SoftMask(values, y, x, grid)
            at += height * width
        return masks
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ResamError(f"{path}: cannot be read ({one_line(error)}); start a new run") from None
