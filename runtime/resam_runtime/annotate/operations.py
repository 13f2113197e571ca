"""What a window may do to a scene's points, as pure functions on the points JSON of one scene.

An operation is small and names what it touches: an instance by its id, a point by its coordinates and label. So two
windows that work on one scene, even on one instance, both keep what they did. A window that got no answer sends
its operation again and marks it ("retry": true); what the scene shows as done already is then not done twice.
Members that we do not know (`category`, a remark) stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

SceneData = dict[str, Any]
"""One scene of a points file: {"width", "height", "instances": [{"id", "points", "labels"}], "done"}."""


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

    operation: {"do": "add" | "remove" | "move" | "delete" | "restore" | "done", ...}; each has a function below.
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
    if act == "add" and name is None:
        wanted = [[_point(scene, point), _label(operation)]]
        alike = [at for at in enumerate(scene["instances"]) if _pairs(at[1]) == wanted]
        return Change(scene, alike[-1][1]["id"], alike[-1][1], alike[-1][0]) if alike else None
    if value is None:  # gone by `delete`, or by `remove` with its last point
        return Change(scene, name) if act in ("delete", "remove") else None
    shows = {
        "restore": lambda: all(value[key] == given.get(key) for key in ("points", "labels")),
        "remove": lambda: [point, label] not in _pairs(value),
        "move": lambda: [point, label] not in _pairs(value) and [operation.get("to"), label] in _pairs(value),
    }
    return Change(scene, value["id"], value, place) if act in shows and shows[act]() else None


def _add(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id or null, "point": [x, y], "label": 1, "at": index}: null begins a new instance."""
    point, label = _point(scene, operation.get("point")), _label(operation)
    wanted = operation.get("instance")
    if wanted is None:
        begun = {"id": next_id, "points": [point], "labels": [label]}
        return _put(scene, len(scene["instances"]), begun, insert=True)
    place, value = _find(scene, wanted)
    if [point, label] in _pairs(value):
        return Change(scene, wanted, value, place)
    at = _place(operation.get("at"), len(value["points"]))
    points, labels = list(value["points"]), list(value["labels"])
    points.insert(at, point)
    labels.insert(at, label)
    return _put(scene, place, {**value, "points": points, "labels": labels})


def _remove(scene: SceneData, operation: dict[str, Any], next_id: int) -> Change:
    """{"instance": id, "point": [x, y], "label": 1}: an instance goes with its last point."""
    place, value = _find(scene, operation.get("instance"))
    at = _which(value, operation)
    points, labels = list(value["points"]), list(value["labels"])
    del points[at], labels[at]
    if not points:
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
    """{"value": {"id", "points", "labels"}, "place": index}: what undo does to `delete`."""
    given = operation.get("value")
    if not isinstance(given, dict) or not isinstance(given.get("points"), list) or not given["points"]:
        raise Refused("expected an instance with points")
    labels = given.get("labels")
    if not isinstance(labels, list) or len(labels) != len(given["points"]):
        raise Refused("expected as many labels as points")
    name = given.get("id")
    if not (_is_int(name) or isinstance(name, str)):
        raise Refused("expected an id")
    if any(_same(instance["id"], name) for instance in scene["instances"]):
        raise Conflict(f"instance {name} is there already")
    points = [_numbers(point) for point in given["points"]]  # even outside the image, if that is how they were
    value = {**given, "points": points, "labels": [_label({"label": label}) for label in labels]}
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
    "delete": _delete,
    "restore": _restore,
    "done": _done,
}


def _put(scene: SceneData, place: int, value: dict[str, Any], insert: bool = False) -> Change:
    instances = list(scene["instances"])
    instances[place : place + (not insert)] = [value]
    return Change({**scene, "instances": instances}, value["id"], value, place)


def _find(scene: SceneData, name: Any) -> tuple[int, dict[str, Any]]:
    for place, value in enumerate(scene["instances"]):
        if _same(value["id"], name):
            return place, value
    raise Conflict(f"instance {str(name)[:40]} is gone")


def _same(one: Any, other: Any) -> bool:
    """Ids 7 and "7" are two, as are 1 and true."""
    return type(one) is type(other) and bool(one == other)


def _which(value: dict[str, Any], operation: dict[str, Any]) -> int:
    pair = [operation.get("point"), operation.get("label")]
    if pair not in _pairs(value):
        raise Conflict(f"that point of instance {value['id']} is gone")
    return _pairs(value).index(pair)


def _pairs(value: dict[str, Any]) -> list[list[Any]]:
    return [[list(point), label] for point, label in zip(value["points"], value["labels"])]


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
    return isinstance(value, float) and math.isfinite(value) if not _is_int(value) else abs(value) < 1 << 53
