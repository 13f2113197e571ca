"""Parsers of the four kinds of points files. Each turns text into `Entry` rows; nothing here knows a scene."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resam_runtime.points.values import (
    Malformed,
    cell_number,
    instance_ids,
    is_number,
    no_constant,
    no_duplicates,
    no_misspelt_label,
    no_shared_file,
    own_name,
    scene_name,
    take_id,
    take_label,
    take_list,
    take_object,
    take_point,
    take_whole,
)

PIXELS = "pixels"
"""`Parsed.crs` of a file that holds pixel coordinates."""
_SCENE = {"file", "filename", "image", "imagename"}
_POINT = {"point", "coords", "coordinates", "x", "xy"}
_POINTS = {"points", "point", "labels", "label", "instance", "instances", "annotations"}


@dataclass
class Entry:
    """One instance as a file gives it: coordinates in the file's own system."""

    scene: str | None
    id: str | int | None
    coords: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    category: int | None = None


@dataclass
class Parsed:
    """A whole file. crs: `PIXELS`, "EPSG:n", a URN. sizes: scene -> (width, height) that the points were made for.

    scenes: names that the file knows, with points or without. categories: COCO's list, if any.
    """

    entries: list[Entry]
    crs: str = PIXELS
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    scenes: list[str] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)


def parse_csv(text: str) -> Parsed:
    """Header `scene,instance,x,y,label`; scene, instance (each row its own) and label (1) may be absent."""
    rows = csv.reader(io.StringIO(text, newline=None))
    try:
        return _table(rows)
    except csv.Error as error:
        raise Malformed(f"line {rows.line_num}: not CSV ({error})") from None


def _table(rows: Any) -> Parsed:
    header = [name.strip().lower() for name in next(rows, [])]
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        raise Malformed(f"its fields are separated by {other[0]!r}, expected commas (and 1.5, not 1,5)")
    no_misspelt_label(dict.fromkeys(header, 0), "label", "the header")
    misspelt = [name for name in header if name.replace("_", "") in _SCENE]
    if misspelt and "scene" not in header:  # the points of all images would go to whichever scene is run
        raise Malformed(f"the header: {misspelt[0]!r} is not known, expected 'scene'")
    if not {"x", "y"} <= set(header) or len(set(header)) != len(header):
        raise Malformed(f"expected the header scene,instance,x,y,label, got {','.join(header)[:80]!r}")
    groups = _Groups()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"line {rows.line_num}"
        if len(row) != len(header):
            raise Malformed(f"{where}: expected {len(header)} fields, got {len(row)}")
        cells = {name: cell.strip() for name, cell in zip(header, row)}
        name = cells.get("instance", "")
        instance: str | int = name if name else f"line {rows.line_num}"
        if whole := re.fullmatch(r"(-?[0-9]{1,18})(\.0+)?", name):  # spreadsheets write 1 as 1.0
            instance = int(whole[1])
        point = take_point([cell_number(cells["x"]), cell_number(cells["y"])], where)
        groups.add(scene_name(cells.get("scene")), instance, point, take_label(cells.get("label") or 1, where))
    return Parsed(groups.entries, scenes=groups.scenes())


def parse_json(text: str) -> Parsed:
    """Our own points JSON, GeoJSON or COCO, told apart by their members."""
    try:
        data = json.loads(text, parse_constant=no_constant, object_pairs_hook=no_duplicates)
    except Malformed:
        raise
    except RecursionError:
        raise Malformed("not JSON: nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Malformed(f"expected a JSON object, got {type(data).__name__}")
    if data.get("type") in ("FeatureCollection", "Feature"):
        return _geojson(data)
    if "annotations" in data or "images" in data:
        return _coco(data)
    if "scenes" in data or "instances" in data:
        return _own(data)
    raise Malformed("neither points JSON (scenes or instances), GeoJSON (FeatureCollection) nor COCO (annotations)")


def _own(data: dict[str, Any]) -> Parsed:
    if data.get("format", "resam-points") != "resam-points":
        raise Malformed(f"expected format 'resam-points', got {data['format']!r}")
    if data.get("version", 1) != 1:
        raise Malformed(f"points file version {data['version']!r}, this program reads version 1")
    parsed = Parsed([])
    scenes: Iterable[tuple[str | None, Any]]
    if "scenes" in data:
        scenes = [(scene_name(name), scene) for name, scene in take_object(data["scenes"], "scenes").items()]
    else:
        scenes = [(scene_name(data.get("scene")), data)]
    for name, value in scenes:
        where = f"scene {name!r}" if name else "the file"
        scene = take_object(value, where)
        if "instances" not in scene and _POINTS & {member.lower() for member in scene}:
            raise Malformed(f"{where}: expected instances, a list of objects with points")
        if name is not None:
            parsed.scenes.append(name)
        if "width" in scene and "height" in scene:
            parsed.sizes[name or ""] = (take_whole(scene["width"], where), take_whole(scene["height"], where))
        instances = take_list(scene.get("instances"), f"{where}: instances")
        for number, (instance, own) in enumerate(zip(instances, instance_ids(instances)), 1):
            if isinstance(instance, dict):
                no_misspelt_label(instance, "labels", f"{where}, instance {number}", names=False)
                if isinstance(instance.get("category"), str):  # a name of the user's; COCO's are numbers
                    instance = {**instance, "category": None}
            parsed.entries.append(_instance(instance, name, f"{where}, instance {number}", own))
    return parsed


def _instance(value: Any, scene: str | None, where: str, own: Any) -> Entry:
    instance = take_object(value, where)
    near = [member for member in instance if member.lower() in _POINT]
    if near and instance.get("points") is None:  # it would be an instance without points, which is left out
        raise Malformed(f"{where}: {near[0]!r} is not known, expected 'points', a list of [x, y]")
    points = [take_point(point, where) for point in take_list(instance.get("points"), f"{where}: points")]
    labels = instance.get("labels")
    labels = [1] * len(points) if labels is None else [take_label(label, where) for label in take_list(labels, where)]
    if len(labels) != len(points):
        raise Malformed(f"{where}: {len(points)} points but {len(labels)} labels")
    category = instance.get("category")
    return Entry(
        scene,
        take_id(own, where),
        points,
        labels,
        None if category is None else take_whole(category, where),
    )


def _coco(data: dict[str, Any]) -> Parsed:
    """`annotations[]` with `points` (list) and `labels`, `point` (one) or `keypoints` (x, y, v; v > 0 counts)."""
    parsed = Parsed([])
    files: dict[str | int, str] = {}
    for value in take_list(data.get("images"), "images"):
        image = take_object(value, "images")
        name = scene_name(image.get("file_name"))
        if name is None or "id" not in image:
            raise Malformed("an image of images[] has no id or file_name")
        own = take_id(image["id"], f"image {name!r}")
        if own in files:
            raise Malformed(f"image id {own!r} appears twice")
        files[own] = name
        parsed.scenes.append(name)
        if "width" in image and "height" in image:
            parsed.sizes[name] = (take_whole(image["width"], name), take_whole(image["height"], name))
    no_shared_file(files.items())
    for value in take_list(data.get("categories"), "categories"):
        category = take_object(value, "categories")
        parsed.categories.append({**category, "id": take_whole(category.get("id"), "categories: id")})
    bare = 0
    for value in take_list(data.get("annotations"), "annotations"):
        annotation = take_object(value, "annotations")
        where = f"annotation {annotation.get('id')!r}"
        if isinstance(annotation.get("image_id"), list | dict) or annotation.get("image_id") not in files:
            raise Malformed(f"{where}: image_id {annotation.get('image_id')!r} is not among the images")
        points = annotation.get("points")
        labels: Any = annotation.get("labels")
        if points is None and "point" in annotation:
            points = [annotation["point"]]
        if points is not None:
            no_misspelt_label(annotation, "labels", where)
        if points is None and "keypoints" in annotation:
            flat = take_list(annotation["keypoints"], f"{where}: keypoints")
            if len(flat) % 3:
                raise Malformed(f"{where}: keypoints come in threes (x, y, v), got {len(flat)} numbers")
            triples = [flat[at : at + 3] for at in range(0, len(flat), 3)]
            seen = [is_number(triple[2]) and triple[2] > 0 for triple in triples]
            points = [triple[:2] for triple, counts in zip(triples, seen) if counts]
            if isinstance(labels, list) and len(labels) == len(seen):  # one for each keypoint, seen or not
                labels = [label for label, counts in zip(labels, seen) if counts]
        bare += points is None
        entry = {"points": points or [], "labels": labels, "category": annotation.get("category_id")}
        called = own_name(annotation)
        called = annotation.get("id") if called is None else called
        called = len(parsed.entries) + 1 if called is None else called
        parsed.entries.append(_instance(entry, files[annotation["image_id"]], where, called))
    if parsed.entries and bare == len(parsed.entries):
        raise Malformed(
            "a COCO file whose annotations hold no points, point or keypoints; "
            "resam-annotate or resam-train draw points from masks"
        )
    return parsed


def _geojson(data: dict[str, Any]) -> Parsed:
    """Point and MultiPoint features; properties instance, label and scene, all optional. Map coordinates."""
    features = take_list(data["features"], "features") if "features" in data else [data]
    groups = _Groups()
    for number, value in enumerate(features, 1):
        where = f"feature {number}"
        feature = take_object(value, where)
        properties = take_object(feature.get("properties") or {}, f"{where}: properties")
        geometry = take_object(feature.get("geometry") or {}, f"{where}: geometry")
        kind = geometry.get("type")
        if kind not in ("Point", "MultiPoint"):
            raise Malformed(f"{where}: expected a Point or MultiPoint, got {kind!r}")
        coordinates = take_list(geometry.get("coordinates"), f"{where}: coordinates")
        no_misspelt_label(properties, "label", where)
        label = properties.get("label")
        label = 1 if label is None else take_label(label, where)  # QGIS writes an empty field as null
        instance = properties.get("instance", feature.get("id"))
        instance = f"feature {number}" if instance is None else take_id(instance, where)
        for point in [coordinates] if kind == "Point" else coordinates:
            # a third number is the height
            point = take_list(point, f"{where}: coordinates")
            groups.add(scene_name(properties.get("scene")), instance, take_point(point[:2], where), label)
    crs = _geojson_crs(data)
    return Parsed(groups.entries, crs=crs, scenes=groups.scenes())


def _geojson_crs(data: Mapping[str, Any]) -> str:
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


class _Groups:
    """Collects single points into instances, both in the order of first appearance."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str | None, str | int], Entry] = {}

    def add(self, scene: str | None, instance: str | int, point: tuple[float, float], label: int) -> None:
        entry = self._entries.setdefault((scene, instance), Entry(scene, instance))
        entry.coords.append(point)
        entry.labels.append(label)

    @property
    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def scenes(self) -> list[str]:
        return list(dict.fromkeys(scene for scene, _ in self._entries if scene is not None))
