"""What the prompter is taught: its maps against a plain drawing of them, its losses against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resam.model.prompter import Prompter, box_corners, load_prompter
from resam.training.prompter.examples import Example, scene_crop, tile_instances
from resam.training.prompter.losses import box_loss, centre_loss, giou
from resam.training.prompter.targets import TileInstances, make_targets
from resam.training.prompter.thresholds import ENOUGH, Clicked, choose_thresholds
from resam_runtime.segment.peaks import find_peaks
from resam_runtime.tiles.tiling import Tile

SIZE, GRID, CELL = 64, 16, 4


def head(classes: int = 3) -> Prompter:
    torch.manual_seed(0)
    return Prompter(32, classes, SIZE, GRID // 2, width=8)


def test_the_maps_are_twice_as_fine_as_the_tokens() -> None:
    heat, boxes = head()(torch.randn(2, 32, 8, 8))
    assert heat.shape == (2, 3, GRID, GRID)
    assert boxes.shape == (2, 4, GRID, GRID)
    assert (boxes > 0).all()
    assert (boxes <= SIZE * 1.001).all()


def test_a_prompter_is_read_back_from_its_tensors() -> None:
    made = head()
    again = load_prompter(made.state_dict(), SIZE, GRID // 2)
    x = torch.randn(1, 32, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(made(x), again(x)))
    with pytest.raises(ValueError, match="heat"):
        load_prompter({k: v for k, v in made.state_dict().items() if not k.startswith("heat")}, SIZE, GRID // 2)


def test_training_and_device_mean_the_same_box_by_the_same_map() -> None:
    distances = torch.rand(1, 4, GRID, GRID) * 9
    heat = np.full((1, GRID, GRID), -9.0, np.float32)
    heat[0, 7, 3] = 3.0
    peak = find_peaks(heat, distances[0].numpy(), SIZE, (SIZE, SIZE), 0.5)
    np.testing.assert_allclose(peak.boxes[0], box_corners(distances, CELL)[0, :, 7, 3], rtol=1e-6)


def instances(*given: tuple[int, tuple[float, float], tuple[float, float, float, float], float]) -> TileInstances:
    """(class, centre, box, weight) each; the mask of each fills its box."""
    middles = np.arange(GRID) * CELL + 1.5
    inside = [
        (middles > x0) & (middles < x1) & ((middles > y0) & (middles < y1))[:, None]
        for _, _, (x0, y0, x1, y1), _ in given
    ]
    return TileInstances(
        np.array([centre for _, centre, _, _ in given], np.float32),
        np.array([box for _, _, box, _ in given], np.float32),
        np.array([number for number, _, _, _ in given]),
        np.array([weight for *_, weight in given], np.float32),
        np.array(inside),
        (SIZE, 48),
    )


def test_targets_are_what_a_plain_drawing_shows() -> None:
    wide, small = (1, (20.0, 30.0), (2.5, 20.5, 37.5, 40.5), 0.5), (0, (21.0, 33.0), (18.5, 30.5, 24.5, 36.5), 0.8)
    targets = make_targets(instances(wide, small), 2, SIZE, GRID)
    assert [tuple(np.argwhere(targets.heat[k] == 1)[0]) for k in (0, 1)] == [(8, 5), (7, 5)]
    # one cell to the right of a centre: the Gaussian of 0.12 widths, of a small object of 0.6 cells
    assert targets.heat[1, 7, 6] == pytest.approx(np.exp(-0.5 * (CELL / (0.12 * 35)) ** 2))
    assert targets.heat[0, 8, 6] == pytest.approx(np.exp(-0.5 * (1 / 0.6) ** 2))
    # the rest of a mask is no negative of its own class, and one of the other; padding is neither
    assert not targets.counted[1, 6, 2]
    assert targets.counted[0, 6, 2]
    assert not targets.counted[:, :, 12:].any()
    # the smaller object's box where both are taught, with its weight
    assert targets.boxes[:, 8, 5].tolist() == [18.5, 30.5, 24.5, 36.5]
    assert targets.weight[8, 5] == pytest.approx(0.8)
    assert targets.boxes[:, 7, 6].tolist() == [2.5, 20.5, 37.5, 40.5]


def test_an_instance_without_a_mask_teaches_its_place_and_no_size() -> None:
    targets = make_targets(instances((0, (9.0, 9.0), (9.0, 9.0, 9.0, 9.0), 0.0)), 1, SIZE, GRID)
    assert targets.heat[0, 2, 2] == 1
    assert not targets.weight.any()


def test_the_losses_are_the_sums_that_the_docstring_writes() -> None:
    rng = np.random.default_rng(1)
    logits, target = rng.normal(size=(2, 3, 4, 4)), rng.random((2, 3, 4, 4)) * 0.9
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1.0
    counted = rng.random(target.shape) > 0.3
    total = 0.0
    for z, y, c in zip(logits.ravel(), target.ravel(), counted.ravel()):
        p = 1 / (1 + np.exp(-z))
        total += -((1 - p) ** 2) * np.log(p) if y == 1 else -float(c) * (1 - y) ** 4 * p**2 * np.log(1 - p)
    found = centre_loss(*(torch.tensor(x, dtype=torch.float32) for x in (logits, target, counted)))
    assert float(found) == pytest.approx(total / 2, rel=1e-5)


def test_giou_of_boxes_apart_falls_with_their_distance() -> None:
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert float(giou(a, a)) == pytest.approx(1)
    assert float(giou(a, torch.tensor([[5.0, 0.0, 15.0, 10.0]]))) == pytest.approx(1 / 3)
    assert float(giou(a, torch.tensor([[20.0, 0.0, 30.0, 10.0]]))) == pytest.approx(-1 / 3)
    assert float(box_loss(a[..., None, None], a[..., None, None], torch.zeros(1, 1, 1))) == 0


def test_with_partial_clicks_the_loss_is_that_of_all_clicks_on_average() -> None:
    rng = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 1, 40, 40, generator=rng)
    full = (torch.rand(1, 1, 40, 40, generator=rng) < 0.05).float()
    logits += 2 * full
    everything = torch.ones_like(full)
    wanted = float(centre_loss(logits, full, everything)) * float(full.sum())
    found = []
    for _ in range(400):
        clicked = full * (torch.rand(full.shape, generator=rng) < 0.4)
        found.append(float(centre_loss(logits, clicked, everything, 0.4)) * float(clicked.sum()))
    assert np.mean(found) == pytest.approx(wanted, rel=0.02)
    naive = float(centre_loss(logits, clicked, everything)) * float(clicked.sum())
    assert abs(naive - wanted) > 0.1 * wanted


def test_a_mirrored_tile_teaches_the_mirrored_maps() -> None:
    mask = np.zeros((9, 14), bool)
    mask[2:, :10] = True
    one = Example(np.array([33.0, 28.0], np.float32), 0, mask, (30, 24), 0.9)
    tile = Tile(8, 4, 64, 48, 1.0)
    plain = make_targets(tile_instances([one], tile, (False, False), SIZE, GRID), 1, SIZE, GRID)
    across = make_targets(tile_instances([one], tile, (True, False), SIZE, GRID), 1, SIZE, GRID)
    np.testing.assert_allclose(across.counted, plain.counted[:, :, ::-1])
    np.testing.assert_allclose(across.heat, plain.heat[:, :, ::-1])
    x0, y0, x1, y1 = plain.boxes[:, plain.weight > 0].max(axis=1)
    assert across.boxes[:, across.weight > 0].max(axis=1).tolist() == [63 - x1, y0, 63 - x0, y1]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_zoomed_tile_shows_the_box_zoomed(scale: float) -> None:
    one = Example(np.array([20.0, 20.0], np.float32), 0, np.ones((8, 12), bool), (14, 16), 1.0)
    tile = Tile(8, 8, round(SIZE / scale), round(SIZE / scale), scale)
    found = tile_instances([one], tile, (False, False), SIZE, GRID)
    expected = (np.array([14, 16, 26, 24]) - 8) * scale - 0.5  # the outer edges of a mask's pixels
    np.testing.assert_allclose(found.boxes[0], expected.clip(-0.5, SIZE - 0.5))


def test_a_mask_of_a_mirrored_tile_lies_where_that_of_the_tile_does() -> None:
    logits = np.full((32, 32), -1.0, np.float32)
    logits[4:10, 3:15] = 1.0
    tile = Tile(5, 7, 64, 64, 1.0)
    plain, mirrored = scene_crop(logits, tile, (False, False), 64), scene_crop(logits[:, ::-1], tile, (True, False), 64)
    assert plain[1] == mirrored[1]
    np.testing.assert_array_equal(plain[0], mirrored[0])


def clicked(scores: list[float], hits: list[bool]) -> Clicked:
    """Peaks in a row of boxes of 8 px, of which some hold a click; one more click lies where no peak is."""
    boxes = np.array([[10 * i, 0, 10 * i + 8, 8] for i in range(len(scores))], float)
    clicks = np.array([[10 * i + 4, 4] for i, hit in enumerate(hits) if hit] + [[-50, 0]], float)
    numbers = np.zeros(len(scores), int)
    return Clicked(np.array(scores), boxes, numbers, clicks, np.zeros(len(clicks), int))


def test_the_threshold_parts_right_peaks_from_wrong_ones() -> None:
    scene = clicked([0.9, 0.8, 0.7, 0.4, 0.3, 0.2], [True, True, True, False, False, False])
    choice = choose_thresholds([scene] * 3, 1)[0]
    assert 0.4 < choice.threshold < 0.7
    assert choice.clicks == 12
    assert [row for row in choice.table if row[0] == 0.5] == [(0.5, 1.0, 0.75)]


def test_a_second_peak_on_a_click_is_wrong_and_so_is_one_of_another_class() -> None:
    boxes = np.array([[0, 0, 8, 8], [0, 0, 9, 9], [0, 0, 8, 8]], float)
    scene = Clicked(np.array([0.9, 0.8, 0.7]), boxes, np.array([1, 0, 0]), np.array([[4.0, 4.0]]), np.array([0]))
    assert scene.found().tolist() == [False, True, False]


def test_a_class_with_few_clicks_takes_the_threshold_of_all() -> None:
    many = clicked([0.9, 0.8, 0.3], [True, True, False])
    rare = Clicked(np.array([0.6]), np.array([[0, 0, 8, 8.0]]), np.array([1]), np.array([[4.0, 4.0]]), np.array([1]))
    first, second = choose_thresholds([many] * ENOUGH + [rare], 2)
    assert second.clicks == 1
    assert 0.3 < second.threshold <= 0.6
    assert 0.3 < first.threshold < 0.8


def test_partial_clicks_do_not_lower_precision() -> None:
    scene = clicked([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    assert choose_thresholds([scene], 1, clicked=0.5)[0].table[0][1] == 1.0
    assert choose_thresholds([scene], 1)[0].table[0][1] == 0.5
