"""The parts of the TensorRT builder that need no TensorRT: ranges of shapes, progress, log, versions."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from resam_export.tensorrt.log import BuildLog
from resam_export.tensorrt.phases import Phases
from resam_export.tensorrt.profiles import Limits, profile_shapes
from resam_export.tensorrt.versions import create_network, import_tensorrt
from resam_runtime.common.errors import ResamError
from resam_runtime.common.gpu import NotHereError
from resam_runtime.engine.manifest import GraphSpec, TensorSpec

from ..runtime.engines import engine_manifest


def test_profiles_span_one_to_the_limits() -> None:
    loop = profile_shapes("loop", engine_manifest().graphs["loop"], Limits(64, 8))
    assert loop == {
        "embedding": ((1, 16, 8, 8),) * 3,
        "point_coords": ((1, 1, 2), (16, 1, 2), (64, 8, 2)),
        "point_labels": ((1, 1), (16, 1), (64, 8)),
    }
    encoder = profile_shapes("encoder", engine_manifest().graphs["encoder"], Limits(64, 8))
    assert encoder == {"image": ((1, 64, 64, 3),) * 3}


@pytest.mark.parametrize("limits", [Limits(1, 1), Limits(3, 2), Limits(5, 1)])
def test_profiles_are_ordered(limits: Limits) -> None:
    for name, spec in engine_manifest().graphs.items():
        for least, usual, largest in profile_shapes(name, spec, limits).values():
            assert all(1 <= a <= b <= c for a, b, c in zip(least, usual, largest))


def test_a_tensor_that_tensorrt_cannot_index_is_refused_before_the_build() -> None:
    # 4096 masks of 1024 x 1024 are 2^32 elements.
    spec = GraphSpec(
        "d",
        "",
        (TensorSpec("point_coords", "float32", ("N", "P", 2)),),
        (TensorSpec("masks", "float32", ("N", 1024, 1024)),),
    )
    with pytest.raises(ResamError, match=r"masks would have 4294967296 elements.*--max-points"):
        profile_shapes("decoder", spec, Limits(max_points=4096))
    profile_shapes("decoder", spec, Limits(max_points=2047))


def test_a_dimension_that_no_limit_bounds_is_refused() -> None:
    spec = GraphSpec("d", "", (TensorSpec("image", "uint8", ("H", 8)),), ())
    with pytest.raises(ResamError, match="dynamic dimension H"):
        profile_shapes("encoder", spec, Limits())


def test_progress_counts_steps_within_steps_and_never_goes_back() -> None:
    said: list[tuple[float, str]] = []
    phases = Phases(lambda fraction, phase: said.append((round(fraction, 4), phase)))
    phases.start("build", None, 4)
    phases.step("build", 0)
    phases.start("tactics", "build", 10)
    for step in range(5):
        phases.step("tactics", step)
    phases.start("timing", "tactics", 2)
    phases.step("timing", 0)
    assert said[-1] == (pytest.approx((1 + (5 + 0.5) / 10) / 4, abs=1e-4), "timing")
    phases.finish("timing")
    phases.finish("tactics")
    phases.step("build", 1)
    assert said[-1] == (0.5, "build")
    for step in (2, 3):
        phases.step("build", step)
    phases.finish("build")
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_progress_takes_phases_of_no_steps_and_unknown_ones() -> None:
    phases = Phases(lambda fraction, phase: None)
    phases.start("empty", "never started", 0)
    phases.step("empty", 0)
    phases.step("unknown", 3)
    phases.finish("unknown")
    phases.finish("empty")


def test_progress_takes_a_name_that_two_threads_use_at_once() -> None:
    said: list[float] = []
    phases = Phases(lambda fraction, phase: said.append(fraction))
    phases.start("build", None, 2)
    phases.start("costs", "build", 4)
    phases.start("costs", "costs", 4)
    phases.start("build", "costs", 2)
    phases.step("build", 1)
    assert said[-1] <= 1.0


@pytest.mark.parametrize(
    ("message", "bad"),
    [
        ("Detected layernorm nodes in FP16.", True),
        (
            "Running layernorm after self-attention with FP16 Reduce or Pow may cause overflow. Forcing Reduce or Pow "
            "Layers in FP32 precision, or exporting the model to use INormalizationLayer (available with ONNX opset >= "
            "17) can help preserving accuracy.",
            True,
        ),
        ("LayerNormalization with half inputs may overflow", True),
        ("Detected 12 layernorm nodes", False),
        ("- 18 weights are affected by this issue: Detected subnormal FP16 values.", False),
    ],
)
def test_warnings_about_layer_norm_in_fp16_are_recognised(message: str, bad: bool) -> None:
    log = BuildLog()
    log.add(log.warnings, f"{message}\n")
    assert bool(log.overflow_warnings()) is bad


def test_the_log_keeps_each_message_once_and_on_one_line() -> None:
    log = BuildLog()
    assert log.reason() == "TensorRT gives no reason"
    for _ in range(3):
        log.add(log.errors, "Error Code 4:\n  Internal   Error")
    for number in range(1000):
        log.add(log.errors, f"later {number}")
    assert log.reason() == "Error Code 4: Internal Error"
    assert log.errors[1] == "later 0"
    assert len(log.errors) <= 200


@pytest.mark.parametrize(
    ("version", "flags"), [("10.3.0", 4), ("10.16.0.post1", 4), ("11.0.0.114", 0), ("11.4.0.106", 0)]
)
def test_networks_are_strongly_typed_in_every_version(version: str, flags: int) -> None:
    asked: list[int] = []
    creation = SimpleNamespace(STRONGLY_TYPED=2)
    trt = SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=creation)
    create_network(trt, SimpleNamespace(create_network=asked.append))
    assert asked == [flags]


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0.post1"])
def test_a_tensorrt_that_is_too_old_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(NotHereError, match=r"10\.3 or later"):
        import_tensorrt()
    module.__version__ = "10.3.0"
    assert import_tensorrt() is module
