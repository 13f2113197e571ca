"""The instances of a run as one table of map features, a few thousand rows at a time, for the formats of GIS.

One file has one coordinate system, so it is longitude and latitude for all: the polygons of `NAME.geojson`, always as
MultiPolygons. An instance has no geometry where its scene has no place on the map, or it reaches where the map ends;
its row stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.rle import decode_rle
from resam_runtime.scenes.georeference import WGS84
from resam_runtime.writers.placed import OffMap, placed_polygons, wgs84_digits
from resam_runtime.writers.record import Annotation, Record
from resam_runtime.writers.writer import OutputOptions, RunInfo

GEOMETRY = "geometry"
PACKAGES = ("pyarrow", "pyproj", "rasterio", "shapely")
_ROWS, _WKB_BYTES = 4096, 32 << 20  # of a batch, at most and about
Polygons = Sequence[Sequence[Sequence[Sequence[float]]]]


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """rows: a pyarrow RecordBatch with the columns of `schema`. bounds: (N, 4) west, south, east, north in degrees, NaN
    where there is no geometry."""

    rows: Any
    bounds: npt.NDArray[np.float64]


def schema() -> Any:
    """The columns, as a pyarrow schema: what is known of an instance, and its geometry as WKB.

    area_px counts its mask; area_m2 and perimeter_m are those of its geometry on WGS 84's ellipsoid, holes and all.
    """
    import pyarrow as pa

    return pa.schema([
        ("scene", pa.string()),
        ("date", pa.timestamp("ms", "UTC")),
        ("instance", pa.string()),
        ("index", pa.int32()),
        ("category", pa.int64()),
        ("category_name", pa.string()),
        ("score", pa.float64()),
        ("area_px", pa.int64()),
        ("area_m2", pa.float64()),
        ("perimeter_m", pa.float64()),
        ("found_by", pa.string()),
        ("engine", pa.string()),
        (GEOMETRY, pa.binary()),
    ])  # fmt: skip


def feature_batches(records: Iterable[Record], run: RunInfo, options: OutputOptions) -> Iterator[FeatureBatch]:
    """All instances in the order of the records; how they are cut into batches follows from the instances alone."""
    names = {category.get("id"): category.get("name") for category in run.categories}
    engine = str(run.info.get("engine", ""))
    rows: list[dict[str, Any]] = []
    size = 0
    for record in records:
        for row in _rows(record, options.simplify):
            rows.append({**row, "category_name": names.get(row["category"]), "engine": engine})
            size += len(row[GEOMETRY] or b"")
            if len(rows) >= _ROWS or size >= _WKB_BYTES:
                yield _batch(rows)
                rows, size = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[dict[str, Any]]) -> FeatureBatch:
    import pyarrow as pa
    import shapely

    geometries = shapely.from_wkb([row[GEOMETRY] for row in rows])
    return FeatureBatch(pa.RecordBatch.from_pylist(rows, schema=schema()), shapely.bounds(geometries))


def _rows(record: Record, simplify: float) -> Iterator[dict[str, Any]]:
    scene = record.scene
    if scene is None or not record.annotations:
        return
    try:
        digits = None if scene.georeference is None else wgs84_digits(scene)
    except ResamError:  # of another planet
        digits = None
    date = None if scene.date is None else datetime.fromisoformat(scene.date.replace("Z", "+00:00"))
    for item in record.annotations:
        polygons = None if digits is None else _polygons(record, item, simplify, digits)
        area, perimeter = (None, None) if polygons is None else _measures(polygons)
        yield {
            "scene": os.fsencode(record.name).decode("utf-8", "replace"),
            "date": date,
            "instance": str(item["index"] + 1 if item["instance"] is None else item["instance"]),
            "index": item["index"],
            "category": item["category_id"],
            "score": item["score"],
            "area_px": item["area"],
            "area_m2": area,
            "perimeter_m": perimeter,
            "found_by": item.get("found_by", "points"),
            GEOMETRY: None if polygons is None else _wkb(polygons),
        }


def _polygons(record: Record, item: Annotation, simplify: float, digits: int) -> Polygons | None:
    assert record.scene is not None
    try:
        mask, origin = decode_rle(item["segmentation"])
    except ResamError as error:
        raise ResamError(f"{record.name}: its record is damaged ({error}); use --overwrite") from None
    try:
        return placed_polygons(record.scene, mask, origin, simplify, WGS84, digits) or None
    except OffMap:
        return None


def _measures(polygons: Polygons) -> tuple[float, float]:
    """Area in m² and length of all rings in m, on the ellipsoid. Where the antimeridian cuts is no edge."""
    from pyproj import Geod

    globe, area, perimeter = Geod(ellps="WGS84"), 0.0, 0.0
    for ring in (ring for polygon in polygons for ring in polygon):
        x, y = np.asarray(ring, np.float64).T
        area += globe.polygon_area_perimeter(x, y)[0]  # holes run the other way: negative
        edges = np.asarray(globe.line_lengths(x, y))
        perimeter += float(edges[~((np.abs(x[:-1]) == 180) & (x[:-1] == x[1:]))].sum())
    return round(area, 3), round(perimeter, 3)


def _wkb(polygons: Polygons) -> bytes:
    import shapely

    parts = [shapely.Polygon(shell, holes) for shell, *holes in polygons]
    written: bytes = shapely.to_wkb(shapely.MultiPolygon(parts), byte_order=1)
    return written
