"""A run that teaches a prompter: what its adapter holds, that it finds what was clicked, and that it goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.prompter import prompter_of
from resam.training.checkpoints import load_adapted
from resam.training.devices import make_fabric
from resam.training.options import TrainOptions, read_options
from resam.training.prompter.classes import ClickedClasses
from resam.training.prompter.embeddings import ZOOMS, Embeddings, Seen, encode_windows, windows_to_teach
from resam.training.prompter.examples import Example
from resam.training.prompter.fit import _draw, fit
from resam.training.prompter.teach import _taught
from resam.training.run import run
from resam.training.run_data import RunData
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category
from resam_runtime.points import Prompt
from resam_runtime.segment.peaks import find_peaks
from resam_runtime.tiles.tiling import Framing, Tile

from .conftest import TOY


def quick(base_file: Path, **changes: object) -> TrainOptions:
    values = {"base": str(base_file), "epochs": 1, "rank": 2, "ssa": "off", "prompter": True, "prompter_steps": 3}
    return dataclasses.replace(TrainOptions(), **{**values, **changes})  # type: ignore[arg-type]


def test_an_adapter_holds_the_prompter_and_says_what_it_finds(
    base_file: Path, scenes: CocoData, tmp_path: Path
) -> None:
    options, data = quick(base_file), RunData(scenes)
    result = run(tmp_path / "run", options, data, watched=0, record={})
    base, adapter = load_adapted(result.adapter)
    head = prompter_of(base.sam)
    assert head is not None
    classes = adapter.provenance["prompter"]["classes"]
    assert head.classes == len(classes) > 1
    assert {one["name"] for one in classes} <= set(scenes.categories.values())
    assert all(0 < one["threshold"] < 1 for one in classes)
    assert adapter.provenance["prompter"]["scenes_aside"] == 1
    assert not list((tmp_path / "run").glob(".prompter*"))
    before = result.adapter.read_bytes()
    run(tmp_path / "run", options, data, watched=0, resume=True)
    assert result.adapter.read_bytes() == before, "a finished run stays as it is"


def test_the_head_learns_where_bright_things_are(toy: Base) -> None:
    """Embeddings whose first channel marks one token: after a few steps the peak is there, with the box taught."""
    rng = np.random.default_rng(0)
    places = rng.integers(1, 7, (12, 2))
    values = rng.normal(0, 0.1, (12, 32, 8, 8)).astype(np.float16)
    examples, windows = {}, []
    for number, (row, column) in enumerate(places):
        values[number, 0, row, column] = 3
        windows.append(Seen(number, Tile(0, 0, 64, 64), (False, False)))
        x, y = 8 * int(column), 8 * int(row)
        click = np.array([x + 3, y + 4], np.float32)
        examples[number] = [Example(click, 0, np.ones((8, 8), bool), (x, y), 1.0)]
    options = dataclasses.replace(TrainOptions(), prompter=True, prompter_steps=150, prompter_rate=1e-2)
    from resam.model.prompter import Prompter

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Prompter(32, 1, 64, 8, width=16)
    fit(head, Embeddings(windows, values), examples, options, make_fabric(1, "cpu"))
    right = 0
    for number, (row, column) in enumerate(places):
        with torch.no_grad():
            heat, boxes = head(torch.from_numpy(values[number : number + 1].astype(np.float32)))
        peaks = find_peaks(heat[0].numpy(), boxes[0].numpy(), 64, (64, 64), 0.1)
        wanted = np.array([8 * column, 8 * row, 8 * column + 8, 8 * row + 8]) - 0.5
        right += len(peaks) > 0 and bool(np.abs(peaks.boxes[0] - wanted).max() < 4)
    assert right >= 10


def test_windows_are_encoded_as_the_encoder_would(toy: Base, scenes: CocoData, tmp_path: Path) -> None:
    from resam.model.encoder import ImageEncoder
    from resam_runtime.tiles.letterbox import mirrored, scale_to_tile

    encoder = ImageEncoder(toy.sam)
    windows = windows_to_teach(scenes.scenes, [1, 2], 64, Framing(64, 1.0), seed=3)
    assert {one.scene for one in windows} == {1, 2}
    assert {round(one.tile.scale, 2) for one in windows} == {round(64 / round(64 / zoom), 2) for zoom in ZOOMS}
    known = encode_windows(tmp_path / "file", scenes.scenes, windows, encoder, 64, make_fabric(1, "cpu"))
    seen = windows[-1]
    image = scale_to_tile(mirrored(scenes.scenes[seen.scene].read(seen.tile), seen.mirror), 64, seen.tile.scale)
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(image)[None])
    torch.testing.assert_close(known.batch([len(windows) - 1]), wanted, atol=5e-3, rtol=5e-3)


def test_classes_are_those_of_the_clicks_by_number_or_by_name(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64, 1.0))
    point = np.zeros((1, 2), np.float32)
    given = [Category(7, None), Category(2, "boat"), None, Category(None, "kite"), Category(None, "boat")]
    samples.prompts = [[Prompt(point, category=one) for one in given]]
    classes = ClickedClasses(samples)
    assert classes.categories == [Category(2, "boat"), Category(7, "7"), Category(1, "kite")]
    assert [classes.place(one) for one in samples.prompts[0]] == [1, 0, 0, 2, 0]
    samples.prompts = [[Prompt(point)]]
    assert ClickedClasses(samples).categories == [Category(1, "instance")]


def test_a_scene_that_nobody_looked_at_teaches_nothing(scenes: CocoData, tmp_path: Path) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64, 1.0))
    samples.prompts[1] = []
    assert _taught(samples, [0], exhaustive=True) == [1, 2, 3], "an image that is annotated and has no instance"
    assert _taught(samples, [0], exhaustive=False) == [2, 3]
    samples.points = PointOptions(file=tmp_path / "points.json")
    assert _taught(samples, [0], exhaustive=True) == [2, 3]


def test_half_of_a_batch_is_what_was_wrong_before() -> None:
    rng = np.random.default_rng(0)
    hardness = np.full(100, 1e-3)
    hardness[7] = 10.0
    batches = [_draw(rng, hardness) for _ in range(200)]
    assert all(len(set(batch.tolist())) == 8 for batch in batches)
    assert sum(7 in batch for batch in batches) > 190
    assert len({row for batch in batches for row in batch.tolist()}) == 100, "the others come too"
    assert len(_draw(rng, np.full(1, np.nan))) == 1


@pytest.mark.parametrize("change", [{"clicked": 0.0}, {"clicked": 1.5}, {"prompter_steps": 0}, {"prompter_rate": 0.0}])
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ResamError, match=f"option {next(iter(change))}"):
        read_options("tiny", **change)
