"""Pixels of a TIFF whose orientation tag says that they lie on their side, or mirrored, as an image viewer shows them.

What tag 274 (TIFF 6.0, section 8) says comes down to exchanging rows and columns, then mirroring:

    1 as it is, 2 x mirrored, 3 both, 4 y mirrored; 5 to 8 the same with rows and columns exchanged: 5, 8, 7, 6
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resam_runtime.scenes.source import Array, PixelSource


class UprightSource:
    """A `PixelSource` made from one that gives pixels as they are stored. orientation: the tag's value, 2 to 8."""

    def __init__(self, stored: PixelSource, orientation: int) -> None:
        self._stored = stored
        self._exchanged = orientation >= 5
        self._mirrored = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)  # in x, in y
        self.width, self.height = stored.width, stored.height
        if self._exchanged:
            self.width, self.height = self.height, self.width
        self.dtype: np.dtype[Any] = stored.dtype

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        """As `PixelSource.window`, in upright pixels."""
        if self._mirrored[0]:
            x = self.width - x - width
        if self._mirrored[1]:
            y = self.height - y - height
        if self._exchanged:
            pixels, valid = self._stored.window(y, x, height, width, (out[1], out[0]))
        else:
            pixels, valid = self._stored.window(x, y, width, height, out)
        return self._turned(pixels), None if valid is None else self._turned(valid)

    def sample(self, longest: int) -> tuple[Array, Array | None]:
        """As `PixelSource.sample`; single pixels have no sides."""
        return self._stored.sample(longest)

    def close(self) -> None:
        """Let go of the file."""
        self._stored.close()

    def _turned(self, stored: Array) -> Array:
        if self._exchanged:
            stored = stored.swapaxes(0, 1)
        across, down = (slice(None, None, -1 if mirrored else 1) for mirrored in self._mirrored)
        return np.ascontiguousarray(stored[down, across])
