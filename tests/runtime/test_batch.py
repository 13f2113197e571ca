"""Tiles that share a call of the encoder: what each makes alone, to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.run.process_scene import process_scene
from resam_runtime.segment.batch import best_batch, measured_batch

from .engines import write_engine
from .run_helpers import draw_scene, make_engine, make_folder, resam_run, write_points


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles in each call of the encoder, as they come."""
    seen: list[int] = []
    run = OnnxBackend.run

    def counted(
        self: OnnxBackend, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False
    ) -> list[Any]:
        if graph == "encoder":
            seen.append(len(inputs["image"]))
        return run(self, graph, inputs, outputs, keep)

    monkeypatch.setattr(OnnxBackend, "run", counted)
    return seen


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Small scenes, one of several tiles, and one that is torn."""
    folder = make_folder(tmp_path / "images", 4, width=64, height=64)
    write_points(folder / "large.png", draw_scene(folder / "large.png", 9, 200, 180, 12))
    (folder / "torn.png").write_bytes(b"junk")
    return folder


@pytest.mark.parametrize("batch", [2, 4])
def test_tiles_encoded_together_give_the_same_bytes(batch: int, images: Path, calls: list[int], tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "model.resam")
    assert resam_run("--engine", engine, images, "-o", tmp_path / "one").code == 1
    alone = list(calls)
    calls.clear()
    assert resam_run("--engine", engine, images, "-o", tmp_path / "some", "--batch", batch).code == 1
    assert set(alone) == {1}
    assert sum(calls) == sum(alone)
    assert max(calls) == batch
    assert len(calls) == -(-len(alone) // batch)
    names = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
    for name in names:
        if name != "summary.json":
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "some" / name).read_bytes(), name


def test_one_scene_batches_its_own_tiles(images: Path, calls: list[int], tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "model.resam")
    one = process_scene(Segmenter(engine, "cpu", 1), images / "large.png", tmp_path / "one")
    alone = len(calls)
    calls.clear()
    some = process_scene(Segmenter(engine, "cpu", 1, batch=3), images / "large.png", tmp_path / "some")
    assert alone > 3
    assert len(calls) == -(-alone // 3)
    assert one.annotations == some.annotations


def test_what_cannot_be_encoded_together_is_encoded_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path / "model.resam")
    assert resam_run("--engine", engine, images, "-o", tmp_path / "one").code == 1
    run = OnnxBackend.run

    def no_memory(self: OnnxBackend, graph: str, inputs: Mapping[str, Any], *more: Any, **named: Any) -> list[Any]:
        if graph == "encoder" and len(inputs["image"]) > 1:
            raise ResamError("graph encoder: no memory")
        return run(self, graph, inputs, *more, **named)

    monkeypatch.setattr(OnnxBackend, "run", no_memory)
    assert resam_run("--engine", engine, images, "-o", tmp_path / "some", "--batch", 4).code == 1
    assert (tmp_path / "one/instances.json").read_bytes() == (tmp_path / "some/instances.json").read_bytes()


def test_a_batch_kept_on_a_device_is_read_from_where_each_item_begins(tmp_path: Path) -> None:
    """On a GPU an item is an address inside its batch; ONNX Runtime's own memory of the CPU stands in for it."""
    import onnxruntime

    write_engine(tmp_path / "model.resam", by_value=True)
    backend = OnnxBackend.load(EngineFile.open(tmp_path / "model.resam"), "cpu", 1)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    embedding = backend.run("encoder", {"image": images}, ["embedding"])[0]
    prompt = {
        "point_coords": np.array([[[20, 30]], [[40, 50]]], np.float32),
        "point_labels": np.ones((2, 1), np.int32),
    }
    parts = backend.split(onnxruntime.OrtValue.ortvalue_from_numpy(embedding))
    assert len(parts) == 3
    for number, part in enumerate(parts):
        wanted = backend.run("loop", {"embedding": embedding[number : number + 1], **prompt}, ["masks"])[0]
        session = backend._sessions["loop"]
        made = backend._run_bound(session, {"embedding": part, **prompt}, ["masks"], keep=False)[0]
        assert np.array_equal(wanted, made)


def test_the_batch_is_the_one_beyond_which_a_tile_takes_no_less_time() -> None:
    assert best_batch(lambda count: 1.0 * count, 8) == 1
    assert best_batch(lambda count: 1.0 + 0.1 * count, 8) == 8
    assert best_batch(lambda count: max(1.0, count / 4), 8) == 4
    assert best_batch(lambda count: 1.0 + 0.1 * count, 2) == 2


class _Gpu:
    """Answers after a time that a tile more adds little to, and has memory for four."""

    on_gpu = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        assert (graph, keep) == ("encoder", True)
        count = len(inputs["image"])
        if count > 4:
            raise ResamError("graph encoder: no memory")
        self.now += 1 + count / 10
        return [None]


def test_a_gpu_is_measured_within_its_memory_and_the_engines_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_engine(tmp_path / "model.resam")
    limited = write_engine(tmp_path / "limited.resam", max_batch=2)
    gpu: Any = _Gpu(monkeypatch)
    assert measured_batch(gpu, manifest) == 4
    assert measured_batch(gpu, limited) == 2


def test_a_cpu_takes_one_tile_and_no_more_than_the_engine_does(tmp_path: Path) -> None:
    make_engine(tmp_path / "model.resam")
    make_engine(tmp_path / "limited.resam", max_batch=2)
    assert Segmenter(tmp_path / "model.resam", "cpu", 1).batch == 1
    assert Segmenter(tmp_path / "model.resam", "cpu", 1, batch=4).batch == 4
    assert Segmenter(tmp_path / "limited.resam", "cpu", 1, batch=4).batch == 2
    with pytest.raises(ResamError, match="batch"):
        Segmenter(tmp_path / "model.resam", "cpu", 1, batch=0)
