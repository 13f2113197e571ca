"""Crops of masks give the polygons, RLE and comparisons that the whole mask would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.crops import (
    mask_iou,
    mask_polygons,
    meeting_pairs,
    ring_area,
)
from resam_runtime.masks.instance import Instance, make_exclusive
from resam_runtime.masks.rle import decode_segmentation, encode_rle, rle_counts


def random_crop(seed: int) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """A noisy crop, its origin, and the whole mask that it stands for."""
    chance = np.random.default_rng(seed)
    rows, columns = chance.integers(1, 14, 2)
    crop = chance.random((rows, columns)) < chance.random()
    height, width = rows + chance.integers(0, 4), columns + chance.integers(0, 4)
    x, y = int(chance.integers(0, width - columns + 1)), int(chance.integers(0, height - rows + 1))
    whole = np.zeros((height, width), bool)
    whole[y : y + rows, x : x + columns] = crop
    return crop, (x, y), whole


def fill(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels inside a ring along pixel edges, by counting the vertical edges to the right of each centre."""
    rows, columns = np.mgrid[:height, :width]
    crossed = np.zeros((height, width), int)
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0)):
        if ax == bx:
            crossed += (ax > columns) & (min(ay, by) < rows) & (rows < max(ay, by))
    return crossed % 2 == 1


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_rle_of_a_crop_is_that_of_the_whole_mask(seed: int) -> None:
    crop, origin, whole = random_crop(seed)
    expected = coco.encode(np.asfortranarray(whole.astype(np.uint8)))
    assert encode_rle(crop, origin, whole.shape) == {"size": list(whole.shape), "counts": expected["counts"].decode()}
    assert rle_counts(crop, origin, whole.shape).sum() == whole.size


def test_rle_of_nothing_and_of_everything() -> None:
    for whole in (np.zeros((5, 7), bool), np.ones((5, 7), bool)):
        expected = coco.encode(np.asfortranarray(whole.astype(np.uint8)))["counts"].decode()
        assert encode_rle(whole, (0, 0), (5, 7))["counts"] == expected
    empty = np.zeros((0, 0), bool)
    assert coco.area(encode_rle(empty, (0, 0), (5, 7))) == 0


def test_rle_of_a_crop_in_a_huge_scene_needs_no_huge_array() -> None:
    rle = encode_rle(np.ones((10, 20), bool), (19_000, 15_000), (20_000, 20_000))
    assert coco.area(rle) == 200
    assert coco.toBbox(rle).tolist() == [19_000, 15_000, 20, 10]


def test_a_crop_that_leaves_the_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves the scene"):
        encode_rle(np.ones((3, 3), bool), (8, 0), (10, 10))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_polygons_filled_give_the_mask_back(seed: int) -> None:
    crop, origin, whole = random_crop(seed)
    height, width = whole.shape
    filled = np.zeros(whole.shape, int)
    for polygon in mask_polygons(crop, origin):
        outer, *holes = polygon
        assert ring_area(outer) > 0
        part = fill(outer, height, width).astype(int)
        for hole in holes:
            assert ring_area(hole) < 0
            part -= fill(hole, height, width)
        assert part.min() >= 0  # a hole lies inside its own outer ring
        filled += part
    np.testing.assert_array_equal(filled, whole)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_no_ring_touches_itself(seed: int) -> None:
    crop, origin, _ = random_crop(seed)
    for polygon in mask_polygons(crop, origin):
        for ring in polygon:
            assert len({tuple(vertex) for vertex in ring}) == len(ring) >= 4


def test_a_single_pixel_is_a_unit_square_around_its_centre() -> None:
    ((ring,),) = mask_polygons(np.ones((1, 1), bool), (3, 5))
    assert sorted(map(tuple, ring)) == [(2.5, 4.5), (2.5, 5.5), (3.5, 4.5), (3.5, 5.5)]


def test_an_island_in_a_lake_is_its_own_polygon() -> None:
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    polygons = mask_polygons(mask)
    assert [len(polygon) for polygon in polygons] == [2, 1]
    assert [ring_area(ring) for ring in polygons[0]] == [49, -25]


def test_simplified_polygons_have_fewer_vertices_and_nearly_the_area() -> None:
    rows, columns = np.mgrid[:200, :200]
    disc = (rows - 100) ** 2 + (columns - 100) ** 2 < 90**2
    ((exact,),) = mask_polygons(disc)
    ((simple,),) = mask_polygons(disc, tolerance=1.0)
    assert len(simple) < len(exact) / 8
    assert ring_area(simple) == pytest.approx(disc.sum(), rel=0.01)
    ((square,),) = mask_polygons(np.ones((1, 1), bool), tolerance=3.0)
    assert ring_area(square) == 1


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_iou_of_crops_is_that_of_whole_masks(seed: int) -> None:
    chance = np.random.default_rng(seed)
    wholes, crops = [], []
    for _ in range(2):
        rows, columns = chance.integers(1, 10, 2)
        x, y = (int(v) for v in chance.integers(0, 10, 2))
        crop = chance.random((rows, columns)) < 0.6
        whole = np.zeros((30, 30), bool)
        whole[y : y + rows, x : x + columns] = crop
        wholes.append(whole)
        crops.append((crop, (x, y)))
    both, either = (wholes[0] & wholes[1]).sum(), (wholes[0] | wholes[1]).sum()
    assert mask_iou(*crops[0], *crops[1]) == (both / either if either else 0)


def test_meeting_pairs_are_those_of_a_slow_search() -> None:
    chance = np.random.default_rng(3)
    low = chance.integers(0, 60, (80, 2))
    boxes = np.concatenate([low, low + chance.integers(0, 12, (80, 2))], 1)
    slow = {
        (i, j)
        for i in range(80)
        for j in range(i)
        if (boxes[i, :2] <= boxes[j, 2:]).all() and (boxes[j, :2] <= boxes[i, 2:]).all()
    }
    assert {(max(pair), min(pair)) for pair in meeting_pairs(boxes).tolist()} == slow
    assert meeting_pairs(np.empty((0, 4))).shape == (0, 2)


def test_segmentations_of_all_three_kinds_decode() -> None:
    whole = np.zeros((20, 30), bool)
    whole[4:9, 6:21] = True
    rle = coco.encode(np.asfortranarray(whole.astype(np.uint8)))
    runs = rle_counts(whole, (0, 0), whole.shape).tolist()
    square = [6.0, 4.0, 21.0, 4.0, 21.0, 9.0, 6.0, 9.0]
    for segmentation in (
        {"size": [20, 30], "counts": rle["counts"].decode()},
        {"size": [20, 30], "counts": rle["counts"]},
        {"size": [20, 30], "counts": runs},
        [square],
    ):
        np.testing.assert_array_equal(decode_segmentation({"segmentation": segmentation}, 20, 30), whole)


@pytest.mark.parametrize(
    "segmentation",
    [None, [], {}, [[1, 2, 3, 4]], [[0, 0, 5, 5, 9]], [[0, 0, 5, float("nan"), 9, 9]], {"size": [3, 3], "counts": "0"}],
)
def test_a_bad_segmentation_names_its_annotation(segmentation: object) -> None:
    with pytest.raises(ResamError, match="annotation 17"):
        decode_segmentation({"id": 17, "segmentation": segmentation}, 20, 30)


@pytest.mark.parametrize("far", [200.0, 1e4, 9e8])
@pytest.mark.parametrize("seed", range(6))
def test_polygons_that_reach_far_beyond_the_image_cover_the_pixels_inside_them(seed: int, far: float) -> None:
    height, width = 70, 90
    rng = np.random.default_rng(seed)
    # triangles around the image's middle, some corners of which are near
    angle = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
    radius = np.where(rng.random(3) < 0.4, 20, far)
    corners = np.stack([45 + radius * np.cos(angle), 35 + radius * np.sin(angle)], axis=1)
    found = decode_segmentation({"segmentation": [corners.ravel().tolist()]}, height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    distance = np.full((height, width), np.inf)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        length = np.hypot(x1 - x0, y1 - y0)
        distance = np.minimum(distance, ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
    clear = np.abs(distance) > 1.5
    np.testing.assert_array_equal(found[clear], distance[clear] > 0)


def test_a_polygon_that_is_nowhere_near_the_image_has_no_pixel() -> None:
    for shift in (500, 1e8):
        ring = [shift, 0, shift + 9, 0, shift + 9, 9]
        assert not decode_segmentation({"segmentation": [ring]}, 20, 30).any()
        assert not decode_segmentation({"segmentation": [ring[1:] + ring[:1]]}, 20, 30).any()


def test_runs_that_do_not_fill_the_image_are_refused() -> None:
    for runs in ([5, 5], [-1, 601], [600.0], ["600"]):
        with pytest.raises(ResamError, match="annotation 4"):
            decode_segmentation({"id": 4, "segmentation": {"size": [20, 30], "counts": runs}}, 20, 30)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_runs_that_do_not_fill_the_image_are_refused(seed: int) -> None:
    """pycocotools would hand out what lies in memory behind them."""
    whole = np.random.default_rng(seed).random((20, 30)) < (0.5, 0.02, 0.0, 1.0, 0.9)[seed]
    counts = coco.encode(np.asfortranarray(whole.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(
        decode_segmentation({"segmentation": {"size": [20, 30], "counts": counts}}, 20, 30), whole
    )
    for broken in ("", counts[: len(counts) // 2], counts + "5", counts[:-1], "~", counts + "P", "é"):
        with pytest.raises(ResamError, match="annotation 4: its RLE's runs do not fill its 30 x 20 px"):
            decode_segmentation({"id": 4, "segmentation": {"size": [20, 30], "counts": broken}}, 20, 30)


def test_a_mask_beyond_what_rle_can_count_is_refused() -> None:
    with pytest.raises(ResamError, match="annotation 4: a mask of 1000000 x 1000000 px"):
        decode_segmentation({"id": 4, "segmentation": [[0, 0, 9, 0, 9, 9]]}, 1_000_000, 1_000_000)


def instance(index: int, logits: np.ndarray, origin: tuple[int, int], score: float, keep: bool = True) -> Instance:
    return Instance(
        index=index,
        score=score,
        coarse_score=score,
        mask=logits > 0,
        origin=origin,
        points=np.zeros((1, 2), np.float32),
        labels=np.ones(1, np.int32),
        scene_hw=(40, 40),
        logits=logits.astype(np.float16) if keep else None,
    )


def spread(item: Instance, values: np.ndarray) -> np.ndarray:
    whole = np.full((40, 40), -np.inf)
    height, width = values.shape
    whole[item.origin[1] : item.origin[1] + height, item.origin[0] : item.origin[0] + width] = values
    return whole


@pytest.mark.parametrize("keep", [True, False])
def test_exclusive_masks_follow_the_best_logit_or_score_pixel_by_pixel(keep: bool) -> None:
    chance = np.random.default_rng(5)
    instances = []
    for i in range(12):
        height, width = chance.integers(3, 20, 2)
        logits = chance.integers(-3, 9, (height, width)) / 2.0
        logits[0, 0], logits[-1, -1] = 1, 1
        origin = int(chance.integers(0, 20)), int(chance.integers(0, 20))
        instances.append(instance(i, logits, origin, float(chance.integers(0, 5)) / 5, keep))
    result = make_exclusive(instances)
    owners = np.stack([spread(item, np.where(item.mask, 1.0, -np.inf)) for item in instances]) > 0
    ranks = sorted(range(12), key=lambda i: (-instances[i].score, i))
    expected = np.full((40, 40), -1)
    for y, x in np.argwhere(owners.any(0)):
        contenders = [i for i in ranks if owners[i, y, x]]
        if keep:
            logit = {
                i: float(instances[i].logits[y - instances[i].origin[1], x - instances[i].origin[0]])  # type: ignore[index]
                for i in contenders
            }
            contenders.sort(key=lambda i: -logit[i])
        expected[y, x] = contenders[0]
    for i, item in enumerate(result):
        assert item.index == i
        got = spread(item, np.where(item.mask, 1.0, -np.inf)) > 0
        np.testing.assert_array_equal(got, expected == i)
        if not item.empty:
            assert item.mask[0].any()
            assert item.mask[-1].any()
            assert item.mask[:, 0].any()
            assert item.mask[:, -1].any()


def test_an_instance_that_loses_everything_stays_as_empty() -> None:
    weak, strong = np.full((3, 3), 1.0), np.full((5, 5), 2.0)
    result = make_exclusive([instance(0, weak, (11, 11), 0.9), instance(1, strong, (10, 10), 0.1)])
    assert [item.empty for item in result] == [True, False]
    assert result[0].box.tolist() == [0, 0, 0, 0]
    assert result[0].area == 0
    assert result[0].polygons == []
    assert result[0].polygon.shape == (0, 2)
    assert coco.area(result[0].rle) == 0


def test_box_and_rle_of_an_instance_agree_with_its_mask() -> None:
    item = instance(0, np.ones((4, 6)), (3, 9), 0.5)
    assert item.box.tolist() == [3, 9, 8, 12]
    assert item.area == 24
    assert coco.toBbox(item.rle).tolist() == [3, 9, 6, 4]
    assert ring_area(item.polygon) == 24
