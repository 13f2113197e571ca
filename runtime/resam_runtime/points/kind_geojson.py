"""GeoJSON: Point and MultiPoint features in map coordinates; properties instance, label and scene are optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resam_runtime.common.checked import Malformed, take
from resam_runtime.points.entry import LIST, PIXELS, Groups, Parsed, PointKind
from resam_runtime.points.values import no_misspelt_label, scene_name, take_id, take_label, take_point


def _parse(data: dict[str, Any]) -> Parsed:
    features = take(data["features"], LIST, "features") if "features" in data else [data]
    groups = Groups()
    for number, value in enumerate(features, 1):
        where = f"feature {number}"
        feature = take(value, dict, where)
        properties = take(feature.get("properties") or {}, dict, f"{where}: properties")
        geometry = take(feature.get("geometry") or {}, dict, f"{where}: geometry")
        kind = geometry.get("type")
        if kind not in ("Point", "MultiPoint"):
            raise Malformed(f"{where}: expected a Point or MultiPoint, got {kind!r}")
        coordinates = take(geometry.get("coordinates"), LIST, f"{where}: coordinates")
        no_misspelt_label(properties, "label", where)
        label = properties.get("label")
        label = 1 if label is None else take_label(label, where)  # QGIS writes an empty field as null
        instance = properties.get("instance", feature.get("id"))
        instance = f"feature {number}" if instance is None else take_id(instance, where)
        for point in [coordinates] if kind == "Point" else coordinates:
            # a third number is the height
            point = take(point, LIST, f"{where}: coordinates")
            groups.add(scene_name(properties.get("scene")), instance, take_point(point[:2], where), label)
    return groups.parsed(_crs(data))


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
