"""The values of a points file, each checked as it is taken: what is wrong is said in a few words, without the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resam_runtime.common.checked import Malformed, is_number

_LABELS = {"label", "labels", "lable", "lables", "pointlabel", "pointlabels"}


def no_misspelt_label(given: Mapping[str, Any], expected: str, where: str, names: bool = True) -> None:
    """Raise Malformed for a member that seems to be the misspelt labels: a point off the object would turn into one
    on it. Other unknown members may be anyone's. names: whether a text that is no number may be, say, a class's name.
    """
    if given.get(expected) is not None:
        return
    for member, value in given.items():
        if member.lower().replace("_", "") not in _LABELS or value is None:
            continue
        if not (names and isinstance(value, str) and isinstance(cell_number(value), str)):
            raise Malformed(f"{where}: {member!r} is not known, expected {expected!r}")


def cell_number(cell: str) -> float | str:
    """A cell of a table as a number, or as it is."""
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def take_point(value: Any, where: str) -> tuple[float, float]:
    """[x, y], two finite numbers. Raises Malformed, as all of these do."""
    try:
        if not isinstance(value, list) or not all(is_number(number) for number in value):
            raise ValueError
        x, y = (float(number) for number in value)
    except (ValueError, OverflowError):
        raise Malformed(f"{where}: expected a point [x, y], got {' '.join(str(value)[:60].split())}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise Malformed(f"{where}: point {x}, {y} is not finite")
    return x, y


def take_label(value: Any, where: str) -> int:
    """1 or 0, also as text."""
    number = cell_number(value) if isinstance(value, str) else value
    if not is_number(number) or number not in (0, 1):
        raise Malformed(f"{where}: expected label 1 (on the instance) or 0 (off it), got {str(value)[:20]!r}")
    return int(number)


def take_id(value: Any, where: str) -> str | int:
    """A whole number, also written 1.0, or a text: what names an instance, or an object of COCO's."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Malformed(f"{where}: expected a whole number or a text as its id, got {str(value)[:40]!r}")


def own_name(annotation: Mapping[str, Any]) -> str | int | None:
    """What a COCO annotation's `instance` says that it is called, as in files of `resam-run`; None where that is no id
    but something of somebody else's."""
    try:
        return take_id(annotation.get("instance"), "instance")
    except Malformed:
        return None


def instance_ids(instances: Sequence[Any]) -> list[Any]:
    """What a scene's instances call themselves, unchecked; who does not gets its number from 1, or a free one where
    another is called that."""
    given = [instance.get("id") if isinstance(instance, dict) else None for instance in instances]
    taken: set[Any] = {own for own in given if is_number(own)}
    free = max([len(given), *(int(own) for own in taken if isinstance(own, int) or own.is_integer())])
    ids = []
    for number, own in enumerate(given, 1):
        if own is None and number in taken:
            free += 1
        ids.append(own if own is not None else free if number in taken else number)
    return ids


def scene_name(value: Any) -> str | None:
    """A scene's name with forward slashes; None for an empty one."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Malformed(f"expected a scene's file name, got {str(value)[:40]!r}")
    name = value.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def no_shared_file(images: Iterable[tuple[str | int | None, str]]) -> None:
    """Raise Malformed where two of COCO's images, (id, file_name) each, are one file: it would be looked at twice, with
    some of its instances each time."""
    first: dict[str | None, str | int | None] = {}
    for own, file in images:
        other = first.setdefault(scene_name(file), own)
        if other != own:
            raise Malformed(f"the images {other!r} and {own!r} have the same file_name, {file!r}; make them one image")
