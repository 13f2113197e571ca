"""What annotation tools have in common: coordinates from the first pixel's corner, shapes, names of classes."""

from __future__ import annotations

from collections.abc import Iterable

from resam_runtime.common.checked import Malformed
from resam_runtime.masks.instance import Category
from resam_runtime.points.entry import Entry, Groups, Parsed

Point = tuple[float, float]
NEGATIVE = "negative"
"""The class of points off an object, in any case: these tools know no other way to say it."""


class Shapes:
    """Collects a tool's shapes into instances: those of one group are one instance, any other is its own."""

    def __init__(self) -> None:
        self._groups, self._scenes = Groups(), dict[str, tuple[int, int] | None]()
        self._first: dict[tuple[str, str | int], str | int] = {}

    def scene(self, name: str, size_wh: tuple[int, int] | None) -> None:
        """A scene that the file knows. Raises Malformed for a name that two have: which instances are whose?"""
        if name in self._scenes:
            raise Malformed(f"two images are called {name!r}; give each a file of its own")
        self._scenes[name] = size_wh

    def points(self, scene: str, own: str | int, group: str | int | None, points: Iterable[Point], name: str) -> None:
        """Points on the instance, or off it where their class is `NEGATIVE`. own: what it is called without a group."""
        entry = self._entry(scene, own, group, name)
        for x, y in points:
            entry.coords.append((x - 0.5, y - 0.5))
            entry.labels.append(int(name.lower() != NEGATIVE))

    def box(self, scene: str, own: str | int, group: str | int | None, outline: Iterable[Point], name: str) -> None:
        """The bounds of an outline as a box prompt. Raises Malformed for a second one, and for one off the object."""
        entry = self._entry(scene, own, group, name)
        if entry.outline or name.lower() == NEGATIVE:
            what = "a second box or outline" if entry.outline else f"a box or outline of the class {NEGATIVE!r}"
            raise Malformed(f"{scene}, instance {entry.id!r}: {what}, where points alone can be")
        entry.outline += [(x - 0.5, y - 0.5) for x, y in outline]

    def parsed(self) -> Parsed:
        """The whole file."""
        parsed = self._groups.parsed()
        parsed.scenes = list(self._scenes)
        parsed.sizes_wh = {name: size for name, size in self._scenes.items() if size is not None}
        return parsed

    def _entry(self, scene: str, own: str | int, group: str | int | None, name: str) -> Entry:
        called = own if group is None else self._first.setdefault((scene, group), own)
        entry = self._groups.entry(scene, called)
        if name and name.lower() != NEGATIVE:
            if entry.category is not None and entry.category.name != name:
                raise Malformed(f"{scene}, instance {called!r}: of the classes {entry.category.name!r} and {name!r}")
            entry.category = Category(name=name)
        return entry
