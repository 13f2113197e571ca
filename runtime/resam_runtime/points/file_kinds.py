"""The kinds of points files, one line each, and how a file's kind is told."""

from __future__ import annotations

from pathlib import Path

from resam_runtime.common.checked import Malformed, parse_json
from resam_runtime.points.entry import Parsed, PointKind
from resam_runtime.points.kind_coco import COCO
from resam_runtime.points.kind_csv import CSV
from resam_runtime.points.kind_cvat import CVAT
from resam_runtime.points.kind_geojson import GEOJSON
from resam_runtime.points.kind_json import JSON
from resam_runtime.points.kind_label_studio import LABEL_STUDIO
from resam_runtime.points.kind_labelme import LABELME

POINT_KINDS: tuple[PointKind, ...] = (JSON, CSV, COCO, GEOJSON, LABELME, LABEL_STUDIO, CVAT)
"""In the order in which they are shown. Of several that would hold a JSON object the last one counts."""

SUFFIXES = tuple(kind.suffix for kind in POINT_KINDS if kind.suffix)
"""Of a points file beside a scene, behind NAME."""


def parse_points(text: str, path: Path, boxes: bool = False) -> Parsed:
    """The text of a points file, of whichever kind: told by its suffix, or by the members of its JSON. boxes:
    see `PointKind.parse`.

    Raises Malformed, in a few words and without the file's name.
    """
    suffix = path.suffix.lower()
    for kind in POINT_KINDS:
        if kind.holds is None and kind.suffix.endswith(suffix) and suffix:
            return kind.parse(text, boxes)
    data = parse_json(text)
    for kind in reversed(POINT_KINDS):
        if kind.holds is not None and isinstance(data, kind.root) and kind.holds(data):
            return kind.parse(data, boxes)
    if not isinstance(data, dict):
        raise Malformed(f"expected a JSON object, got {type(data).__name__}")
    *others, last = [kind.members for kind in POINT_KINDS if kind.members]
    raise Malformed(f"neither {', '.join(others)} nor {last}")
