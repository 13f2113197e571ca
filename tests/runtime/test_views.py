"""Masks averaged over views of a tile: mirrored, smaller and larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.averaged_views import VIEWS, View, Window, decode_views, windows
from resam_runtime.tiles.prompt_batch import PromptBatch
from resam_runtime.tiles.tiling import Tile

from .engines import whole

SIZE, GRID = 64, 32


@pytest.mark.parametrize(("width", "height"), [(64, 64), (61, 45), (30, 64), (150, 40), (137, 121)])
@pytest.mark.parametrize("views", [2, len(VIEWS)])
def test_what_looks_alike_in_all_views_stays_where_it_is(engine: Path, width: int, height: int, views: int) -> None:
    """The engine marks a disc around each point: turned back to a wrong place, the mean would be none."""
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    points = [[[9, 8]], [[width - 9, height - 12]], [[width // 2, height // 2], [width // 2 + 7, height // 2]]]
    plain = Segmenter(engine, device="cpu", threads=1)(image, points)
    averaged = Segmenter(engine, device="cpu", threads=1, views=views)(image, points)
    for one, other in zip(plain, averaged):
        assert one.mask.any()
        a, b = whole(one), whole(other)
        # the discs have a radius in pixels of what the engine sees, so other scales draw them larger or smaller
        assert (a & b).sum() / (a | b).sum() > (0.93 if views == 2 else 0.35)
        centres = [np.argwhere(mask).mean(0) for mask in (a, b)]
        assert centres[0] == pytest.approx(centres[1], abs=1.6)
        assert other.score == pytest.approx(one.score, abs=1e-5)


def test_the_first_view_is_the_tile_and_the_second_its_mirror_image(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(engine, device="cpu", threads=1, views=2)
    seen: list[np.ndarray] = []
    run = segmenter.backend.run

    def spy(graph: str, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        if graph == "encoder":
            seen.append(inputs["image"][0])
        return run(graph, inputs, *rest, **more)

    monkeypatch.setattr(segmenter.backend, "run", spy)
    image = np.random.default_rng(1).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    segmenter(image, [(20, 20), (30, 30)])
    assert len(seen) == 2
    for tile, way in zip(seen, (image, image[::-1, ::-1])):
        assert np.array_equal(tile[:, :48], way)
        assert np.array_equal(tile[:, 48:], seen[0][:, 48:])


@pytest.mark.parametrize("view", VIEWS[1:])
@pytest.mark.parametrize("extent", [(64, 64), (63, 37), (41, 64)])
def test_image_points_and_masks_of_a_view_stay_together(view: View, extent: tuple[int, int]) -> None:
    """A smooth bump, drawn in the tile: seen in the window where its point says, and brought back to where it was."""
    ys, xs = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    for x, y in ((16, 15), (extent[0] - 18, extent[1] - 17)):
        bump = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 40)
        tile = np.repeat((255 * bump).astype(np.uint8)[..., None], 3, 2)
        prompts = PromptBatch(np.array([[[x, y]]], np.float32), np.ones((1, 1), np.int32))
        nearest = [w for w in windows(view, extent, SIZE) if _margin(w.part, x, y, extent) > 6]
        assert nearest
        window = nearest[0]
        image = window.image(tile)
        coords, labels = window.prompts(prompts, np.array([0]))
        assert labels.tolist() == [[1]]
        column, row = coords[0, 0]
        top = cv2.GaussianBlur(image[..., 0].astype(np.float32), (0, 0), 1)
        top[max(0, round(extent[1] * view.zoom)) :] = 0
        top[:, max(0, round(extent[0] * view.zoom)) :] = 0
        found = np.unravel_index(top.argmax(), top.shape)
        assert (column, row) == pytest.approx((found[1], found[0]), abs=1.3)
        mask = image[..., 0].reshape(GRID, 2, GRID, 2).mean((1, 3)).astype(np.float32) / 255
        (values,), known = window.back(mask[None])
        middles = np.arange(GRID) * 2 + 0.5  # of the cells, in pixels
        near = np.hypot(middles - x, middles[:, None] - y) < 9
        assert (known[near] > 0.99).mean() > 0.98
        weights = values * near
        centre = (weights.sum(0) @ middles, weights.sum(1) @ middles) / weights.sum()
        assert centre == pytest.approx((x, y), abs=0.8)
        expected = bump.reshape(GRID, 2, GRID, 2).mean((1, 3))
        assert np.abs(values - expected)[near].max() < 0.14 / view.zoom


def test_a_mirrored_box_begins_where_it_ended() -> None:
    coords = np.array([[[20, 30], [10, 12], [40, 50]], [[5, 5], [0, 0], [0, 0]]], np.float32)
    labels = np.array([[1, 2, 3], [1, -1, -1]], np.int32)
    window = Window(View(1.0, True, False), Tile(0, 0, 60, 64), SIZE)
    turned, kinds = window.prompts(PromptBatch(coords, labels), np.array([0, 1]))
    assert np.array_equal(kinds, labels)
    assert turned[0].tolist() == [[39, 30], [19, 12], [49, 50]]
    assert turned[1, 0].tolist() == [54, 5]


def test_the_mean_is_weighed_by_what_each_view_is_sure_of() -> None:
    rng = np.random.default_rng(2)
    masks = rng.normal(0, 4, (2, 3, GRID, GRID)).astype(np.float32)
    scores = rng.uniform(0.2, 1, (2, 3)).astype(np.float32)
    calls = iter(range(2))

    def decode(window: Window, coords: np.ndarray, labels: np.ndarray) -> Any:
        number = next(calls)
        return masks[number], scores[number], scores[number] / 2

    coords = rng.uniform(10, 50, (3, 1, 2)).astype(np.float32)
    views = (View(), View(1.0, True, True))
    mean, score, coarse = decode_views(decode, coords, np.ones((3, 1), np.int32), (SIZE, SIZE), SIZE, views)
    p = 1 / (1 + np.exp(-masks.astype(np.float64)))
    p[1] = p[1, :, ::-1, ::-1]
    weight = scores.astype(np.float64) ** 2  # both views see the masks equally large
    expected = (p * weight[..., None, None]).sum(0) / weight.sum(0)[:, None, None]
    assert 1 / (1 + np.exp(-mean.astype(np.float64))) == pytest.approx(expected, abs=1e-4)
    assert score == pytest.approx((scores * weight).sum(0) / weight.sum(0), rel=1e-5)
    assert coarse == pytest.approx(score / 2, rel=1e-5)


def test_a_view_that_sees_an_object_too_small_hardly_counts() -> None:
    """Half the scale, and a mask four times too large: it takes an object of 24 cells a side to count in full."""
    for side, share in ((4, (4 * 0.5 / 12) ** 2 / (4 / 12) ** 2), (18, (18 * 0.5 / 12) ** 2)):

        def decode(window: Window, coords: np.ndarray, labels: np.ndarray, side: int = side) -> Any:
            mask = np.full((1, GRID, GRID), -20, np.float32)
            if window.is_whole:
                mask[0, :side, :side] = 20
            else:  # its cells are twice as wide: this much of the tile is the same
                mask[0, : side // 2, : side // 2] = 20
                mask[0, 12, 12] = 20  # and a spot that the other lacks
            return mask, np.ones(1, np.float32), np.ones(1, np.float32)

        coords = np.full((1, 1, 2), 3.0, np.float32)
        views = (View(), View(0.5))
        mean, _, _ = decode_views(decode, coords, np.ones((1, 1), np.int32), (SIZE, SIZE), SIZE, views)
        spot = 1 / (
            1 + np.exp(-mean[0, 24, 24])
        )  # two cells wide on the tile; 9/16 is what a bilinear look at one leaves
        assert spot == pytest.approx(0.5625 * share / (1 + share), rel=0.12)


def test_windows_of_an_enlarged_view_cover_the_tile_and_only_those_with_points_are_decoded() -> None:
    parts = [window.part for window in windows(View(2.0), (SIZE, SIZE), SIZE)]
    covered = np.zeros((SIZE, SIZE), bool)
    for part in parts:
        covered[part.y : part.y + part.height, part.x : part.x + part.width] = True
    assert covered.all()
    seen: list[Window] = []

    def decode(window: Window, coords: np.ndarray, labels: np.ndarray) -> Any:
        seen.append(window)
        return np.zeros((len(coords), GRID, GRID), np.float32), np.ones(len(coords)), np.ones(len(coords))

    coords = np.array([[[5, 5]], [[8, 4]]], np.float32)
    decode_views(decode, coords, np.ones((2, 1), np.int32), (SIZE, SIZE), SIZE, (View(), View(2.0)))
    assert len(seen) == 2


def test_how_many_views_there_are(engine: Path) -> None:
    for views in (0, len(VIEWS) + 1):
        with pytest.raises(ResamError, match=f"views: expected a whole number, 1 to {len(VIEWS)}, got {views}"):
            Segmenter(engine, device="cpu", views=views)


def _margin(part: Tile, x: float, y: float, extent: tuple[int, int]) -> float:
    """How far a point is from the nearest edge of a window that is not the image's own."""
    sides = ((x, part.x, part.width, extent[0]), (y, part.y, part.height, extent[1]))
    before = [1e9 if low == 0 else at - low for at, low, _, _ in sides]
    after = [1e9 if low + side == end else low + side - at for at, low, side, end in sides]
    return min(before + after)
