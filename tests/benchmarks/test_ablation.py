"""The ablation: its cells are ordinary runs, a stopped one goes on, and its table says what the cells say."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.taught import SoftMask
from resam.data.training_set import TrainingSet
from resam.model.bases import random_base
from resam.training.consensus import consensus_masks
from resam.training.options import options_from, read_options
from resam.training.run import run
from resam.training.run_data import RunData
from resam_benchmarks.ablation.document import read
from resam_benchmarks.ablation.rows import ROWS, Row
from resam_benchmarks.ablation.study import Settings, _label_quality, _options, ablate
from resam_benchmarks.ablation.table import tables_of, write_page
from resam_benchmarks.cli import bench
from resam_benchmarks.measure import machine
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing
from tests.resam.conftest import TOY, scenes_folder  # noqa: F401

CHANGES = {"epochs": 1, "rank": 2, "learning_rate": 0.02, "warmup": 0, "tau": 0.25}


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "toy.pth"
    sam = random_base(TOY).sam
    with torch.no_grad():
        sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(300)
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture
def settings(base_file: Path, scenes_folder: Path) -> Settings:  # noqa: F811
    changes = {**CHANGES, "base": str(base_file)}
    return Settings((str(scenes_folder),), 2, ("coarse", "supervised"), scenes=3, limit=0, changes=changes)


class Stopped(Exception):
    """Stands for a person who stops the command."""


def test_a_stopped_ablation_goes_on_and_computes_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    lines: list[str] = []

    def stop_after_two(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        ablate(settings, tmp_path, "first", note=stop_after_two)
    first = json.loads((tmp_path / "ablation.json").read_text())["cells"]
    assert len(first) == 2
    found = ablate(settings, tmp_path, "second", note=lines.append)
    assert found["cells"][:2] == first  # seconds and all
    assert {(cell["row"], cell["seed"]) for cell in found["cells"]} == {
        ("base", 0), ("coarse", 0), ("coarse", 1), ("supervised", 0), ("supervised", 1)
    }  # fmt: skip
    assert len(lines) == 5
    ablate(settings, tmp_path, "third", note=lines.append)
    assert len(lines) == 5
    more = ablate(dataclasses.replace(settings, rows=("refine",), seeds=1), tmp_path, "fourth", note=lines.append)
    assert len(lines) == 6
    assert [row["name"] for row in more["rows"]] == ["base", "coarse", "refine", "supervised"]
    assert [found["command"], more["command"]] == ["first", "first"]
    assert [run["command"] for run in more["resumed"]] == ["second", "fourth"]  # the third one had nothing to do
    other = dataclasses.replace(settings, changes={**settings.changes, "rank": 3})
    with pytest.raises(ResamError, match="row 'base' was measured with other"):
        ablate(other, tmp_path, "fifth")


def test_cells_of_another_machine_have_its_conditions_on_the_page(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(settings, rows=("base",), scenes=1, limit=1)
    ablate(one, tmp_path, "command <1>")
    before = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: before | {"processor": "another processor", "cores": 77})
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "9.9"})
    found = ablate(dataclasses.replace(one, rows=("base-points",)), tmp_path, "command <2>")
    assert found["machine"] == read(tmp_path / "ablation.json")["machine"] == before
    write_page(read(tmp_path / "ablation.json"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<dt>Command</dt><dd>command &lt;1&gt;</dd>" in page
    assert "command &lt;2&gt;; on another processor, 77 cores" in page
    assert "with torch 9.9" in page


@pytest.mark.parametrize(
    ("name", "untrained"),
    [
        ("supervised", "base"),
        pytest.param("scaled", "base-points", marks=pytest.mark.slow),
        ("resampled", "base"),
    ],
)
def test_a_cell_is_what_an_ordinary_run_gives_and_the_table_says_so(
    name: str,
    untrained: str,
    settings: Settings,
    scenes_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    whole = dataclasses.replace(settings, rows=(untrained, name), scenes=0)
    found = ablate(whole, tmp_path / "table", "x")
    cells = {(cell["row"], cell["seed"]): cell for cell in found["cells"]}
    row = next(row for row in ROWS if row.name == name)
    options = options_from({**CHANGES, **row.changes, "base": settings.changes["base"], "seed": 1}, "x")
    splits = [CocoData.open(scenes_folder / f"{name}.json") for name in ("train", "test")]
    result = run(tmp_path / "run", options, RunData(splits[0], tested=splits[1]))
    for stage in ("coarse", "final"):
        assert cells[name, 1][stage]["miou"] == pytest.approx(result.tested["adapted"][stage]["miou"], abs=1e-6)
        assert cells[untrained, 0][stage]["miou_images"] == pytest.approx(
            result.tested["base"][stage]["miou_images"], abs=1e-6
        )
    assert result.tested["adapted"]["final"]["miou"] != pytest.approx(result.tested["base"]["final"]["miou"], abs=1e-4)
    (table,) = tables_of(found)
    values = [cells[name, seed]["final"]["miou"] for seed in (0, 1)]
    difference = statistics.fmean(values) - cells[untrained, 0]["final"]["miou"]
    text = f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} ({difference:+.3f})"
    line = next(line for line in table.rows if line[0] == row.title)
    assert line[3] == text


def test_seeds_share_what_is_made_before_the_first_epoch(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(*arguments: Any) -> Any:
        calls.append("made")
        return consensus_masks(*arguments)

    monkeypatch.setattr("resam.training.preparation.consensus_masks", counted)
    found = ablate(dataclasses.replace(settings, rows=("consensus",)), tmp_path, "x")
    assert len(calls) == 1
    first, second = (cell for cell in found["cells"] if cell["row"] == "consensus")
    assert first["training"]["total"] != second["training"]["total"]


@pytest.mark.parametrize("preset", ["tiny", "paper", "nwpu"])
def test_every_row_can_be_trained_and_the_averaged_teacher_has_an_average(preset: str) -> None:
    by_name = {row.name: _options(Settings(preset=preset), row) for row in ROWS}
    plain = by_name["ssa-128"]
    assert by_name["teacher"].average == (plain.average or 0.99)
    changed = {key for key, value in by_name["teacher"].to_dict().items() if value != plain.to_dict()[key]}
    assert changed <= {"teacher", "average"}
    kept = _options(
        Settings(preset=preset, changes={"average": 0.9}), next(row for row in ROWS if row.name == "teacher")
    )
    assert kept.average == 0.9


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--rows", "base,everything"], "no row 'everything'"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "epochs"], "expected NAME=VALUE"),
        (["--set", "tua=0.3"], "'tua' is not an option"),
        (["--base", "none.pth", "--data", "DATA"], "none.pth: no such base"),
        (["--set", "seed=7"], "say how many with --seeds"),
        (["--rows", "coarse", "--set", "scale=0.5"], "the row 'base' sets scale itself"),
        (["--rows", "coarse,ssa-128", "--set", "ssa=off"], "the row 'ssa-128' sets ssa itself"),
        (["--rows", "teacher", "--set", "average=0"], "'average' needs the option average above 0"),
        (["--epochs", "3", "--set", "epochs=1"], "--epochs and --set epochs: two values"),
        (["--base", "tiny", "--set", "base=sam.pth"], "--base and --set base: two values"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], cause: str, scenes_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = [str(scenes_folder) if word == "DATA" else word for word in arguments]
    result: Any = CliRunner().invoke(bench, ["ablation", *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert cause in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "resam-ablation"}', '{"format": "resam-ablation", "version": 1}']
)
def test_a_damaged_ablation_is_an_error_of_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    path.write_text(content)
    with pytest.raises(ResamError, match="remove it") as caught:
        read(path)
    assert "\n" not in str(caught.value)


STAGE = {"miou": 0.5, "miou_images": 0.5}
CELL = {"data": "set", "row": "base", "seed": 0, "coarse": STAGE, "final": STAGE, "training": {}, "seconds": 1.0}


def _whole() -> dict[str, Any]:
    """An `ablation.json` of one cell."""
    options = {"requery": "box"}
    part = {"digest": "0", "scenes": 1, "instances": 2}
    return {
        "format": "resam-ablation", "version": 1, "created": "2030-01-01", "command": "resam-bench ablation",
        "machine": {"processor": "x", "cores": 2, "devices": [], "system": "Linux"}, "versions": {}, "resumed": [],
        "base": {"name": "tiny", "sha256": "0"},
        "data": [{"name": "set", "train": part, "test": {**part, "split": "test"}}],
        "rows": [{"name": "base", "title": "base", "trained": False, "precision": "32", "options": options}],
        "cells": [CELL],
    }  # fmt: skip


def test_an_ablation_of_version_0_1_can_be_resumed_with_todays_name_of_its_precision(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps(_whole()))
    assert [row["precision"] for row in read(path)["rows"]] == ["fp32"]


@pytest.mark.parametrize(
    ("part", "value", "cause"),
    [
        ("rows", [1], "rows[0]: expected an object, got 1"),
        ("cells", [1], "cells[0]: expected an object, got 1"),
        ("cells", [{}], "cells[0].data: missing"),
        ("data", [{}], "data[0].name: missing"),
        ("cells", [CELL | {"final": None}], "cells[0].final: expected an object, got null"),
        ("cells", [CELL | {"final": {"miou": None, "miou_images": 0.5}}], "cells[0].final.miou: expected a number"),
        ("cells", [CELL | {"seed": []}], "cells[0].seed: expected a whole number"),
        ("cells", [CELL, CELL | {"training": {"loss": 1.0}}], "cells[1].training.labelled: missing"),
        ("cells", [CELL | {"seconds": float("nan")}], "NaN is not a number"),
        ("rows", [{"name": "base"}], "rows[0].title: missing"),
        ("base", {}, "base.name: missing"),
        ("machine", {}, "machine.processor: missing"),
        ("resumed", [{}], "resumed[0].created: missing"),
    ],
)  # fmt: skip
def test_a_part_of_an_ablation_that_is_damaged_is_named_in_one_line(
    part: str, value: Any, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps(_whole()))
    assert tables_of(read(path))[0].rows
    path.write_text(json.dumps(_whole() | {part: value}))
    with pytest.raises(ResamError, match=r"ablation\.json: damaged .*; remove it") as caught:
        read(path)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


MIOU = {"base": 0.44, "base-points": 0.45, "base-scale": 0.405, "requery": 0.448, "points": 0.446, "scaled": 0.421}


def _measured(rows: list[Row], preset: str) -> dict[str, Any]:
    """An `ablation.json` of these rows, one cell each."""
    return _whole() | {
        "rows": [
            {"name": row.name, "title": row.title, "trained": row.trained, "options": options.to_dict()}
            for row in rows
            for options in [_options(Settings(preset=preset), row)]
        ],
        "cells": [
            CELL | {"row": row.name, "final": {"miou": MIOU.get(row.name, 0.5), "miou_images": 0.5}} for row in rows
        ],
    }


@pytest.mark.parametrize(
    ("measured", "gains"),
    [
        (tuple(MIOU), {"requery": "+0.008", "points": "-0.004", "scaled": "+0.016"}),
        (("base", "base-points", "points", "scaled"), {"points": "-0.004", "scaled": "-0.029"}),
        (("base", "base-scale", "points", "scaled"), {"points": "+0.006", "scaled": "+0.016"}),
        (("base", "requery", "points"), {"requery": "+0.008", "points": "+0.006"}),
    ],
)
def test_a_gain_is_over_the_base_of_the_same_requery_and_scale(
    measured: tuple[str, ...], gains: dict[str, str]
) -> None:
    rows = [row for row in ROWS if row.name in measured]
    (table,) = tables_of(_measured(rows, "tiny"))
    shown = {row.name: line[3] for row, line in zip(rows, table.rows, strict=True)}
    expected = {
        name: f"{MIOU[name]:.3f} ({gains[name]})" if name in gains else f"{MIOU[name]:.3f}" for name in measured
    }
    assert shown == expected


@pytest.mark.parametrize(("preset", "said"), [("paper", True), ("tiny", False)])
def test_the_table_says_where_the_averaged_teacher_alone_is_measured_with_averaged_weights(
    preset: str, said: bool
) -> None:
    rows = [row for row in ROWS if row.name in ("base", "ssa-128", "teacher")]
    (table,) = tables_of(_measured(rows, preset))
    words = "the average of its weights, the others with the last ones: + SSA, queue 128, averaged teacher."
    assert (words in table.note) == said
    (alone,) = tables_of(_measured(rows[:2], preset))
    assert "average of its weights" not in alone.note


def test_rows_may_have_blanks_between_them(settings: Settings, tmp_path: Path) -> None:
    arguments = [
        "ablation",
        "--data",
        settings.data[0],
        "--base",
        str(settings.changes["base"]),
        "--rows",
        "base , coarse",
    ]
    arguments += ["--epochs", "0", "--scenes", "1", "--limit", "1", "--seeds", "1", "--set", "rank=2", "--quiet"]
    result = CliRunner().invoke(bench, [*arguments, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in read(tmp_path / "ablation.json")["rows"]] == ["base", "coarse"]


def test_the_command_writes_table_and_page(settings: Settings, tmp_path: Path) -> None:
    arguments = ["ablation", "--data", settings.data[0], "--base", str(settings.changes["base"]), "--rows", "coarse"]
    arguments += [
        "--epochs",
        "1",
        "--scenes",
        "2",
        "--limit",
        "1",
        "--seeds",
        "1",
        "--set",
        "rank=2",
        "--set",
        "ssa=off",
    ]
    result = CliRunner().invoke(bench, [*arguments, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "+ self-training on coarse masks" in result.output
    page = (tmp_path / "ablation.html").read_text()
    assert "+ self-training on coarse masks" in page
    assert "<script" not in page
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["rows"][0]["options"]["rank"] == 2
    assert stored["data"][0]["train"]["digest"] == CocoData.open(Path(settings.data[0]) / "train.json").digest


def test_the_row_that_is_called_the_preset_tiny_is_it() -> None:
    row = next(row for row in ROWS if "preset tiny" in row.title and "true masks" not in row.title)
    assert _options(Settings(), row) == read_options("tiny")


def test_labels_are_measured_against_the_true_masks(scenes_folder: Path) -> None:  # noqa: F811
    data = CocoData.open(scenes_folder / "train.json")
    samples = TrainingSet(data, PointOptions(), TOY, Framing(64))
    assert _label_quality(samples) is None
    true = {}
    for sample in samples.samples:
        scene, tile = data.scenes[sample.scene], sample.tile
        masks = {instance.id: scene.mask(instance) for instance in scene.instances}
        for number in sample.prompts:
            own = masks[samples.prompts[sample.scene][number].id]  # type: ignore[index]
            crop = own[tile.y : tile.y + 64, tile.x : tile.x + 64].astype(float)
            true[sample.scene, number] = (crop.reshape(32, 2, 32, 2).mean((1, 3)) > 0.5).astype(float)
    samples.teach({key: SoftMask.of(mask) for key, mask in true.items()})
    seen = np.mean([bool((mask > 0.5).any()) for mask in true.values()])
    assert _label_quality(samples) == pytest.approx(seen)
    samples.teach({key: SoftMask.of(1 - mask) for key, mask in true.items()})
    assert _label_quality(samples) < 0.01  # type: ignore[operator]
