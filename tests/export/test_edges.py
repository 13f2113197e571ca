"""Engines whose masks are made in full near their edges alone: what is exported, for whom, and how it is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.model.bases import load_base
from resam_export.cli import export
from resam_export.engine import export_engine
from resam_export.graphs import build_graphs
from resam_export.models import open_session, run_session
from resam_export.onnx_export import export_graphs
from resam_export.prompted_tiles import PromptedTile
from resam_export.verify import _Findings, relative_error
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.precisions import FP16, FP32

from ..runtime.engines import write_engine


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (1, True), (8, False)])
def test_such_masks_are_judged_as_masks(lost: int, passes: bool) -> None:
    """Two masks of 500 cells, `lost` of them missing in each: a mean IoU of 1, 0.998 and 0.984; the limit is 0.995."""
    wanted = np.full((2, 40, 40), -9.0, np.float32)
    wanted[:, :20, :25] = 9.0
    mine = np.where(wanted > 0, np.float32(2.0), np.float32(-2.0))
    mine[:, 0, :lost] = -2.0
    rest = {"boxes": np.zeros((2, 4)), "scores": np.zeros(2), "coarse_scores": np.ones(2)}
    theirs = {**rest, "masks": wanted, "coarse_masks": wanted}
    ours = {**rest, "masks": mine, "coarse_masks": mine}
    tile = PromptedTile(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((2, 1, 2)), np.ones((2, 1)), None)
    for precision, edges in ((FP32, True), (FP16, True), (FP32, False)):
        found = _Findings(precision.tolerances, edges)
        found.reference(tile, theirs)
        found.tensors("loop", ours, theirs, "random")
        found.engine("stored", tile, ours, theirs)
        misses = found.result(precision.exact, 0).misses
        limit = 0.99 if precision is FP16 else 0.995
        if not edges:
            assert any("coarse_masks differs" in miss for miss in misses), "logits are compared where they must agree"
        else:
            assert bool(misses) != passes, misses
            assert all(f"limit {limit:g}" in miss for miss in misses)


@pytest.mark.slow
def test_such_graphs_compute_what_torch_does() -> None:
    base = load_base("tiny")
    graphs = build_graphs(base.sam, edges=True)
    models = export_graphs(graphs)
    rng = np.random.default_rng(0)
    for count, points, differ in ((1, 1, True), (9, 3, True), (3, 1, False)):  # three on one object: no box is found
        coords = rng.uniform(0, 256, (count if differ else 1, points, 2)).astype(np.float32)
        feeds = {
            "embedding": rng.standard_normal((1, 128, 32, 32), np.float32),
            "point_coords": np.broadcast_to(coords, (count, points, 2)).copy(),
            "point_labels": rng.integers(-1 if differ else 1, 4 if differ else 2, (count, points)).astype(np.int32),
        }
        for name in ("decoder", "loop"):
            found = run_session(open_session(models[name]), feeds)
            with torch.no_grad():
                wanted = graphs[name].module(*(torch.from_numpy(value) for value in feeds.values()))
            for spec, value in zip(graphs[name].outputs, wanted, strict=True):
                assert relative_error(found[spec.name], value.numpy()) <= 1e-4, (name, spec.name)


def test_such_graphs_are_for_cpus(tmp_path: Path) -> None:
    for precision, option in (("fp16", "--fp16"), ("int8", "--int8")):
        with pytest.raises(ResamError, match=f"--edges is for CPUs, {option} for GPUs"):
            export_engine(load_base("tiny"), None, tmp_path / "a.resam", precision=precision, edges=True)
    with pytest.raises(ResamError, match="--edges does not go with sizes of classes"):
        export_engine(load_base("tiny"), None, tmp_path / "a.resam", sizes=ClassSizes("px2", {"ship": 9.0}), edges=True)
    write_engine(tmp_path / "b.resam", upscaling="edges")
    result = CliRunner().invoke(export, [str(tmp_path / "b.resam"), "-o", str(tmp_path / "b.plan")])
    assert result.exit_code == 2
    assert "made with --edges, which TensorRT cannot compile" in result.stderr
