"""`NAME.geojson`: the instances of one scene as polygons (RFC 7946).

A georeferenced scene gives longitude and latitude (WGS 84, cut at the antimeridian), or its own CRS on request, named
in a `crs` member as GDAL and QGIS read it. Any other scene gives pixel coordinates (x to the right, y down, pixel
centres at integers), which the foreign member `resam` says. Outer rings run counter-clockwise in the plane of the
coordinates, holes clockwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resam_runtime.common.files import atomic_write
from resam_runtime.masks.crops import Ring, ring_area
from resam_runtime.masks.outlines import valid_polygons
from resam_runtime.scenes.georeference import WGS84, Coordinates, pixel_to_map, reproject
from resam_runtime.writers.antimeridian import cut_at_antimeridian
from resam_runtime.writers.scene import SceneResult

CrsChoice = Literal["wgs84", "source"]
_FAR = 90.0  # degrees of longitude between neighbours of a ring


def write_geojson(path: Path, scene: SceneResult, crs: CrsChoice = "wgs84", simplify: float = 0.5) -> None:
    """Write one scene's instances, each a Polygon or MultiPolygon. simplify: tolerance in px, 0 keeps pixel edges.

    Raises OSError when the file cannot be written, ResamError when coordinates cannot be transformed.
    """
    document = feature_collection(scene, crs, simplify)
    features = document.pop("features")
    head = json.dumps(document, separators=(",", ":"), allow_nan=False)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write(head[:-1] + ',"features":[')
        for number, feature in enumerate(features):
            out.write((",\n" if number else "\n") + json.dumps(feature, separators=(",", ":"), allow_nan=False))
        out.write("\n]}\n")


def feature_collection(scene: SceneResult, crs: CrsChoice = "wgs84", simplify: float = 0.5) -> dict[str, Any]:
    """The same as plain data."""
    document: dict[str, Any] = {"type": "FeatureCollection"}
    about = {"scene": scene.name, "width": scene.width, "height": scene.height}
    if scene.crs is None or scene.transform is None:
        target, digits = None, 2
        document["resam"] = {"coordinates": "pixel", **about}
    elif crs == "wgs84":
        target, digits = WGS84, max(7, _digits(scene, WGS84) + 1)
        document["resam"] = {"coordinates": "WGS 84", **about}
    else:
        target = scene.crs
        digits = max(3, _digits(scene, target) + 3)
        name = f"urn:ogc:def:crs:EPSG::{target[5:]}" if target.startswith("EPSG:") else target
        document["crs"] = {"type": "name", "properties": {"name": name}}
        document["resam"] = {"coordinates": "map", **about}
    features = []
    for instance in scene.instances:
        polygons = [
            polygon
            for rings in valid_polygons(instance.mask, instance.origin, simplify)
            for polygon in _polygons(rings, scene, target, digits)
        ]
        single = len(polygons) == 1
        properties = {
            "scene": scene.name,
            "instance": scene.id_of(instance),
            "index": instance.index,
            "score": round(float(instance.score), 5),
            "area_px": instance.area,
        }
        if (category := scene.category_of(instance)) is not None:
            properties["category"] = category
        geometry = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        }
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    document["features"] = features
    return document


def _digits(scene: SceneResult, target: str) -> int:
    """The decimals at which numbers in the CRS `target` begin to tell pixels of the scene apart (negative: tens)."""
    assert scene.transform is not None
    assert scene.crs is not None
    x, y = scene.width / 2, scene.height / 2
    middle, right, below = reproject(pixel_to_map(scene.transform, [(x, y), (x + 1, y), (x, y + 1)]), scene.crs, target)
    step = min(np.hypot(*(right - middle)), np.hypot(*(below - middle)))
    return math.ceil(-math.log10(step)) if step > 1e-15 else 15


def _polygons(
    rings: Sequence[Ring], scene: SceneResult, target: str | None, digits: int
) -> list[list[list[list[float]]]]:
    """One polygon's rings in output coordinates, the outer one first; more polygons where the antimeridian cuts it."""
    placed = [np.round(_placed(ring, scene, target), digits) for ring in rings]
    parts = cut_at_antimeridian(placed) if target == WGS84 else [placed]
    return [[_ring(points, index == 0, digits) for index, points in enumerate(part)] for part in parts]


def _placed(ring: Ring, scene: SceneResult, target: str | None) -> Coordinates:
    points: Coordinates = np.asarray(ring, np.float64)
    if target is None or scene.transform is None or scene.crs is None:
        return points
    placed = reproject(pixel_to_map(scene.transform, points), scene.crs, target)
    far = np.abs(np.diff(placed[:, 0], append=placed[:1, 0])) > _FAR
    if target != WGS84 or not far.any():
        return placed
    # An edge across the antimeridian, or one that is as long: points on the way tell.
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    edges = zip(points, np.roll(points, -1, axis=0), far)
    dense = np.concatenate([begin + (steps if long else steps[:1]) * (end - begin) for begin, end, long in edges])
    return reproject(pixel_to_map(scene.transform, dense), scene.crs, target)


def _ring(points: Coordinates, outer: bool, digits: int) -> list[list[float]]:
    """A closed ring, turned the right way."""
    if (ring_area(points) > 0) != outer:  # positive: counter-clockwise where y points up
        points = points[::-1]
    closed = np.round(np.concatenate([points, points[:1]]), digits) + 0.0  # + 0.0: no negative zero
    return [[float(x), float(y)] for x, y in closed]
