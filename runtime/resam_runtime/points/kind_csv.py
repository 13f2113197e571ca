"""CSV with the header `scene,instance,x,y,label`; scene, instance (each row its own) and label (1) may be absent.

A row may also, or instead, have a box: `x0,y0,x1,y1`, outer pixels included.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from resam_runtime.common.checked import Malformed
from resam_runtime.points.entry import Groups, Parsed, PointKind, take_box
from resam_runtime.points.values import cell_number, no_misspelt_label, scene_name, take_label, take_point

_BOX = ("x0", "y0", "x1", "y1")
_SCENE = {"file", "filename", "image", "imagename"}


def _parse(text: str, boxes: bool) -> Parsed:
    rows = csv.reader(io.StringIO(text, newline=None))
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
    groups = Groups()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"line {rows.line_num}"
        if len(row) != len(header):
            raise Malformed(f"{where}: expected {len(header)} fields, got {len(row)}")
        cells = {name: cell.strip() for name, cell in zip(header, row)}
        name = cells.get("instance", "")
        instance: str | int = name if name else f"line {rows.line_num}"
        if whole := re.fullmatch(r"(-?[0-9]{1,15})(\.0+)?", name):  # spreadsheets write 1 as 1.0
            instance = int(whole[1])
        scene, has_box = scene_name(cells.get("scene")), boxed and any(cells[name] for name in _BOX)
        if has_box:
            groups.entry(scene, instance).outline += take_box([cell_number(cells[name]) for name in _BOX], where)
        if pointed and (cells["x"] or cells["y"] or not has_box):
            point = take_point([cell_number(cells["x"]), cell_number(cells["y"])], where)
            groups.add(scene, instance, point, take_label(cells.get("label") or 1, where))
        elif not has_box:
            raise Malformed(f"{where}: has no box")
    return groups.parsed()


CSV = PointKind("CSV", ".points.csv", _parse)
