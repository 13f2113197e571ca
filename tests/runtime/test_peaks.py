"""Peaks of heat maps: each object once, its box where the maps say, faint and padded cells left alone."""

from __future__ import annotations

import numpy as np
import pytest

from resam_runtime.segment.peaks import box_iou, distinct, find_peaks

SIZE, GRID = 64, 16  # a cell is 4 px
CELL = SIZE // GRID


def maps(peaks: list[tuple[int, int, int, float]], classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Heat logits, -8 but at (class, row, column, probability), and boxes that reach 6 px from each cell's middle."""
    heat = np.full((classes, GRID, GRID), -8.0, np.float32)
    for number, row, column, p in peaks:
        heat[number, row, column] = np.log(p / (1 - p))
    return heat, np.full((4, GRID, GRID), 6.0, np.float32)


def test_a_peak_says_where_and_how_large_and_which_class() -> None:
    heat, boxes = maps([(1, 5, 9, 0.7)])
    boxes[:, 5, 9] = 1.0, 2.0, 3.0, 4.0
    peaks = find_peaks(heat, boxes, SIZE, (SIZE, SIZE), 0.3)
    assert len(peaks) == 1
    assert peaks.classes.tolist() == [1]
    np.testing.assert_allclose(peaks.scores, [0.7], rtol=1e-6)
    x, y = 9 * CELL + 1.5, 5 * CELL + 1.5  # the middle of a cell of four pixels, whose centres are whole numbers
    np.testing.assert_allclose(peaks.points, [[x, y]])
    np.testing.assert_allclose(peaks.boxes, [[x - 1, y - 2, x + 3, y + 4]])


def test_a_slope_has_one_peak_and_two_neighbours_two_cells_apart_have_two() -> None:
    heat, boxes = maps([(0, 4, 4, 0.9), (0, 4, 5, 0.6), (0, 5, 5, 0.5), (0, 4, 6, 0.8)])
    boxes[:] = 2.0
    peaks = find_peaks(heat, boxes, SIZE, (SIZE, SIZE), 0.3)
    assert peaks.points[:, 0].tolist() == [4 * CELL + 1.5, 6 * CELL + 1.5]
    assert (np.diff(peaks.scores) < 0).all()


def test_one_object_is_of_one_class() -> None:
    heat, boxes = maps([(0, 8, 8, 0.5), (1, 8, 8, 0.6)])
    assert find_peaks(heat, boxes, SIZE, (SIZE, SIZE), 0.3).classes.tolist() == [1]


def test_each_class_has_its_own_least_score() -> None:
    heat, boxes = maps([(0, 3, 3, 0.4), (1, 12, 12, 0.4)])
    peaks = find_peaks(heat, boxes, SIZE, (SIZE, SIZE), np.array([0.5, 0.3]))
    assert peaks.classes.tolist() == [1]


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_any_score_may_be_asked_for(least: float) -> None:
    heat, boxes = maps([(0, 3, 3, 0.4)])
    assert (len(find_peaks(heat, boxes, SIZE, (SIZE, SIZE), least)) > 0) == (least == 0)


def test_padding_holds_no_peak_and_boxes_end_where_the_image_does() -> None:
    heat, boxes = maps([(0, 4, 14, 0.9), (0, 9, 9, 0.8)])
    boxes[:] = 40.0
    peaks = find_peaks(heat, boxes, SIZE, (38, 40), 0.3)
    np.testing.assert_allclose(peaks.boxes, [[-0.5, -0.5, 39.5, 37.5]])


def test_no_more_peaks_than_asked_for_and_the_highest() -> None:
    heat, boxes = maps([(0, 2 * i, 2 * i, 0.5 + 0.05 * i) for i in range(8)])
    boxes[:] = 1.0
    np.testing.assert_allclose(find_peaks(heat, boxes, SIZE, (SIZE, SIZE), 0.3, most=2).scores, [0.85, 0.8], rtol=1e-6)


def test_overlapping_boxes_are_kept_in_order() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 30]], float)
    assert distinct(boxes, 0.5).tolist() == [0, 2, 3]


def test_iou_of_boxes_is_that_of_their_pixels() -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 20, (6, 2))
    boxes = np.concatenate((low, low + rng.integers(1, 12, (6, 2))), axis=1)

    def cells(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    sets = [cells(box) for box in boxes]
    expected = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    np.testing.assert_allclose(box_iou(boxes, boxes), expected)
