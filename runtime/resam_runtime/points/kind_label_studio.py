"""Label Studio's export "JSON": a list of tasks; regions `keypoint`, `rectangle` and `polygon`, with labels or without.

Coordinates are percents of the image. A region whose `parentID` is another's is of the same instance. Of several
annotations of a task the last that was not cancelled counts; predictions do not.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from resam_runtime.common.checked import Malformed, is_number, take
from resam_runtime.points.entry import LIST, Parsed, PointKind
from resam_runtime.points.outside import Point, Shapes
from resam_runtime.points.values import scene_name, take_id, take_point

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded
_REGIONS = ("keypoint", "rectangle", "polygon")
_OF_THE_IMAGE = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "relation", "pairwise", "ranker")


def _parse(data: list[Any], boxes: bool) -> Parsed:
    shapes = Shapes()
    for number, value in enumerate(data, 1):
        task = take(value, dict, f"task {number}")
        name = _scene(task, f"task {task.get('id', number)}")
        made = [take(one, dict, name) for one in take(task.get("annotations"), LIST, f"{name}: annotations")]
        made = [one for one in made if not one.get("was_cancelled")]
        results = take(made[-1].get("result"), LIST, f"{name}: result") if made else []
        regions = [take(one, dict, f"{name}: result") for one in results]
        regions = [one for one in regions if one.get("type") not in _OF_THE_IMAGE]
        sizes = {_size(region, name) for region in regions}
        if len(sizes) > 1:
            raise Malformed(f"{name}: its regions were drawn on images of several sizes")
        shapes.scene(name, next(iter(sizes), None))
        parents = {one.get("id"): one.get("parentID") for one in regions}
        for place, region in enumerate(regions, 1):
            _add(shapes, name, place, region, parents)
    return shapes.parsed()


def _add(shapes: Shapes, name: str, place: int, region: dict[str, Any], parents: dict[Any, Any]) -> None:
    where = f"{name}, region {place}"
    full = str(region.get("type"))
    kind = full.removesuffix("labels")
    if kind not in _REGIONS:
        raise Malformed(f"{where}: expected {', '.join(_REGIONS)}, got {full[:40]!r}")
    if region.get("image_rotation"):
        raise Malformed(f"{where}: drawn on a rotated image; rotate it back")
    value = take(region.get("value"), dict, where)
    labels = take(value.get(full), LIST, where) if full != kind else []
    label = take(labels[0], str, where) if labels else ""
    own = place if region.get("id") is None else take_id(region["id"], where)
    top = own
    for _ in parents:  # no more steps than regions: a ring of parents ends too
        top = parents.get(top) or top
    if kind == "keypoint" and region.get("is_positive") is not None and not region["is_positive"]:
        label = "negative"
    size = _size(region, name)
    if kind == "keypoint":
        shapes.points(name, own, take_id(top, where), [_pixels([value.get("x"), value.get("y")], size, where)], label)
        return
    if kind == "polygon":
        outline = [_pixels(point, size, where) for point in take(value.get("points"), LIST, where)]
    else:
        outline = _corners(value, size, where)
    if not outline:
        raise Malformed(f"{where}: a polygon without points")
    shapes.box(name, own, take_id(top, where), outline, label)


def _corners(value: dict[str, Any], size: tuple[int, int], where: str) -> list[Point]:
    """The corners of a rectangle, which is turned about its first one, clockwise on the screen."""
    x, y = _pixels([value.get("x"), value.get("y")], size, where)
    width, height = _pixels([value.get("width"), value.get("height")], size, where)
    turned = value.get("rotation") or 0
    if not is_number(turned) or width < 0 or height < 0:
        raise Malformed(f"{where}: no rectangle")
    c, s = math.cos(math.radians(turned)), math.sin(math.radians(turned))
    return [(x + a * c - b * s, y + a * s + b * c) for a, b in ((0, 0), (width, 0), (width, height), (0, height))]


def _pixels(percents: Any, size: tuple[int, int], where: str) -> Point:
    x, y = take_point(percents, where)
    return x / 100 * size[0], y / 100 * size[1]


def _size(region: dict[str, Any], name: str) -> tuple[int, int]:
    width, height = (
        take(region.get(f"original_{side}"), int, f"{name}: original_{side}") for side in ("width", "height")
    )
    return width, height


def _scene(task: dict[str, Any], where: str) -> str:
    """The image's name: of what was uploaded, without what Label Studio put before it; its path, of local files; the
    last part of any other address."""
    data = {
        key: value for key, value in take(task.get("data"), dict, f"{where}: data").items() if isinstance(value, str)
    }
    known = [data[key] for key in ("image", "img") if key in data] or list(data.values())
    if len(known) != 1:
        raise Malformed(f"{where}: which member of its data names the image? Call it 'image'")
    parts = urlsplit(known[0].replace("\\", "/"))
    local = parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("/data/local-files") else None
    path = local[0] if local else unquote(parts.path)
    name = path if local else path.rsplit("/", 1)[-1]
    if not local and "/upload/" in path:
        name = _UPLOADED.sub("", name, count=1)
    found = scene_name(name.lstrip("/"))
    if found is None:
        raise Malformed(f"{where}: {known[0][:60]!r} names no image")
    return found


LABEL_STUDIO = PointKind(
    "Label Studio",
    "",
    _parse,
    "Label Studio (a list of tasks)",
    lambda data: (
        bool(data) and all(isinstance(task, dict) and "annotations" in task and "data" in task for task in data)
    ),
    root=list,
)
