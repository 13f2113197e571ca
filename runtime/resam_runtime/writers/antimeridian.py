"""Polygons in longitude and latitude, cut at the antimeridian as RFC 7946 wants them (section 3.1.9).

A ring is unrolled into a plane in which longitudes go on beyond 180 degrees, and closed over the pole where it goes
round one. There it is cut into the strips of one turn each, which are laid over each other. The plane geometry is
shapely's, in whose polygons no ring crosses or touches itself along an edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resam_runtime.common.extras import needs_extra
from resam_runtime.scenes.georeference import Coordinates

_SHORT = 1.0  # degrees of longitude: rings of shorter edges, far from the antimeridian, are as their pixels are


def cut_at_antimeridian(rings: Sequence[Coordinates], digits: int = 9) -> list[list[Coordinates]]:
    """A polygon as one or more with longitudes from -180 to 180, each the outer ring first, then its holes.

    rings: (N, 2) float64 longitude, latitude in degrees, not closed, the outer one first. Longitudes may have any
    multiple of 360 more or less, also within a ring, whose edges are taken the short way round. digits: decimals to
    which vertices are rounded. Raises ResamError where shapely is needed and not installed.
    """
    if all(np.abs(ring[:, 0]).max() <= 180 and _longest_step(ring) <= _SHORT for ring in rings):
        return [list(rings)]
    with needs_extra("outlines across the antimeridian", "geo"):
        import shapely
    regions = [_region(ring) for ring in rings]
    if any(region is None for region in regions):  # no polygon on a globe: left as it is
        return [list(rings)]
    whole = shapely.difference(regions[0], shapely.union_all(regions[1:]))
    whole = shapely.set_precision(whole, 10.0**-digits)
    return [
        [np.asarray(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(whole)
        if part.geom_type == "Polygon"
    ]


def _longest_step(ring: Coordinates) -> float:
    return float(np.abs(np.diff(ring[:, 0], append=ring[:1, 0])).max())


def _region(ring: Coordinates) -> Any:
    """What a ring is around, as a shapely geometry between -180 and 180 degrees; None if it goes round more than once.

    A ring round a pole has it inside: that of its hemisphere.
    """
    import shapely

    path = np.concatenate([ring, ring[:1]])
    path[:, 0] = np.unwrap(path[:, 0], period=360.0)
    turns = round((path[-1, 0] - path[0, 0]) / 360)
    if abs(turns) > 1:
        return None
    if turns:
        pole = math.copysign(90.0, path[:, 1].mean())
        path = np.concatenate([path, [(path[-1, 0], pole), (path[0, 0], pole)]])
    plane = shapely.make_valid(shapely.Polygon(path))
    first, last = (math.floor((x + 180) / 360) for x in (path[:, 0].min(), path[:, 0].max()))
    strips = [
        shapely.transform(
            shapely.intersection(plane, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            lambda points, turn=turn: points - (360 * turn, 0),
        )
        for turn in range(first, last + 1)
    ]
    areas = [part for strip in strips for part in shapely.get_parts(strip) if part.area > 0]
    return shapely.union_all(areas)
