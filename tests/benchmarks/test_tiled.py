"""Baselines on large scenes: the windows, scales and owners are those of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_benchmarks.baselines.tiled import Tiled
from resam_benchmarks.measure.contender import measure_scene
from resam_benchmarks.measure.metrics import Crop
from resam_runtime import Segmenter
from resam_runtime.tiles.prompt_batch import PromptBatch
from resam_runtime.tiles.tiling import Framing

from ..runtime.engines import write_engine

SIZE = 64
PLAIN = "tests.benchmarks.test_tiled:Pixels"


class Pixels:
    """A contender for one tile: the mask of a prompt is the one pixel under its first point; keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def encode(self, image: np.ndarray) -> list[np.ndarray]:
        self.seen.append(image)
        return [image]

    def loop(self, embedding: Any, points: PromptBatch) -> list[tuple[Crop, float]]:
        return [
            (crop, float(embedding[0][crop.origin[1], crop.origin[0], 0])) for crop in self.coarse(embedding, points)
        ]

    def masks(self, result: Any) -> Any:
        return result

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        marked = [c[marks == 1][0] for c, marks in zip(points.coords, points.labels)]
        return [Crop(np.ones((1, 1), bool), (int(x), int(y))) for x, y in marked]

    def graph_seconds(self) -> None:
        return None

    def synchronize(self) -> None:
        pass


def prompts(width: int, height: int, count: int = 40) -> PromptBatch:
    coords = np.random.default_rng(0).uniform(0, (width - 1, height - 1), (count, 1, 2)).astype(np.float32)
    return PromptBatch(coords.round(), np.ones((count, 1), np.int32))


@pytest.mark.parametrize("framing", [Framing(SIZE), Framing(0, 0.5), Framing(0, 2.0), Framing(256)])
def test_a_baseline_sees_the_windows_that_the_engine_sees(
    framing: Framing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engine(tmp_path / "m.resam", SIZE, 8)
    segmenter = Segmenter(tmp_path / "m.resam", "cpu", 1)
    monkeypatch.setattr(type(segmenter.manifest), "framing", framing)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (90, 150, 3), np.uint8)
    points = prompts(150, 90)
    tiled = Tiled(PLAIN, {}, SIZE, framing)
    assert tiled.one_pass(image) == (len(segmenter.tiles(150, 90)) == 1 and framing.fit_within == 256)
    result = tiled.loop(tiled.encode(image), points) if tiled.one_pass(image) else tiled.segment(image, points)
    batch = segmenter.prompts(points.coords, points.labels, None, 150, 90)
    planned = segmenter.plan(batch, 150, 90)
    inner: Any = tiled._inner
    assert len(inner.seen) == len(planned)
    for shown, (tile, _) in zip(inner.seen, planned):
        assert np.array_equal(
            shown[: tile.height, : tile.width], image[tile.y : tile.y + tile.height, tile.x :][:, : tile.width]
        )
        # it scales the longer side to the tile, which must be the engine's scale
        assert SIZE / max(shown.shape[:2]) == pytest.approx(tile.scale, rel=0.01)
    for (crop, score), (x, y) in zip(tiled.masks(result), points.coords[:, 0].astype(int)):
        assert crop.origin == (x, y)
        assert score == image[y, x, 0]
    coarse = tiled.coarse(tiled.encode(image), points)
    assert [crop.origin for crop in coarse] == [tuple(place) for place in points.coords[:, 0].astype(int)]


def test_points_of_an_instance_that_lie_in_another_tile_are_left_out() -> None:
    tiled = Tiled(PLAIN, {}, SIZE, Framing(SIZE))
    coords = np.array([[[5, 5], [140, 5]], [[10, 10], [20, 10]]], np.float32)
    planned = tiled._plan(np.zeros((64, 150, 3), np.uint8), PromptBatch(coords, np.ones((2, 2), np.int32)))
    labels = {int(number): part.labels[i].tolist() for _, own, part in planned for i, number in enumerate(own)}
    assert sorted(labels[0]) == [-1, 1]
    assert labels[1] == [1, 1]


def test_a_scene_of_several_tiles_is_measured_and_marked(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((64, 200, 3), np.uint8))
    tiled: Any = Tiled(PLAIN, {}, SIZE, Framing(SIZE))
    timing, answer = measure_scene(tiled, str(tmp_path / "wide.png"), prompts(200, 64, 9), True)
    assert timing.tiled
    assert answer is not None
    assert len(answer.final) == len(answer.coarse) == 9
