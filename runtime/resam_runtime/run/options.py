"""What is made of each scene of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resam_runtime.writers.geojson import CrsChoice

FORMATS = ("coco", "geojson", "overlay", "labels")


@dataclass(frozen=True)
class RunOptions:
    """What is made of each scene; see `resam-run --help`."""

    formats: frozenset[str] = frozenset({"coco", "geojson", "overlay"})
    exclusive: bool = False
    bands: tuple[int, ...] | None = None
    crs: CrsChoice = "wgs84"
    simplify: float = 0.5
    automatic: bool = False
    min_score: float | None = None  # of automatic instances; None: as AutomaticOptions has it
    views: int = 1
    strict: bool = False

    def request(self) -> dict[str, Any]:
        """Those that decide what a scene's outputs hold, as plain data; a resumed run must have the same."""
        return {
            "--format": [name for name in FORMATS if name in self.formats],
            "--exclusive": self.exclusive,
            "--bands": None if self.bands is None else list(self.bands),
            "--crs": self.crs,
            "--simplify": self.simplify,
            "--automatic": self.automatic,
            "--min-score": self.min_score,
            "--views": self.views,
        }
