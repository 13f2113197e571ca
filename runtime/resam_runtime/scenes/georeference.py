"""Where a scene lies, and pixel coordinates to map coordinates and back.

Pixel coordinates have pixel centres at integers; an affine transform counts from the outer corner of the first pixel,
as GDAL does: map = transform(x + 0.5, y + 0.5). Reprojection is PROJ's, through rasterio.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import read_regular
from resam_runtime.scenes.quiet_gdal import quiet_gdal

Affine = tuple[float, float, float, float, float, float]
Coordinates = npt.NDArray[np.float64]

WGS84 = "OGC:CRS84"
"""Longitude, latitude in degrees: the coordinates of RFC 7946."""
_EQUATOR_RADIUS, _ECCENTRICITY_SQUARED = 6_378_137.0, 0.00669437999014  # of WGS 84's ellipsoid, in m


def georeferenced_beside(path: Path) -> bool:
    """Whether a file beside an image says where it lies: GDAL's .aux.xml, or a world file."""
    try:
        extra = read_regular(path.with_name(f"{path.name}.aux.xml"))
        if any(tag in extra for tag in (b"<SRS", b"<GeoTransform", b"<GCPList")):  # it may hold statistics alone
            return True
    except OSError:
        pass
    # os.path's isfile: Path's raises for a name that is too long
    return any(os.path.isfile(path.with_name(name)) for name in world_files(path))


def world_files(path: Path) -> list[str]:
    """The names that a file beside an image may have that says where it lies: a.pngw, a.pgw, a.wld."""
    kind = path.suffix[1:]
    worlds = sorted({"wld", f"{kind}w", f"{kind[:1]}{kind[-1:]}w"})
    return [f"{path.stem}.{name}" for world in worlds for name in (world.lower(), world.upper())]


@dataclass(frozen=True)
class Georeference:
    """Where a scene lies on the map.

    transform: (a, b, c, d, e, f), map x = a*u + b*v + c, map y = d*u + e*v + f, where (u, v) = (x + 0.5, y + 0.5) for
    pixel coordinates (x, y). crs: "EPSG:n" or WKT.
    """

    transform: Affine
    crs: str

    def to_map(self, points: npt.ArrayLike) -> Coordinates:
        """Pixel coordinates (N, 2) -> map coordinates (N, 2) float64 in `crs`."""
        a, b, c, d, e, f = self.transform
        x, y = np.asarray(points, np.float64).reshape(-1, 2).T + 0.5
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    def to_pixel(self, points: npt.ArrayLike) -> Coordinates:
        """Map coordinates (N, 2) in `crs` -> pixel coordinates (N, 2) float64."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        u, v = (np.asarray(points, np.float64).reshape(-1, 2) - (c, f)).T
        return np.stack([(e * u - b * v) / determinant, (a * v - d * u) / determinant], axis=1) - 0.5

    def near(self, points: npt.ArrayLike, size_wh: tuple[int, int]) -> Coordinates:
        """Map coordinates (N, 2) in `crs`, their longitudes moved by whole turns to those nearest the middle of a scene
        of `size_wh` px, which may span 0 to 360 degrees, or 170 to 190. Only degrees have turns: other coordinates are
        left as they are. Raises ResamError for an unknown CRS."""
        points = np.asarray(points, np.float64).reshape(-1, 2)
        if not len(points) or not _crs(self.crs).is_geographic:
            return points
        [(middle, _)] = self.to_map([((size_wh[0] - 1) / 2, (size_wh[1] - 1) / 2)])
        # a longitude just half a turn away is left as it is: the scene may begin or end there
        return points - np.outer(np.round((points[:, 0] - middle) / 360), (360, 0))

    def metres_per_pixel(self, size_wh: tuple[int, int]) -> float | None:
        """Ground size of a pixel along a row, at the middle of a scene of `size_wh` px; None where it has none."""
        width, height = size_wh
        place = self.to_map([(width / 2 - 1, height / 2), (width / 2, height / 2)])
        known = _crs(self.crs)
        if known.is_geographic:
            step = _ground_distance(place)
        elif known.is_projected:
            # by way of the globe: a map's metre is one on the ground in some places only, Mercator's at the equator
            try:
                step = _ground_distance(reproject(place, self.crs, WGS84))
            except ResamError:  # no way there: another planet
                step = math.dist(*place) * known.linear_units_factor[1]
        else:
            return None
        return step if math.isfinite(step) and step > 0 else None


def georeference_of(dataset: Any) -> tuple[Georeference | None, tuple[str, ...]]:
    """Where an open rasterio dataset lies, None if nothing places it; and notes on it."""
    a, b, c, d, e, f = (float(value) for value in dataset.transform[:6])
    placed = not dataset.transform.is_identity and a * e - b * d != 0
    if dataset.crs:
        if not placed:
            return None, ("has a CRS but no usable geotransform: treated as not georeferenced",)
        code = dataset.crs.to_epsg()
        return Georeference((a, b, c, d, e, f), f"EPSG:{code}" if code else dataset.crs.to_wkt()), ()
    if dataset.gcps[0]:
        return None, ("georeferenced by ground control points only: treated as not georeferenced; warp it first",)
    if dataset.rpcs and not placed:
        return None, (
            "located by rational polynomials only (RPC): treated as not georeferenced; orthorectify it first",
        )
    return None, ("has a geotransform but no CRS: treated as not georeferenced",) if placed else ()


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

    with quiet_gdal():
        moved = move(points)
    moved[~np.isfinite(moved).all(axis=1)] = np.nan
    return moved


def _ground_distance(degrees: Coordinates) -> float:
    """Metres between two near points, (2, 2) longitude and latitude, on WGS 84's ellipsoid."""
    (west, south), (east, north) = degrees
    latitude = math.radians((south + north) / 2)
    flat = 1 - _ECCENTRICITY_SQUARED * math.sin(latitude) ** 2
    along = math.radians((east - west + 180) % 360 - 180) * math.cos(latitude) / math.sqrt(flat)
    up = math.radians(north - south) * (1 - _ECCENTRICITY_SQUARED) / flat**1.5
    return math.hypot(along, up) * _EQUATOR_RADIUS


_NAMED_CRS = re.compile(r"[A-Za-z]\w{0,15}:[\w.+]{1,40}|urn:(x-)?ogc:def:crs[\w:.,+-]{0,200}|WGS84|NAD27|NAD83", re.I)
_WRITTEN_CRS = re.compile(r"\s*(\{|[A-Za-z_]{5,20}\s*[\[(])")
_CRS_ADDRESS = re.compile(r"https?://www\.opengis\.net/def/crs/(\w+)/[\w.]+/(\w+)/?", re.I)
_GRID_FILE = re.compile(r"""(?i)grids=[^"'\s]*[/\\:]|parameterfile\s*[\[(]\s*"[^"]*[/\\:]""")


def _crs(text: str) -> Any:
    """A CRS by its name (EPSG:n, a URN), WKT or PROJJSON. GDAL would take much else for one: an address that it asks, a
    file that it reads."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if address := _CRS_ADDRESS.fullmatch(text):  # a name that only looks like an address
        text = f"{address[1]}:{address[2]}"
    known = _NAMED_CRS.fullmatch(text) or (_WRITTEN_CRS.match(text) and not _GRID_FILE.search(text))
    try:
        if known:
            with quiet_gdal():
                return CRS.from_user_input(text)
    except CRSError:
        pass
    raise ResamError(f"unknown coordinate reference system {text[:80]!r}")
