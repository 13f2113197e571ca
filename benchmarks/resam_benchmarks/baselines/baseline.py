"""What a baseline is: a rival with the weights of an engine, made in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resam_benchmarks.baselines.weights import PACKAGES, Weights
from resam_benchmarks.measure.contender import Contender


@dataclass(frozen=True)
class Prepared:
    """What a contender is made from: keyword arguments beside `settings`, `device` and `threads`, and the bytes of the
    files that it runs from, if there are any."""

    options: Mapping[str, Any]
    size_bytes: int | None = None


def as_they_are(weights: Weights, folder: Path) -> Prepared:
    """The contender takes the weights themselves."""
    return Prepared({"weights": weights})


@dataclass(frozen=True)
class Baseline:
    """name: in tables and on the command line. contender: its class, whose module imports nothing heavy by itself.
    prepare: what it is made from, given the weights and an empty folder that lasts as long as it. packages: what its
    process imports, of the extras of this distribution named.
    """

    name: str
    contender: type[Contender]
    prepare: Callable[[Weights, Path], Prepared] = as_they_are
    packages: tuple[str, ...] = PACKAGES
    extras: str = "train"

    @property
    def factory(self) -> str:
        """The contender's class as a `Worker` takes it."""
        return f"{self.contender.__module__}:{self.contender.__qualname__}"
