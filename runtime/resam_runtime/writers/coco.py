"""`instances.json`: all instances of a run as COCO with compressed RLE.

The file is a function of the scenes, the points, the engine and the options alone: no times, no paths, a fixed order
(scenes by name, instances as prompted) and fixed rounding. So runs can be compared byte by byte.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.writers.record import Annotation, Record
from resam_runtime.writers.writer import OutputOptions, RunInfo, RunWriter

_OWN_CATEGORY = "instance"  # of instances to which the points gave none
_BETWEEN, _TAIL = b'\n],"annotations":[', b"\n]}\n"
_Categories = dict[int, dict[str, Any]]


class CocoWriter(RunWriter):
    """Writes `instances.json`."""

    name, files, default, options = "coco", "instances.json", True, ("budget",)

    def check(self, run: RunInfo, options: OutputOptions) -> None:
        """As `Writer.check`; a budget must hold at least a file without any instance."""
        super().check(run, options)
        if options.budget is not None and options.budget < (least := smallest_budget(run)):
            raise ResamError(f"--budget {options.budget}: an empty instances.json takes {least} bytes; give more")

    def write(self, path: Path, records: Iterable[Record], run: RunInfo, options: OutputOptions) -> int:
        """As `RunWriter.write`.

        The categories of the points file are always listed; an instance that has none gets one named "instance".
        With a budget the instances of the highest scores are kept, each that fits into what better ones leave, with
        the images that hold them and the categories that they need. A file without any instance is always written.
        """
        given, budget = _given(run.categories), options.budget
        images: dict[str, bytes] = {}
        used: set[int | None] = set()
        ranked: list[_Ranked] = []
        for image_id, (name, size_wh, items) in enumerate(_scenes(records), 1):
            images[name] = _line({"id": image_id, "file_name": name, "width": size_wh[0], "height": size_wh[1]})
            for item in items:
                category = item["category_id"]
                used.add(category)
                if budget is not None:
                    line = _annotation_line(item, len(ranked) + 1, image_id, 1)
                    ranked.append(_Ranked(-item["score"], len(ranked) + 1, len(line), name, category))
        own = _own_number(given, used)
        kept = None
        if budget is not None:
            kept = _within(budget - len(_head(run.info, given) + _BETWEEN + _TAIL), ranked, images, given, own)
            holding = {one.scene for one in ranked if one.number in kept}
            images = {name: line for name, line in images.items() if name in holding}
            used = {one.category for one in ranked if one.number in kept}
        count = 0
        with atomic_write(path) as temporary, temporary.open("wb") as out:
            out.write(_head(run.info, _listed(given, used, own)))
            out.write(b",".join(b"\n" + line for line in images.values()))
            out.write(_BETWEEN)
            first = True
            for image_id, (_, _, items) in enumerate(_scenes(records), 1):
                for item in items:
                    count += 1
                    if kept is None or count in kept:
                        out.write((b"\n" if first else b",\n") + _annotation_line(item, count, image_id, own))
                        first = False
            out.write(_TAIL)
        return 0 if kept is None else len(ranked) - len(kept)


def smallest_budget(run: RunInfo) -> int:
    """Bytes of a file without any instance, whatever was found."""
    return len(_head(run.info, _listed(_given(run.categories), (), 1)) + _BETWEEN + _TAIL)


def _scenes(records: Iterable[Record]) -> Iterator[tuple[str, tuple[int, int], Sequence[Annotation]]]:
    """Name, width and height, and annotations of the scenes that are done."""
    for record in records:
        if record.scene is not None:
            yield record.name, record.scene.size_wh, record.annotations


class _Ranked(NamedTuple):
    """An instance that competes for the budget; sorts the best first. size: bytes with a category of one digit."""

    minus_score: float
    number: int
    size: int
    scene: str
    category: int | None


def _within(left: int, ranked: list[_Ranked], images: Mapping[str, bytes], given: _Categories, own: int) -> set[int]:
    """The numbers of the instances kept in so many bytes beside the categories given."""
    kept, holding, listed = set(), set(), set(given)
    for one in sorted(ranked):
        # each line adds a line break and, but for the first, a comma: count the comma always, one byte on the safe side
        cost = one.size + 2 + (0 if one.scene in holding else len(images[one.scene]) + 2)
        category = one.category
        if category is None:  # measured before this number was known
            category, cost = own, cost + len(str(own)) - 1
        if category not in listed:
            cost += len(_line(_made_up(category, own))) + bool(listed)
        if cost <= left:
            left -= cost
            kept.add(one.number)
            holding.add(one.scene)
            listed.add(category)
    return kept


def _given(categories: Iterable[Mapping[str, Any]]) -> _Categories:
    return {int(category["id"]): dict(category) for category in categories if "id" in category}


def _own_number(given: _Categories, used: Iterable[int | None]) -> int:
    """The category of instances that have none: one given by that name, else a number that nothing else has."""
    for number, category in given.items():
        if category.get("name") == _OWN_CATEGORY:
            return number
    taken = {*given, *used}
    return next(number for number in itertools.count(1) if number not in taken)


def _made_up(number: int, own: int) -> dict[str, Any]:
    return {"id": number, "name": _OWN_CATEGORY if number == own else str(number)}


def _listed(given: _Categories, used: Iterable[int | None], own: int) -> _Categories:
    """The categories given and those made up for what is used besides; of an empty file at least one."""
    numbers = {own if number is None else number for number in used}
    return ({number: _made_up(number, own) for number in numbers} | given) or {1: _made_up(1, 1)}


def _head(info: Mapping[str, Any], categories: _Categories) -> bytes:
    """What comes before the images."""
    shown = _line([categories[number] for number in sorted(categories)])
    return b'{"info":' + _line(info) + b',\n"categories":' + shown + b',\n"images":['


def _annotation_line(item: Mapping[str, Any], number: int, image_id: int, own: int) -> bytes:
    category = own if item["category_id"] is None else item["category_id"]
    return _line({"id": number, "image_id": image_id, **item, "category_id": category})


def _line(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False, default=_plain).encode("ascii")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain data")
