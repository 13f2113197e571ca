"""An engine file with random weights: the true size and speed of an architecture, without a download.

Its manifest names the base "random ARCHITECTURE, seed N", so that nobody takes it for a trained one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.worker import Worker
from resam_runtime.engine.precisions import FP32


def export_random(weights: Weights, folder: Path, precisions: Sequence[str] = (FP32.name,)) -> list[Path]:
    """Write `random-ARCHITECTURE.resam` (fp32) and `random-ARCHITECTURE-PRECISION.resam` to a folder; returns the
    paths.

    weights: with `random` set; the same seed gives the same weights, which the baselines load as well. Raises
    `ResamError` where a graph does not compute what torch does; `ValueError` for weights that are not random.
    """
    if weights.random is None:
        raise ValueError("expected random weights")
    paths = []
    with Worker("resam_benchmarks.baselines.random_engine:Exporter") as worker:  # one for all: the loop is traced once
        for precision in precisions:
            suffix = "" if precision == FP32.name else f"-{precision}"
            paths.append(folder / f"random-{weights.random}{suffix}.resam")
            worker.call(write_engine, weights, str(paths[-1]), precision)
    return paths


class Exporter:
    """Held by the worker that exports; the process, and the torch in it, is gone before anything is measured."""


def write_engine(held: Exporter, weights: Weights, path: str, precision: str) -> None:
    """Export to `path`. Called in a worker."""
    from resam_export.engine import export_engine

    base = dataclasses.replace(weights.load(), name=weights.describe()["base"])
    # random masks lose nothing to rounding that a trained one would: two tiles show that the graphs are right
    export_engine(base, None, Path(path), precision=precision, scenes=2)
