"""`NAME.txt`: the instances of one scene as YOLO's segmentation labels, a line `class x y x y ...` each.

x and y are fractions of the scene's width and height, counted from the corner of the first pixel. A line holds one
ring: further parts and holes of a mask are joined to it by lines that run there and back, so that filling the ring
(even-odd, as OpenCV does) gives the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resam_runtime.common.errors import counted
from resam_runtime.common.files import atomic_write
from resam_runtime.masks.crops import Ring
from resam_runtime.masks.instance import Instance
from resam_runtime.masks.outlines import valid_polygons
from resam_runtime.writers.writer import OutputOptions, SceneResult, SceneWriter


class YoloWriter(SceneWriter):
    """Writes the labels. The class is COCO's number of the category, 0 of an instance that has none."""

    name, files, options = "yolo", "NAME.txt", ("simplify",)
    suffixes = (".txt",)

    def write(self, path: Path, result: SceneResult, options: OutputOptions) -> Sequence[str]:
        size = np.array(result.scene.size_wh)
        digits = len(str(size.max())) + 2  # hundredths of a pixel, or finer
        with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as out:
            for instance in result.instances:
                parts = valid_polygons(instance.mask, instance.origin, options.simplify)
                ring = joined([ring for polygon in parts for ring in polygon])
                numbers = ((ring + 0.5) / size).reshape(-1)
                out.write(f"{_class(instance)} {' '.join(f'{number:.{digits}f}' for number in numbers)}\n")
        named = [one for one in result.instances if one.category is not None and one.category.id is None]
        if not named:
            return ()
        return [f"yolo: {counted(len(named), 'instance')} written as class 0: their category has a name but no number"]


def joined(rings: Sequence[Ring]) -> Ring:
    """One ring (K, 2) that goes round all of them, by detours between vertices that are near each other."""
    path = rings[0]
    for ring in rings[1:]:
        leaves = _nearest(path, ring[0])
        enters = _nearest(ring, path[leaves])
        leaves = _nearest(path, ring[enters])
        around = np.roll(ring, -enters, axis=0)
        path = np.concatenate([path[: leaves + 1], around, around[:1], path[leaves:]])
    return path


def _nearest(ring: Ring, point: Ring) -> int:
    return int(np.argmin(np.square(ring - point).sum(1)))


def _class(instance: Instance) -> int:
    category = instance.category
    return 0 if category is None or category.id is None else category.id
