"""`instances.json`: all instances of a run as COCO with compressed RLE.

The file is a function of the scenes, the points, the engine and the options alone: no times, no paths, a fixed order
(scenes by name, instances as prompted) and fixed rounding. So runs can be compared byte by byte.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.errors import ResamError
from resam_runtime.files import atomic_write
from resam_runtime.instance import Instance

_OWN_CATEGORY = "instance"  # of instances to which the points gave none
Annotation = dict[str, Any]
Record = Mapping[str, Any]


def annotation(instance: Instance, name: str | int | None = None, category: int | None = None) -> Annotation:
    """A COCO annotation without its `id` and `image_id`, which only the whole run can give.

    bbox = [x, y, width, height] in px; `instance` is what the points file calls it, `index` its place in the scene,
    `points` and `labels` its prompt: the file can be given to `--points` as it is. `category_id` may be None here:
    `write_instances` knows which numbers are free.
    """
    x0, y0, x1, y1 = (int(value) for value in instance.box)
    return {
        "category_id": category,
        "instance": instance.index + 1 if name is None else name,
        "index": instance.index,
        "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
        "area": instance.area,
        "iscrowd": 0,
        "score": round(float(instance.score), 5),
        "coarse_score": round(float(instance.coarse_score), 5),
        # the shortest numbers that are these float32 again: the next run's prompts are the same, to the last bit
        "points": [[float(str(x)), float(str(y))] for x, y in instance.points],
        "labels": [int(label) for label in instance.labels],
        "segmentation": instance.rle,
    }


def write_instances(
    path: Path,
    names: Sequence[str],
    load: Callable[[str], Record | None],
    info: Mapping[str, Any],
    categories: Sequence[Mapping[str, Any]] = (),
    budget: int | None = None,
) -> int:
    """Write `instances.json` from the records of scenes; returns the number of instances that the budget left out.

    names: of the scenes that are done, in the order of the file. load: name -> record (`width`, `height`,
    `annotations`), called twice per scene, so that memory holds one scene at a time; None leaves the scene out.
    categories: COCO's, if the points file had any; an instance that has none of them gets one named "instance".
    budget: bytes that the file may have at most; then the instances of the highest scores are kept, each that fits
    into what better ones leave, with the images that hold them.
    Raises ResamError for a budget that cannot hold even an empty file, OSError when the file cannot be written.
    """
    images: dict[str, bytes] = {}
    used: set[int | None] = set()
    ranked: list[tuple[float, int, int, str]] = []  # -score, annotation id, bytes, scene
    for image_id, name in enumerate(names, 1):
        record = load(name)
        if record is None:
            continue
        entry = {"id": image_id, "file_name": name, "width": record["width"], "height": record["height"]}
        images[name] = _line(entry)
        for item in record["annotations"]:
            used.add(item["category_id"])
            if budget is not None:
                line = _annotation_line(item, len(ranked) + 1, image_id, 1)
                ranked.append((-item["score"], len(ranked) + 1, len(line), name))
    head, own = _head(info, categories, used)
    kept = None
    if budget is not None:
        more = len(str(own)) - 1  # the lines were measured before this number was known
        sizes = [(score, item, size + more, name) for score, item, size, name in ranked]
        kept = _within(budget, sizes, images, len(_document_size(head)))
    count = 0
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        out.write(head + b'"images":[')
        if kept is not None:
            holding = {name for _, item, _, name in ranked if item in kept}
            images = {name: line for name, line in images.items() if name in holding}
        out.write(b",".join(b"\n" + line for line in images.values()))
        out.write(b'\n],"annotations":[')
        first = True
        for image_id, name in enumerate(names, 1):
            record = load(name)
            for item in () if record is None else record["annotations"]:
                count += 1
                if kept is None or count in kept:
                    out.write((b"\n" if first else b",\n") + _annotation_line(item, count, image_id, own))
                    first = False
        out.write(_TAIL)
    return 0 if kept is None else len(ranked) - len(kept)


_TAIL = b"\n]}\n"


def smallest_budget(info: Mapping[str, Any], categories: Sequence[Mapping[str, Any]] = ()) -> int:
    """Bytes of a file without any instance."""
    return len(_document_size(_head(info, categories, {None})[0]))


def _document_size(head: bytes) -> bytes:
    return head + b'"images":[\n],"annotations":[' + _TAIL


def _within(
    budget: int, ranked: list[tuple[float, int, int, str]], images: Mapping[str, bytes], empty: int
) -> set[int]:
    if empty > budget:
        raise ResamError(f"--budget {budget}: an empty instances.json takes {empty} bytes already; give more")
    left, kept, holding = budget - empty, set(), set()
    for _, item, size, name in sorted(ranked):
        # each line adds a line break and, but for the first, a comma: count the comma always, one byte on the safe side
        cost = size + 2 + (0 if name in holding else len(images[name]) + 2)
        if cost <= left:
            left -= cost
            kept.add(item)
            holding.add(name)
    return kept


def _head(info: Mapping[str, Any], categories: Iterable[Mapping[str, Any]], used: set[int | None]) -> tuple[bytes, int]:
    """What comes before the images, and the number of the category of instances that have none (None in `used`)."""
    known = {int(category["id"]): dict(category) for category in categories if "id" in category}
    own = next((number for number, category in known.items() if category.get("name") == _OWN_CATEGORY), None)
    known |= {
        number: {"id": number, "name": str(number)} for number in used if number is not None and number not in known
    }
    if own is None:  # a number of its own: those that the points use without a name are taken too
        own = next(number for number in itertools.count(1) if number not in known)
        if None in used or not known:
            known[own] = {"id": own, "name": _OWN_CATEGORY}
    shown = _line([known[key] for key in sorted(known)])
    return b'{"info":' + _line(info) + b',\n"categories":' + shown + b",\n", own


def _annotation_line(item: Mapping[str, Any], number: int, image_id: int, own: int) -> bytes:
    category = own if item["category_id"] is None else item["category_id"]
    return _line({"id": number, "image_id": image_id, **item, "category_id": category})


def _line(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False, default=_plain).encode("ascii")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain data")
