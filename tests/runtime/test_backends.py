"""The file says which backend executes it; where several can, the device that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.engine import backends
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.engine_file import EngineFile, write_engine_file

from .engines import engine_graphs, engine_manifest, write_engine


class OtherBackend:
    """A second backend for ONNX graphs, as one on top of OpenVINO would be."""

    reads = OnnxBackend.reads
    suffix = OnnxBackend.suffix
    devices = ("other",)
    on_gpu = False

    def __init__(self, device: str | None) -> None:
        self.device = device

    @classmethod
    def load(cls, engine: EngineFile, device: str | None = None, threads: int | None = None) -> OtherBackend:
        return cls(device)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        return []

    def split(self, kept: Any) -> list[Any]:
        return [kept]

    def describe(self) -> str:
        return f"other {self.device}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_engine(tmp_path / "model.resam")
    return tmp_path / "model.resam"


def test_one_line_in_the_table_makes_a_backend_a_device(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, OtherBackend))
    assert "ONNX Runtime" in Segmenter(path).backend.describe()
    assert "ONNX Runtime" in Segmenter(path, device="cpu").backend.describe()
    assert Segmenter(path, device="other:2").backend.describe() == "other other:2"
    with pytest.raises(ResamError, match=r"model\.resam: runs on cpu or cuda or tensorrt-ep or other .*'npu'"):
        Segmenter(path, device="npu")


def test_a_file_for_an_unknown_backend_says_to_update(path: Path) -> None:
    write_engine_file(path, engine_manifest(backend="coreml"), engine_graphs())
    with pytest.raises(ResamError, match=r"model\.resam: unknown backend 'coreml'; update resam"):
        Segmenter(path)
