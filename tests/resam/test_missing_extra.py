"""The commands of the base install where torch, or another package of an extra, is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..without import command_without

TRAIN, BENCH = "resam.cli:train", "resam_benchmarks.cli:bench"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ..runtime.engines import write_engine

    path = tmp_path_factory.mktemp("engine") / "model.resam"
    write_engine(path)
    return path


@pytest.mark.parametrize(
    ("command", "arguments", "missing", "who", "extras"),
    [
        (TRAIN, [], "torch", "resam-train", "train"),
        (TRAIN, [], "lightning_fabric", "resam-train", "train"),
        ("resam.distill_cli:distill", [], "torch", "resam-distill", "train"),
        (BENCH, ["train"], "torch", "resam-bench train", "train"),
        (BENCH, ["ablation"], "torch", "resam-bench ablation", "train"),
        (BENCH, ["ablation"], "lightning_fabric", "resam-bench ablation", "train"),
        (BENCH, ["run", "{engine}", "--baseline", "torch"], "torch", "--baseline torch", "train"),
        (BENCH, ["run", "{engine}", "--baseline", "segment-anything"], "torch", "--baseline segment-anything", "train"),
        (
            BENCH,
            ["run", "{engine}", "--baseline", "onnx-per-prompt"],
            "onnx",
            "--baseline onnx-per-prompt",
            "train,export",
        ),
        (BENCH, ["run", "--random", "tiny"], "torch", "--random", "train,export"),
        (BENCH, ["run", "--random", "tiny"], "onnx", "--random", "train,export"),
        ("resam_export.cli:export", ["--base", "tiny", "-o", "m.resam"], "torch", "m.resam", "train,export"),
    ],
)
def test_what_is_missing_and_how_to_install_it_is_one_line(
    command: str, arguments: list[str], missing: str, who: str, extras: str, engine: Path, tmp_path: Path
) -> None:
    code, said = command_without(missing, command, [word.format(engine=engine) for word in arguments], tmp_path)
    assert code == 2, said
    assert said.startswith(f"error: {who}: {missing} is not installed; pip install 'resam[{extras}]'")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_module_of_our_own_is_a_defect_with_a_traceback(tmp_path: Path) -> None:
    code, said = command_without("resam.training.sources", TRAIN, [], tmp_path)
    assert code == 1
    assert "Traceback" in said


def test_engines_are_measured_without_torch(engine: Path, tmp_path: Path) -> None:
    arguments = ["run", str(engine), "--prompts", "1", "--repeats", "1", "-o", "out"]
    code, said = command_without("torch", BENCH, arguments, tmp_path)
    assert code == 0, said
    assert (tmp_path / "out" / "bench.html").is_file()
