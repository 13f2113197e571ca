"""Outlines across the antimeridian and round the poles cover what their masks cover, by independent computation."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest

from resam_runtime.scenes.georeference import WGS84, Affine, Georeference, reproject
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers import SceneResult
from resam_runtime.writers.antimeridian import cut_at_antimeridian
from resam_runtime.writers.geojson import feature_collection

from .test_writers import HEIGHT, WIDTH, disc, instance, polygons, random_blobs, signed_area

pytest.importorskip("rasterio")
ANTIMERIDIAN_UTM = (100.0, 0.0, 828000.0, 0.0, -100.0, 4500.0)  # of zone 60 north, at the equator


def geometry(mask: np.ndarray, transform: Affine, crs: str, simplify: float = 0.0) -> list[Any]:
    """The polygons of one mask, with everything checked that RFC 7946 asks of each."""
    height, width = mask.shape
    result = SceneResult(SceneInfo("a.tif", width, height, Georeference(transform, crs)), [instance(0, mask)])
    [feature] = feature_collection(result, simplify=simplify)["features"]
    found = polygons(feature)
    for outer, *holes in found:
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            longitudes, latitudes = np.array(ring).T
            assert longitudes.min() >= -180
            assert longitudes.max() <= 180
            assert np.abs(latitudes).max() <= 90
            assert ring[0] == ring[-1]
            assert all(before != after for before, after in itertools.pairwise(ring))
    return found


def covered(found: list[Any], points: np.ndarray) -> np.ndarray:
    """How often points (N, 2) lie in the polygons: the crossings of a ray eastwards, ring by ring."""
    count = np.zeros(len(points), int)
    for outer, *holes in found:
        inside = np.zeros(len(points), bool)
        for ring in (outer, *holes):
            for (x0, y0), (x1, y1) in itertools.pairwise(ring):
                meets = (points[:, 1] < y0) != (points[:, 1] < y1)
                at = x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1.0)
                inside ^= meets & (points[:, 0] < at)
        count += inside
    return count


def centres(shape: tuple[int, int], transform: Affine, crs: str) -> np.ndarray:
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    placed = reproject(Georeference(transform, crs).to_map(np.stack([xs.ravel(), ys.ravel()], 1)), crs, WGS84)
    placed[:, 0] = (placed[:, 0] + 180) % 360 - 180
    return placed


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32660", ANTIMERIDIAN_UTM),
        ("EPSG:32760", (100.0, 0.0, 828000.0, 0.0, -100.0, 10004500.0)),
        ("EPSG:4326", (0.25, 0.0, 165.0, 0.0, -0.25, 10.0)),  # the antimeridian lies on pixel edges
        ("EPSG:4326", (0.25, 0.0, 165.1, 0.0, -0.25, 10.0)),
        ("EPSG:4326", (3.0, 0.0, -180.0, 0.0, -2.0, 90.0)),  # the world
        ("EPSG:4326", (3.0, 0.0, 0.0, 0.0, -2.0, 90.0)),
        ("EPSG:4326", (0.25, 0.0, 150.0, 0.0, -0.25, 10.0)),  # up to it
        ("EPSG:4326", (0.25, 0.0, -180.0, 0.0, -0.25, 10.0)),  # from it on
    ],
)
def test_polygons_cover_their_pixels_once(crs: str, transform: Affine, seed: int) -> None:
    mask = random_blobs(seed)
    found = geometry(mask, transform, crs)
    assert (covered(found, centres(mask.shape, transform, crs)) == mask.ravel()).all()
    if crs == "EPSG:4326":
        area = sum(signed_area(ring) for polygon in found for ring in polygon)
        assert area == pytest.approx(mask.sum() * -transform[0] * transform[4])
    geometry(mask, transform, crs, 1.0)


POLAR = (6250.0, 0.0, -375000.0, 0.0, -6250.0, 281250.0)  # the 180th meridian is a pixel edge


@pytest.mark.parametrize("simplify", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", (0.01, 0.0, 180 - 60 * 0.01, 0.0, -0.01, 10.0)),
        ("EPSG:4326", (1.0, 0.0, 120.0, 0.0, -1.0, 45.0)),
        ("EPSG:3995", POLAR),
        ("EPSG:3995", (6250.0, 0.0, -125000.0, 0.0, -6250.0, 1250000.0)),
        ("EPSG:3031", POLAR),
    ],
)
def test_every_outline_is_a_valid_polygon(crs: str, transform: Affine, seed: int, simplify: float) -> None:
    shapely = pytest.importorskip("shapely")
    blobs = random_blobs(seed)
    for mask in (blobs, disc(60, 45, 30) & blobs, np.roll(blobs, 30, axis=1) & disc(60, 45, 3)):
        if not mask.any():
            continue
        found = geometry(mask, transform, crs, simplify)
        for whole in (shapely.MultiPolygon([(outer, holes) for outer, *holes in found]), *found):
            shape = whole if hasattr(whole, "is_valid") else shapely.Polygon(whole[0], whole[1:])
            assert shape.is_valid, shapely.is_valid_reason(shape)


@pytest.mark.parametrize(
    ("rows", "origin", "transform", "crs"),
    [
        (["##", "#."], (19, 22), (1.0, 0.0, 160.0, 0.0, -1.0, 20.0), "EPSG:4326"),
        (["...#", "####"], (17, 28), (6250.0, 0.0, -125000.0, 0.0, -6250.0, 1250000.0), "EPSG:3995"),
    ],
)
def test_outlines_that_run_along_the_antimeridian(
    rows: list[str], origin: tuple[int, int], transform: Affine, crs: str
) -> None:
    shapely = pytest.importorskip("shapely")
    mask = np.zeros((40, 40), bool)
    part = np.array([[cell == "#" for cell in row] for row in rows])
    mask[origin[1] : origin[1] + part.shape[0], origin[0] : origin[0] + part.shape[1]] = part
    found = geometry(mask, transform, crs)
    assert all(shapely.Polygon(outer, holes).is_valid for outer, *holes in found)
    assert (covered(found, centres(mask.shape, transform, crs)) == mask.ravel()).all()


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
@pytest.mark.parametrize("hole", [0, 12])
def test_round_a_pole_polygons_reach_it(crs: str, hole: int) -> None:
    transform = (10000.0, 0.0, -455000.0, 0.0, -10000.0, 405000.0)
    mask = disc(44, 41, 30) & ~disc(46, 39, hole) & ~disc(25, 41, 4) & ~disc(65, 50, 4)
    found = geometry(mask, transform, crs)
    [(outer, *_)] = found
    assert np.ptp(np.array(outer)[:, 0]) == 360
    assert (np.abs(np.array(outer)[:, 1]).max() == 90) == (hole == 0)
    count = covered(found, centres(mask.shape, transform, crs))
    assert count.max() == 1
    # a chord of degrees is no chord of the map: a pixel at the rim may fall to the other side
    wrong = (count != mask.ravel()).reshape(mask.shape)
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) != cv2.erode(mask.astype(np.uint8), np.ones((3, 3)))
    assert not (wrong & ~rim).any()
    assert wrong.sum() < 0.1 * rim.sum()


def test_a_polygon_across_the_antimeridian_keeps_its_holes() -> None:
    ring = disc(60, 45, 35) & ~disc(40, 45, 5) & ~disc(80, 45, 5)
    west, east = sorted(geometry(ring, ANTIMERIDIAN_UTM, "EPSG:32660"), key=lambda one: -one[0][0][0])
    assert (len(west), len(east)) == (2, 2), "one hole on either side"
    assert max(x for x, _ in west[0]) == 180
    assert min(x for x, _ in east[0]) == -180
    assert sorted(y for x, y in west[0][:-1] if x == 180) == sorted(y for x, y in east[0][:-1] if x == -180)


def test_a_hole_across_the_antimeridian_is_open_to_it() -> None:
    found = geometry(disc(60, 45, 35) & ~disc(60, 45, 15), ANTIMERIDIAN_UTM, "EPSG:32660")
    assert [len(polygon) for polygon in found] == [1, 1]


def test_longitudes_count_from_minus_180_to_180() -> None:
    """Also in a scene that counts them from 0 to 360, and in one of several turns."""
    for west in (200.0, 560.0, -520.0):
        [[outer]] = geometry(disc(60, 45, 20), (0.01, 0.0, west, 0.0, -0.01, 10.0), "EPSG:4326")
        assert np.mean([x for x, _ in outer[:-1]]) == pytest.approx(-160 + 0.605)


def test_an_edge_of_more_than_half_the_world_is_not_the_short_way_round() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:80, 5:115] = True
    [[outer]] = geometry(mask, (3.0, 0.0, -180.0, 0.0, -2.0, 90.0), "EPSG:4326")
    assert signed_area(outer) == pytest.approx(mask.sum() * 6)


def test_parts_that_do_not_cross_stay_whole_beside_one_that_does() -> None:
    parts = disc(40, 45, 6) | disc(60, 45, 6) | disc(80, 45, 6)
    found = geometry(parts, ANTIMERIDIAN_UTM, "EPSG:32660")
    longitudes = sorted((min(x for x, _ in outer), max(x for x, _ in outer)) for [outer] in found)
    assert [(low == -180, high == 180) for low, high in longitudes] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]


def test_a_ring_that_only_touches_the_antimeridian_is_whole() -> None:
    for side in (1, -1):
        triangle = np.array([[179.0, 0], [180.0, 1], [179.0, 2]]) * (side, 1)
        [[ring]] = cut_at_antimeridian([triangle])
        assert {tuple(point) for point in ring} == {tuple(point) for point in triangle}
