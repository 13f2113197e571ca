"""`resam-bench train`: the reference's step is what its description says, and peaks are those of all steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.steps import reference_step, train_bench
from resam_benchmarks.steps.reference_step import ReferenceStep
from resam_benchmarks.steps.train_bench import measure_steps, table_of, write_results
from resam_benchmarks.steps.train_steps import OurStep, StepInput, StepSettings

WEIGHTS = Weights(random="tiny", seed=1)


def count_calls(module: Any, seen: list[Any]) -> None:
    module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))


def test_the_reference_encodes_the_weak_view_twice_and_masks_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    step, encoded, boxed = ReferenceStep(WEIGHTS, StepSettings()), [], []
    count_calls(step._sam.image_encoder, encoded)
    original = reference_step.refined_boxes
    monkeypatch.setattr(
        reference_step, "refined_boxes", lambda logits, truth: boxed.append(logits) or original(logits, truth)
    )
    loss = step.step(StepInput.make(256, 3, 0))
    assert np.isfinite(loss)
    assert [out.requires_grad for out in encoded] == [False, False, True]
    assert np.array_equal(encoded[0].numpy(), encoded[1].numpy())
    assert boxed[0].shape == (3, 256, 256)


def test_ours_encodes_it_once_and_both_steps_learn_as_many_weights() -> None:
    data = StepInput.make(256, 3, 0)
    ours, reference = OurStep(WEIGHTS, StepSettings()), ReferenceStep(WEIGHTS, StepSettings())
    encoded: list[Any] = []
    count_calls(ours._encoder, encoded)
    learned = []
    for held in (ours, reference):
        parameters = held._optimizer.param_groups[0]["params"]
        before = [parameter.detach().clone() for parameter in parameters]
        assert np.isfinite(held.step(data))
        assert any(not old.equal(new) for old, new in zip(before, parameters))
        learned.append(sum(parameter.numel() for parameter in parameters))
    assert learned[0] == learned[1]
    assert [out.requires_grad for out in encoded] == [False, True]


class ScriptedWorker:
    """Each step takes and holds what the script says, the first (warming up) the most."""

    def __init__(self, factory: str, options: Any, threads: int | None) -> None:
        self.slow = 2.0 if "reference" in factory else 1.0
        self.slow /= 2 if options["settings"].precision == "bf16" else 1
        self.peaks = iter([900, 100, 700, 200])
        self.peak = 0

    def memory(self) -> dict[str, int]:
        return {"current": 10, "peak": self.peak}

    def reset_peak(self) -> None:
        self.peak = 0

    def call(self, function: Any, image: Any) -> tuple[float, float, int]:
        self.peak = next(self.peaks)
        return self.slow, 0.5, 10 * self.peak

    def close(self) -> None:
        pass


def test_peaks_are_those_of_the_heaviest_step_and_two_steps_tell_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_bench, "Worker", ScriptedWorker)
    found = measure_steps("tiny", [1], steps=3, device="cpu")
    assert [(case["peak_bytes"], case["device_bytes"]) for case in found["cases"]] == [(900, 9000)] * 2
    (row,) = table_of(found).rows
    assert row[3] == "2.00 x faster (noise unknown)"


def test_the_page_shows_every_step_and_what_the_table_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train_bench, "Worker", ScriptedWorker)
    found = measure_steps("tiny", [1, 50], steps=3, device="cpu")
    write_results(found, tmp_path, "resam-bench train <here>")
    text = (tmp_path / "train.html").read_text("utf-8")
    assert text.count("<circle") == 2 * 2 * 3
    for words in ("50 instances", "2.00 x faster (noise unknown)", "resam-bench train &lt;here&gt;"):
        assert words in text
    assert json.loads((tmp_path / "train.json").read_text("utf-8"))["cases"] == found["cases"]


@pytest.mark.parametrize(
    ("reference", "ratio", "words"),
    [(None, "2.00 x", "both in bf16"), ("fp32", "4.00 x", "resam in bf16 and the reference in fp32")],
)
def test_the_reference_may_have_a_precision_of_its_own_and_the_table_says_so(
    reference: str | None, ratio: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_bench, "Worker", ScriptedWorker)
    found = measure_steps("tiny", [1], steps=3, device="cpu", precision="bf16", reference_precision=reference)
    table = table_of(found)
    assert table.rows[0][3].startswith(ratio)
    assert words in table.note
