"""Polygons in longitude and latitude, cut at the antimeridian as RFC 7946 wants them (section 3.1.9).

The globe is a strip from -180 to 180 degrees whose two ends are one meridian. Rings that cross it become arcs from end
to end; what is inside lies to the left of an arc, so arcs are joined along the ends of the strip to rings again. The
arc that is left over, where a polygon holds a pole, goes on to the pole and along it to the other end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from resam_runtime.masks.crops import inside_ring, ring_area
from resam_runtime.scenes.georeference import Coordinates


def cut_at_antimeridian(rings: Sequence[Coordinates]) -> list[list[Coordinates]]:
    """A polygon as one or more with longitudes from -180 to 180, each the outer ring first, then its holes.

    rings: (N, 2) float64 longitude, latitude in degrees, not closed, the outer one first. Longitudes may have any
    multiple of 360 more or less, also within a ring, whose edges are taken the short way round.
    """
    arcs: list[Coordinates] = []
    outer: list[Coordinates] = []
    holes: list[Coordinates] = []
    turns = 0
    for number, ring in enumerate(rings):
        path, around = _path(ring, number == 0)
        turns += around
        pieces = _arcs(path)
        arcs += pieces
        if not pieces:
            (holes if number else outer).append(_in_strip(path[:-1]))
    if abs(turns) > 1:  # no polygon on a globe: left as it is
        return [list(rings)]
    outer += [ring for ring in _joined(arcs, turns) if len(ring) > 2 and np.ptp(ring, axis=0).all()]  # no empty ones
    polygons = [[ring] for ring in outer]
    for hole in holes:
        x, y = (hole[0] + hole[1]) / 2  # no vertex: those may touch other rings
        next((one for one in polygons if inside_ring(x, y, one[0])), polygons[0]).append(hole)
    return polygons


def _path(ring: Coordinates, outer: bool) -> tuple[Coordinates, int]:
    """The closed ring without jumps, the inside of its polygon to the left; and how often it goes east round a pole."""
    path = np.concatenate([ring, ring[:1]])
    path[:, 0] = np.unwrap(path[:, 0], period=360.0)
    turns = round((path[-1, 0] - path[0, 0]) / 360)
    # A ring round a pole has it inside: outer rings go east round the north pole.
    left = (turns > 0) == (path[:, 1].mean() > 0) if turns else ring_area(path[:-1]) > 0
    return (path, turns) if left == outer else (path[::-1], -turns)


def _strip(x: Coordinates) -> Coordinates:
    """How many turns longitudes are away from the strip; those on the antimeridian count as just east of it."""
    return np.floor((x + 180) / 360)


def _in_strip(points: Coordinates) -> Coordinates:
    return np.stack([points[:, 0] - 360 * _strip(points[:, 0]), points[:, 1]], axis=1)


def _arcs(path: Coordinates) -> list[Coordinates]:
    """The parts of a closed path between its crossings of the antimeridian, their ends on it; none if it has none."""
    strips = _strip(path[:, 0])
    cuts = np.flatnonzero(np.diff(strips))
    if not len(cuts):
        return []
    (x0, y0), (x1, y1) = path[cuts].T, path[cuts + 1].T
    border = 360 * np.maximum(strips[cuts], strips[cuts + 1]) - 180
    latitude = y0 + (y1 - y0) * (border - x0) / (x1 - x0)
    ends = np.where(x1 > x0, 180.0, -180.0)
    inside = _in_strip(path)
    arcs = []
    for number, cut in enumerate(cuts):
        following = (number + 1) % len(cuts)
        between = inside[cut + 1 : cuts[following] + 1]
        if not following:
            between = np.concatenate([inside[cut + 1 : -1], inside[: cuts[0] + 1]])
        begin, end = [-ends[number], latitude[number]], [ends[following], latitude[following]]
        arcs.append(np.concatenate([[begin], between, [end]]))
    return arcs


def _joined(arcs: Sequence[Coordinates], turns: int) -> Iterator[Coordinates]:
    """Rings from arcs. turns: 1 where the north pole is inside, -1 for the south pole, else 0."""
    numbers = range(len(arcs))
    # Northwards a meridian goes in and out in turns, and so do the arcs that end and begin there.
    ends = {x: sorted((n for n in numbers if arcs[n][-1, 0] == x), key=lambda n: arcs[n][-1, 1]) for x in (180, -180)}
    begins = {x: sorted((n for n in numbers if arcs[n][0, 0] == x), key=lambda n: arcs[n][0, 1]) for x in (180, -180)}
    following: dict[int, int] = {}
    poles: dict[int, Coordinates] = {}
    if turns:
        from_x, pole = 180 * turns, 90.0 * turns
        nearest = -1 if turns > 0 else 0
        last = ends[from_x].pop(nearest)
        following[last] = begins[-from_x].pop(nearest)
        poles[last] = np.array([[from_x, pole], [-from_x, pole]])
    for x in (180, -180):
        following.update(zip(ends[x], begins[x], strict=True))
    left = set(numbers)
    while left:
        number = min(left)
        parts = []
        while number in left:
            left.remove(number)
            parts += [arcs[number], poles.get(number, np.empty((0, 2)))]
            number = following[number]
        ring = np.concatenate(parts)
        yield ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]  # an arc may begin where another ends
