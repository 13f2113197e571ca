"""An engine with random weights says so, and computes what the baselines of the same seed compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resam.model.refine_requery import refine_logit
from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings
from resam_benchmarks.baselines.random_engine import Exporter, export_random, write_engine
from resam_benchmarks.baselines.torch_modules import TorchModules
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.contender import Contender
from resam_benchmarks.measure.engine_contender import EngineContender
from resam_benchmarks.measure.metrics import iou
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.tiles.prompt_batch import PromptBatch

from ..shared import Shared, traced_once


def test_weights_that_are_not_random_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="random"):
        export_random(Weights(base="tiny"), tmp_path)


def write_quickly(held: Exporter, weights: Weights, path: str, precision: str) -> None:
    """`write_engine`, calibrated on two tiles, each graph traced once for both precisions. Called in a worker."""
    from resam_export import engine

    engine.CALIBRATION_TILES = 2
    with traced_once(Shared(Path(path).parent / "traces")):
        write_engine(held, weights, path, precision)


@pytest.mark.slow
def test_a_random_engine_is_named_so_and_equals_the_torch_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resam_benchmarks.baselines.random_engine.write_engine", write_quickly)
    weights = Weights(random="tiny_half", seed=3)
    path, other = export_random(weights, tmp_path, ["fp32", "int8-fp32"])
    quantised = EngineFile.open(other).manifest
    assert (quantised.precision, quantised.base) == ("int8-fp32", EngineFile.open(path).manifest.base)
    manifest = EngineFile.open(path).manifest
    assert manifest.base["name"] == "random tiny_half, seed 3"
    assert manifest.base["sha256"] == weights.load().sha256
    assert (manifest.adapter, manifest.training, manifest.image_size) == (None, None, 256)

    image = np.random.default_rng(0).integers(0, 256, (200, 256, 3), np.uint8)
    points = PromptBatch(np.array([[[60, 50]], [[180, 120]]], np.float32), np.ones((2, 1), np.int32))
    answers = []
    contenders: list[Contender] = [
        EngineContender(str(path), "cpu", 1),
        TorchModules(weights, LoopSettings(0.3, refine_logit(0.3)), "cpu", 1),
    ]
    for contender in contenders:
        embedding = contender.encode(image)
        answers.append((contender.masks(contender.loop(embedding, points)), contender.coarse(embedding, points)))
    (ours, our_coarse), (theirs, their_coarse) = answers
    assert [score for _, score in ours] == pytest.approx([min(max(score, 0), 1) for _, score in theirs], abs=1e-4)
    for own, other in zip([mask for mask, _ in ours] + our_coarse, [mask for mask, _ in theirs] + their_coarse):
        assert own.area == other.area == 0 or iou(own, other) > 0.999
