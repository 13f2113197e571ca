"""The baselines: the same weights give the same masks, however they are run; Refine at full size against a slow
loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam.model import refine_requery
from resam.model.refine_requery import refine_logit
from resam_benchmarks.baselines.prompt_by_prompt import CRUMBS, LoopSettings, refined_boxes
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.metrics import iou
from resam_runtime.tiles.prompt_batch import PromptBatch

SETTINGS = LoopSettings(0.3, refine_logit(0.3))


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, PromptBatch]:
    """A wide scene with three rectangles, each of its own colour, a point in each; the first has a second one."""
    image = np.full((150, 256, 3), 70, np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    colours = ((160, 40, 20), (20, 120, 160), (150, 150, 150))
    for (x, y, w, h), colour in zip(((20, 20, 60, 40), (120, 70, 50, 50), (200, 20, 40, 90)), colours):
        image[y : y + h, x : x + w] += np.array(colour, np.uint8)
    coords = np.array([[[50, 40], [40, 35]], [[145, 95], [0, 0]], [[220, 65], [0, 0]]], np.float32)
    return image, PromptBatch(coords, np.array([[1, 1], [1, -1], [1, -1]], np.int32))


@pytest.fixture(scope="module")
def torch_answer(picture: Any) -> Any:
    from resam_benchmarks.baselines.torch_modules import TorchModules

    return answer(TorchModules(Weights(base="tiny"), SETTINGS, "cpu", threads=1), picture)


def answer(contender: Any, picture: tuple[np.ndarray, PromptBatch]) -> tuple[list[Any], list[Any]]:
    image, points = picture
    embedding = contender.encode(image)
    return contender.masks(contender.loop(embedding, points)), contender.coarse(embedding, points)


def assert_alike(found: Any, expected: Any) -> None:
    """The same masks, but for the box at sub-cell precision and the other order of upsampling and thresholding."""
    assert len(found[0]) == len(found[1]) == len(expected[0])
    for (own, score), (other, other_score) in zip(found[0], expected[0]):
        assert 1500 < other.area < 4500
        assert iou(own, other) > 0.85
        assert score == pytest.approx(other_score, abs=0.05)
    for own, other in zip(found[1], expected[1]):
        assert iou(own, other) > 0.95


def test_segment_anything_finds_what_our_modules_find(picture: Any, torch_answer: Any) -> None:
    from resam_benchmarks.baselines.segment_anything import SegmentAnything

    assert_alike(answer(SegmentAnything(Weights(base="tiny"), SETTINGS, "cpu", threads=1), picture), torch_answer)


def test_the_published_onnx_decoder_finds_it_too(tmp_path: Path, picture: Any, torch_answer: Any) -> None:
    from resam_benchmarks.baselines.onnx_per_prompt import OnnxPerPrompt
    from resam_benchmarks.baselines.published_export import PublishedExporter, export_graphs

    size = export_graphs(PublishedExporter(), Weights(base="tiny"), str(tmp_path))
    assert_alike(answer(OnnxPerPrompt(str(tmp_path), size, SETTINGS, "cpu", threads=1), picture), torch_answer)


def test_refined_boxes_equal_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-2.5, 2, (4, 15, 20)).astype(np.float32)
    logits[3] = -9
    boxes, found = refined_boxes(logits, 0.975)
    for i in range(4):
        kept = [
            (x, y)
            for y in range(15)
            for x in range(20)
            if logits[i, y, x] > 0.975 and not any(logits[j, y, x] > 0.975 for j in range(4) if j != i)
        ]
        assert found[i] == bool(kept)
        if found[i]:
            xs, ys = zip(*kept)
            assert boxes[i].tolist() == [min(xs), min(ys), max(xs), max(ys)]
        else:
            assert boxes[i].tolist() == [0, 0, 0, 0]
    twins = np.full((3, 20, 20), -9, np.float32)
    twins[0, 4:16, 4:16] = twins[1, 4:16, 5:16] = twins[2, :3] = 9
    assert refined_boxes(twins, 0.975)[1].tolist() == [False, False, True]  # a rim of 12 pixels of 144 is a crumb
    assert CRUMBS == refine_requery.CRUMBS


def test_the_table_of_baselines_loads_no_torch() -> None:
    """The command reads it; the memory of torch belongs to the processes that need it."""
    code = (
        "import sys, resam_benchmarks.baselines.table; print(sorted({'torch', 'segment_anything'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
