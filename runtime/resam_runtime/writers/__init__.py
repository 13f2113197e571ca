"""Writers: what a run leaves behind. Each is one class in a file of its own, and one line in `WRITERS`."""

from __future__ import annotations

from collections.abc import Collection

from resam_runtime.writers.coco import CocoWriter
from resam_runtime.writers.geojson import GeojsonWriter
from resam_runtime.writers.geoparquet import GeoparquetWriter
from resam_runtime.writers.labels import LabelsWriter
from resam_runtime.writers.overlay import OverlayWriter
from resam_runtime.writers.record import Record
from resam_runtime.writers.vector_files import FlatgeobufWriter, GeopackageWriter
from resam_runtime.writers.writer import OutputOptions, RunInfo, RunWriter, SceneResult, SceneWriter, Writer
from resam_runtime.writers.yolo import YoloWriter

__all__ = [
    "WRITERS",
    "OutputOptions",
    "Record",
    "RunInfo",
    "RunWriter",
    "SceneResult",
    "SceneWriter",
    "Writer",
    "run_writers",
    "scene_writers",
]

WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        CocoWriter(),
        GeojsonWriter(),
        OverlayWriter(),
        LabelsWriter(),
        YoloWriter(),
        GeoparquetWriter(),
        FlatgeobufWriter(),
        GeopackageWriter(),
    )
}
"""Word in --format -> writer, in the order in which they are shown and written."""


def scene_writers(formats: Collection[str]) -> list[SceneWriter]:
    """Those of the formats that write a file of each scene."""
    return [writer for writer in WRITERS.values() if writer.name in formats and isinstance(writer, SceneWriter)]


def run_writers(formats: Collection[str]) -> list[RunWriter]:
    """Those of the formats that write one file of the whole run."""
    return [writer for writer in WRITERS.values() if writer.name in formats and isinstance(writer, RunWriter)]
