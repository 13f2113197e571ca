"""Tiles cover a scene, each point has one central tile, and neighbours share a batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resam_runtime.tiles.tiling import Framing, Tile, assign_points, neighbour_batches, plan_tiles


def test_a_scene_that_fits_is_one_tile_scaled_up_or_down() -> None:
    assert plan_tiles(2000, 1500, 1024, Framing(2048)) == [Tile(0, 0, 2000, 1500, 1024 / 2000)]
    assert plan_tiles(100, 512, 1024, Framing(2048)) == [Tile(0, 0, 100, 512, 2.0)]


def test_a_larger_scene_is_cut_at_native_resolution() -> None:
    tiles = plan_tiles(2049, 600, 1024, Framing(2048))
    assert {tile.scale for tile in tiles} == {1.0}
    assert {tile.height for tile in tiles} == {600}
    assert {tile.width for tile in tiles} == {1024}


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    size=st.integers(32, 400),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_tiles_cover_every_pixel_inside_the_scene(width: int, height: int, size: int, overlap: float) -> None:
    tiles = plan_tiles(width, height, size, Framing(size), overlap)
    for length, begins, sizes in (
        (width, [t.x for t in tiles], [t.width for t in tiles]),
        (height, [t.y for t in tiles], [t.height for t in tiles]),
    ):
        spans = sorted(set(zip(begins, sizes)))
        assert spans[0][0] == 0
        assert spans[-1][0] + spans[-1][1] == length
        for (a, extent), (b, _) in itertools.pairwise(spans):
            assert 0 < b - a <= extent
            assert a + extent - b >= int(overlap * extent) - 1
    assert len(tiles) == len({t.x for t in tiles}) * len({t.y for t in tiles})


def test_every_point_lies_far_from_its_tiles_cuts() -> None:
    width, height, size = 3000, 2100, 512
    tiles = plan_tiles(width, height, size, Framing(size))
    points = np.random.default_rng(0).uniform((-0.5, -0.5), (width - 0.5, height - 0.5), (3000, 2))
    owner = assign_points(tiles, points)
    for (x, y), number in zip(points, owner):
        tile = tiles[number]
        margins = []
        if tile.x > 0:
            margins.append(x - tile.x)
        if tile.y > 0:
            margins.append(y - tile.y)
        if tile.x + tile.width < width:
            margins.append(tile.x + tile.width - x)
        if tile.y + tile.height < height:
            margins.append(tile.y + tile.height - y)
        assert min(margins) >= size / 8 - 1


def test_the_owner_is_the_best_tile_by_a_slow_search() -> None:
    width, height = 700, 500
    tiles = plan_tiles(width, height, 256, Framing(256), 0.4)
    points = np.random.default_rng(1).uniform(0, 499, (300, 2))

    def margin(tile: Tile, x: float, y: float) -> float:
        left, top = x + 0.5 - tile.x, y + 0.5 - tile.y
        right, bottom = tile.width - left, tile.height - top
        if min(left, top, right, bottom) < 0:
            return min(left, top, right, bottom)
        cuts = [
            left if tile.x > 0 else np.inf,
            top if tile.y > 0 else np.inf,
            right if tile.x + tile.width < width else np.inf,
            bottom if tile.y + tile.height < height else np.inf,
        ]
        return min(cuts)

    for point, number in zip(points, assign_points(tiles, points)):
        assert margin(tiles[number], *point) == max(margin(tile, *point) for tile in tiles)


def test_tiles_that_are_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="grid"):
        assign_points([*plan_tiles(700, 500, 256, Framing(256))][:-1], [(3, 3)])


def test_scene_corners_belong_to_corner_tiles() -> None:
    tiles = plan_tiles(1000, 1000, 256, Framing(256))
    owner = assign_points(tiles, [(-0.5, -0.5), (999.5, 999.5), (999.5, -0.5)])
    last = max(tile.x for tile in tiles)
    assert [tiles[i].origin for i in owner] == [(0, 0), (last, last), (last, 0)]


@settings(max_examples=100, deadline=None)
@given(count=st.integers(0, 300), limit=st.integers(1, 70), seed=st.integers(0, 1000))
def test_batches_hold_each_instance_once_and_are_as_few_as_possible(count: int, limit: int, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 100, (count, 2))
    batches = neighbour_batches(points, limit)
    assert sorted(i for batch in batches for i in batch) == list(range(count))
    assert len(batches) == -(-count // limit)
    assert all(1 <= len(batch) <= limit for batch in batches)


def test_batches_are_neighbourhoods() -> None:
    chance = np.random.default_rng(0)
    clusters = np.array([(0, 0), (1000, 0), (0, 1000), (1000, 1000)])
    points = np.repeat(clusters, 16, 0) + chance.normal(0, 10, (64, 2))
    shuffled = chance.permutation(64)
    for batch in neighbour_batches(points[shuffled], 16):
        assert len(set(shuffled[batch] // 16)) == 1


def test_instances_at_one_place_still_split() -> None:
    assert sum(len(batch) for batch in neighbour_batches(np.zeros((10, 2)), 4)) == 10


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_impossible_overlap_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        plan_tiles(10, 10, 4, Framing(4), overlap)
