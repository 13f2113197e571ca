"""The scale of the tiles, chosen without masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from resam.cli import train
from resam.data.coco import CocoData
from resam.data.prompts import PointOptions, scene_prompts
from resam.model.bases import Base
from resam.training import framing
from resam.training.checkpoints import Adapter
from resam.training.framing import best_framing, compare_framings
from resam.training.options import TrainOptions
from resam.training.run import run
from resam.training.run_data import RunData
from resam_runtime.tiles.tiling import Framing, Tile, plan_tiles


def test_a_scale_cuts_windows_that_it_scales_to_whole_tiles() -> None:
    tiles = plan_tiles(1000, 700, 256, Framing(512, 0.5))
    assert {(tile.width, tile.height, tile.scale) for tile in tiles} == {(512, 512, 0.5)}
    assert len(tiles) == 6
    assert plan_tiles(1000, 100, 256, Framing(128, 2.0))[0] == Tile(0, 0, 128, 100, 2.0)
    for scale in (0.0, -1.0, 600.0):
        with pytest.raises(ValueError, match="scale"):
            plan_tiles(1000, 700, 256, Framing(128, scale))


def test_the_scale_is_that_whose_masks_the_others_agree_with_most(
    toy: Base, scenes: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On masks that are known: at each scale a square of its own side around the same place."""
    sides = {2 / 3: 6, 1.0: 8, 2.0: 20}
    squares = {scale: (np.ones((n, n), bool), (50 - n // 2, 50 - n // 2)) for scale, n in sides.items()}
    monkeypatch.setattr(framing, "SCALES", tuple(sides))
    monkeypatch.setattr(
        framing,
        "_coarse_masks",
        lambda e, d, scene, p, sample: {(sample.scene, i): squares[sample.tile.scale] for i in sample.prompts},
    )
    found = compare_framings(toy, scenes.scenes, scene_prompts(scenes, PointOptions()), Framing(64))
    assert [one.framing for one in found] == [Framing(64, 1.0), Framing(96, 2 / 3), Framing(32, 2.0)]
    iou = {(6, 8): 36 / 64, (6, 20): 36 / 400, (8, 20): 64 / 400}
    expected = [(iou[6, 8] + iou[8, 20]) / 2, (iou[6, 8] + iou[6, 20]) / 2, (iou[6, 20] + iou[8, 20]) / 2]
    assert [one.mean for one in found] == pytest.approx(expected)
    assert best_framing(found) == Framing(64, 1.0)


def test_coarse_masks_lie_where_the_scene_has_them(toy: Base, scenes: CocoData) -> None:
    """Every sampled instance has one at every scale, inside its tile."""
    prompts = scene_prompts(scenes, PointOptions())
    found = compare_framings(toy, scenes.scenes, prompts, Framing(64))
    count = sum(min(len(own), framing.PER_SCENE) for own in prompts)
    assert len(found) >= 3
    for one in found:
        assert len(one.agreement) == count
        assert ((one.agreement >= 0) & (one.agreement <= 1)).all()


def test_a_run_keeps_the_chosen_scale_and_its_engine_has_it(
    base_file: Path, scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resam.training.preparation.best_framing", lambda found: Framing(128, 0.5))
    options = TrainOptions(base=str(base_file), epochs=1, choose_scale=True)
    data = RunData(CocoData.open(scenes_folder / "train.json"), tested=CocoData.open(scenes_folder / "test.json"))
    result = run(tmp_path / "run", options, data)
    assert list(result.tested) == ["base", "base, scale 0.50", "adapted"]
    assert result.tested["base"] != result.tested["base, scale 0.50"]
    adapter = Adapter.open(result.adapter)
    kept = adapter.provenance["options"]
    assert (kept["fit_within"], kept["scale"]) == (128, 0.5)


def test_a_scale_that_is_given_is_not_chosen(base_file: Path, scenes_folder: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(scenes_folder), "--base", str(base_file)]
    arguments += ["--rank", "2", "--epochs", "0", "--pseudo", "final"]
    for number, (flags, scale) in enumerate([(["--scale", "0.5"], 0.5), (["--no-choose-scale"], 1.0)]):
        folder = tmp_path / str(number)
        done = CliRunner().invoke(train, [*arguments, *flags, "-o", str(folder)])
        assert done.exit_code == 0, done.output
        assert "by the agreement" not in done.output
        assert Adapter.open(folder / "adapter.safetensors").provenance["options"]["scale"] == scale
