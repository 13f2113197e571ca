"""placeholder"""

from __future__ import annotations

from pathlib import Path

from resam_benchmarks.baselines.weights import Weights


def export_random(weights: Weights, folder: Path) -> Path:
    raise NotImplementedError
