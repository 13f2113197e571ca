"""Prompts as callers write them, checked and turned into the arrays that graphs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError

PADDING, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3
SIDE = 4  # no point: its x is the side of a square of the object's area; for loops of engines with sizes


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """The prompts of N instances: coords float32 (N, P, 2) in pixels, labels int32 (N, P), padded with -1.

    sides: float32 (N,), in pixels, of a square of each object's area, 0 where it is not known; None: nowhere.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.int32]
    sides: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def marking(self) -> NDArray[np.bool_]:
        """(N, P): the points that say where an instance is: positive ones and box corners; all, if it has none."""
        positive = (self.labels >= POSITIVE) & (self.labels <= BOX_BOTTOM_RIGHT)
        return np.where(positive.any(1, keepdims=True), positive, self.labels != PADDING)

    @property
    def centroids(self) -> NDArray[np.float64]:
        """(N, 2): the mean of the points that mark each instance."""
        counted = self.marking[..., None]
        return (self.coords * counted).sum(1, dtype=np.float64) / counted.sum(1)

    def prompt(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The points (P, 2) and labels (P,) of instance i, without padding."""
        real = self.labels[i] != PADDING
        return self.coords[i][real], self.labels[i][real]


def padded(points: Sequence[NDArray[Any]], labels: Sequence[NDArray[np.int32]]) -> PromptBatch:
    """One batch of instances with (P_i, 2) points, or box corners, and (P_i,) labels each, not checked."""
    longest = max((len(own) for own in points), default=1)
    coords = np.zeros((len(points), longest, 2), np.float32)
    marks = np.full((len(points), longest), PADDING, np.int32)
    for i, (own, own_labels) in enumerate(zip(points, labels)):
        coords[i, : len(own)], marks[i, : len(own)] = own, own_labels
    return PromptBatch(coords, marks)


def with_sides(
    coords: NDArray[np.float32], labels: NDArray[np.int32], sides: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Prompts as a loop takes them that knows sizes: one more place, (N, P + 1), padding where a side is 0.

    sides: (N,) in the pixels of coords.
    """
    place = np.stack((sides, np.zeros_like(sides)), axis=1).astype(np.float32)[:, None]
    label = np.where(sides > 0, np.int32(SIDE), np.int32(PADDING))[:, None]
    return np.concatenate((coords, place), axis=1), np.concatenate((labels, label), axis=1)


def prompt_batch(points: Any, labels: Any, boxes: Any, width: int, height: int, sizes: Any = None) -> PromptBatch:
    """Check prompts against an image of width x height pixels and pad them to one array.

    points: (N, 2), one point per instance; (N, P, 2); or a list with one (P_i, 2) or (2,) entry per instance; or
    None where boxes are given. labels: None (all positive), or of the points' shape: 1 positive, 0 negative, -1
    padding. boxes: None or (N, 4) x0, y0, x1, y1, outer pixels included; they come after the points. sizes: None, a
    number or (N,), the side in pixels of a square of each object's area, 0 where it is not known. Raises `ResamError`
    naming the first instance that is not finite, not inside the image, mis-shaped, or marked by neither a positive
    point nor a box.
    """
    if points is None and boxes is None:
        raise ResamError("prompt: neither points nor boxes; give one of them")
    if points is None and labels is not None:
        raise ResamError("prompt: labels without points; give the points they belong to")
    corners = None if boxes is None else _boxes(boxes, width, height)
    if points is None:
        assert corners is not None
        coords, marks = np.empty((len(corners), 0, 2)), np.empty((len(corners), 0), np.int32)
    else:
        coords, marks = _points(points, labels)
        if corners is not None and len(corners) != len(coords):
            raise ResamError(f"prompt: points for {len(coords)} instances but {len(corners)} boxes; give as many")
        _check_points(coords, marks, width, height, boxed=corners is not None)
    if corners is not None:
        coords = np.concatenate([coords, corners.reshape(-1, 2, 2)], 1)
        corner_labels = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32)
        marks = np.concatenate([marks, np.broadcast_to(corner_labels, (len(marks), 2))], 1)
    coords = np.where(marks[..., None] == PADDING, 0, coords)
    sides = None if sizes is None else _sides(sizes, len(coords))
    return PromptBatch(np.ascontiguousarray(coords, np.float32), np.ascontiguousarray(marks, np.int32), sides)


def _sides(sizes: Any, count: int) -> NDArray[np.float32]:
    given = _dense(sizes)
    if given is None or given.shape not in ((), (count,)):
        raise ResamError(f"sizes: expected a number, or one for each of {count} instances, got {_shape(sizes)}")
    sides = np.broadcast_to(given, (count,))
    wrong = ~(np.isfinite(sides) & (sides >= 0) & (sides < 1e6))
    if wrong.any():
        raise ResamError(f"instance {int(wrong.argmax())}: size {sides[wrong][0]:g}; expected a side in pixels, or 0")
    return np.ascontiguousarray(sides, np.float32)


def _points(points: Any, labels: Any) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Points and labels of any accepted form -> (N, P, 2) float64 and (N, P) int32, checked for shape only."""
    dense = _dense(points)
    if dense is not None and dense.ndim and not len(dense):
        if labels is not None and _dense(labels) is not None and np.size(labels):
            raise ResamError(f"labels: {np.size(labels)} given but no points; give as many of each")
        return np.empty((0, 1, 2)), np.empty((0, 1), np.int32)
    if dense is not None and dense.ndim in (2, 3) and dense.shape[-1] == 2 and dense.size:
        coords = dense.reshape(len(dense), -1, 2)
        if labels is None:
            return coords, np.full(coords.shape[:2], POSITIVE, np.int32)
        given = _dense(labels)
        if given is not None and given.shape in (coords.shape[:2], dense.shape[:-1]):
            return coords, _labels(given.reshape(coords.shape[:2]))
        if not isinstance(labels, Sequence | np.ndarray) or len(labels) != len(coords):
            raise ResamError(f"labels: expected one per point, {dense.shape[:-1]}, got {_shape(labels)}")
    if dense is not None and dense.ndim < 2:
        raise ResamError(f"points: expected (N, 2), (N, P, 2) or one list per instance, got {dense.shape}")
    return _ragged(points, labels)


def _ragged(points: Any, labels: Any) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    try:
        points = list(points)
    except TypeError:
        raise ResamError(f"points: expected (N, 2), (N, P, 2) or a list per instance, got {_shape(points)}") from None
    if labels is not None and (not isinstance(labels, Sequence | np.ndarray) or len(labels) != len(points)):
        raise ResamError(f"labels: expected one entry per instance ({len(points)}), got {_shape(labels)}")
    per_instance: list[NDArray[np.float64]] = []
    per_label: list[NDArray[np.int32]] = []
    for i, item in enumerate(points):
        own = _dense(item)
        if own is not None and own.size == 0:
            own = np.empty((0, 2))
        if own is not None and own.shape == (2,):
            own = own[None]
        if own is None or own.ndim != 2 or own.shape[1] != 2:
            raise ResamError(f"instance {i}: expected its points as (P, 2) numbers, got {_shape(item)}")
        given = 1 if labels is None else labels[i]
        marks = np.ones(len(own)) if labels is None else _dense(given)
        if marks is None or marks.size != len(own) or marks.ndim > 1:
            raise ResamError(f"instance {i}: expected {len(own)} labels, got {_shape(given)}")
        per_instance.append(own)
        per_label.append(_labels(marks.reshape(-1), i))
    longest = max((len(own) for own in per_instance), default=1)
    coords = np.zeros((len(per_instance), longest, 2))
    padding = np.full((len(per_instance), longest), PADDING, np.int32)
    for i, (item, own_labels) in enumerate(zip(per_instance, per_label)):
        coords[i, : len(item)], padding[i, : len(item)] = item, own_labels
    return coords, padding


def _labels(values: NDArray[np.float64], instance: int | None = None) -> NDArray[np.int32]:
    wrong = ~np.isin(values, (PADDING, NEGATIVE, POSITIVE))
    if wrong.any():
        first = np.argwhere(wrong)[0]
        where = first[0] if instance is None else instance
        raise ResamError(
            f"instance {where}: label {values[tuple(first)]:g}; expected 1 (positive), 0 (negative) or -1 (padding)"
        )
    return values.astype(np.int32)


def _check_points(coords: NDArray[np.float64], labels: NDArray[np.int32], width: int, height: int, boxed: bool) -> None:
    real = labels != PADDING
    bare = ~real.any(1)
    if bare.any() and not boxed:
        raise ResamError(f"instance {int(bare.argmax())}: has no points; leave it out or give it one")
    unmarked = ~(labels == POSITIVE).any(1)
    if unmarked.any() and not boxed:  # SamPredictor's flat list is one object, ours is one object per point
        raise ResamError(
            f"instance {int(unmarked.argmax())}: no positive point; several points of one object go in as [[...]]"
        )
    infinite = real & ~np.isfinite(coords).all(-1)
    if infinite.any():
        i, p = np.argwhere(infinite)[0]
        raise ResamError(f"instance {i}: point {p} is not finite ({coords[i, p, 0]}, {coords[i, p, 1]})")
    x, y = coords[..., 0], coords[..., 1]
    outside = real & ~((x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5))
    if outside.any():
        i, p = np.argwhere(outside)[0]
        raise ResamError(
            f"instance {i}: point ({coords[i, p, 0]:g}, {coords[i, p, 1]:g}) lies outside the image of "
            f"{width} x {height} px; expected x, y in pixels from the top left"
        )


def _boxes(boxes: Any, width: int, height: int) -> NDArray[np.float64]:
    corners = _dense(boxes)
    if corners is not None and corners.size == 0:
        return np.empty((0, 4))
    if corners is None or corners.ndim != 2 or corners.shape[1] != 4:
        raise ResamError(f"boxes: expected (N, 4) numbers x0, y0, x1, y1, got {_shape(boxes)}")
    infinite = ~np.isfinite(corners).all(1)
    if infinite.any():
        raise ResamError(f"instance {int(infinite.argmax())}: its box is not finite")
    x0, y0, x1, y1 = corners.T
    flipped = (x1 < x0) | (y1 < y0)
    if flipped.any():
        raise ResamError(f"instance {int(flipped.argmax())}: its box ends before it begins; expected x0, y0, x1, y1")
    outside = (x0 < -0.5) | (y0 < -0.5) | (x1 > width - 0.5) | (y1 > height - 0.5)
    if outside.any():
        i = int(outside.argmax())
        values = ", ".join(f"{value:g}" for value in corners[i])
        raise ResamError(f"instance {i}: box ({values}) leaves the image of {width} x {height} px")
    return corners


def _dense(data: Any) -> NDArray[np.float64] | None:
    """The data as one float array, or None when it is ragged or not numeric."""
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "iufb":
            return None
        return array.astype(np.float64)
    except (TypeError, ValueError):
        return None


def _shape(data: Any) -> str:
    """What came, for a message: an array's shape, a list's length, or a type."""
    dense = _dense(data)
    if dense is not None:
        return f"an array of shape {dense.shape}"
    if isinstance(data, Sequence | np.ndarray) and not isinstance(data, str):
        return f"a list of {len(data)} entries"
    return f"{type(data).__name__}"
