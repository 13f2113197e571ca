"""Mask quality against slow computations on whole scenes, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resam_benchmarks.measure.metrics import Crop, boundary_f, crop_of, iou, recall_at, size_class

SIDE = 40


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """A few overlapping discs in a scene, some touching its rim."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), bool)
    for _ in range(rng.integers(1, 4)):
        x, y, radius = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(0.6, 9)
        mask |= np.hypot(columns - x, rows - y) <= radius
    return mask


def slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    height, width = mask.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(mask[y, x])

    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if inside(y, x) and not (inside(y - 1, x) and inside(y + 1, x) and inside(y, x - 1) and inside(y, x + 1))
    ]


def slow_boundary_f(found: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    edges = [slow_boundary(mask) for mask in (found, truth)]
    if not edges[0] or not edges[1]:
        return 0.0

    def near(own: list[tuple[int, int]], other: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(p, q) <= tolerance for q in other) for p in own) / len(own)

    precision, recall = near(edges[0], edges[1]), near(edges[1], edges[0])
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 3.5])
def test_boundary_f_equals_the_distances_between_all_boundary_pixels(tolerance: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        found, truth = random_mask(rng), random_mask(rng)
        expected = slow_boundary_f(found, truth, tolerance)
        assert boundary_f(crop_of(found), crop_of(truth), tolerance) == pytest.approx(expected, abs=1e-6)


def test_iou_of_crops_equals_iou_of_scenes() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        found, truth = random_mask(rng), random_mask(rng)
        expected = (found & truth).sum() / max(1, (found | truth).sum())
        assert iou(crop_of(found), crop_of(truth)) == pytest.approx(expected)


def test_a_mask_equals_itself_and_an_empty_one_matches_nothing() -> None:
    mask = crop_of(random_mask(np.random.default_rng(3)))
    empty = crop_of(np.zeros((SIDE, SIDE), bool))
    assert (iou(mask, mask), boundary_f(mask, mask)) == (1.0, 1.0)
    assert (iou(empty, mask), boundary_f(empty, mask), boundary_f(mask, empty)) == (0.0, 0.0, 0.0)
    assert empty.mask.shape == (0, 0)


def test_sizes_are_those_of_coco() -> None:
    assert [size_class(area) for area in (1, 32**2 - 1, 32**2, 96**2 - 1, 96**2)] == [
        "small", "small", "medium", "medium", "large",
    ]  # fmt: skip


def test_a_proposal_answers_for_one_instance_only() -> None:
    def square(x: int, side: int = 10) -> Crop:
        return Crop(np.ones((side, side), bool), (x, 0))

    truths = [square(0), square(3), square(30)]
    # one proposal fits both of the first two, better the second
    assert recall_at([square(2)], truths) == [False, True, False]
    assert recall_at([square(2), square(1)], truths) == [True, True, False]
    assert recall_at([square(35)], truths) == [False, False, False]
    assert recall_at([], truths) == [False, False, False]
