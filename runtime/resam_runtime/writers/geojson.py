"""`NAME.geojson`: the instances of one scene as polygons (RFC 7946).

A georeferenced scene gives longitude and latitude (WGS 84, cut at the antimeridian), or its own CRS on request, named
in a `crs` member as GDAL and QGIS read it. Any other scene gives pixel coordinates (x to the right, y down, pixel
centres at integers), which the foreign member `resam` says. Outer rings run counter-clockwise in the plane of the
coordinates, holes clockwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resam_runtime.common.errors import counted
from resam_runtime.common.files import atomic_write
from resam_runtime.scenes.georeference import WGS84
from resam_runtime.writers.placed import OffMap, placed_polygons, telling_digits, wgs84_digits
from resam_runtime.writers.writer import CrsChoice, OutputOptions, SceneResult, SceneWriter

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
        target, digits = WGS84, wgs84_digits(scene)
        document["resam"] = {"coordinates": "WGS 84", **about}
    else:
        target = scene.georeference.crs
        digits = max(3, telling_digits(scene, target) + 3)
        name = f"urn:ogc:def:crs:EPSG::{target[5:]}" if target.startswith("EPSG:") else target
        document["crs"] = {"type": "name", "properties": {"name": name}}
        document["resam"] = {"coordinates": "map", **about}
    features: list[dict[str, Any]] = []
    off_map: list[str] = []
    for instance in result.instances:
        try:
            polygons = placed_polygons(scene, instance.mask, instance.origin, simplify, target, digits)
        except OffMap:
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
            f"geojson: {counted(len(off_map), 'instance')} left out, partly beyond the edge of the map: {shown}; "
            "--crs source keeps them"
        )
    return document
