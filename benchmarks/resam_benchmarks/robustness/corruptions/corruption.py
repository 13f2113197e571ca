"""What a corruption is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """levels: what severity 1 to 5 means, in the corruption's own unit. meaning: the same in words, `{}` for the
    levels. apply: (H, W, 3) uint8, a level and a seeded generator -> (H, W, 3) of any number type, to be clipped and
    rounded.
    """

    name: str
    levels: Sequence[float]
    meaning: str
    apply: Callable[[Image, float, np.random.Generator], NDArray[Any]]

    def describe(self) -> str:
        """For the conditions of a report."""
        return self.meaning.format(", ".join(f"{level:g}" for level in self.levels))
