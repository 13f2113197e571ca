"""What lies in a run's folder may have come from anywhere: it is damaged or not, and decides about no other file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from resam_runtime.common.checked import Malformed, parse_json
from resam_runtime.writers.record import Record
from resam_runtime.writers.summary import Summary, scene_entry

from ..mutations import damaged_texts, mutations
from .run_helpers import instances_of, make_engine, make_folder, resam_run, summary_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture
def done(engine: Path, tmp_path: Path) -> list[object]:
    """The arguments of a run that is done, its images in images/, its outputs in out/."""
    arguments = ["--engine", engine, make_folder(tmp_path / "images", 2), "-o", tmp_path / "out"]
    assert resam_run(*arguments).code == 0
    (tmp_path / "victim.txt").write_text("precious")
    return arguments


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "out/.resam/scenes").glob("*.json"))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
@pytest.mark.parametrize(
    "name", ["../victim.txt", "ABSOLUTE", "sub/../../victim.txt", "link/victim.txt", ".resam/run.json"]
)
def test_no_state_file_names_a_file_outside_the_folder(
    done: list[object], tmp_path: Path, flag: str, name: str
) -> None:
    victim, run = tmp_path / "victim.txt", tmp_path / "out/.resam/run.json"
    (tmp_path / "out/link").symlink_to(tmp_path)
    (tmp_path / "out/sub").mkdir()
    name = name.replace("ABSOLUTE", str(victim))
    (tmp_path / "out/.resam/writing.json").write_text(json.dumps({"format": 1, "outputs": [name]}))
    change(records(tmp_path)[0], outputs=[name])
    change(records(tmp_path)[1], outputs=[name], source={})
    result = resam_run(*done, flag)
    assert (result.code, result.stderr) == (0, "")
    assert victim.read_text() == "precious"
    assert run.exists()
    assert len(instances_of(tmp_path / "out")["images"]) == 2


def test_outputs_are_not_written_through_a_link(engine: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "images/sub", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    result = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out")
    assert result.code == 2
    assert "leads out of" in result.stderr
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.resam").symlink_to(tmp_path / "elsewhere")
    assert (
        "leads out of the folder" in resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "other").stderr
    )
    assert not list((tmp_path / "elsewhere").rglob("*.json"))


@pytest.mark.parametrize("name", ["lock", "run.json", "writing.json", "scene"])
def test_a_fifo_in_the_state_folder_does_not_hang(done: list[object], tmp_path: Path, name: str) -> None:
    path = records(tmp_path)[0] if name == "scene" else tmp_path / "out/.resam" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for flag in ("--resume", "--overwrite"):
        result = resam_run(*done, flag)
        assert result.code in (0, 2)
        assert result.stderr.count("\n") == (result.code == 2)
    assert result.code == (2 if name == "lock" else 0)  # what is written anew takes the FIFO's place


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1, "request": 5}', '{"format": 2, "request": {}}', "[" * 100_000, "\xff"]
)
def test_a_damaged_request_is_said_in_one_line(done: list[object], tmp_path: Path, content: str) -> None:
    (tmp_path / "out/.resam/run.json").write_text(content, encoding="latin-1")
    result = resam_run(*done, "--resume")
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert "run.json: damaged; use --overwrite" in result.stderr
    assert resam_run(*done, "--overwrite").code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"status": None},
        {"outputs": 5},
        {"outputs": ["a\0b"]},
        {"annotations": [{}]},
        {"annotations": 7},
        {"source": None, "width": "100"},
        {"notes": [3]},
        {"seconds": {"read": "long"}},
        {"name": 5},
    ],
)
def test_a_damaged_record_is_a_scene_to_be_done_again(
    done: list[object], tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = instances_of(tmp_path / "out")
    change(records(tmp_path)[0], **changes)
    result = resam_run(*done, "--resume")
    assert (result.code, result.stderr) == (0, "")
    assert instances_of(tmp_path / "out") == before
    assert summary_of(tmp_path / "out")["totals"]["failed"] == 0


def test_thousands_of_damaged_records_are_refused_or_of_use(done: list[object], tmp_path: Path) -> None:
    good = parse_json(records(tmp_path)[0].read_bytes())
    taken = 0
    for damaged in mutations(good, 1500):
        try:
            record = Record.from_json(damaged)
        except Malformed:
            continue
        taken += 1
        use(record, tmp_path)
    assert 100 < taken < 1100  # many members may have many values; most places may not
    for text in damaged_texts(good, 500):
        try:
            use(Record.from_json(parse_json(text)), tmp_path)
        except Malformed:
            continue


def use(record: Record, folder: Path) -> None:
    """What a run does with a record that it takes."""
    summary = Summary()
    summary.add(record)
    text = json.dumps([record.to_json(), summary.to_json({}), scene_entry(record)], allow_nan=False)
    assert Record.from_json(json.loads(text)[0]).to_json() == record.to_json()
    for name in [record.stem, *record.outputs]:
        assert Path(os.path.normpath(folder / "out" / name)).is_relative_to(folder / "out")
