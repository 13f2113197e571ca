"""`NAME.geojson`: the instances of one scene as polygons (RFC 7946).

A georeferenced scene gives longitude and latitude (WGS 84, cut at the antimeridian), or its own CRS on request, named
in a `crs` member as GDAL and QGIS read it. Any other scene gives pixel coordinates (x to the right, y down, pixel
centres at integers), which the foreign member `resam` says. Outer rings run counter-clockwise in the plane of the
coordinates, holes clockwise.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.errors import counted
from resam_runtime.common.files import atomic_write
from resam_runtime.masks.crops import Ring, ring_area
from resam_runtime.masks.outlines import valid_polygons
from resam_runtime.scenes.georeference import WGS84, Coordinates, Georeference, reproject_some
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers.antimeridian import cut_at_antimeridian
from resam_runtime.writers.writer import CrsChoice, OutputOptions, SceneResult, SceneWriter

_FAR = 90.0  # degrees of longitude between neighbours of a ring
_TOLD = 10


class GeojsonWriter(SceneWriter):
    """Writes each instance as a Polygon or MultiPolygon. Raises ResamError when coordinates cannot be transformed."""

    name, files, default, options = "geojson", "NAME.geojson", True, ("crs", "simplify")
    suffixes = (".geojson",)

    def write(self, path: Path, result: SceneResult, options: OutputOptions) -> Sequence[str]:
        notes: list[str] = []
        document = feature_collection(result, options.crs, options.simplify, notes)
        features = document.pop("features")
        head = json.dumps(document, separators=(",", ":"), allow_nan=False)
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            out.write(head[:-1] + ',"features":[')
            for number, feature in enumerate(features):
                out.write((",\n" if number else "\n") + json.dumps(feature, separators=(",", ":"), allow_nan=False))
            out.write("\n]}\n")
        return notes


def feature_collection(
    result: SceneResult, crs: CrsChoice = "wgs84", simplify: float = 0.5, notes: list[str] | None = None
) -> dict[str, Any]:
    """The whole file as plain data. simplify: tolerance in px, 0 keeps pixel edges.

    An instance that reaches where the map ends, into the space around the globe, say, is left out and told in `notes`.
    """
    scene = result.scene
    document: dict[str, Any] = {"type": "FeatureCollection"}
    about = {"scene": scene.name, "width": scene.width, "height": scene.height}
    if scene.georeference is None:
        target, digits = None, 2
        document["resam"] = {"coordinates": "pixel", **about}
    elif crs == "wgs84":
        target, digits = WGS84, max(7, _digits(scene, WGS84) + 1)
        document["resam"] = {"coordinates": "WGS 84", **about}
    else:
        target = scene.georeference.crs
        digits = max(3, _digits(scene, target) + 3)
        name = f"urn:ogc:def:crs:EPSG::{target[5:]}" if target.startswith("EPSG:") else target
        document["crs"] = {"type": "name", "properties": {"name": name}}
        document["resam"] = {"coordinates": "map", **about}
    features: list[dict[str, Any]] = []
    off_map: list[str] = []
    for instance in result.instances:
        try:
            polygons = [
                polygon
                for rings in valid_polygons(instance.mask, instance.origin, simplify)
                for polygon in _polygons(rings, scene, target, digits)
            ]
        except _OffMap:
            off_map.append(str(instance.called))
            continue
        single = len(polygons) == 1
        properties = {
            "scene": scene.name,
            "instance": instance.called,
            "index": instance.index,
            "score": round(float(instance.score), 5),
            "area_px": instance.area,
        }
        if instance.category is not None and instance.category.id is not None:
            properties["category"] = instance.category.id
        if instance.category is not None and instance.category.name is not None:
            properties["category_name"] = instance.category.name
        properties["found_by"] = instance.found_by
        geometry = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        }
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    document["features"] = features
    if off_map and notes is not None:
        shown = ", ".join(off_map[:_TOLD]) + (", ..." if len(off_map) > _TOLD else "")
        notes.append(
            f"geojson: {counted(len(off_map), 'instance')} left out, beyond the globe in part: {shown}; "
            "--crs source keeps them"
        )
    return document


def _digits(scene: SceneInfo, target: str) -> int:
    """The decimals at which numbers in the CRS `target` begin to tell pixels of the scene apart (negative: tens)."""
    place = scene.georeference
    assert place is not None
    for x, y in [(0.5, 0.5), *itertools.product((0.1, 0.9), (0.1, 0.9))]:  # the middle, unless it is not on the globe
        corner = np.array([x * scene.width, y * scene.height])
        middle, right, below = reproject_some(
            place.to_map(corner + np.array([(0, 0), (1, 0), (0, 1)])), place.crs, target
        )
        step = min(np.hypot(*(right - middle)), np.hypot(*(below - middle)))
        if np.isfinite(step):
            return math.ceil(-math.log10(step)) if step > 1e-15 else 15
    return 6


def _polygons(
    rings: Sequence[Ring], scene: SceneInfo, target: str | None, digits: int
) -> list[list[list[list[float]]]]:
    """One polygon's rings in output coordinates, the outer one first; more polygons where the antimeridian cuts it."""
    placed = [np.round(_placed(ring, scene, target), digits) for ring in rings]
    parts = cut_at_antimeridian(placed, digits) if target == WGS84 else [placed]
    return [[_ring(points, index == 0, digits) for index, points in enumerate(part)] for part in parts]


def _placed(ring: Ring, scene: SceneInfo, target: str | None) -> Coordinates:
    points: Coordinates = np.asarray(ring, np.float64)
    place = scene.georeference
    if target is None or place is None:
        return points
    placed = _reproject(place, points, target)
    far = np.abs(np.diff(placed[:, 0], append=placed[:1, 0])) > _FAR
    if target != WGS84 or not far.any():
        return placed
    # An edge across the antimeridian, or one that is as long: points on the way tell.
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    edges = zip(points, np.roll(points, -1, axis=0), far)
    dense = np.concatenate([begin + (steps if long else steps[:1]) * (end - begin) for begin, end, long in edges])
    return _reproject(place, dense, target)


class _OffMap(Exception):
    pass


def _reproject(place: Georeference, points: Coordinates, target: str) -> Coordinates:
    moved = reproject_some(place.to_map(points), place.crs, target)
    if not np.isfinite(moved).all():
        raise _OffMap
    return moved


def _ring(points: Coordinates, outer: bool, digits: int) -> list[list[float]]:
    """A closed ring, turned the right way."""
    if (ring_area(points) > 0) != outer:  # positive: counter-clockwise where y points up
        points = points[::-1]
    closed = np.round(np.concatenate([points, points[:1]]), digits) + 0.0  # + 0.0: no negative zero
    return [[float(x), float(y)] for x, y in closed]
