"""Masks averaged over a tile and its mirror images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime import Segmenter
from resam_runtime.mirrors import MIRRORS, mean_logits

from .engines import whole


@pytest.mark.parametrize(("width", "height"), [(64, 64), (61, 45), (30, 64), (150, 40), (137, 121)])
def test_what_looks_alike_from_all_sides_stays_where_it_is(engine: Path, width: int, height: int) -> None:
    """The engine marks a disc around each point: turned back to a wrong place, the mean would be none."""
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    points = [[[9, 8]], [[width - 9, height - 12]], [[width // 2, height // 2], [width // 2 + 7, height // 2]]]
    plain = Segmenter(engine, device="cpu", threads=1)(image, points)
    mirrored = Segmenter(engine, device="cpu", threads=1, mirrors=True)(image, points)
    for one, other in zip(plain, mirrored):
        assert one.mask.any()
        a, b = whole(one), whole(other)
        assert (a & b).sum() / (a | b).sum() > 0.97
        assert other.score == pytest.approx(one.score, abs=1e-5)


def test_each_way_is_encoded_and_the_padding_stays(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(engine, device="cpu", threads=1, mirrors=True)
    seen: list[np.ndarray] = []
    run = segmenter._backend.run

    def spy(graph: str, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        if graph == "encoder":
            seen.append(inputs["image"][0])
        return run(graph, inputs, *rest, **more)

    monkeypatch.setattr(segmenter._backend, "run", spy)
    image = np.random.default_rng(1).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    segmenter(image, [(20, 20)])
    expected = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    assert len(seen) == len(MIRRORS)
    for tile, way in zip(seen, expected):
        assert np.array_equal(tile[:, :48], way)
        assert np.array_equal(tile[:, 48:], seen[0][:, 48:])


def test_the_mean_is_that_of_the_probabilities() -> None:
    masks = np.random.default_rng(2).normal(0, 4, (4, 3, 8, 8)).astype(np.float32)
    p = (1 / (1 + np.exp(-masks.astype(np.float64)))).mean(0)
    assert mean_logits(list(masks)) == pytest.approx(np.log(p / (1 - p)), rel=1e-3, abs=1e-3)
