"""Plans are built by TensorRT's own parser and compiler, on the CPU: small graphs here, real ones in
`test_tensorrt_graphs`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from pathlib import Path

import onnx
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.plan import check_target
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import TensorRTTarget

from ..runtime.engines import engine_graphs, engine_manifest, write_engine
from .trt_cpu.command import Outcome, resam_export

LIMITS = ("--max-points", "24", "--points-per-instance", "4")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.resam"
    write_engine(path, verification={"encoder": {"relative_error": 1e-6}})
    return path


@pytest.fixture(scope="module")
def built(small: Path) -> tuple[EngineFile, Outcome]:
    """The plan of the small engine, and the command that built it."""
    plan = small.with_name("built.plan")
    outcome = resam_export(small.with_name("scratch"), small, "-o", plan, *LIMITS)
    assert outcome.code == 0, outcome.err
    return EngineFile.open(plan), outcome


def refused(folder: Path, source: Path, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """The error of a command that fails; nothing is left in the folder that it was to write to."""
    output = folder / "out"
    output.mkdir()
    outcome = resam_export(folder / "scratch", source, "-o", output / "x.plan", *arguments, environment=environment)
    assert outcome.code == 2, outcome.err
    assert list(output.iterdir()) == []
    return outcome.error


def test_a_plan_is_built_without_torch_or_onnx(built: tuple[EngineFile, Outcome]) -> None:
    _, outcome = built
    assert "tensorrt" in outcome.modules
    heavy = {"torch", "onnx", "onnxruntime", "onnxscript", "segment_anything", "safetensors", "cv2", "resam"}
    assert not heavy & outcome.modules


def test_a_plan_says_what_it_was_built_from_and_for(small: Path, built: tuple[EngineFile, Outcome]) -> None:
    manifest, source = built[0].manifest, EngineFile.open(small).manifest
    assert manifest.backend == "tensorrt"
    assert manifest.tensorrt is not None
    assert (manifest.tensorrt.version, manifest.tensorrt.compute_capability) == ("11.4.0.106", "8.7")
    assert (manifest.max_points, manifest.max_points_per_instance, manifest.max_batch) == (24, 4, 1)
    assert {name: spec.inputs for name, spec in manifest.graphs.items()} == {
        name: spec.inputs for name, spec in source.graphs.items()
    }
    assert manifest.verification["encoder"] == {"relative_error": 1e-6}
    plan = manifest.verification["plan"]
    assert plan["source"]["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    nodes = len(onnx.load_model_from_string(bytes(EngineFile.open(small).graph("encoder"))).graph.node)
    assert 0.5 * nodes < plan["graphs"]["encoder"]["layers"] < 4 * nodes


def test_the_command_that_the_runtime_names_builds_the_plan_it_wants(small: Path, tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "mended.plan", TensorRTTarget("10.3.0", "8.7", "Orin")
    with pytest.raises(ResamError) as refusal:
        check_target(output, elsewhere, "fp32", "11.4.0.106", "8.7", "Orin")
    command = shlex.split(str(refusal.value).split("build it here: ")[1])
    assert command[0] == "resam-export"
    replaced = [str(small) if word == "MODEL.resam" else word for word in command[1:]]
    replaced = [str(output) if word == output.name else word for word in replaced]
    assert resam_export(tmp_path / "scratch", *replaced).code == 0
    here = EngineFile.open(output).manifest.tensorrt
    assert here is not None
    check_target(output, here, "fp32", "11.4.0.106", "8.7", "any")


def test_without_a_name_the_plan_lies_beside_its_engine(tmp_path: Path) -> None:
    write_engine(tmp_path / "here.resam")
    assert resam_export(tmp_path / "scratch", tmp_path / "here.resam").code == 0
    assert EngineFile.open(tmp_path / "here.plan").manifest.backend == "tensorrt"


def test_too_little_workspace_is_said_with_the_option_that_mends_it(small: Path, tmp_path: Path) -> None:
    error = refused(tmp_path, small, "--workspace", "1K")
    assert "graph encoder" in error
    assert "--workspace" in error.split(";")[-1]


def test_a_timing_cache_is_written_and_a_foreign_file_is_left_alone(small: Path, tmp_path: Path) -> None:
    cache, foreign = tmp_path / "cache", tmp_path / "foreign"
    outcome = resam_export(tmp_path / "scratch", small, "-o", tmp_path / "x.plan", "--timing-cache", cache)
    assert outcome.code == 0, outcome.err
    assert cache.stat().st_size > 0
    foreign.write_bytes(b"my thesis")
    assert str(foreign) in refused(tmp_path, small, "--timing-cache", foreign)
    assert foreign.read_bytes() == b"my thesis"


def test_what_this_tensorrt_does_not_have_is_refused_instead_of_claimed(small: Path, tmp_path: Path) -> None:
    # This compiler ignores the hardware level, and has no lean runtime for version-compatible plans.
    assert "--hardware-compatible" in refused(tmp_path, small, "--hardware-compatible")
    (tmp_path / "out").rmdir()
    assert "lean" in refused(tmp_path, small, "--version-compatible")


def test_a_layer_normalisation_in_fp16_fails_the_build(small: Path, tmp_path: Path) -> None:
    said = {"RESAM_TEST_WARNING": "Running layernorm after self-attention with FP16 Reduce or Pow may cause overflow."}
    assert "layer normalisation in fp16" in refused(tmp_path, small, environment=said)
    kept = tmp_path / "kept.plan"
    outcome = resam_export(tmp_path / "scratch", small, "-o", kept, "--keep-anyway", environment=said)
    assert outcome.code == 0, outcome.err
    graphs = EngineFile.open(kept).manifest.verification["plan"]["graphs"]
    assert all(said["RESAM_TEST_WARNING"] in graph["warnings"] for graph in graphs.values())


def test_ctrl_c_stops_the_build_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    stop = {"RESAM_TEST_INTERRUPT": "1"}
    outcome = resam_export(tmp_path / "scratch", small, "-o", output / "x.plan", environment=stop)
    assert outcome.code == 1
    assert "Aborted" in outcome.err
    assert "Traceback" not in outcome.err
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("damage", ["unreadable", "renamed", "retyped"])
def test_a_graph_that_is_not_what_its_manifest_describes_is_refused(damage: str, tmp_path: Path) -> None:
    graphs, manifest = engine_graphs(), engine_manifest()
    model = onnx.load_model_from_string(graphs["decoder"])
    if damage == "unreadable":
        graphs["decoder"] = b"\xff" * 64
    elif damage == "renamed":
        model.graph.output[1].name = "confidence"
        model.graph.node[-1].output[0] = "confidence"
        graphs["decoder"] = model.SerializeToString()
    else:
        spec = manifest.graphs["decoder"]
        halves = tuple(dataclasses.replace(tensor, dtype="float16") for tensor in spec.outputs)
        described = {**manifest.graphs, "decoder": dataclasses.replace(spec, outputs=halves)}
        manifest = dataclasses.replace(manifest, graphs=described)
    source = tmp_path / "odd.resam"
    write_engine_file(source, manifest, graphs)
    error = refused(tmp_path, source)
    assert "graph decoder" in error
    assert ("cannot read the graph" if damage == "unreadable" else "not what its manifest describes") in error
