"""CVAT's `annotations.xml`, "CVAT for images 1.1": `points`, `box`, `polygon` and `skeleton` of each image.

The points of one shape are one instance, as are shapes of one `group_id`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resam_runtime.common.checked import Malformed
from resam_runtime.points.entry import Parsed, PointKind
from resam_runtime.points.outside import Point, Shapes
from resam_runtime.points.values import cell_number, scene_name, take_point

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_IGNORED = ("tag",)  # of the whole image


def _parse(text: str, boxes: bool) -> Parsed:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # CVAT writes none, and entities may blow up
        raise Malformed("an XML file with a document type of its own; expected CVAT's annotations.xml")
    from xml.etree import ElementTree  # takes longer to import than a run without such a file should

    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Malformed(f"not XML ({error})") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise Malformed("expected CVAT's annotations.xml, exported as 'CVAT for images 1.1'")
    shapes = Shapes()
    for number, image in enumerate(root.iter("image"), 1):
        name = scene_name(image.get("name"))
        if name is None:
            raise Malformed(f"image {number} has no name")
        shapes.scene(name, (int(_number(image, "width", name)), int(_number(image, "height", name))))
        drawn = [shape for shape in image if shape.tag not in _IGNORED]
        for place, shape in enumerate(drawn, 1):
            where = f"{name}, shape {place}"
            group = shape.get("group_id") or None
            group = None if group == "0" else group
            label = shape.get("label") or ""
            if shape.tag == "points":
                shapes.points(name, place, group, _points(shape, where), label)
            elif shape.tag == "skeleton":
                seen = (point for point in shape.iter("points") if point.get("outside") != "1")
                shapes.points(name, place, group, [one for point in seen for one in _points(point, where)], label)
            elif shape.tag == "polygon":
                shapes.box(name, place, group, _points(shape, where), label)
            elif shape.tag == "box":
                shapes.box(name, place, group, _corners(shape, where), label)
            else:
                raise Malformed(f"{where}: expected points, skeleton, box, polygon, got {shape.tag[:40]!r}")
    return shapes.parsed()


def _corners(box: Element, where: str) -> Iterator[Point]:
    """The corners of a box, which is turned about its middle, clockwise on the screen."""
    x0, y0, x1, y1 = (_number(box, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
    turned = math.radians(_number(box, "rotation", where)) if box.get("rotation") else 0.0
    c, s, x, y, a, b = math.cos(turned), math.sin(turned), (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    for right, down in ((-a, -b), (a, -b), (a, b), (-a, b)):
        yield x + right * c - down * s, y + right * s + down * c


def _points(shape: Element, where: str) -> list[Point]:
    pairs = (shape.get("points") or "").split(";")
    return [take_point([cell_number(number.strip()) for number in pair.split(",")], where) for pair in pairs]


def _number(element: Element, name: str, where: str) -> float:
    value: Any = cell_number(element.get(name) or "")
    if isinstance(value, str) or not math.isfinite(value):
        raise Malformed(f"{where}: {name} {value[:40] if isinstance(value, str) else value!r} is not a number")
    return float(value)


CVAT = PointKind("CVAT", ".points.xml", _parse)
