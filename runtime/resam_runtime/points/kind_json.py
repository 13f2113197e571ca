"""Points JSON, our own kind: `scenes` by name, or the `instances` of one scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from resam_runtime.common.checked import Malformed, take
from resam_runtime.masks.instance import Category
from resam_runtime.points.entry import (
    LIST,
    POINTS_MEMBERS,
    Entry,
    Parsed,
    PointKind,
    names_of,
    take_categories,
    take_instance,
)
from resam_runtime.points.values import instance_ids, no_misspelt_label, scene_name


def _parse(data: dict[str, Any], boxes: bool) -> Parsed:
    if data.get("format", "resam-points") != "resam-points":
        raise Malformed(f"expected format 'resam-points', got {data['format']!r}")
    if data.get("version", 1) != 1:
        raise Malformed(f"points file version {data['version']!r}, this program reads version 1")
    parsed = Parsed(categories=take_categories(data))
    names = names_of(parsed.categories)
    scenes: Iterable[tuple[str | None, Any]]
    if "scenes" in data:
        scenes = [(scene_name(name), scene) for name, scene in take(data["scenes"], dict, "scenes").items()]
    else:
        scenes = [(scene_name(data.get("scene")), data)]
    for name, value in scenes:
        where = f"scene {name!r}" if name else "the file"
        scene = take(value, dict, where)
        if "instances" not in scene and POINTS_MEMBERS & {member.lower() for member in scene}:
            raise Malformed(f"{where}: expected instances, a list of objects with points")
        if name is not None:
            parsed.scenes.append(name)
        if "width" in scene and "height" in scene:
            parsed.sizes_wh[name or ""] = (take(scene["width"], int, where), take(scene["height"], int, where))
        instances = take(scene.get("instances"), LIST, f"{where}: instances")
        for number, (instance, own) in enumerate(zip(instances, instance_ids(instances)), 1):
            parsed.entries.append(take_own(instance, name, f"{where}, instance {number}", own, names))
    return parsed


def take_own(value: Any, scene: str | None, where: str, own: Any, names: Mapping[int, str]) -> Entry:
    """An instance as this kind has it; own: its id, names: of categories by their numbers."""
    if isinstance(value, dict):
        no_misspelt_label(value, "labels", where, names=False)
    entry = take_instance(value, scene, where, own)
    category = value.get("category")
    if isinstance(category, str):  # a name of the user's; COCO's are numbers
        entry.category = Category(name=category)
    elif category is not None:
        number = take(category, int, f"{where}: category")
        entry.category = Category(number, names.get(number))
    return entry


JSON = PointKind(
    "JSON",
    ".points.json",
    _parse,
    "points JSON (scenes or instances)",
    lambda data: "scenes" in data or "instances" in data,
)
