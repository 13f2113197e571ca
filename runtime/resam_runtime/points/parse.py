"""Parsers of the four kinds of points files. Each turns text into `Entry` rows; nothing here knows a scene."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

PIXELS = "pixels"
"""`Parsed.crs` of a file that holds pixel coordinates."""


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

    kind: str
    entries: list[Entry]
    crs: str = PIXELS
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    scenes: list[str] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)


class Malformed(ValueError):
    """What is wrong with a points file, in a few words and without its name."""


def parse_csv(text: str) -> Parsed:
    """Header `scene,instance,x,y,label`; scene, instance (each row its own) and label (1) may be absent."""
    rows = csv.reader(io.StringIO(text, newline=None))
    try:
        return _table(rows)
    except csv.Error as error:
        raise Malformed(f"line {rows.line_num}: not CSV ({error})") from None


def _table(rows: Any) -> Parsed:
    header = [name.strip().lower() for name in next(rows, [])]
    if not {"x", "y"} <= set(header) or len(set(header)) != len(header):
        raise Malformed(f"expected the header scene,instance,x,y,label, came {','.join(header)[:80]!r}")
    groups = _Groups()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"line {rows.line_num}"
        if len(row) != len(header):
            raise Malformed(f"{where}: expected {len(header)} fields, came {len(row)}")
        cells = {name: cell.strip() for name, cell in zip(header, row)}
        name = cells.get("instance", "")
        instance: str | int = name if name else f"line {rows.line_num}"
        if whole := re.fullmatch(r"(-?[0-9]{1,18})(\.0+)?", name):  # spreadsheets write 1 as 1.0
            instance = int(whole[1])
        point = _point([_number(cells["x"]), _number(cells["y"])], where)
        groups.add(_scene(cells.get("scene")), instance, point, _label(cells.get("label") or 1, where))
    return Parsed("csv", groups.entries, scenes=groups.scenes())


def parse_json(text: str) -> Parsed:
    """Our own points JSON, GeoJSON or COCO, told apart by their members."""
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except Malformed:
        raise
    except RecursionError:
        raise Malformed("not JSON: nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Malformed(f"expected a JSON object, came {type(data).__name__}")
    if data.get("type") in ("FeatureCollection", "Feature"):
        return _geojson(data)
    if "annotations" in data or "images" in data:
        return _coco(data)
    if "scenes" in data or "instances" in data:
        return _own(data)
    raise Malformed("neither points JSON (scenes or instances), GeoJSON (FeatureCollection) nor COCO (annotations)")


def _own(data: dict[str, Any]) -> Parsed:
    if data.get("format", "resam-points") != "resam-points":
        raise Malformed(f"expected format 'resam-points', came {data['format']!r}")
    if data.get("version", 1) != 1:
        raise Malformed(f"points file version {data['version']!r}, this program reads version 1")
    parsed = Parsed("json", [])
    scenes: Iterable[tuple[str | None, Any]]
    if "scenes" in data:
        scenes = [(_scene(name), scene) for name, scene in _object(data["scenes"], "scenes").items()]
    else:
        scenes = [(_scene(data.get("scene")), data)]
    for name, value in scenes:
        where = f"scene {name!r}" if name else "the file"
        scene = _object(value, where)
        if name is not None:
            parsed.scenes.append(name)
        if "width" in scene and "height" in scene:
            parsed.sizes[name or ""] = (_whole(scene["width"], where), _whole(scene["height"], where))
        for number, instance in enumerate(_list(scene.get("instances"), f"{where}: instances"), 1):
            parsed.entries.append(_instance(instance, name, f"{where}, instance {number}", number))
    return parsed


def _instance(value: Any, scene: str | None, where: str, number: int) -> Entry:
    instance = _object(value, where)
    points = [_point(point, where) for point in _list(instance.get("points"), f"{where}: points")]
    labels = instance.get("labels")
    labels = [1] * len(points) if labels is None else [_label(label, where) for label in _list(labels, where)]
    if len(labels) != len(points):
        raise Malformed(f"{where}: {len(points)} points but {len(labels)} labels")
    category = instance.get("category")
    return Entry(
        scene,
        _id(instance.get("id", number), where),
        points,
        labels,
        None if category is None else _whole(category, where),
    )


def _coco(data: dict[str, Any]) -> Parsed:
    """`annotations[]` with `points` (list) and `labels`, `point` (one) or `keypoints` (x, y, v; v > 0 counts)."""
    parsed = Parsed("coco", [])
    files: dict[Any, str] = {}
    for value in _list(data.get("images"), "images"):
        image = _object(value, "images")
        name = _scene(image.get("file_name"))
        if name is None or "id" not in image:
            raise Malformed("an image of images[] has no id or file_name")
        if isinstance(image["id"], list | dict):
            raise Malformed(f"image {name!r}: its id is neither a number nor text")
        if image["id"] in files:
            raise Malformed(f"image id {image['id']!r} appears twice")
        files[image["id"]] = name
        parsed.scenes.append(name)
        if "width" in image and "height" in image:
            parsed.sizes[name] = (_whole(image["width"], name), _whole(image["height"], name))
    for value in _list(data.get("categories"), "categories"):
        category = _object(value, "categories")
        parsed.categories.append({**category, "id": _whole(category.get("id"), "categories: id")})
    bare = 0
    for value in _list(data.get("annotations"), "annotations"):
        annotation = _object(value, "annotations")
        where = f"annotation {annotation.get('id')!r}"
        if isinstance(annotation.get("image_id"), list | dict) or annotation.get("image_id") not in files:
            raise Malformed(f"{where}: image_id {annotation.get('image_id')!r} is not among the images")
        points = annotation.get("points")
        labels: Any = annotation.get("labels")
        if points is None and "point" in annotation:
            points, labels = [annotation["point"]], None
        if points is None and "keypoints" in annotation:
            flat = _list(annotation["keypoints"], f"{where}: keypoints")
            if len(flat) % 3:
                raise Malformed(f"{where}: keypoints come in threes (x, y, v), came {len(flat)} numbers")
            triples = [flat[at : at + 3] for at in range(0, len(flat), 3)]
            seen = [_is_number(triple[2]) and triple[2] > 0 for triple in triples]
            points, labels = [triple[:2] for triple, counts in zip(triples, seen) if counts], None
        bare += points is None
        number = len(parsed.entries) + 1
        entry = {"points": points or [], "labels": labels, "category": annotation.get("category_id")}
        called = annotation.get("instance")  # resam-run's own files: what the points file before called it
        entry["id"] = called if isinstance(called, str | int) else annotation.get("id", number)
        parsed.entries.append(_instance(entry, files[annotation["image_id"]], where, number))
    if parsed.entries and bare == len(parsed.entries):
        raise Malformed(
            "a COCO file whose annotations hold no points, point or keypoints; "
            "resam-annotate or resam-train draw points from masks"
        )
    return parsed


def _geojson(data: dict[str, Any]) -> Parsed:
    """Point and MultiPoint features; properties instance, label and scene, all optional. Map coordinates."""
    features = _list(data["features"], "features") if "features" in data else [data]
    groups = _Groups()
    for number, value in enumerate(features, 1):
        where = f"feature {number}"
        feature = _object(value, where)
        properties = _object(feature.get("properties") or {}, f"{where}: properties")
        geometry = _object(feature.get("geometry") or {}, f"{where}: geometry")
        kind = geometry.get("type")
        if kind not in ("Point", "MultiPoint"):
            raise Malformed(f"{where}: expected a Point or MultiPoint, came {kind!r}")
        coordinates = _list(geometry.get("coordinates"), f"{where}: coordinates")
        label = properties.get("label")
        label = 1 if label is None else _label(label, where)  # QGIS writes an empty field as null
        instance = properties.get("instance", feature.get("id"))
        instance = f"feature {number}" if instance is None else _id(instance, where)
        for point in [coordinates] if kind == "Point" else coordinates:
            # a third number is the height
            point = _list(point, f"{where}: coordinates")
            groups.add(_scene(properties.get("scene")), instance, _point(point[:2], where), label)
    crs = _geojson_crs(data)
    return Parsed("geojson", groups.entries, crs=crs, scenes=groups.scenes())


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


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number JSON knows")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{where}: expected an object, came {type(value).__name__}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"{where}: expected a list, came {type(value).__name__}")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):  # Python would keep the last, and drop the points of the first in silence
        keys = [key for key, _ in pairs]
        raise Malformed(f"the member {next(key for key in keys if keys.count(key) > 1)!r} appears twice in one object")
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(cell: str) -> float | str:
    """A cell of a table as a number, or as it is."""
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def _point(value: Any, where: str) -> tuple[float, float]:
    try:
        if not isinstance(value, list) or not all(_is_number(number) for number in value):
            raise ValueError
        x, y = (float(number) for number in value)
    except (ValueError, OverflowError):
        raise Malformed(f"{where}: expected a point [x, y], came {' '.join(str(value)[:60].split())}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise Malformed(f"{where}: point {x}, {y} is not finite")
    return x, y


def _label(value: Any, where: str) -> int:
    number = _number(value) if isinstance(value, str) else value
    if not _is_number(number) or number not in (0, 1):
        raise Malformed(f"{where}: expected label 1 (on the instance) or 0 (off it), came {str(value)[:20]!r}")
    return int(number)


def _whole(value: Any, where: str) -> int:
    if not _is_number(value) or value != value // 1:
        raise Malformed(f"{where}: expected a whole number, came {str(value)[:40]!r}")
    return int(value)


def _id(value: Any, where: str) -> str | int:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Malformed(f"{where}: expected a number or text as its id, came {str(value)[:40]!r}")


def _scene(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Malformed(f"expected a scene's file name, came {str(value)[:40]!r}")
    name = value.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name
