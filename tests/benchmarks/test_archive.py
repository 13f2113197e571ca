"""What a run does for each scene does not grow with the archive: function calls are counted, since time wavers."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resam_benchmarks.steps.answers import Answers
from resam_benchmarks.steps.archive import make_scenes
from resam_runtime import Segmenter
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.shipped import engine_path
from resam_runtime.run.options import RunOptions
from resam_runtime.run.report import Observer
from resam_runtime.run.run import Run
from resam_runtime.writers import Record


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    segmenter = Segmenter(engine_path("tiny"), "cpu", 1)
    segmenter.backend = Answers(segmenter.manifest)
    return segmenter


class Calls(Observer):
    """Counts calls of functions in all threads; `at`: how many there were at the end of each scene."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self.at: list[int] = []

    def __enter__(self) -> Calls:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def scene(self, record: Record) -> None:
        assert not record.failed, record.reason
        self.at.append(next(self._count))

    @property
    def total(self) -> int:
        return next(self._count)

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            next(self._count)


def prepared(segmenter: Segmenter, folder: Path, count: int) -> Run:
    place = folder / str(count)
    points = place / "scenes" / "points.json"
    if not place.exists():
        points = make_scenes(place / "scenes", count)
    engine = EngineFile.open(engine_path("tiny"))
    options = RunOptions(formats=frozenset(("coco", "geojson")))
    return Run.prepare(engine, [place / "scenes"], place / "out", points, options)


def test_a_scene_takes_as_many_calls_late_in_a_run_as_early(segmenter: Segmenter, tmp_path: Path) -> None:
    run = prepared(segmenter, tmp_path, 60)
    with Calls() as calls:
        run.execute(segmenter, observer=calls)
    early, late = calls.at[30] - calls.at[10], calls.at[55] - calls.at[35]
    assert late < 1.1 * early
    assert early / 20 > 100  # they were counted


def test_resuming_a_finished_run_takes_calls_in_proportion(segmenter: Segmenter, tmp_path: Path) -> None:
    totals = {}
    for count in (20, 40, 60):
        prepared(segmenter, tmp_path, count).execute(segmenter)
        with Calls() as calls:
            report = prepared(segmenter, tmp_path, count).execute(segmenter, "resume")
        assert (report.scenes, calls.at) == (count, [])
        totals[count] = calls.total
    assert totals[60] - totals[40] < 1.1 * (totals[40] - totals[20])
    assert (totals[60] - totals[40]) / 20 < 2000  # each record is read twice, whatever is made of it


def test_resuming_reads_each_record_twice(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(segmenter, tmp_path, 12).execute(segmenter)
    read: list[str] = []
    from_json = Record.from_json
    monkeypatch.setattr(Record, "from_json", lambda data: read.append(data["name"]) or from_json(data))
    prepared(segmenter, tmp_path, 12).execute(segmenter, "resume")
    assert len(read) <= 2 * 12 + 1
