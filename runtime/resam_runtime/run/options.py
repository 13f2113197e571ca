"""What is made of each scene of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resam_runtime.writers import WRITERS, OutputOptions


@dataclass(frozen=True)
class RunOptions(OutputOptions):
    """What is made of each scene, and how it is written; see `resam-run --help`."""

    formats: frozenset[str] = frozenset(name for name, writer in WRITERS.items() if writer.default)
    exclusive: bool = False
    bands: tuple[int, ...] | None = None
    alpha: bool = True
    automatic: bool = False
    min_score: float | None = None  # of automatic instances; None: as AutomaticOptions has it
    views: int = 1
    strict: bool = False
    boxes: bool = False
    asset: str | None = None

    def request(self) -> dict[str, Any]:
        """Those that decide what a scene's outputs hold, as plain data; a resumed run must have the same."""
        request = {
            "--format": [name for name in WRITERS if name in self.formats],
            "--exclusive": self.exclusive,
            "--bands": None if self.bands is None else list(self.bands),
            "--crs": self.crs,
            "--simplify": self.simplify,
            "--automatic": self.automatic,
            "--min-score": self.min_score,
            "--views": self.views,
            **({"--boxes": True} if self.boxes else {}),
            **({"--asset": self.asset} if self.asset is not None else {}),
        }
        return request if self.alpha else request | {"--no-alpha": True}  # runs of old had no such option
