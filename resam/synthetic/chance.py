"""Random draws that are the same on every machine.

`Generator.uniform` and `Generator.normal` go through compiled floating-point code that may contract or
vectorise differently from one processor to the next. Here only the exact outputs of the bit generator are used
(raw bytes, integers, 53-bit fractions); everything after them is plain IEEE arithmetic in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


class Chance:
    """A seeded source of draws. `seed`: one or more non-negative integers."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(seed))))

    def uniform(self, low: float, high: float) -> float:
        """One value in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high], both ends included."""
        return int(self._generator.integers(low, high + 1))

    def flip(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self._generator.random()) < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all equally likely."""
        return choices[self.integer(0, len(choices) - 1)]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """`choices` in a random order."""
        return [choices[int(i)] for i in self._generator.permutation(len(choices))]

    def spread(self, amplitude: int, shape: tuple[int, int]) -> npt.NDArray[np.int16]:
        """int16 array of `shape`, 256 even steps in -amplitude..amplitude (amplitude at most 16383)."""
        steps = self.octets(*shape).view(np.int8).astype(np.int16)
        if amplitude < 256:
            return (steps * np.int16(amplitude)) >> 7
        return steps * np.int16(amplitude >> 7)

    def octets(self, *shape: int) -> npt.NDArray[np.uint8]:
        """uint8 array of `shape`, uniform."""
        return np.frombuffer(self._generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)

    def noise(self, *shape: int) -> npt.NDArray[np.float32]:
        """float32 array of `shape`, mean 0, deviation 1, near normal (the sum of four uniform bytes)."""
        octets = self.octets(4, *shape)
        total = np.add(octets[0], octets[1], dtype=np.int16)
        total += octets[2]
        total += octets[3]
        total -= 510  # four uniform bytes: mean 510, variance 4 (256^2 - 1) / 12 = 147.8^2
        return total * np.float32(1.0 / 147.8)

    def colour(self, *choices: Sequence[float], jitter: float = 8.0) -> npt.NDArray[np.float32]:
        """One of `choices` (RGB, 0..255) with a brightness change and a small tint, both within `jitter`."""
        base = self.pick(choices)
        shift = self.uniform(-jitter, jitter)
        return np.array([min(max(c + shift + self.uniform(-jitter, jitter) / 3, 0.0), 255.0) for c in base], np.float32)
