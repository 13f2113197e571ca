"""The outlines of an instance in the coordinates of an output: pixels, a map's, or longitude and latitude."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from resam_runtime.masks.crops import BoolMask, Origin, Ring, ring_area
from resam_runtime.masks.outlines import valid_polygons
from resam_runtime.scenes.georeference import WGS84, Coordinates, Georeference, reproject_some
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers.antimeridian import cut_at_antimeridian

_FAR = 90.0  # degrees of longitude between neighbours of a ring


class OffMap(Exception):
    """An instance reaches where the map ends, into the space around the globe, say."""


def placed_polygons(
    scene: SceneInfo, mask: BoolMask, origin: Origin, simplify: float, target: str | None, digits: int
) -> list[list[list[list[float]]]]:
    """The polygons of a mask crop, each [outer ring, hole, ...], each ring [[x, y], ...], closed.

    simplify: tolerance in px. target: a CRS, in WGS 84 cut at the antimeridian; None: pixels. digits: decimals. Outer
    rings run counter-clockwise in the plane of the coordinates, holes clockwise. Raises OffMap.
    """
    return [
        polygon
        for rings in valid_polygons(mask, origin, simplify)
        for polygon in _polygons(rings, scene, target, digits)
    ]


def wgs84_digits(scene: SceneInfo) -> int:
    """The decimals of longitudes and latitudes: those that tell pixels apart and one more, at least seven."""
    return max(7, telling_digits(scene, WGS84) + 1)


def telling_digits(scene: SceneInfo, target: str) -> int:
    """The decimals at which numbers in the CRS `target` begin to tell pixels of the scene apart (negative: tens)."""
    place = scene.georeference
    assert place is not None
    for x, y in [(0.5, 0.5), *itertools.product((0.1, 0.9), (0.1, 0.9))]:  # the middle, unless it is not on the globe
        corner = np.array([x * scene.width, y * scene.height])
        middle, right, below = reproject_some(
            place.to_map(corner + np.array([(0, 0), (1, 0), (0, 1)])), place.crs, target
        )
        step = min(np.hypot(*(right - middle)), np.hypot(*(below - middle)))
        if np.isfinite(step):
            return math.ceil(-math.log10(step)) if step > 1e-15 else 15
    return 6


def _polygons(
    rings: Sequence[Ring], scene: SceneInfo, target: str | None, digits: int
) -> list[list[list[list[float]]]]:
    """One polygon's rings in output coordinates, the outer one first; more polygons where the antimeridian cuts it."""
    placed = [np.round(_placed(ring, scene, target), digits) for ring in rings]
    parts = cut_at_antimeridian(placed, digits) if target == WGS84 else [placed]
    return [[_ring(points, index == 0, digits) for index, points in enumerate(part)] for part in parts]


def _placed(ring: Ring, scene: SceneInfo, target: str | None) -> Coordinates:
    points: Coordinates = np.asarray(ring, np.float64)
    place = scene.georeference
    if target is None or place is None:
        return points
    placed = _reproject(place, points, target)
    far = np.abs(np.diff(placed[:, 0], append=placed[:1, 0])) > _FAR
    if target != WGS84 or not far.any():
        return placed
    # An edge across the antimeridian, or one that is as long: points on the way tell.
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    edges = zip(points, np.roll(points, -1, axis=0), far)
    dense = np.concatenate([begin + (steps if long else steps[:1]) * (end - begin) for begin, end, long in edges])
    return _reproject(place, dense, target)


def _reproject(place: Georeference, points: Coordinates, target: str) -> Coordinates:
    moved = reproject_some(place.to_map(points), place.crs, target)
    if not np.isfinite(moved).all():
        raise OffMap
    return moved


def _ring(points: Coordinates, outer: bool, digits: int) -> list[list[float]]:
    """A closed ring, turned the right way."""
    if (ring_area(points) > 0) != outer:  # positive: counter-clockwise where y points up
        points = points[::-1]
    closed = np.round(np.concatenate([points, points[:1]]), digits) + 0.0  # + 0.0: no negative zero
    return [[float(x), float(y)] for x, y in closed]
