"""How large the objects of a class are: said (`ship=30x6m`), or taken from a few boxes that a person drew.

An example's area is that of the base's mask, asked with the example's box: a box leaves open how much of it is object,
and a SAM is good at exactly that. Areas are compared as logarithms. Where the areas of a class's examples agree
(standard deviation of log2 below `AGREE`, an area between half and twice the mean) the class has a size; else an image
whose own examples agree has one; else there is none, and the labels stay as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from resam.data.coco import CocoData
from resam_runtime.common.errors import ResamError

AGREE = 1.0  # largest standard deviation, in powers of two of the area, of examples that agree
FEWEST = 2  # examples that can agree

K = TypeVar("K")
_SIDE = r"([0-9]*\.?[0-9]+)"
_SIZE = re.compile(rf"{_SIDE}(?:x{_SIDE})?(m|px)")


@dataclass(frozen=True)
class SizeExample:
    """An object that a box was drawn around: number of its scene, its class, and area in square pixels of the scene."""

    scene: int
    name: str
    area: float


@dataclass(frozen=True)
class ObjectSizes:
    """Areas of objects in units of `ground` squared: of a class, or of whatever lies in one scene.

    ground: for each scene the side of a pixel, in metres, or 1 where pixels are the `unit`, "m" or "px".
    """

    ground: Sequence[float]
    unit: str
    classes: Mapping[str, float] = field(default_factory=dict)
    scenes: Mapping[int, float] = field(default_factory=dict)

    def area(self, scene: int, name: str) -> float | None:
        """Of an object of a class, in square pixels of the scene; None where it is not known."""
        area = self.classes.get(name, self.scenes.get(scene))
        return None if area is None else area / self.ground[scene] ** 2

    def to_dict(self) -> dict[str, Any]:
        """The areas of classes as plain values: in square metres, or in square pixels of the scenes."""
        return {"unit": f"{self.unit}2", "areas": dict(self.classes)}


def parse_sizes(text: str) -> dict[str, tuple[float, str]]:
    """Area and unit ("m" or "px") by class name, of "NAME=SIDExSIDE" or "NAME=SIDE" with a unit, separated by commas.

    One side is that of a square of the object's area. Raises `ResamError` for another form.
    """
    found = {}
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.rpartition("="))
        match = _SIZE.fullmatch(size)
        if not equals or not name or match is None:
            raise ResamError(f"sizes: {part.strip()!r}: expected NAME=LENGTHxWIDTH or NAME=SIDE with m or px, "
                             "such as ship=30x6m")  # fmt: skip
        length, width, unit = match.groups()
        area = float(length) * float(width or length)
        if not area > 0:
            raise ResamError(f"sizes: {part.strip()!r}: a size must be larger than 0")
        found[name] = area, str(unit)
    return found


def said_areas(text: str) -> tuple[str, dict[str, float]]:
    """The one unit of all sizes of `parse_sizes`, and the areas by class name. Raises `ResamError` for two units."""
    said = parse_sizes(text)
    units = {unit for _, unit in said.values()}
    if len(units) > 1:
        raise ResamError(f"sizes: {text}: give all in m or all in px")
    return units.pop(), {name: area for name, (area, _) in said.items()}


def said_sizes(text: str, data: CocoData, names: Collection[str]) -> ObjectSizes:
    """The sizes of `parse_sizes` for the classes of a data set, which are called `names`. Raises `ResamError` for
    another class, two units, and metres where a scene has no georeference."""
    unit, areas = said_areas(text)
    if unknown := [name for name in areas if name not in names]:
        raise ResamError(f"sizes: no class {unknown[0]!r} in {data.path}; it has {', '.join(sorted(names))}")
    ground = [1.0] * len(data.scenes) if unit == "px" else _metres(data)
    return ObjectSizes(ground, unit, areas)


def example_sizes(
    examples: Sequence[SizeExample], data: CocoData, note: Callable[[str], None], by_class: bool = True
) -> ObjectSizes:
    """The sizes on which examples agree, see above; note: told what was found and where there is none. by_class: False
    looks at each image by itself."""
    with_metres = [scene.metres_per_pixel() for scene in data.scenes]
    known = [metres for metres in with_metres if metres is not None]
    ground = known if len(known) == len(with_metres) else [1.0] * len(with_metres)
    unit = "m" if ground is known else "px"
    classes: dict[str, float] = {}
    scenes: dict[int, float] = {}
    for name, areas in _grouped(examples if by_class else (), ground, lambda one: one.name).items():
        middle, spread = _middle(areas)
        told = f"{name}: {len(areas)} example{'s' * (len(areas) != 1)}"
        if len(areas) >= FEWEST and spread <= AGREE:
            classes[name] = middle
            note(f"{told} of about {math.sqrt(middle):.3g} {unit} a side: its masks take this size")
        else:
            why = "too few to tell a size" if len(areas) < FEWEST else f"of {spread:.1f} powers of two: sizes vary"
            note(f"{told}, {why}; its masks keep theirs where no image's own examples agree")
    undecided = [one for one in examples if one.name not in classes]
    for scene, areas in _grouped(undecided, ground, lambda one: one.scene).items():
        middle, spread = _middle(areas)
        if spread <= AGREE:
            scenes[scene] = middle
    if scenes:
        note(f"{len(scenes)} image{'s' * (len(scenes) != 1)} whose own examples agree: their masks take that size")
    return ObjectSizes(ground, unit, classes, scenes)


def _grouped(
    examples: Sequence[SizeExample], ground: Sequence[float], key: Callable[[SizeExample], K]
) -> dict[K, list[float]]:
    groups: dict[K, list[float]] = {}
    for one in examples:
        if one.area > 0:
            groups.setdefault(key(one), []).append(one.area * ground[one.scene] ** 2)
    return groups


def _middle(areas: Sequence[float]) -> tuple[float, float]:
    """The geometric mean, and the standard deviation of log2 (0 of one area)."""
    logs = np.log2(areas)
    return float(2 ** logs.mean()), float(logs.std(ddof=1)) if len(logs) > 1 else 0.0


def _metres(data: CocoData) -> list[float]:
    found = [scene.metres_per_pixel() for scene in data.scenes]
    for scene, metres in zip(data.scenes, found):
        if metres is None:
            raise ResamError(f"sizes: {scene.path}: has no georeference that says how large a pixel is; give px")
    return [metres for metres in found if metres is not None]
