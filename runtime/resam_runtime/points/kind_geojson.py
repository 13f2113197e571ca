"""GeoJSON: Point and MultiPoint features in map coordinates; properties instance, label and scene are optional.

A Polygon or MultiPolygon stands for its bounds: a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resam_runtime.common.checked import Malformed, take
from resam_runtime.points.entry import LIST, PIXELS, Groups, Parsed, PointKind
from resam_runtime.points.values import no_misspelt_label, scene_name, take_id, take_label, take_point


def _parse(data: dict[str, Any], boxes: bool) -> Parsed:
    features = take(data["features"], LIST, "features") if "features" in data else [data]
    groups = Groups()
    for number, value in enumerate(features, 1):
        where = f"feature {number}"
        feature = take(value, dict, where)
        properties = take(feature.get("properties") or {}, dict, f"{where}: properties")
        geometry = take(feature.get("geometry") or {}, dict, f"{where}: geometry")
        kind = geometry.get("type")
        if kind not in ("Point", "MultiPoint", "Polygon", "MultiPolygon"):
            raise Malformed(f"{where}: expected a Point, MultiPoint, Polygon or MultiPolygon, got {kind!r}")
        coordinates = take(geometry.get("coordinates"), LIST, f"{where}: coordinates")
        no_misspelt_label(properties, "label", where)
        label = properties.get("label")
        label = 1 if label is None else take_label(label, where)  # QGIS writes an empty field as null
        instance = properties.get("instance", feature.get("id"))
        instance = f"feature {number}" if instance is None else take_id(instance, where)
        scene = scene_name(properties.get("scene"))
        if kind in ("Point", "MultiPoint"):
            for point in [coordinates] if kind == "Point" else coordinates:
                groups.add(scene, instance, _position(point, where), label)
        elif not label:
            raise Malformed(f"{where}: label 0 is for points, got a {kind}")
        else:
            for polygon in [coordinates] if kind == "Polygon" else coordinates:
                outer, *_ = take(polygon, LIST, f"{where}: coordinates") or [[]]  # holes change no bounds
                ring = take(outer, LIST, f"{where}: coordinates")
                groups.entry(scene, instance).outline += [_position(point, where) for point in ring]
    return groups.parsed(_crs(data))


def _position(value: Any, where: str) -> tuple[float, float]:
    return take_point(take(value, LIST, f"{where}: coordinates")[:2], where)  # a third number is the height


def _crs(data: Mapping[str, Any]) -> str:
    ours = data.get("resam")
    if isinstance(ours, dict) and ours.get("coordinates") == "pixel":
        return PIXELS
    crs = data.get("crs")
    if crs is None:
        return "OGC:CRS84"
    name = crs if isinstance(crs, str) else None
    if isinstance(crs, dict) and isinstance(crs.get("properties"), dict):
        name = crs["properties"].get("name")
    if not isinstance(name, str):
        raise Malformed("its crs member names no coordinate reference system")
    return "OGC:CRS84" if name.upper().endswith("CRS84") else name


GEOJSON = PointKind(
    "GeoJSON",
    ".points.geojson",
    _parse,
    "GeoJSON (FeatureCollection)",
    lambda data: data.get("type") in ("FeatureCollection", "Feature"),
)
