"""The real graphs compile: encoder, decoder and loop, of the tiny base and of ViT-B, and the encoders of the other
families, in every precision, with dynamic batch, instances and points. By TensorRT's own parser and compiler, on the
CPU; no GPU runs them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pytest

from resam.encoders import ARCHITECTURES
from resam.model.bases import random_base
from resam_export import onnx_export
from resam_export.engine import set_precision
from resam_export.graphs import build_graphs
from resam_export.int8 import quantise
from resam_export.models import to_bytes
from resam_export.precision import to_fp16
from resam_export.prompted_tiles import synthetic_tiles
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import GraphSpec
from resam_runtime.engine.precisions import FP16, FP32, INT8, INT8_FP32, Precision

from ..runtime.engines import engine_graphs, engine_manifest
from ..shared import Shared
from .conftest import Traced
from .test_adapter import sized_run
from .trt_cpu.command import resam_export

LIMITS = ("--max-points", "32", "--points-per-instance", "4")
SMALLER = (FP32, FP16, INT8)


def compiled(engine: Path, folder: Path) -> EngineFile:
    """The plan that the command makes of an engine file: nothing to complain of, and the tensors of its source."""
    plan = folder / f"{engine.stem}.plan"
    source = EngineFile.open(engine)
    outcome = resam_export(folder / "scratch", engine, f"--{source.manifest.precision}", "-o", plan, *LIMITS)
    assert outcome.code == 0, outcome.err
    print(outcome.out)
    assert not {"torch", "onnx"} & outcome.modules
    built = EngineFile.open(plan)
    assert built.manifest.precision == source.manifest.precision
    for name, spec in built.manifest.graphs.items():
        given = source.manifest.graphs[name]
        assert (spec.inputs, spec.outputs) == (given.inputs, given.outputs)
        assert built.manifest.verification["plan"]["graphs"][name]["warnings"] == []
    return built


def compile_every_precision(
    traced: Traced, folder: Path, *more: Precision, beside: Mapping[str, bytes] | None = None
) -> None:
    """beside: graphs of the engine that are no concern of the test, in any precision."""
    size, patch_size = traced.base.architecture.image_size, traced.base.architecture.stride
    specs = {name: GraphSpec(f"{name}.onnx", "", graph.inputs, graph.outputs) for name, graph in traced.graphs.items()}
    channels, sizes = traced.base.architecture.embedding_dim, {}
    for precision in (*SMALLER, *more):
        manifest = engine_manifest(size, patch_size, embedding_dim=channels, precision=precision.name, graphs=specs)
        engine = folder / f"{precision.name}.resam"
        models = in_precision(traced, precision)
        contents = {name: to_bytes(model) for name, model in models.items()}
        write_engine_file(engine, manifest, {**(beside or {}), **contents})
        del models, contents
        sizes[precision.name] = compiled(engine, folder).size("encoder")
    # What is compiled has the precision of the graphs; how much smaller it is depends on what stays in float32.
    assert sizes["fp16"] < 0.85 * sizes["fp32"]
    assert sizes["int8"] < 0.85 * sizes["fp32"]


def in_precision(traced: Traced, precision: Precision) -> Mapping[str, ir.Model]:
    """The graphs as an export writes them, calibrated on one tile instead of many."""
    tile = next(synthetic_tiles(traced.base.architecture.image_size, 1, prompts=2))
    if not precision.for_gpus:
        encoder = onnx_export.export_graph(build_graphs(traced.base.sam, fold=False)["encoder"])
        return set_precision({**traced.models, "encoder": encoder}, precision, [tile])[0]
    if traced.base.architecture.image_size < 512 and precision is not INT8:
        return set_precision(traced.models, precision, [tile])[0]
    # as `set_precision` makes them where no range is too large for fp16, without measuring any
    if precision is INT8:
        quantised = quantise(traced.models["encoder"], [{"image": tile.image}]).model
        return {name: to_fp16(model) for name, model in {**traced.models, "encoder": quantised}.items()}
    return {name: to_fp16(model) for name, model in traced.models.items()} if precision.half else traced.models


@pytest.mark.slow
def test_the_tiny_graphs_compile_in_every_precision(traced: Traced, tmp_path: Path) -> None:
    compile_every_precision(traced, tmp_path, INT8_FP32)


@pytest.mark.slow
def test_the_graphs_of_vit_b_compile_in_every_precision(tmp_path: Path) -> None:
    """As wide and large as it is, with one block of windows and one of the whole grid: ten more are the same."""
    base = random_base(replace(ARCHITECTURES["vit_b"], encoder_depth=2, global_blocks=(1,)), "vit_b")
    graphs = build_graphs(base.sam)
    compile_every_precision(Traced(base, graphs, onnx_export.export_graphs(graphs)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "one_of_each"),
    [
        ("mobile_sam", {"depths": (1, 1, 1, 1)}),
        ("efficientvit_sam_l0", {"depths": (1, 1, 1, 1, 1), "neck_depth": 1}),
    ],
)
def test_the_encoders_of_other_families_compile_in_every_precision(
    name: str, one_of_each: dict[str, Any], tmp_path: Path
) -> None:
    """The rest is small: their decoder is that of ViT-B."""
    base = random_base(replace(ARCHITECTURES[name], **one_of_each), name)
    graphs, a = build_graphs(base.sam), base.architecture
    rest = engine_graphs(a.image_size, a.stride, embedding_dim=a.embedding_dim)
    models = {"encoder": onnx_export.export_graph(graphs["encoder"])}
    beside = {name: rest[name] for name in graphs if name not in models}
    compile_every_precision(Traced(base, graphs, models), tmp_path, beside=beside)


@pytest.mark.slow
def test_from_a_run_to_a_plan_in_one_command(tmp_path: Path, shared: Shared) -> None:
    """With the graphs that `test_adapter` traces."""
    plan = tmp_path / "sized.plan"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)  # a drawn scene of 64 px holds too little to calibrate on
    command = (
        sized_run(tmp_path),
        "--images",
        tmp_path / "noise.png",
        "--fp16",
        "--keep-anyway",
        "--size",
        "ship=20px",
        "-o",
        plan,
        *LIMITS,
    )
    environment = {"RESAM_TEST_SCENES": "1", "RESAM_TEST_TRACES": str(shared.folder)}
    outcome = resam_export(tmp_path / "scratch", *command, environment=environment)
    assert outcome.code == 0, outcome.err
    engine, built = EngineFile.open(tmp_path / "sized.resam"), EngineFile.open(plan)
    assert (engine.manifest.precision, built.manifest.precision) == ("fp16", "fp16")
    assert (engine.manifest.backend, built.manifest.backend) == ("onnx", "tensorrt")
    assert engine.manifest.sizes == built.manifest.sizes == ClassSizes("px2", {"ship": 400.0})
    # What the export was checked for goes along.
    assert "relative_error" in engine.manifest.verification
    assert engine.manifest.verification.items() <= built.manifest.verification.items()
