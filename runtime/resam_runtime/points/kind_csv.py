"""CSV with the header `scene,instance,x,y,label`; scene, instance (each row its own) and label (1) may be absent.

A row may also, or instead, have a box: `x0,y0,x1,y1`, outer pixels included.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from resam_runtime.common.checked import Malformed
from resam_runtime.points.entry import Parsed, PointKind, take_box
from resam_runtime.points.table import NO_BOX, NO_POINT, ParsedTable, PointsTable
from resam_runtime.points.values import cell_number, no_misspelt_label, scene_name, take_label, take_point

_BOX = ("x0", "y0", "x1", "y1")
_WHOLE = re.compile(r"(-?[0-9]{1,15})(\.0+)?")  # spreadsheets write 1 as 1.0
_SCENE = {"file", "filename", "image", "imagename"}


def _parse(text: str, boxes: bool) -> Parsed:
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))  # StringIO takes four bytes a letter
    try:
        return _table(rows)
    except csv.Error as error:
        raise Malformed(f"line {rows.line_num}: not CSV ({error})") from None


def _table(rows: Any) -> Parsed:
    header = [name.strip().lower() for name in next(rows, [])]
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        raise Malformed(f"its fields are separated by {other[0]!r}, expected commas (and 1.5, not 1,5)")
    no_misspelt_label(dict.fromkeys(header, 0), "label", "the header")
    misspelt = [name for name in header if name.replace("_", "") in _SCENE]
    if misspelt and "scene" not in header:  # the points of all images would go to whichever scene is run
        raise Malformed(f"the header: {misspelt[0]!r} is not known, expected 'scene'")
    pointed, boxed = {"x", "y"} <= set(header), set(_BOX) <= set(header)
    if not (pointed or boxed) or len(set(header)) != len(header):
        raise Malformed(f"expected the header scene,instance,x,y,label or x0,y0,x1,y1, got {','.join(header)[:80]!r}")
    columns = {name: number for number, name in enumerate(header)}
    in_scene, in_instance, in_label = (columns.get(name) for name in ("scene", "instance", "label"))
    in_point, in_box = [columns[name] for name in "xy" if pointed], [columns[name] for name in _BOX if boxed]
    table = PointsTable(boxed)
    scenes: dict[str, str | None] = {}  # what cells say, once for all rows that say it
    labels: dict[str, int] = {}
    for row in rows:
        if not any(map(str.strip, row)):
            continue
        line = rows.line_num
        if len(row) != len(header):
            raise Malformed(f"line {line}: expected {len(header)} fields, got {len(row)}")
        box = [cell_number(row[column].strip()) for column in in_box]
        has_box = any(corner != "" for corner in box)
        if not has_box and not pointed:
            raise Malformed(f"line {line}: has no box")
        point, outline = NO_POINT, NO_BOX
        if has_box:
            (x0, y0), (x1, y1) = take_box(box, f"line {line}")
            outline = (x0, y0, x1, y1)
        if pointed and (not has_box or any(row[column].strip() for column in in_point)):
            point = take_point([cell_number(row[column].strip()) for column in in_point], f"line {line}")
        cell = "" if in_label is None else row[in_label]
        if cell not in labels:
            labels[cell] = take_label(cell.strip() or 1, f"line {line}")
        label = labels[cell]
        cell = "" if in_scene is None else row[in_scene]
        if cell not in scenes:
            scenes[cell] = scene_name(cell.strip())
        name = "" if in_instance is None else row[in_instance].strip()
        instance: str | int | None = name or None
        if whole := _WHOLE.fullmatch(name):
            instance = int(whole[1])
        table.add(scenes[cell], instance, line, point, label, outline)
    table.close()
    return ParsedTable(scenes=table.scenes, table=table)


CSV = PointKind("CSV", ".points.csv", _parse)
