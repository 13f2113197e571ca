"""Bases side by side: what `python -m resam.pretrain.measure` says against an independent computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from resam.data.coco import CocoData
from resam.model.bases import Base
from resam.pretrain.measure import figures, half_width, mean_iou, measure


def test_the_table_has_a_row_a_data_set_and_both_means(scenes_folder: Path, base_file: Path) -> None:
    arguments = [str(base_file), "--data", str(scenes_folder), "--split", "test", "--limit", "1"]
    result = CliRunner().invoke(measure, arguments, catch_exceptions=False)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["set", "mean over data sets", "mean over instances"]
    assert rows[0][2:] == rows[1][2:] == rows[2][2:]
    assert all(0 <= float(value) <= 1 for value in rows[0][2:])
    assert np.isfinite([float(row[1]) for row in rows]).all()
    missing = CliRunner().invoke(measure, [str(base_file), "--data", str(base_file.parent)])
    assert missing.exit_code == 2
    assert "no val.json in it or in its folders" in missing.stderr


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_boxes_are_those_of_the_masks(toy: Base, scenes: CocoData, value: float) -> None:
    """A toy decoder that answers every box with nothing, or with everything: 0, or the object's share of its tile."""
    decoder = toy.sam.mask_decoder
    second = decoder.output_upscaling[3]
    second.weight.data.zero_()
    second.bias.data.fill_(1.0)
    head = decoder.output_hypernetworks_mlps[0].layers[-1]
    head.weight.data.zero_()
    head.bias.data.fill_(2 * value - 1)
    _, _, box, count = figures(toy, scenes, limit=1)
    first_scene = scenes.scenes[0]
    shares = [first_scene.mask(instance).sum() / 64**2 for instance in first_scene.instances]
    assert count == len(shares)
    if value:
        assert box == pytest.approx(np.mean(shares), abs=0.25 * np.mean(shares))  # a few cross their tile's edge
    else:
        assert box == 0


def test_an_interval_is_over_images_not_over_instances() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.1, 400)
    alone = {str(i): [value] for i, value in enumerate(values)}
    assert half_width(alone) == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    # nine more instances of each image that say the same tell nothing new
    repeated = {name: own * 10 for name, own in alone.items()}
    assert (half_width(repeated), mean_iou(repeated)) == pytest.approx((half_width(alone), values.mean()))


def test_the_table_has_intervals_where_they_are_asked_for(scenes_folder: Path, base_file: Path) -> None:
    arguments = [str(base_file), "--data", str(scenes_folder), "--split", "test", "--intervals"]
    assert CliRunner().invoke(measure, arguments, catch_exceptions=False).output.count("±") == 3
