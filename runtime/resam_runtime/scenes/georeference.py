"""Where a scene lies, and pixel coordinates to map coordinates and back.

Pixel coordinates have pixel centres at integers; an affine transform counts from the outer corner of the first pixel,
as GDAL does: map = transform(x + 0.5, y + 0.5). Reprojection is PROJ's, through rasterio.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError

Affine = tuple[float, float, float, float, float, float]
Coordinates = npt.NDArray[np.float64]

WGS84 = "OGC:CRS84"
"""Longitude, latitude in degrees: the coordinates of RFC 7946."""
_EQUATOR_RADIUS, _ECCENTRICITY_SQUARED = 6_378_137.0, 0.00669437999014  # of WGS 84's ellipsoid, in m


def georeferenced_beside(path: Path) -> bool:
    """Whether a file beside an image says where it lies: GDAL's .aux.xml, or a world file."""
    try:
        extra = path.with_name(f"{path.name}.aux.xml").read_bytes()
        if any(tag in extra for tag in (b"<SRS", b"<GeoTransform", b"<GCPList")):  # it may hold statistics alone
            return True
    except OSError:
        pass
    kind = path.suffix[1:]
    worlds = {"wld", f"{kind}w", f"{kind[:1]}{kind[-1:]}w"}  # a.pngw, a.pgw
    names = [name for world in worlds for name in (world.lower(), world.upper())]
    # os.path's isfile: Path's raises for a name that is too long
    return any(os.path.isfile(path.with_suffix(f".{name}")) for name in names)


def georeference_of(dataset: Any) -> tuple[Affine, str | None, tuple[str, ...]]:
    """Transform and CRS ("EPSG:n" or WKT; None if they place nothing) of an open rasterio dataset, and notes on it."""
    transform: Affine = tuple(float(value) for value in dataset.transform[:6])  # type: ignore[assignment]
    a, b, _, d, e, _ = transform
    placed = not dataset.transform.is_identity and a * e - b * d != 0
    if dataset.crs:
        if not placed:
            return transform, None, ("has a CRS but no usable geotransform: treated as not georeferenced",)
        code = dataset.crs.to_epsg()
        return transform, f"EPSG:{code}" if code else dataset.crs.to_wkt(), ()
    if dataset.gcps[0]:
        note = "georeferenced by ground control points only: treated as not georeferenced; warp it first"
        return transform, None, (note,)
    return transform, None, ("has a geotransform but no CRS: treated as not georeferenced",) if placed else ()


def pixel_to_map(transform: Affine, points: npt.ArrayLike) -> Coordinates:
    """Pixel coordinates (N, 2) -> map coordinates (N, 2) float64 in the scene's CRS."""
    a, b, c, d, e, f = transform
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T + 0.5
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def map_to_pixel(transform: Affine, points: npt.ArrayLike) -> Coordinates:
    """Map coordinates (N, 2) in the scene's CRS -> pixel coordinates (N, 2) float64."""
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    u, v = (np.asarray(points, np.float64).reshape(-1, 2) - (c, f)).T
    return np.stack([(e * u - b * v) / determinant, (a * v - d * u) / determinant], axis=1) - 0.5


def near_scene(points: npt.ArrayLike, crs: str, transform: Affine, width: int, height: int) -> Coordinates:
    """Map coordinates (N, 2) in the CRS of a scene of width x height px, their longitudes moved by whole turns to those
    nearest the scene's middle: a scene may span 0 to 360 degrees, or 170 to 190. Only degrees have turns: other
    coordinates are left as they are. Raises ResamError for an unknown CRS."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    if not len(points) or not _crs(crs).is_geographic:
        return points
    [(middle, _)] = pixel_to_map(transform, [((width - 1) / 2, (height - 1) / 2)])
    # a longitude just half a turn away is left as it is: the scene may begin or end there
    return points - np.outer(np.round((points[:, 0] - middle) / 360), (360, 0))


def reproject(points: npt.ArrayLike, source: str, target: str) -> Coordinates:
    """Coordinates (N, 2), x (or longitude) first, from one CRS ("EPSG:n", WKT or URN) to another.

    Raises ResamError when rasterio is not installed, a CRS is unknown, or a point cannot be transformed.
    """
    moved = reproject_some(points, source, target)
    if not np.isfinite(moved).all():
        raise ResamError(f"coordinates outside the area where {source[:60]} is defined")
    return moved


def reproject_some(points: npt.ArrayLike, source: str, target: str) -> Coordinates:
    """As `reproject`, but points that cannot be transformed become NaN: a point of Chile has no place in a UTM zone of
    Europe, and is none the less a good point."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    if source == target or not len(points):
        return points
    try:
        import rasterio
        from rasterio.errors import CRSError
        from rasterio.warp import transform
    except ImportError:
        raise ResamError("map coordinates need rasterio; pip install 'resam[geo]'") from None
    here, there = _crs(source), _crs(target)

    def move(some: Coordinates) -> Coordinates:
        try:
            xs, ys = transform(here, there, some[:, 0], some[:, 1])
        except Exception as error:  # GDAL's own types, which rasterio does not export
            if isinstance(error, CRSError) or "NotSupported" in type(error).__name__:
                names = [" ".join(crs.split())[:60] for crs in (source, target)]
                hint = "; see --crs source" if target == WGS84 else ""
                raise ResamError(f"no transformation from {names[0]} to {names[1]}{hint}") from None
            if len(some) == 1:
                return np.full((1, 2), np.nan)
            middle = len(some) // 2  # one point fails them all: find it
            return np.concatenate([move(some[:middle]), move(some[middle:])])
        return np.stack([np.asarray(xs, np.float64), np.asarray(ys, np.float64)], axis=1)

    with rasterio.Env():  # without it GDAL prints its errors too
        moved = move(points)
    moved[~np.isfinite(moved).all(axis=1)] = np.nan
    return moved


def metres_per_pixel(crs: str, transform: Affine, width: int, height: int) -> float | None:
    """Ground size of a pixel along a row, at the middle of the scene, in metres; None where it makes no sense."""
    middle = np.array([[width / 2 - 1, height / 2], [width / 2, height / 2]])
    place = pixel_to_map(transform, middle)
    known = _crs(crs)
    if known.is_geographic:
        step = _ground_distance(place)
    elif known.is_projected:
        try:  # by way of the globe: a map's metre is one on the ground in some places only, Mercator's at the equator
            step = _ground_distance(reproject(place, crs, WGS84))
        except ResamError:  # no way there: another planet
            step = math.dist(*place) * known.linear_units_factor[1]
    else:
        return None
    return step if math.isfinite(step) and step > 0 else None


def _ground_distance(degrees: Coordinates) -> float:
    """Metres between two near points, (2, 2) longitude and latitude, on WGS 84's ellipsoid."""
    (west, south), (east, north) = degrees
    latitude = math.radians((south + north) / 2)
    flat = 1 - _ECCENTRICITY_SQUARED * math.sin(latitude) ** 2
    along = math.radians((east - west + 180) % 360 - 180) * math.cos(latitude) / math.sqrt(flat)
    up = math.radians(north - south) * (1 - _ECCENTRICITY_SQUARED) / flat**1.5
    return math.hypot(along, up) * _EQUATOR_RADIUS


def _crs(text: str) -> Any:
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # without it GDAL prints its errors too
            return CRS.from_user_input(text)
    except CRSError:
        raise ResamError(f"unknown coordinate reference system {text[:80]!r}") from None
