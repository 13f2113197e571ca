"""How large the objects of a class are: said (`ship=30x6m`), or taken from a few boxes that a person drew.

An example's area is that of the base's mask, asked with the example's box: a box leaves open how much of it is object,
and a SAM is good at exactly that. Areas are compared as logarithms: s is the standard deviation of log2.

A few examples agree by chance even where sizes vary (three buildings in one of four draws), so the masks of clicks on
which all views agree (`STEADY`) count too, though not for the mean, as they may show parts:

    s^2 = ((n - 1) var(examples) + m var(steady)) / (n - 1 + m),  m = number of steady masks, at most `MOST_STEADY`

A class with s <= `AGREE` has a `Size`. Else an image with examples has its own, s^2 = ((n - 1) var + 2) / (n + 1): in
one image sizes vary less than between images, by about a power of two. Else there is none. The mean of n examples is
off by s / sqrt(n), which is added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from resam.data.coco import CocoData
from resam_runtime.common.errors import ResamError, counted

AGREE = 1.2  # largest s of a class that has a size
FEWEST = 2  # examples that can agree
STEADY, MOST_STEADY = 0.7, 8
SAID = 0.5  # s of a size that a person says
IN_IMAGE = 1.0  # s of an image's objects, as certain as two examples

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
class Size:
    """What is known of an area before the object is seen: its geometric mean, and s, the standard deviation of log2."""

    area: float
    spread: float = SAID

    def scaled(self, ground: float) -> Size:
        """In the squares of another unit of length, of which one is `ground` of this."""
        return Size(self.area / ground**2, self.spread)


@dataclass(frozen=True)
class ObjectSizes:
    """Areas of objects in units of `ground` squared: of a class, or of whatever lies in one scene.

    ground: for each scene the side of a pixel, in metres, or 1 where pixels are the `unit`, "m" or "px".
    """

    ground: Sequence[float]
    unit: str
    classes: Mapping[str, Size] = field(default_factory=dict)
    scenes: Mapping[int, Size] = field(default_factory=dict)

    def size(self, scene: int, name: str) -> Size | None:
        """Of an object of a class, in square pixels of the scene; None where it is not known."""
        size = self.classes.get(name, self.scenes.get(scene))
        return None if size is None else size.scaled(self.ground[scene])

    def to_dict(self) -> dict[str, Any]:
        """The areas of classes as plain values: in square metres, or in square pixels of the scenes."""
        return {"unit": f"{self.unit}2", "areas": {name: size.area for name, size in self.classes.items()}}


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
    return ObjectSizes(ground, unit, {name: Size(area) for name, area in areas.items()})


def example_sizes(
    examples: Sequence[SizeExample],
    steady: Sequence[SizeExample],
    data: CocoData,
    note: Callable[[str], None],
    by_class: bool = True,
) -> ObjectSizes:
    """The sizes that examples and steady masks tell, see above; note: told what was found and where there is none.
    by_class: False looks at each image by itself."""
    with_metres = [scene.metres_per_pixel() for scene in data.scenes]
    known = [metres for metres in with_metres if metres is not None]
    ground = known if len(known) == len(with_metres) else [1.0] * len(with_metres)
    unit = "m" if ground is known else "px"
    classes: dict[str, Size] = {}
    others = _logs(steady, ground, lambda one: one.name)
    for name, logs in _logs(examples if by_class else (), ground, lambda one: one.name).items():
        count, told = len(logs), f"{name}: {counted(len(logs), 'example')}"
        seen = others.get(name, [])
        weight = min(len(seen), MOST_STEADY) if len(seen) > 1 else 0
        spread = _pooled((logs, count - 1), (seen, weight)) if count >= FEWEST else math.inf
        if spread <= AGREE:
            classes[name] = _size(logs, spread)
            note(f"{told} of about {math.sqrt(classes[name].area):.3g} {unit} a side: doubtful masks come near this")
        else:
            why = "too few to tell a size" if count < FEWEST else f"sizes vary by a factor of {2**spread:.1f}"
            note(f"{told}, {why}; images with examples have sizes of their own")
    undecided = [one for one in examples if one.name not in classes]
    scenes = {}
    for scene, logs in _logs(undecided, ground, lambda one: one.scene).items():
        own = (len(logs) - 1) * float(np.var(logs, ddof=1)) if len(logs) > 1 else 0.0
        scenes[scene] = _size(logs, math.sqrt((own + 2 * IN_IMAGE**2) / (len(logs) + 1)))
    if scenes:
        note(f"{counted(len(scenes), 'image')} with a size of its own from examples")
    return ObjectSizes(ground, unit, classes, scenes)


def _logs(
    examples: Sequence[SizeExample], ground: Sequence[float], key: Callable[[SizeExample], K]
) -> dict[K, list[float]]:
    """log2 of the areas, in the squares of what `ground` is in, by class or by scene."""
    groups: dict[K, list[float]] = {}
    for one in examples:
        if one.area > 0:
            groups.setdefault(key(one), []).append(math.log2(one.area * ground[one.scene] ** 2))
    return groups


def _pooled(*groups: tuple[Sequence[float], int]) -> float:
    """The standard deviation of groups that count differently, each around its own mean."""
    variances = [(float(np.var(logs, ddof=1)), weight) for logs, weight in groups if weight > 0]
    return math.sqrt(sum(variance * weight for variance, weight in variances) / sum(weight for _, weight in variances))


def _size(logs: Sequence[float], spread: float) -> Size:
    return Size(float(2 ** np.mean(logs)), spread * math.sqrt(1 + 1 / len(logs)))


def _metres(data: CocoData) -> list[float]:
    found = [scene.metres_per_pixel() for scene in data.scenes]
    for scene, metres in zip(data.scenes, found):
        if metres is None:
            raise ResamError(f"sizes: {scene.path}: has no georeference that says how large a pixel is; give px")
    return [metres for metres in found if metres is not None]
