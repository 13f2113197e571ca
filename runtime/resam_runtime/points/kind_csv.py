"""CSV with the header `scene,instance,x,y,label`; scene, instance (each row its own) and label (1) may be absent."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from resam_runtime.common.checked import Malformed
from resam_runtime.points.entry import Groups, Parsed, PointKind
from resam_runtime.points.values import cell_number, no_misspelt_label, scene_name, take_label, take_point

_SCENE = {"file", "filename", "image", "imagename"}


def _parse(text: str) -> Parsed:
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
    if not {"x", "y"} <= set(header) or len(set(header)) != len(header):
        raise Malformed(f"expected the header scene,instance,x,y,label, got {','.join(header)[:80]!r}")
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
        point = take_point([cell_number(cells["x"]), cell_number(cells["y"])], where)
        groups.add(scene_name(cells.get("scene")), instance, point, take_label(cells.get("label") or 1, where))
    return groups.parsed()


CSV = PointKind("CSV", ".points.csv", _parse)
