"""From a base to an engine file that the runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from resam_export.cli import export
from resam_runtime import Segmenter


def test_the_tiny_base_exports_and_segments(tmp_path: Path) -> None:
    engine = tmp_path / "tiny.resam"
    result = CliRunner().invoke(export, ["--base", "tiny", "-o", str(engine)])
    assert result.exit_code == 0, result.output
    image = np.full((256, 256, 3), 60, np.uint8)
    image[80:140, 60:150] = (200, 190, 180)
    (instance,) = Segmenter(engine)(image, [(100, 110)])
    mask = np.zeros((256, 256), bool)
    x, y = instance.origin
    mask[y : y + instance.mask.shape[0], x : x + instance.mask.shape[1]] = instance.mask
    truth = np.zeros_like(mask)
    truth[80:140, 60:150] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_a_missing_adapter_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    result = CliRunner().invoke(export, [str(tmp_path / "none.safetensors"), "-o", str(tmp_path / "m.resam")])
    assert result.exit_code == 2
    assert not (tmp_path / "m.resam").exists()
