"""What a window may do to a scene's points, as pure functions on the points JSON of one scene.

An operation is small and names what it touches: an instance by its id, a point by its coordinates and label. So two
windows that work on one scene, even on one instance, both keep what they did. A window that got no answer sends
its operation again and marks it ("retry": true); what the scene shows as done already is then not done twice.
Members that we do not know (a remark) stay as they are. What comes out is what the readers of points files take: they
are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from resam_runtime.common.checked import LARGEST, Malformed, take
from resam_runtime.points.kind_json import take_own

SceneData = dict[str, Any]
"""One scene of a points file: {"width", "height", "instances": [{"id", "points", "labels", "box", "category"}], "done",
"rejected": [[x0, y0, x1, y1]]}; box, category, done and rejected only where there is one. `rejected` holds boxes of
what an engine proposed and a person said is nothing."""
_DEPTH = 32  # of members that we do not know; readers take some hundred in all


class Refused(ValueError):
    """An operation that makes no sense; its message says why, in a few words."""


class Conflict(Refused):
    """An operation on what is no longer there, most likely removed in another window."""


class Change(NamedTuple):
    """The scene afterwards, and the one instance that changed: its id, its value (None: removed) and its place."""

    scene: SceneData
    instance: int | str | None = None
    value: dict[str, Any] | None = None
    place: int = 0


def apply_operation(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """The scene after one operation; `scene` itself stays as it was.

    operation: {"do": "add" | "remove" | "move" | "box" | "class" | "accept" | "delete" | "restore" | "reject" | "done",
    ...}; each has a function below.
    next_id: the id that a new instance gets. With "retry": true an operation that shows in `scene` changes nothing.
    Raises `Refused`, `Conflict`.
    """
    act = _ACTS.get(str(operation.get("do")))
    if act is None:
        raise Refused(f"unknown operation {str(operation.get('do'))[:40]!r}")
    if operation.get("retry") is True and (done := _done_before(scene, operation)):
        return done
    return act(scene, operation, next_id)


def _done_before(scene: SceneData, operation: dict[str, Any]) -> Change | None:
    """The unchanged scene where an operation shows in it; None where it is still to be done, or cannot be.

    `done`, and `add` to an instance that there is, may be done twice and are not looked at here.
    """
    act, name = operation["do"], operation.get("instance")
    given: Any = operation.get("value")
    if act == "restore":
        name = given.get("id") if isinstance(given, dict) else None
    place, value = next((at for at in enumerate(scene["instances"]) if _same(at[1]["id"], name)), (0, None))
    point, label = operation.get("point"), operation.get("label")
    if act in ("add", "box", "accept") and name is None:
        wanted = _begun(scene, operation)
        alike = [at for at in enumerate(scene["instances"]) if {**at[1], "id": None} == {**wanted, "id": None}]
        return Change(scene, alike[-1][1]["id"], alike[-1][1], alike[-1][0]) if alike else None
    if value is None:  # gone by `delete`, or by `remove` with its last point
        return Change(scene, name) if act in ("delete", "remove") else None
    shows = {
        "restore": lambda: all(value[key] == given.get(key) for key in ("points", "labels")),
        "remove": lambda: [point, label] not in _pairs(value),
        "move": lambda: [point, label] not in _pairs(value) and [operation.get("to"), label] in _pairs(value),
    }
    return Change(scene, value["id"], value, place) if act in shows and shows[act]() else None


def _begun(scene: SceneData, operation: dict[str, Any]) -> dict[str, Any]:
    """The instance, yet without its id, that begins with `add`, `box` or `accept`."""
    value: dict[str, Any] = {"points": [], "labels": []}
    if operation["do"] != "box":
        value = {"points": [_point(scene, operation.get("point"))], "labels": [_label(operation)]}
    if operation.get("box") is not None:
        value["box"] = _box(scene, operation["box"])
    if operation.get("category") is not None:
        value["category"] = operation["category"]
    return value


def _begin(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    value = {"id": next_id, **_begun(scene, operation)}
    return _put(scene, len(scene["instances"]), value, insert=True)


def _add(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id or null, "point": [x, y], "label": 1, "at": index, "category"}: null begins a new instance, of a
    class if one is given."""
    wanted = operation.get("instance")
    if wanted is None:
        return _begin(scene, {**operation, "box": None}, next_id)
    point, label = _point(scene, operation.get("point")), _label(operation)
    place, value = _find(scene, wanted)
    if [point, label] in _pairs(value):
        return Change(scene, wanted, value, place)
    at = _place(operation.get("at"), len(value["points"]))
    points, labels = list(value["points"]), list(value["labels"])
    points.insert(at, point)
    labels.insert(at, label)
    return _put(scene, place, {**value, "points": points, "labels": labels})


def _put_box(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id or null, "box": [x0, y0, x1, y1] or null, "category"}: a box around the instance, outer pixels
    included, in place of the one that it has; null for an instance begins one, for a box takes it away, and the
    instance with it if that is all it is."""
    wanted = operation.get("instance")
    if wanted is None:
        if operation.get("box") is None:
            raise Refused("expected a box")
        return _begin(scene, operation, next_id)
    place, value = _find(scene, wanted)
    rest = {name: one for name, one in value.items() if name != "box"}
    if operation.get("box") is not None:
        return _put(scene, place, {**rest, "box": _box(scene, operation["box"])})
    return _put(scene, place, rest) if rest["points"] else _delete(scene, operation, next_id)


def _accept(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"point": [x, y], "label": 1, "box": [x0, y0, x1, y1], "category"}: what an engine proposed is an instance."""
    return _begin(scene, operation, next_id)


def _classify(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id, "category": number, text or null}"""
    place, value = _find(scene, operation.get("instance"))
    rest = {name: one for name, one in value.items() if name != "category"}
    category = operation.get("category")
    return _put(scene, place, rest if category is None else {**rest, "category": category})


def _reject(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"box": [x0, y0, x1, y1], "back": true or false}: what an engine proposed there is nothing; back: may be after
    all."""
    box, before = _box(scene, operation.get("box")), scene.get("rejected")
    rejected = [one for one in before if one != box] if isinstance(before, list) else []
    if operation.get("back") is not True:
        rejected.append(box)
    rest = {name: value for name, value in scene.items() if name not in ("rejected", "instances")}
    kept = {"rejected": rejected} if rejected else {}
    return Change({**rest, **kept, "instances": scene["instances"]})


def _remove(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id, "point": [x, y], "label": 1}: an instance without a box goes with its last point."""
    place, value = _find(scene, operation.get("instance"))
    at = _which(value, operation)
    points, labels = list(value["points"]), list(value["labels"])
    del points[at], labels[at]
    if not points and value.get("box") is None:
        return _delete(scene, operation, next_id)
    return _put(scene, place, {**value, "points": points, "labels": labels})


def _move(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id, "point": [x, y], "label": 1, "to": [x, y]}"""
    place, value = _find(scene, operation.get("instance"))
    at, to = _which(value, operation), _point(scene, operation.get("to"))
    points = list(value["points"])
    points[at] = to
    return _put(scene, place, {**value, "points": points})


def _delete(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id}"""
    place, value = _find(scene, operation.get("instance"))
    instances = scene["instances"][:place] + scene["instances"][place + 1 :]
    return Change({**scene, "instances": instances}, value["id"], None, place)


def _restore(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"value": {"id", "points", "labels", ...}, "place": index}: what undo does to `delete`."""
    given = operation.get("value")
    if not isinstance(given, dict) or not (given.get("points") or given.get("box")):
        raise Refused("expected an instance with points or a box")
    if not _is_shallow(given, _DEPTH):
        raise Refused("nested too deeply")
    points = given.get("points") or []
    if not isinstance(points, list) or not isinstance(given.get("labels"), list):
        raise Refused("expected points and as many labels")
    if any(_same(instance["id"], given.get("id")) for instance in scene["instances"]):
        raise Conflict(f"instance {given['id']} already exists")
    # even outside the image, if that is how they were
    value = {**given, "points": [_numbers(point) for point in points]}
    return _put(scene, _place(operation.get("place"), len(scene["instances"])), value, insert=True)


def _done(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"done": true or false}"""
    if not isinstance(operation.get("done"), bool):
        raise Refused("expected done to be true or false")
    rest = {name: value for name, value in scene.items() if name not in ("done", "instances")}
    done = {"done": True} if operation["done"] else {}
    return Change({**rest, **done, "instances": scene["instances"]})


_ACTS: dict[str, Callable[[SceneData, dict[str, Any], int], Change]] = {
    "add": _add,
    "remove": _remove,
    "move": _move,
    "box": _put_box,
    "class": _classify,
    "accept": _accept,
    "delete": _delete,
    "restore": _restore,
    "reject": _reject,
    "done": _done,
}


def _put(scene: SceneData, place: int, value: dict[str, Any], insert: bool = False) -> Change:
    try:
        entry = take_own(value, None, "", value.get("id"), {})
        # beyond that no browser can name it
        take(entry.id, int | str, "id")
    except Malformed as error:
        raise Refused(str(error).lstrip(": ")) from None
    value = {**value, "id": entry.id, "labels": entry.labels}
    instances = list(scene["instances"])
    instances[place : place + (not insert)] = [value]
    return Change({**scene, "instances": instances}, value["id"], value, place)


def _find(scene: SceneData, name: Any) -> tuple[int, dict[str, Any]]:
    for place, value in enumerate(scene["instances"]):
        if _same(value["id"], name):
            return place, value
    raise Conflict(f"instance {str(name)[:40]} was deleted")


def _same(one: Any, other: Any) -> bool:
    """Ids 7 and "7" are two, as are 1 and true."""
    return type(one) is type(other) and bool(one == other)


def _which(value: dict[str, Any], operation: dict[str, Any]) -> int:
    pair = [operation.get("point"), operation.get("label")]
    if pair not in _pairs(value):
        raise Conflict(f"that point of instance {value['id']} was deleted")
    return _pairs(value).index(pair)


def _pairs(value: dict[str, Any]) -> list[list[Any]]:
    return [[list(point), label] for point, label in zip(value["points"], value["labels"])]


def _box(scene: SceneData, box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise Refused("expected a box [x0, y0, x1, y1]")
    x0, y0, x1, y1 = (round(float(value), 2) for value in box)
    if not (0 <= x0 <= x1 <= scene["width"] - 1 and 0 <= y0 <= y1 <= scene["height"] - 1):
        raise Refused(f"box {x0:g}, {y0:g}, {x1:g}, {y1:g} does not lie in the image")
    return [x0, y0, x1, y1]


def _is_shallow(value: Any, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in parts)


def _numbers(point: Any) -> list[float]:
    if not isinstance(point, list) or len(point) != 2 or not all(_is_number(value) for value in point):
        raise Refused("expected a point [x, y]")
    return [float(value) for value in point]


def _point(scene: SceneData, point: Any) -> list[float]:
    x, y = (round(value, 2) for value in _numbers(point))
    if not (-0.5 <= x < scene["width"] - 0.5 and -0.5 <= y < scene["height"] - 0.5):
        raise Refused(f"point {x:g}, {y:g} lies outside the image")
    return [x, y]


def _label(operation: dict[str, Any]) -> int:
    if operation.get("label") not in (0, 1) or not _is_int(operation["label"]):
        raise Refused("expected label 1 (on the instance) or 0 (off it)")
    return int(operation["label"])


def _place(place: Any, count: int) -> int:
    """A place among `count` things, the end where none or a wrong one is given."""
    return min(place, count) if _is_int(place) and place >= 0 else count


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) if not _is_int(value) else abs(value) <= LARGEST
