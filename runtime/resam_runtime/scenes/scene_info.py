"""What is known of a scene without its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from resam_runtime.scenes.georeference import Georeference


@dataclass(frozen=True)
class SceneInfo:
    """A scene as points files, records and writers know it.

    name: unique in its run, what points files and outputs call it. width, height: px. georeference: None where nothing
    places it on the map. raster: whether it is a raster file, whose labels are a GeoTIFF. date: when it was taken, as
    far as it or its catalogue says so: ISO 8601, UTC (see `scenes.dates`).
    """

    name: str
    width: int
    height: int
    georeference: Georeference | None = None
    raster: bool = False
    date: str | None = None

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def metres_per_pixel(self) -> float | None:
        """Side of a pixel on the ground; None where nothing says so."""
        return None if self.georeference is None else self.georeference.metres_per_pixel(self.size_wh)

    @property
    def size_hw(self) -> tuple[int, int]:
        """As the shapes of arrays have it."""
        return self.height, self.width
