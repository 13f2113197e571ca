"""The command's words: what it refuses, what it leaves behind, and what `--inspect` shows."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resam.model.bases import load_base
from resam.training.checkpoints import describe_base
from resam_export import cli
from resam_export.engine import LimitError
from resam_export.write_engine import newest_run
from resam_runtime.common import gpu
from resam_runtime.common.gpu import NotHereError, find_gpu
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import TensorRTTarget

from ..runtime.engines import write_engine


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.export, list(map(str, arguments)))


def one_line(result: Result) -> str:
    """The error of a command that ends with exit code 2: one line and no traceback."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.output
    return lines[-1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_engine(tmp_path / "model.resam", precision="fp16")
    return tmp_path / "model.resam"


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


class Driver:
    """A CUDA driver's C interface, as far as `find_gpu` asks."""

    def __init__(self, gpus: int = 1, status: int = 0) -> None:
        self.gpus, self.status = gpus, status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, found: Any, number: int) -> int:
        found._obj.value = 40 + number
        return 0

    def cuDeviceGetName(self, name: Any, size: int, number: ctypes.c_int) -> int:
        assert (size, number.value) == (256, 40)
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, number: ctypes.c_int) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def test_help_shows_examples() -> None:
    text = run("--help").output
    assert "resam-export ships.resam -o ships.plan" in text
    assert "--max-points" in text


@pytest.mark.usefixtures("no_tensorrt")
def test_without_tensorrt_a_plan_ends_with_the_command_to_run_elsewhere(model: Path) -> None:
    before = model.read_bytes()
    result = run(model, "-o", model.with_name("m.plan"), "--max-points", "32", "--workspace", "2G")
    error = one_line(result)
    assert "TensorRT cannot be imported" in error
    assert error.endswith("resam-export model.resam --fp16 -o m.plan --max-points 32 --workspace 2000000000")
    assert [path.name for path in model.parent.iterdir()] == ["model.resam"]
    assert model.read_bytes() == before


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_a_tensorrt_without_its_libraries_is_missing_too(
    error: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "tensorrt").mkdir(parents=True)
    (tmp_path / "site" / "tensorrt" / "__init__.py").write_text(f"raise {error}('libnvinfer.so.10: no such file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    said = one_line(run(model, "-o", model.with_name("m.plan")))
    assert "TensorRT cannot be imported (libnvinfer.so.10" in said
    assert "run there: resam-export model.resam" in said


def test_without_a_gpu_a_plan_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cli.Toolchain, "find", classmethod(lambda kind: kind(None, find_gpu())))
    monkeypatch.setattr(gpu.ctypes, "CDLL", absent)
    assert "no NVIDIA GPU found" in one_line(run(model, "-o", model.with_name("m.plan")))


@pytest.mark.parametrize(
    ("driver", "words"),
    [(Driver(gpus=0), "finds none"), (Driver(status=100), "CUDA error 100")],
)
def test_a_driver_without_a_gpu_is_told_apart(driver: Driver, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(NotHereError, match=words):
        find_gpu()


def test_the_gpu_is_named_as_the_runtime_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver())
    assert find_gpu() == gpu.GPU("Orin", "8.7")


@pytest.mark.usefixtures("no_tensorrt")
def test_an_adapters_resam_is_written_where_its_plan_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def quick_export(base: Any, adapter: Any, path: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        asked.append(options)
        report = {"relative_error": {"encoder.embedding": {"random": 2.5e-4, "limit": None}}, "images": 40}
        write_engine(path, precision="fp16", verification=report)
        return report

    monkeypatch.setattr("resam_export.engine.export_engine", quick_export)
    result = run("--base", "tiny", "-o", tmp_path / "sub" / "ships.plan")
    error = one_line(result)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["ships.resam"]
    assert EngineFile.open(tmp_path / "sub" / "ships.resam").manifest.precision == "fp16"
    assert error.endswith("resam-export ships.resam --fp16 -o ships.plan")
    assert any("encoder.embedding" in line and "0.00025" in line for line in result.stdout.splitlines())
    assert asked == [{"precision": "fp16", "images": None, "keep_anyway": False}]


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize(
    ("there", "flags", "words"),
    [
        ({}, [], None),  # the same command again
        ({}, ["--fp32"], "ships.resam, which is of another precision"),
        ({"precision": "fp32"}, [], "ships.resam, which is of another precision"),
        ({"adapter": {"sha256": "1" * 64}}, [], "ships.resam, which is of another adapter"),
        ({"base": {"name": "fake", "sha256": "0" * 64}}, [], "ships.resam, which is of another base"),
        (None, [], "would replace what lies beside it"),
    ],
)
def test_the_resam_of_a_plan_replaces_no_other_one(
    there: dict[str, Any] | None,
    flags: list[str],
    words: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Path] = []

    def quick_export(base: Any, adapter: Any, path: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        done.append(path)
        write_engine(path, precision=options["precision"], base=describe_base(base))
        return {}

    monkeypatch.setattr("resam_export.engine.export_engine", quick_export)
    path = tmp_path / "ships.resam"
    if there is None:
        path.write_bytes(b"notes")
    else:
        write_engine(path, **{"precision": "fp16", "base": describe_base(load_base("tiny")), **there})
    before = path.read_bytes()
    error = one_line(run("--base", "tiny", "-o", tmp_path / "ships.plan", *flags))
    if words is None:
        assert "not built" in error
        assert done == [path]
    else:
        assert words in error
        assert (done, path.read_bytes()) == ([], before)
        assert run("--base", "tiny", "-o", path, *flags).exit_code == 0, "what is named is replaced"
        assert done == [path]


def test_a_refusal_prints_what_was_measured_and_then_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise LimitError("x.resam: not written", {"relative_error": {"encoder.embedding": {"random": 0.25}}})

    monkeypatch.setattr("resam_export.engine.export_engine", refuse)
    result = run("--base", "tiny", "-o", tmp_path / "x.resam")
    assert one_line(result) == "error: x.resam: not written"
    assert any("encoder.embedding" in line and "0.25" in line for line in result.stdout.splitlines())
    assert result.output.index("encoder.embedding") < result.output.index("error: ")


def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.resam"
    path.write_bytes(b"the engine of yesterday")

    def quick_export(base: Any, adapter: Any, path: Path, *arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(zipfile.ZipFile, "writestr", stop)
        write_engine(path)

    def stop(*arguments: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 2  # half of the new one lies beside it
        raise KeyboardInterrupt

    monkeypatch.setattr("resam_export.engine.export_engine", quick_export)
    result = run("--base", "tiny", "-o", path)
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the engine of yesterday"]


@pytest.mark.parametrize(("flags", "said"), [(["--int8"], True), (["--int8", "--images", "."], False), ([], False)])
def test_int8_without_images_says_what_stands_in_for_them(
    flags: list[str], said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick_export(base: Any, adapter: Any, path: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        write_engine(path)
        return {}

    monkeypatch.setattr("resam_export.engine.export_engine", quick_export)
    result = run("--base", "tiny", "-o", tmp_path / "x.resam", *flags)
    assert result.exit_code == 0
    notes = [line for line in result.stdout.splitlines() if "synthetic scenes" in line]
    assert len(notes) == said
    assert all("--images" in line for line in notes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.plan", "-o", "y.plan"], "holds compiled plans"),
        (["model.resam", "-o", "y.onnx"], "name ending in .resam"),
        (["model.resam", "-o", "y.resam"], "resam-export ADAPTER -o y.resam"),
        (["model.resam", "--base", "tiny"], "--base goes with an adapter"),
        (["model.resam", "--images", "."], "--images goes with an adapter"),
        (["--base", "tiny", "-o", "y.resam", "--max-points", "2"], "--max-points applies only to plans"),
        (["--inspect", "model.resam", "-o", "y.plan"], "only prints; leave out --output"),
        (["--inspect", "model.resam", "model.resam"], "only prints; leave out the other file"),
        (["--inspect", "model.resam", "--fp16"], "only prints; leave out --fp16"),
        (["--inspect", "model.resam", "--base", "nonsense"], "only prints; leave out --base"),
        (["--inspect", "model.resam", "--max-points", "1"], "only prints; leave out --max-points"),
        (["model.resam", "--fp32", "--fp16"], "--fp32 and --fp16: an engine has one precision"),
        (["--base", "tiny", "-o", "y.resam", "--int8", "--fp16"], "--fp16 and --int8: an engine has one precision"),
        (["none.resam"], "none.resam: no such engine file"),
        (["model.resam", "-o", "model.resam/x.plan"], "cannot be written (Not a directory)"),
        (["model.resam", "-o", f"{'x' * 300}.plan"], "cannot be written (File name too long)"),
        (["--base", "tiny", "-o", "/proc/x.resam"], "cannot be written"),
        (["none.safetensors", "-o", "y.resam"], "none.safetensors: no such adapter"),
        ([], "run resam-train"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], words: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert words in one_line(run(*arguments))
    assert os.listdir() == ["model.resam"]


@pytest.mark.parametrize("size", ["0M", "-1", "lots"])
def test_a_workspace_is_a_size(size: str, model: Path) -> None:
    result = run(model, "-o", model.with_name("m.plan"), "--workspace", size)
    assert result.exit_code == 2
    assert "workspace" in result.stderr


def test_int8_from_fp16_graphs_names_the_command_for_the_training_machine(model: Path) -> None:
    error = one_line(run(model, "--int8", "-o", model.with_name("m.plan")))
    assert "resam-export ADAPTER --int8 -o model.resam" in error


def test_the_newest_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["new", "old", "older"]):
        path = tmp_path / "runs" / name / "adapter.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert newest_run() == Path("runs/new/adapter.safetensors")
    # What lies there is empty: the error names the file that was chosen.
    assert "runs/new/adapter.safetensors" in one_line(run())


def test_inspect_prints_what_is_inside(model: Path) -> None:
    errors = {"encoder.embedding": {"random": 1.25e-6}, "loop.boxes": {"random": 3e-7, "stored": 0.125}}
    data = {"relative_error": errors, "[bold]": ["a", {"b": None, "c": "x" * 500}], "passed": True, "empty": {}}
    write_engine(model, verification=data, training={"options": {"tau": 0.3, "epochs": 7}})
    engine = EngineFile.open(model)
    result = run("--inspect", model)
    assert result.exit_code == 0
    text = result.stdout
    for name, spec in engine.manifest.graphs.items():
        assert name in text
        assert spec.sha256[:16] in text
    assert "image uint8 (B, 64, 64, 3)" in text
    assert "point_coords float32 (N, P, 2)" in text
    for field, value in [
        ("encoder.embedding", "1.25e-06"),
        ("loop.boxes", "0.125"),
        ("options.epochs", "7"),
        ("name", "fake"),
    ]:
        assert any(field in line and value in line for line in text.splitlines()), field
    assert "[bold][1].c" in text
    assert "x" * 121 not in text


def test_inspect_prints_no_control_signs_of_a_foreign_file(model: Path) -> None:
    write_engine(model, base={"name": "x\x1b[2Jy"}, verification={"a": {"b\x1b": {"c": "\x07"}}})
    text = run("--inspect", model).stdout
    assert "x\ufffd[2Jy" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_inspect_prints_what_a_plan_was_built_for(tmp_path: Path) -> None:
    target = TensorRTTarget("10.3.0", "8.7", "Orin", version_compatible=True)
    write_engine(tmp_path / "m.plan", backend="tensorrt", tensorrt=target, max_points=64)
    text = run("--inspect", tmp_path / "m.plan").stdout
    for field, value in [("version", "10.3.0"), ("compute_capability", "8.7"), ("device_name", "Orin")]:
        assert any(field in line and value in line for line in text.splitlines()), field
    assert any("max_points " in line and "64" in line for line in text.splitlines())
    assert any("max_batch" in line and "no limit" in line for line in text.splitlines())


def test_inspect_refuses_a_damaged_file(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert "damaged" in one_line(run("--inspect", model))


@pytest.mark.parametrize("arguments", [["--help"], ["--inspect", "model.resam"], ["model.resam", "-o", "m.plan"]])
def test_no_torch_is_imported_without_an_adapter(arguments: list[str], model: Path) -> None:
    code = (
        "import json, sys\n"
        "sys.modules['tensorrt'] = None\n"
        "from resam_export.cli import export\n"
        "try: export.main(json.loads(sys.argv[1]))\n"
        "except SystemExit: pass\n"
        "print('imported', sorted({'torch', 'onnx', 'onnxruntime', 'segment_anything'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=model.parent, check=True)
    assert done.stdout.splitlines()[-1] == "imported []"


def test_an_adapter_on_a_machine_without_torch_says_what_to_install(
    tmp_path: Path, hide_torch: Callable[[], None]
) -> None:
    hide_torch()
    error = one_line(run("--base", "tiny", "-o", tmp_path / "m.resam"))
    assert "pip install 'resam[train,export]'" in error
    assert "torch" in error


@pytest.fixture
def hide_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def hide() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("resam", "torch")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "resam_export.engine", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)

    return hide
