"""The doctor says what is there, what is missing and the command for it; engines say where a precision does not pay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from resam_runtime import Segmenter
from resam_runtime.common import cpu as cpu_module
from resam_runtime.common.cpu import Cpu, find_cpu, parse_cpu
from resam_runtime.doctor.cli import doctor
from resam_runtime.doctor.report import report

from .engines import write_engine

HASWELL = "processor : 0\nmodel name : Intel Core\nflags : fpu sse4_2 avx2 fma\n\nprocessor : 1\nflags : fpu amx_int8\n"
GENOA = "model name\t: AMD EPYC\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n"


def line(lines: list[str], name: str) -> str:
    """The line about a part or a precision, behind "yes" or "no"."""
    return next(text for text in lines if text[7:].startswith(f"{name}  "))


def test_instructions_are_read_from_the_first_processor() -> None:
    assert parse_cpu(HASWELL) == Cpu("Intel Core", ("AVX2",))
    assert parse_cpu(GENOA) == Cpu("AMD EPYC", ("AVX2", "AVX-512", "VNNI", "BF16"))
    assert parse_cpu(ORIN).instructions == ("NEON", "FP16", "DotProd")
    assert parse_cpu("nothing known").instructions is None


def test_precisions_are_advised_where_they_pay() -> None:
    old, new, arm, unknown = (
        [*report(cpu)] for cpu in (parse_cpu(HASWELL), parse_cpu(GENOA), parse_cpu(ORIN), Cpu("?"))
    )
    assert "no VNNI on this CPU" in line(old, "--int8-fp32")
    assert "resam-bench" in line(old, "--int8-fp32")
    assert all("suits this machine" in line(lines, "--int8-fp32") for lines in (new, arm, unknown))
    assert all("suits this machine" in line(lines, "--fp32") for lines in (old, new, arm, unknown))
    assert line(new, "training in bf16").startswith("  yes")
    assert "instructions unknown" in unknown[1]


def test_a_missing_part_comes_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = [*report(find_cpu())]
    place = next(number for number, text in enumerate(lines) if "rasterio" in text)
    assert lines[place].startswith("  no ")
    assert "GeoTIFF" in lines[place]
    assert "pip install 'resam[geo]'" in lines[place + 1]
    assert "torch and segment_anything" in line(lines, "torch")


def test_a_part_that_does_not_import_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "cannot be imported: libnvinfer.so.10" in line([*report(find_cpu())], "TensorRT")


def test_the_command_prints_and_loads_no_torch() -> None:
    outcome = CliRunner().invoke(doctor, [])
    assert outcome.exit_code == 0
    assert "runs .resam files on the CPU" in outcome.output
    code = (
        "import sys\nfrom resam_runtime.doctor.cli import doctor\ndoctor(standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_engine_says_where_its_precision_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(precision: str, cpu: str) -> str:
        path = tmp_path / f"{precision}.resam"
        write_engine(path, precision=precision)
        monkeypatch.setattr(cpu_module, "find_cpu", lambda: parse_cpu(cpu))
        monkeypatch.setattr("resam_runtime.engine.backends.onnx.find_cpu", lambda: parse_cpu(cpu))
        return Segmenter(path, device="cpu").describe()

    assert "no VNNI on this CPU" in described("int8-fp32", HASWELL)
    assert "no VNNI" not in described("int8-fp32", GENOA)
    assert "fp16; no faster than fp32 on this CPU; for speed, export with --fp32 or --int8-fp32" in described(
        "fp16", GENOA
    )
    assert described("fp32", HASWELL).endswith("fp32")


def test_the_shipped_engine_runs_on_a_cpu_without_advice_to_export_another() -> None:
    assert Segmenter("tiny", device="cpu").describe().endswith("fp16")
