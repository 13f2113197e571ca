"""Engines that are whole files and compute nonsense: said, never a result."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from resam_runtime.engine.engine_file import write_engine_file

from .engines import engine_graphs, engine_manifest, write_engine
from .run_helpers import TILE, make_folder, resam_run, summary_of


def broken_engine(path: Path, graph: str, constant: str, value: float) -> Path:
    """An engine of which one weight has another value."""
    graphs = engine_graphs(TILE, radius=10.0, by_value=True)
    model = onnx.load_model_from_string(graphs[graph])
    [node] = [node for node in model.graph.node if node.output[0] == constant]
    node.attribute[0].f = value
    write_engine_file(path, engine_manifest(TILE), {**graphs, graph: model.SerializeToString()})
    return path


@pytest.mark.parametrize(("graph", "constant", "value"), [("encoder", "full", 0.0), ("loop", "gain", float("inf"))])
def test_an_engine_that_computes_no_numbers_is_a_failure_not_an_empty_mask(
    tmp_path: Path, graph: str, constant: str, value: float
) -> None:
    images = make_folder(tmp_path / "images", 2)
    engine = broken_engine(tmp_path / "model.resam", graph, constant, value)
    for number, flags in enumerate(([], ["--automatic"])):
        result = resam_run("--engine", engine, images, "-o", tmp_path / f"out{number}", *flags)
        assert result.code == 2
        assert result.stderr.count("not finite (NaN or infinity)") == 2
        assert summary_of(tmp_path / f"out{number}")["totals"]["failed"] == 2


def test_a_run_whose_masks_are_all_empty_has_failed(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images", 2)
    write_engine(tmp_path / "model.resam", image_size=TILE, radius=-5.0)
    result = resam_run("--engine", tmp_path / "model.resam", images, "-o", tmp_path / "out")
    assert result.code == 2
    totals = summary_of(tmp_path / "out")["totals"]
    assert totals == {"scenes": 2, "failed": 0, "instances": 0, "points": 0, "skipped": 8, "found_by": {}}
