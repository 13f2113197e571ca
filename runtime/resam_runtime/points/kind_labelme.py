"""labelme's JSON of one image, which X-AnyLabeling writes too: its shapes `point`, `points`, `rectangle`, `polygon`.

Shapes with one `group_id` are one instance. Such a file lies beside its image as NAME.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resam_runtime.common.checked import Malformed, take
from resam_runtime.common.files import open_regular
from resam_runtime.points.entry import LIST, Parsed, PointKind
from resam_runtime.points.outside import Shapes
from resam_runtime.points.values import scene_name, take_id, take_point

_POINTS, _OUTLINES = ("point", "points"), ("rectangle", "polygon")
_HEAD = 4096  # bytes: version, flags, and the beginning of the shapes


def _parse(data: dict[str, Any], boxes: bool) -> Parsed:
    shapes = Shapes()
    name = (scene_name(data.get("imagePath")) or "").rsplit("../", 1)[-1]
    if not name:
        raise Malformed("its imagePath names no image")
    width, height = data.get("imageWidth"), data.get("imageHeight")
    shapes.scene(name, None if None in (width, height) else (take(width, int, name), take(height, int, name)))
    for number, value in enumerate(take(data["shapes"], LIST, "shapes"), 1):
        where = f"shape {number}"
        shape = take(value, dict, where)
        kind, label = shape.get("shape_type") or "polygon", take(shape.get("label") or "", str, f"{where}: label")
        points = [take_point(point, where) for point in take(shape.get("points"), LIST, f"{where}: points")]
        group = None if shape.get("group_id") is None else take_id(shape["group_id"], f"{where}: group_id")
        if kind in _POINTS:
            shapes.points(name, number, group, points, label)
        elif kind in _OUTLINES and points:
            shapes.box(name, number, group, points, label)
        else:
            raise Malformed(f"{where}: expected {', '.join((*_POINTS, *_OUTLINES))}, got {str(kind)[:40]!r}")
    return shapes.parsed()


def is_labelme(path: Path) -> bool:
    """Whether a file begins as labelme's do; False where it cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.lstrip().startswith(b"{") and b'"shapes"' in head


LABELME = PointKind("labelme", "", _parse, "labelme (shapes)", lambda data: "shapes" in data)
