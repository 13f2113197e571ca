"""A part of an archive: scenes that one of several runs does, each on a machine of its own."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`, counted from 0: which scenes it holds follows from their names alone, wherever and in
    whatever order they are found, and whichever others there are."""

    number: int
    count: int

    def holds(self, name: str) -> bool:
        """Whether the scene of this name is in it. Every name is in one shard."""
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
