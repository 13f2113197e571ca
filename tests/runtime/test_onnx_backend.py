"""ONNX Runtime runs what was asked for, where it was asked to, or says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.onnx import OnnxBackend, physical_cores
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import DIGEST_KEY
from resam_runtime.segment.segmenter import Segmenter

from .engines import engine_graphs, engine_manifest, write_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineFile:
    path = tmp_path_factory.mktemp("engine") / "model.resam"
    write_engine(path)
    return EngineFile.open(path)


class FakeSession:
    """A session that takes any provider, or quietly the CPU, as ONNX Runtime does."""

    starts = True

    def __init__(self, real: Any, providers: list[Any], unfused: list[str] | None) -> None:
        names = [item if isinstance(item, str) else item[0] for item in providers]
        self._real = real
        self._names = names if self.starts else names[-1:]
        self.options = [item[1] for item in providers if not isinstance(item, str)]
        self.unfused = unfused

    def get_providers(self) -> list[str]:
        return self._names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def pretend(monkeypatch: pytest.MonkeyPatch, available: list[str], starts: bool) -> list[FakeSession]:
    """An ONNX Runtime with other providers."""
    made: list[FakeSession] = []
    real = onnxruntime.InferenceSession

    def session(model: bytes, options: Any, providers: list[Any], disabled_optimizers: list[str] | None) -> FakeSession:
        made.append(
            FakeSession(real(model, options, providers=["CPUExecutionProvider"]), providers, disabled_optimizers)
        )
        return made[-1]

    monkeypatch.setattr(FakeSession, "starts", starts)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*available, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return made


def test_a_graph_runs_and_gives_the_outputs_asked_for(engine: EngineFile) -> None:
    backend = OnnxBackend.load(engine, "cpu", 1)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    (embedding,) = backend.run("encoder", {"image": image}, ["embedding"], keep=True)
    coords, labels = np.array([[[20, 30]]], np.float32), np.ones((1, 1), np.int32)
    inputs = {"embedding": embedding, "point_coords": coords, "point_labels": labels}
    scores, masks = backend.run("loop", inputs, ["scores", "masks"])
    assert scores.shape == (1,)
    assert masks.shape == (1, 32, 32)
    assert np.unravel_index(masks[0].argmax(), (32, 32)) in [(15, 10), (15, 9), (14, 10), (14, 9)]


def test_the_description_names_what_runs(engine: EngineFile) -> None:
    line = OnnxBackend.load(engine, "cpu", 3).describe()
    assert line == f"ONNX Runtime {onnxruntime.__version__}, CPU, 3 threads, fp32"
    assert f"{physical_cores()} threads" in OnnxBackend.load(engine, "cpu").describe()


def reshaped(path: Path, fixed: bool) -> EngineFile:
    """An engine whose loop gives masks of half the height; fixed: and says so before it runs.

    Else the height is 16 times the largest label, which nobody knows before.
    """
    graphs = engine_graphs()
    loop = onnx.load_model_from_string(graphs["loop"])
    cut = onnx.parser.parse_graph(
        """
        cut (float[N, M, M] whole_masks, int32[N, P] point_labels) => (float[N, H, M] masks) {
            start = Constant <value_ints = [0]> ()
            rows = Constant <value_ints = [16]> ()
            cut_axis = Constant <value_ints = [1]> ()
            top = ReduceMax <keepdims = 0> (point_labels)
            top_64 = Cast <to = 7> (top)
            end = Mul (rows, top_64)
            masks = Slice (whole_masks, start, END, cut_axis)
        }""".replace("END", "rows" if fixed else "end")
    )
    for node in loop.graph.node:
        node.output[:] = ["whole_masks" if name == "masks" else name for name in node.output]
    loop.graph.node.extend(cut.node)
    sizes = loop.graph.output[0].type.tensor_type.shape.dim
    if fixed:
        sizes[1].dim_value = 16
    else:
        sizes[1].dim_param = "H"
    write_engine_file(path, engine_manifest(), {**graphs, "loop": loop.SerializeToString()})
    return EngineFile.open(path)


def test_a_graph_of_another_shape_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResamError, match=r"loop has masks of shape \['N', 16, 32\], the manifest says \['N', 32, 32\]"):
        OnnxBackend.load(reshaped(tmp_path / "model.resam", fixed=True), "cpu", 1)


def test_a_run_that_gives_another_shape_is_an_error(tmp_path: Path) -> None:
    segmenter = Segmenter(reshaped(tmp_path / "model.resam", fixed=False), "cpu", 1)
    with pytest.raises(ResamError, match=r"^graph loop: gave masks of shape \[1, 16, 32\], expected \[1, 32, 32\]$"):
        segmenter(np.zeros((64, 64, 3), np.uint8), [(20, 30)])


def test_graphs_of_two_engines_are_refused(tmp_path: Path) -> None:
    one, other = ("1" * 64), ("2" * 64)
    write_engine_file(tmp_path / "one.resam", engine_manifest(digest=one), stamped(one))
    write_engine_file(tmp_path / "other.resam", engine_manifest(digest=other), stamped(other))
    OnnxBackend.load(EngineFile.open(tmp_path / "one.resam"), "cpu", 1)
    mixed = {**stamped(one), "loop": EngineFile.open(tmp_path / "other.resam").graph("loop")}
    for manifest in (engine_manifest(digest=one), engine_manifest()):
        write_engine_file(tmp_path / "mixed.resam", manifest, mixed)
        with pytest.raises(ResamError, match=r"mixed\.resam: graph \w+ belongs to another engine"):
            OnnxBackend.load(EngineFile.open(tmp_path / "mixed.resam"), "cpu", 1)


def stamped(digest: str) -> dict[str, bytes]:
    graphs = {}
    for name, content in engine_graphs().items():
        model = onnx.load_model_from_string(content)
        onnx.helper.set_model_props(model, {DIGEST_KEY: digest})
        graphs[name] = model.SerializeToString()
    return graphs


def test_weights_outside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graphs = engine_graphs()
    model = onnx.load_model_from_string(graphs["encoder"])
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(onnx.helper.make_node("Add", ["plain", "bias"], ["embedding"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 16, 8, 8), np.float32), "bias"))
    onnx.save_model(model, "moved.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert onnxruntime.InferenceSession(Path("moved.onnx").read_bytes())  # the library would take them
    write_engine_file("model.resam", engine_manifest(), {**graphs, "encoder": Path("moved.onnx")})
    with pytest.raises(ResamError, match=r"model\.resam: graph encoder keeps weights in a file of their own"):
        OnnxBackend.load(EngineFile.open("model.resam"), "cpu", 1)


def test_a_device_that_is_not_installed_is_an_error(engine: EngineFile) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    for device in ("cuda", "cuda:1", "tensorrt-ep"):
        with pytest.raises(ResamError, match="onnxruntime-gpu"):
            OnnxBackend.load(engine, device)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:", "", "CUDA"])
def test_an_unknown_device_is_an_error(engine: EngineFile, device: str) -> None:
    with pytest.raises(ResamError, match="runs on cpu or cuda or tensorrt-ep"):
        OnnxBackend.load(engine, device)


def test_no_threads_is_an_error(engine: EngineFile) -> None:
    with pytest.raises(ResamError, match="threads"):
        OnnxBackend.load(engine, "cpu", 0)


def test_cuda_is_taken_where_it_starts(engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend(monkeypatch, ["CUDAExecutionProvider"], starts=True)
    assert "cuda device 0" in OnnxBackend.load(engine).describe()
    assert "cuda device 1" in OnnxBackend.load(engine, "cuda:1").describe()
    assert made[-1].options[0]["device_id"] == "1"


def test_only_a_cpu_is_spared_the_fusions_that_are_slow_there(
    engine: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretend(monkeypatch, ["CUDAExecutionProvider"], starts=True)
    OnnxBackend.load(engine, "cuda")
    assert all(session.unfused is None for session in made)
    made.clear()
    OnnxBackend.load(engine, "cpu")
    assert all(session.unfused for session in made)


def test_a_named_device_that_does_not_start_is_an_error(engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ["TensorrtExecutionProvider", "CUDAExecutionProvider"], starts=False)
    for device in ("cuda", "tensorrt-ep"):
        with pytest.raises(ResamError, match="did not start"):
            OnnxBackend.load(engine, device)


def test_falling_back_is_said(engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ["CUDAExecutionProvider"], starts=False)
    line = OnnxBackend.load(engine).describe()
    assert "CPU" in line
    assert "CUDA is installed but did not start" in line


def test_tensorrts_provider_runs_on_request_only(engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ["TensorrtExecutionProvider", "CUDAExecutionProvider"], starts=True)
    assert "cuda device" in OnnxBackend.load(engine).describe()
    assert "tensorrt-ep device 2" in OnnxBackend.load(engine, "tensorrt-ep:2").describe()


def test_bound_runs_give_what_plain_runs_give(engine: EngineFile) -> None:
    """The path that a GPU takes, on the CPU's memory (where binding to "cuda" cannot be tried)."""
    plain = OnnxBackend.load(engine, "cpu", 1)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    (embedding,) = plain.run("encoder", {"image": image}, ["embedding"])
    inputs = {
        "embedding": onnxruntime.OrtValue.ortvalue_from_numpy(embedding),
        "point_coords": np.array([[[20, 30]], [[5, 5]]], np.float32),
        "point_labels": np.ones((2, 1), np.int32),
    }
    bound = plain._run_bound(plain._sessions["loop"], inputs, ["masks", "boxes"], keep=False)
    for a, b in zip(bound, plain.run("loop", {**inputs, "embedding": embedding}, ["masks", "boxes"])):
        np.testing.assert_array_equal(a, b)


def test_bytes_that_are_no_graph_name_file_and_graph(tmp_path: Path) -> None:
    path = tmp_path / "bad.resam"
    write_engine_file(path, engine_manifest(), {**engine_graphs(), "decoder": b"not a graph"})
    with pytest.raises(ResamError, match=r"bad\.resam: ONNX Runtime .* cannot load graph decoder") as caught:
        OnnxBackend.load(EngineFile.open(path), "cpu")
    assert "\n" not in str(caught.value)


def test_a_graph_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    path, graphs = tmp_path / "odd.resam", engine_graphs()
    write_engine_file(path, engine_manifest(), {**graphs, "encoder": graphs["decoder"]})
    with pytest.raises(ResamError, match="graph encoder has the inputs"):
        OnnxBackend.load(EngineFile.open(path), "cpu")


def test_a_failing_run_is_one_line(engine: EngineFile) -> None:
    backend = OnnxBackend.load(engine, "cpu", 1)
    with pytest.raises(ResamError, match="graph encoder") as caught:
        backend.run("encoder", {"image": np.zeros((1, 3, 3, 3), np.uint8)}, ["embedding"])
    assert "\n" not in str(caught.value)


def test_a_missing_onnxruntime_says_what_to_install(engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResamError, match="pip install onnxruntime"):
        OnnxBackend.load(engine)


def test_loading_and_running_is_quiet(engine: EngineFile) -> None:
    code = (
        "import sys, numpy as np; from resam_runtime import Segmenter;"
        "Segmenter(sys.argv[1], device='cpu')(np.zeros((64, 64, 3), np.uint8), [(5, 5)])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(engine.path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
