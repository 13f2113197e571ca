"""Rows of a points file, in columns: a file of millions takes some dozens of bytes for each, not Python's objects."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.points.entry import Entry, Parsed

NO_POINT, NO_BOX = (math.nan, math.nan), (math.nan, math.nan, math.nan, math.nan)
_NUMBER, _TEXT, _LINE = 0, 1, 2  # what an instance is called: a whole number, a text, or the line that it stands in


class PointsTable(Sequence[Entry]):
    """The instances of a file, in the order of their first rows; each is put together when it is asked for."""

    def __init__(self, boxed: bool) -> None:
        self._scenes: dict[str | None, int] = {}
        self._texts: dict[str, int] = {}
        self._scene_names: list[str | None] = []
        self._text_names: list[str] = []
        self._scene, self._kind, self._value = array("i"), array("b"), array("q")
        self._points, self._labels = array("d"), array("b")
        self._boxes = array("d") if boxed else None
        self._order: npt.NDArray[np.integer[Any]] = np.empty(0, np.intp)
        self._starts = self._order

    def add(
        self,
        scene: str | None,
        instance: str | int | None,
        line: int,
        point: tuple[float, float],
        label: int,
        outline: tuple[float, float, float, float],
    ) -> None:
        """A row. instance: None for one of its own, called by its line. point: `NO_POINT` for none. outline: two
        corners of a box, x, y, x, y, `NO_BOX` for none."""
        self._scene.append(self._scenes.setdefault(scene, len(self._scenes)))
        if instance is None:
            self._kind.append(_LINE)
            self._value.append(line)
        elif isinstance(instance, int):
            self._kind.append(_NUMBER)
            self._value.append(instance)
        else:
            self._kind.append(_TEXT)
            self._value.append(self._texts.setdefault(instance, len(self._texts)))
        self._points.extend(point)
        self._labels.append(label)
        if self._boxes is not None:
            self._boxes.extend(outline)

    def close(self) -> None:
        """All rows are there."""
        self._scene_names, self._text_names = list(self._scenes), list(self._texts)
        number = np.int32 if len(self._kind) < 2**31 else np.intp  # half the memory
        if np.all(np.frombuffer(self._kind, "b") == _LINE):  # each row is an instance, in order as it is
            self._order = np.arange(len(self._kind), dtype=number)
            self._starts = np.arange(len(self._kind) + 1, dtype=number)
            return
        keys = [np.frombuffer(column, column.typecode) for column in (self._value, self._kind, self._scene)]
        order = np.lexsort(keys)  # stable: rows of an instance stay in their order
        first = np.ones(len(order), bool)
        first[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
        starts = np.flatnonzero(first)
        ranks = np.argsort(order[starts], kind="stable")  # of instances by their first rows
        counts = np.diff(starts, append=len(order))[ranks]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(number)
        within = np.arange(len(order)) - np.repeat(self._starts[:-1], counts)
        self._order = order[np.repeat(starts[ranks], counts) + within].astype(number)

    def by_scene(self) -> dict[str | None, Sequence[Entry]]:
        """Scene -> its instances."""
        if len(self._scenes) == 1:
            return {scene: _Rows(self, np.arange(len(self), dtype=self._starts.dtype)) for scene in self._scenes}
        own = np.frombuffer(self._scene, "i")[self._order[self._starts[:-1]]] if len(self) else np.empty(0, int)
        order = np.argsort(own, kind="stable")
        ends = np.cumsum(np.bincount(own, minlength=len(self._scenes)))
        return {
            scene: _Rows(self, order[(ends[number - 1] if number else 0) : ends[number]])
            for scene, number in self._scenes.items()
        }

    @property
    def scenes(self) -> list[str]:
        """The scenes that are named."""
        return [scene for scene in self._scenes if scene is not None]

    def __len__(self) -> int:
        return max(0, len(self._starts) - 1)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        rows = self._order[self._starts[place] : self._starts[place + 1]].tolist()
        if not rows:
            raise IndexError(place)
        return self._entry(rows)

    def _entry(self, rows: list[int]) -> Entry:
        kind, value = self._kind[rows[0]], self._value[rows[0]]
        name: str | int = value
        if kind == _LINE:
            name = f"line {value}"
        elif kind == _TEXT:
            name = self._text_names[value]
        entry = Entry(self._scene_names[self._scene[rows[0]]], name)
        for row in rows:
            x, y = self._points[2 * row : 2 * row + 2]
            if x == x:
                entry.coords.append((x, y))
                entry.labels.append(self._labels[row])
            if self._boxes is not None:
                x0, y0, x1, y1 = self._boxes[4 * row : 4 * row + 4]
                entry.outline += [(x0, y0), (x1, y1)] if x0 == x0 else []
        return entry


class _Rows(Sequence[Entry]):
    """Some of a table's instances."""

    def __init__(self, table: PointsTable, numbers: npt.NDArray[np.integer[Any]]) -> None:
        self._table, self._numbers = table, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._table[number] for number in self._numbers[place].tolist()]
        return self._table[int(self._numbers[place])]

    def __iter__(self) -> Iterator[Entry]:
        return (self._table[number] for number in self._numbers.tolist())


@dataclass
class ParsedTable(Parsed):
    """A whole file in columns."""

    table: PointsTable | None = None

    def by_scene(self) -> Mapping[str | None, Sequence[Entry]]:
        """Scene -> its instances."""
        return {} if self.table is None else self.table.by_scene()
