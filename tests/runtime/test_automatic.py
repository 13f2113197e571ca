"""Without points the segmenter finds the bright shapes of a dark scene, each once, wherever the tiles lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam_runtime import AutomaticOptions, ResamError, Segmenter
from resam_runtime.masks.crops import mask_iou
from resam_runtime.masks.instance import Instance
from resam_runtime.segment.automatic import DecodedMasks, grid_points, merge_proposals, propose, stability_score, unique
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles

from .engines import engine_manifest, write_engine


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    path = tmp_path_factory.mktemp("engine") / "by_value.resam"
    write_engine(path, 64, 8, radius=24.0, by_value=True)
    return Segmenter(path, device="cpu", threads=1, automatic=STRICT)


# The test engine's masks from a disc's rim are parts of it, stable to 0.8; a SAM's are not that sharp.
STRICT = AutomaticOptions(points_per_side=16, min_stability=0.85)


def scene(width: int, height: int, shapes: list[tuple[int, int, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Bright discs (x, y, radius) on black, and their masks."""
    image, truths = np.zeros((height, width, 3), np.uint8), []
    for i, (x, y, radius) in enumerate(shapes):
        mask = np.zeros((height, width), np.uint8)
        cv2.circle(mask, (x, y), radius, 1, -1)
        image[mask > 0] = 190 + 65 * (i % 2)
        truths.append(mask > 0)
    return image, truths


def best_match(truth: np.ndarray, instances: list) -> float:  # type: ignore[type-arg]
    return max((mask_iou(truth, (0, 0), item.mask, item.origin) for item in instances), default=0.0)


SMALL = [(14, 14, 8), (45, 20, 9), (30, 48, 10)]
LARGE = [(14, 14, 9), (64, 40, 8), (100, 90, 9), (130, 30, 8), (40, 110, 10), (160, 120, 9), (95, 140, 8)]


@pytest.mark.parametrize(("width", "height", "shapes"), [(64, 64, SMALL), (180, 150, LARGE)])
def test_every_shape_is_found_exactly_once(
    segmenter: Segmenter, width: int, height: int, shapes: list[tuple[int, int, int]]
) -> None:
    image, truths = scene(width, height, shapes)
    instances = segmenter(image)
    assert len(instances) == len(truths)
    # The test engine leaves out cells that a shape fills in part: about a pixel of its rim.
    assert min(best_match(truth, instances) for truth in truths) > 0.65
    assert [item.index for item in instances] == list(range(len(instances)))
    scores = [item.score for item in instances]
    assert scores == sorted(scores, reverse=True)


def test_shapes_are_found_at_another_scale(tmp_path: Path) -> None:
    """A scene twice as large, for an engine that halves it: the same shapes, twice as large."""
    write_engine(tmp_path / "half.resam", 64, 8, 14.0, True, fit_within=128, scale=0.5)
    half = Segmenter(tmp_path / "half.resam", device="cpu", threads=1, automatic=STRICT)
    image, truths = scene(360, 300, [(2 * x, 2 * y, 2 * radius) for x, y, radius in LARGE])
    instances = half(image)
    assert len(instances) == len(truths)
    assert min(best_match(truth, instances) for truth in truths) > 0.65


def test_options_out_of_range_are_refused() -> None:
    for name, value, cause in (
        ("points_per_side", 0, "expected a whole number, at least 1, got 0"),
        ("points_per_side", 1.5, "expected a whole number, at least 1, got 1.5"),
        ("min_score", 70, "expected 0 to 1, got 70"),
        ("min_score", float("nan"), "expected 0 to 1, got nan"),
        ("max_overlap", "0.5", "expected 0 to 1, got '0.5'"),
        ("min_area", -1, "expected at least 0, got -1"),
    ):
        with pytest.raises(ResamError, match=f"{name}: {cause}"):
            AutomaticOptions(**{name: value})


def test_an_empty_scene_gives_nothing(segmenter: Segmenter) -> None:
    assert segmenter(np.zeros((64, 64, 3), np.uint8)) == []
    assert segmenter(np.zeros((150, 100, 3), np.uint8)) == []


def test_a_mask_of_the_whole_tile_is_no_instance(tmp_path: Path) -> None:
    write_engine(tmp_path / "wide.resam", 64, 8, radius=500.0, by_value=True)
    wide = Segmenter(tmp_path / "wide.resam", device="cpu", threads=1, automatic=AutomaticOptions(points_per_side=4))
    assert wide(np.full((64, 64, 3), 255, np.uint8)) == []
    assert wide(np.full((64, 20, 3), 255, np.uint8)) == []  # the part of the tile that is not padding counts


def test_exclusive_proposals_share_no_pixel(segmenter: Segmenter) -> None:
    image, _ = scene(64, 64, SMALL)
    count = np.zeros((64, 64), int)
    for item in segmenter(image, exclusive=True):
        x, y = item.origin
        count[y : y + item.mask.shape[0], x : x + item.mask.shape[1]] += item.mask
    assert count.max() == 1


def test_tiles_in_any_order_merge_to_the_same(segmenter: Segmenter) -> None:
    image, _ = scene(180, 150, LARGE)
    found = []
    for tile, grid in reversed(list(segmenter.plan_automatic(180, 150))):
        window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        found += segmenter.propose_tile(segmenter.prepare_tile(window, tile), tile, grid, (150, 180))
    merged = segmenter.merge_proposals(found, (150, 180))
    boxes = {tuple(item.box.tolist()) for item in merged}
    assert boxes == {tuple(item.box.tolist()) for item in segmenter(image)}
    assert len(found) > len(merged)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (40, 25), (200, 150), (64, 300)])
def test_the_grid_covers_a_scene_once_and_evenly(width: int, height: int) -> None:
    tiles = plan_tiles(width, height, 64, Framing(64))
    points = np.concatenate(
        [tile_to_scene(points, tile.scale, tile.origin) for tile, points in grid_points(tiles, 64, 8)]
    )
    spacing = 8 / tiles[0].scale
    assert len(points) == pytest.approx(width * height / spacing**2, rel=0.3)
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns.ravel(), rows.ravel()], 1)[::7]
    distance = np.hypot(*(pixels[:, None] - points).T).min(0)
    assert distance.max() < 1.5 * spacing
    assert points.min() >= -0.5
    assert (points <= (width - 0.5, height - 0.5)).all()


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 9, 9)).astype(np.float32)
    for mask, score in zip(logits, stability_score(logits, 1.0)):
        high, low = mask > 1, mask > -1
        assert score == pytest.approx((high & low).sum() / (high | low).sum())
    assert stability_score(np.full((1, 3, 3), -9.0, np.float32), 1.0).tolist() == [0]


def test_unsure_and_unstable_masks_are_not_proposed() -> None:
    manifest, options = engine_manifest(), AutomaticOptions()
    points = np.array([(10, 10), (30, 10), (50, 10), (10, 50), (50, 50)], np.float32)
    masks = np.full((5, 32, 32), -9.0, np.float32)
    masks[0, 2:8, 2:8] = 9  # good
    masks[1, 2:8, 12:18] = 9  # badly scored
    masks[2, 2:8, 22:28] = 0.5  # unstable
    masks[3, 2:8, 2:7] = 9  # the first one again, nearly
    masks[4] = 9  # all of the tile
    scores = np.array([0.9, 0.3, 0.9, 0.8, 0.9], np.float32)

    def decode(batch: np.ndarray) -> DecodedMasks:
        rows = [int(np.flatnonzero((points == point).all(1))[0]) for point in batch]
        return DecodedMasks(masks[rows], scores[rows])

    for at_once in (1, 3, 64):
        kept = propose(decode, points, Tile(0, 0, 64, 64), manifest, options, at_once)
        assert kept.tolist() == [[10, 10]]


def test_unique_keeps_the_first_of_each_kind_as_a_slow_search_does() -> None:
    chance = np.random.default_rng(1)
    crops = []
    for _ in range(60):
        height, width = chance.integers(4, 9, 2)
        origin = int(chance.integers(0, 12)), int(chance.integers(0, 12))
        crops.append((chance.random((height, width)) < 0.95, origin))
    order = chance.permutation(60).tolist()
    slow: list[int] = []
    for i in order:
        if all(mask_iou(*crops[i], *crops[j]) <= 0.5 for j in slow):
            slow.append(i)
    assert unique(crops, order, 0.5) == slow
    assert len(slow) < 60


def test_a_part_gives_way_to_a_better_whole() -> None:
    large, part = (np.ones((20, 20), bool), (0, 0)), (np.ones((20, 5), bool), (0, 0))
    assert unique([large, part], [0, 1], 0.5) == [0, 1]
    assert unique([large, part], [0, 1], 0.5, parts=True) == [0]


def test_an_instance_cut_by_its_tile_is_dropped_where_a_neighbour_sees_it_whole() -> None:
    tiles = plan_tiles(100, 64, 64, Framing(64))
    assert [tile.x for tile in tiles] == [0, 36]

    def found(index: int, point: float, x0: int, x1: int, score: float) -> Instance:
        mask = np.ones((20, x1 - x0), bool)
        points = np.array([[point, 30]], np.float32)
        return Instance(index, score, score, mask, (x0, 20), points, np.ones(1, np.int32), (64, 100))

    whole, part = found(0, 70, 45, 90, 0.75), found(1, 48, 45, 64, 0.99)
    options = AutomaticOptions()
    assert [item.box.tolist() for item in merge_proposals([part, whole], tiles, options)] == [whole.box.tolist()]
    # Cut, but seen by nobody else: better a part than nothing.
    assert [item.box.tolist() for item in merge_proposals([part], tiles, options)] == [part.box.tolist()]
    # Not cut: a small thing inside a large one is an instance of its own where it is the surer one.
    inner = found(1, 48, 47, 60, 0.99)
    assert len(merge_proposals([inner, whole], tiles, options)) == 2
    doubtful = dataclasses.replace(inner, score=0.7)
    assert [item.box.tolist() for item in merge_proposals([doubtful, whole], tiles, options)] == [whole.box.tolist()]
