"""Engines whose masks are made in full near their edges alone: what is exported, compiled, and how it is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resam.model.bases import load_base
from resam_export.graphs import build_graphs
from resam_export.models import open_session, run_session
from resam_export.onnx_export import export_graphs
from resam_export.prompted_tiles import PromptedTile
from resam_export.verify import _Findings, relative_error
from resam_runtime.engine.precisions import FP16, FP32

from .conftest import Traced
from .test_tensorrt_graphs import compile_every_precision


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
def test_such_graphs_compute_what_torch_does_and_compile(tmp_path: Path) -> None:
    base = load_base("tiny")
    graphs = build_graphs(base.sam, edges=True)
    traced = Traced(base, graphs, export_graphs(graphs))
    rng = np.random.default_rng(0)
    for count, points in ((1, 1), (9, 3)):
        feeds = {
            "embedding": rng.standard_normal((1, 128, 32, 32), np.float32),
            "point_coords": rng.uniform(0, 256, (count, points, 2)).astype(np.float32),
            "point_labels": rng.integers(-1, 4, (count, points)).astype(np.int32),
        }
        for name in ("decoder", "loop"):
            found = run_session(open_session(traced.models[name]), feeds)
            with torch.no_grad():
                wanted = graphs[name].module(*(torch.from_numpy(value) for value in feeds.values()))
            for spec, value in zip(graphs[name].outputs, wanted, strict=True):
                assert relative_error(found[spec.name], value.numpy()) <= 1e-4, (name, spec.name)
    compile_every_precision(traced, tmp_path)
