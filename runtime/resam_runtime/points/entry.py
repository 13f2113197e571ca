"""What parsers make of points files: instances, in the file's own coordinates. Nothing here knows a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resam_runtime.common.checked import Malformed, optional, take
from resam_runtime.masks.instance import Category
from resam_runtime.points.values import take_id, take_label, take_point

LIST = optional(list, list)
"""A JSON list, as it is; an empty one for null or nothing."""
PIXELS = "pixels"
"""`Parsed.crs` of a file that holds pixel coordinates."""
POINTS_MEMBERS = frozenset({"points", "point", "labels", "label", "instance", "instances", "annotations"})
_POINTS = frozenset({"point", "coords", "coordinates", "x", "xy"})


@dataclass
class Entry:
    """One instance as a file gives it: coordinates in the file's own system. outline: of its box, if it has one: points
    whose bounds are the edges of the box's outer pixels."""

    scene: str | None
    id: str | int | None
    coords: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    category: Category | None = None
    outline: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Parsed:
    """A whole file. crs: `PIXELS`, "EPSG:n", a URN. sizes_wh: scene -> (width, height) that the points were made for.

    scenes: names that the file knows, with points or without. categories: COCO's list, if any.
    """

    entries: list[Entry] = field(default_factory=list)
    crs: str = PIXELS
    sizes_wh: dict[str, tuple[int, int]] = field(default_factory=dict)
    scenes: list[str] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)

    def by_scene(self) -> Mapping[str | None, Sequence[Entry]]:
        """Scene -> its instances."""
        scenes: dict[str | None, list[Entry]] = {}
        for entry in self.entries:
            scenes.setdefault(entry.scene, []).append(entry)
        return scenes


@dataclass(frozen=True)
class PointKind:
    """A kind of points file. `resam_runtime.points.file_kinds.POINT_KINDS` lists them.

    name: in help and errors. suffix: of a file beside its scene, behind NAME; "" for a kind that has none of its own.
    members: those of its JSON object, for errors; "" for a kind that is no JSON, which its suffix tells.
    holds: whether JSON, an object or a list as `root` says, is of this kind. parse: this JSON, or the text, and whether
    the `bbox` of annotations is a box prompt, to `Parsed`; raises Malformed.
    """

    name: str
    suffix: str
    parse: Callable[[Any, bool], Parsed]
    members: str = ""
    holds: Callable[[Any], bool] | None = None
    root: type[dict[str, Any]] | type[list[Any]] = dict


class Groups:
    """Collects single points into instances, both in the order of first appearance."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str | None, str | int], Entry] = {}

    def add(self, scene: str | None, instance: str | int, point: tuple[float, float], label: int) -> None:
        """One more point of an instance."""
        entry = self.entry(scene, instance)
        entry.coords.append(point)
        entry.labels.append(label)

    def entry(self, scene: str | None, instance: str | int) -> Entry:
        """What there is of an instance so far."""
        return self._entries.setdefault((scene, instance), Entry(scene, instance))

    def parsed(self, crs: str = PIXELS) -> Parsed:
        """The whole file."""
        scenes = dict.fromkeys(scene for scene, _ in self._entries if scene is not None)
        return Parsed(list(self._entries.values()), crs, scenes=list(scenes))


def take_box(value: Any, where: str) -> list[tuple[float, float]]:
    """The `Entry.outline` of [x0, y0, x1, y1], outer pixels included."""
    box = take(value, list[float], where)
    if len(box) != 4 or box[2] < box[0] or box[3] < box[1]:
        raise Malformed(f"{where}: expected a box [x0, y0, x1, y1], got {' '.join(str(value)[:60].split())}")
    return [(box[0] - 0.5, box[1] - 0.5), (box[2] + 0.5, box[3] + 0.5)]


def take_categories(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `categories` of a file, each with its number `id` and what else it has; a `name` is a text."""
    categories = take(data.get("categories"), LIST, "categories")
    return [
        {**take(value, dict, "categories"), "id": take(value.get("id"), int, "categories: id")} for value in categories
    ]


def names_of(categories: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Names by numbers, of the categories that have one."""
    return {one["id"]: str(one["name"]) for one in categories if "name" in one}


def take_instance(value: Any, scene: str | None, where: str, own: Any) -> Entry:
    """An instance with `points`, perhaps `labels`, or a `box`; yet without its category. own: what it calls itself."""
    instance = take(value, dict, where)
    near = [member for member in instance if member.lower() in _POINTS]
    if near and instance.get("points") is None:  # it would be an instance without points, which is left out
        raise Malformed(f"{where}: {near[0]!r} is not known, expected 'points', a list of [x, y]")
    points = [take_point(point, where) for point in take(instance.get("points"), LIST, f"{where}: points")]
    labels = instance.get("labels")
    labels = [1] * len(points) if labels is None else [take_label(label, where) for label in take(labels, LIST, where)]
    if len(labels) != len(points):
        raise Malformed(f"{where}: {len(points)} points but {len(labels)} labels")
    outline = [] if instance.get("box") is None else take_box(instance["box"], f"{where}: box")
    return Entry(scene, take_id(own, where), points, labels, outline=outline)
