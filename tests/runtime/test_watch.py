"""A watched folder: whole files only, points awaited, restarts and replaced files handled."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.run.options import RunOptions
from resam_runtime.run.progress import TerminalProgress
from resam_runtime.run.report import RunReport
from resam_runtime.run.run import Run
from resam_runtime.run.stop import StopRequest
from resam_runtime.run.watch import FolderWatch, watch_folder
from resam_runtime.segment.segmenter import Segmenter

from .run_helpers import (
    draw_scene,
    instances_of,
    make_engine,
    make_folder,
    resam_run,
    start_run,
    summary_of,
    write_points,
)


def names(watch: FolderWatch) -> list[str]:
    return [scene.name for scene in watch.look()]


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_file_is_given_out_once_it_stops_growing(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=False)
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert names(watch) == names(watch) == [], "still empty"
    path.write_bytes(b"12")
    assert names(watch) == []
    path.write_bytes(b"1234")
    assert names(watch) == [], "it grew"
    assert names(watch) == ["a.png"]
    assert names(watch) == names(watch) == []
    path.write_bytes(b"replaced")
    assert names(watch) == []
    assert names(watch) == ["a.png"], "a replaced file comes again"


def test_a_scene_waits_for_its_points(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=True)
    (tmp_path / "a.png").write_bytes(b"1")
    assert [names(watch) for _ in range(3)] == [[], [], []]
    (tmp_path / "a.points.csv").write_text("x,y\n")
    assert [names(watch) for _ in range(3)] == [[], ["a.png"], []]


def test_points_that_come_after_a_scene_that_did_not_wait_for_them_count(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=True, wait=False)
    (tmp_path / "a.png").write_bytes(b"1")
    assert [names(watch) for _ in range(3)] == [[], ["a.png"], []]
    (tmp_path / "a.points.csv").write_text("x,y\n")
    assert [names(watch) for _ in range(3)] == [[], ["a.png"], []]


def test_points_that_follow_a_scene_found_automatically_replace_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    centres = draw_scene(folder / "a.png", 0)

    def late() -> None:
        assert summary_of(out)["scenes"][0]["instances"] != 1
        write_points(folder / "a.png", centres[:1])

    script = Script(monkeypatch, idle, idle, late, idle, idle)
    report = played(script, folder, out, options=RunOptions(automatic=True))
    assert (report.scenes, report.instances) == (1, 1)


def test_an_engine_with_a_prompter_waits_for_no_points_and_takes_those_that_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    centres = draw_scene(folder / "a.png", 0)
    found: list[dict[str, int]] = []

    def late() -> None:
        found.append(summary_of(out)["totals"]["found_by"])
        write_points(folder / "a.png", centres[:1])

    played(Script(monkeypatch, idle, idle, late, idle, idle), folder, out, finds=True)
    found.append(summary_of(out)["totals"]["found_by"])
    assert found[0].keys() == {"prompter"}
    assert found[1] == {"points": 1}


def test_hidden_files_and_outputs_are_not_watched(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=False)
    for name in (".a.png", "out/b.png", "c.txt", "sub/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [names(watch) for _ in range(2)] == [[], ["sub/d.png"]]


def test_a_newcomer_takes_no_output_name_from_an_older_scene(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=False, stems={"a.png": "a"})
    (tmp_path / "a.tif").write_bytes(b"1")
    watch.look()
    [scene] = watch.look()
    assert (scene.name, scene.stem) == ("a.tif", "a.tif")


def test_a_watched_folder_is_processed_until_sigterm_and_after_a_restart(tmp_path: Path) -> None:
    engine, folder, out = make_engine(tmp_path / "model.resam"), tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    arguments = ("--engine", engine, "--watch", folder, "-o", out, "--poll", "0.1")

    def arrive(name: str, seed: int) -> None:
        centres = draw_scene(tmp_path / "elsewhere" / name, seed)
        data = (tmp_path / "elsewhere" / name).read_bytes()
        write_points(folder / name, centres)
        with (folder / name).open("wb") as slow:  # a slow copy is not taken for a broken image
            slow.write(data[:100])
            slow.flush()
            time.sleep(0.25)
            slow.write(data[100:])

    def scenes() -> dict[str, str]:
        if not (out / "summary.json").exists():
            return {}
        return {scene["name"]: scene["status"] for scene in summary_of(out)["scenes"]}

    process = start_run(*arguments)
    try:
        arrive("a.png", 1)
        wait_for(lambda: "a.png" in scenes())
        arrive("b.png", 2)
        (folder / "broken.png").write_bytes(b"junk")
        write_points(folder / "broken.png", [[1, 1]])
        wait_for(lambda: {"a.png", "b.png", "broken.png"} <= scenes().keys())
        os.kill(process.pid, signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert "a.png: 4 instances" in stdout
    assert "b.png: 4 instances" in stdout
    assert "failed: broken.png" in stderr
    assert scenes() == {"a.png": "done", "b.png": "done", "broken.png": "failed"}

    stamp = (out / "a.geojson").stat().st_mtime_ns
    process = start_run(*arguments)
    try:
        arrive("c.png", 3)
        wait_for(lambda: "c.png" in scenes())
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert (out / "a.geojson").stat().st_mtime_ns == stamp, "done before the restart stays done"
    assert stderr == "", "a scene that failed is not tried again until it changes"
    (folder / "broken.png").unlink()
    assert resam_run("--engine", engine, folder, "-o", tmp_path / "whole").code == 0
    assert instances_of(out) == instances_of(tmp_path / "whole")


class Script(StopRequest):
    """A stop request whose waits between two looks play a scene each, on a clock of their own; the last one stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scenes: Callable[[], None]) -> None:
        super().__init__()
        self._scenes = list(scenes)
        self.now = 0.0
        monkeypatch.setattr("resam_runtime.run.watch.time", SimpleNamespace(monotonic=lambda: self.now))

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        if self._scenes:
            self._scenes.pop(0)()
        else:
            self.request()
        return self.requested


def idle() -> None:
    pass


def played(script: Script, folder: Path, out: Path, finds: bool = False, **more: Any) -> RunReport:
    engine = EngineFile.open(make_engine(out.parent / "model.resam", finds=finds))
    with TerminalProgress() as progress:
        return watch_folder(engine, Segmenter(engine), folder, out, script, observer=progress, **more)


def test_a_record_from_elsewhere_leads_to_no_file_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, victim = make_folder(tmp_path / "in", 1), tmp_path / "out", tmp_path / "victim.txt"
    played(Script(monkeypatch, idle, idle), folder, out)
    victim.write_text("precious")
    [record] = (out / ".resam/scenes").glob("*.json")
    for stem, outputs in (("s0", ["../victim.txt"]), ("../victim", [])):
        changes = {"stem": stem, "outputs": outputs, "source": {}}
        record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))
        report = played(Script(monkeypatch, idle, idle), folder, out)
        assert (report.scenes, report.failed) == (1, 0)
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "model.resam", "out", "victim.txt"]


def test_a_watched_folder_may_vanish_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, away, out = make_folder(tmp_path / "in", 1), tmp_path / "away", tmp_path / "out"
    make_folder(tmp_path / "more", 2)

    def unmount() -> None:
        folder.rename(away)

    def mount() -> None:
        away.rename(folder)
        for path in (tmp_path / "more").glob("s1.*"):
            path.rename(folder / path.name)

    script = Script(monkeypatch, idle, idle, unmount, idle, idle, mount, idle, idle, unmount, idle)
    report = played(script, folder, out)
    assert (report.scenes, report.failed) == (2, 0)
    line = f"waiting: {folder}: No such file or directory"
    assert capsys.readouterr().err.splitlines() == [line, line], "once for each time"


def test_a_subfolder_that_cannot_be_read_keeps_no_other_scene_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "in", 1)
    make_folder(folder / "locked", 1)
    real, locked = os.scandir, [True]

    def scandir(path: Any = ".") -> Any:  # permissions do not stop root
        if locked and os.fspath(path) == str(folder / "locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = played(Script(monkeypatch, idle, idle, idle, locked.clear, idle, idle), folder, tmp_path / "out")
    assert report.scenes == 2
    assert capsys.readouterr().err == f"waiting: {folder / 'locked'}: Permission denied\n"


@pytest.mark.parametrize(("seconds", "most"), [(0.01, 20), (4.0, 4)])
def test_files_of_the_whole_run_are_not_written_anew_for_each_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, most: int
) -> None:
    """A scene every 10 s; writing instances.json takes next to nothing, or 4 s since there were so many before."""
    source, folder, out = make_folder(tmp_path / "source", 20), tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    finish, writes, seen = Run.finish, list[float](), list[int]()

    def slow(*arguments: Any) -> RunReport:
        writes.append(script.now)
        script.now += seconds
        return finish(*arguments)

    def arrive() -> None:
        number = len(list(folder.glob("*.png")))
        for path in source.glob(f"s{number}.*"):
            path.rename(folder / path.name)

    def look() -> None:
        seen.append(len(summary_of(out)["scenes"]))

    monkeypatch.setattr(Run, "finish", slow)
    script = Script(monkeypatch, *[arrive, idle, idle, idle, look] * 20)
    report = played(script, folder, out)
    assert report.scenes == len(summary_of(out)["scenes"]) == 20, "at the end all is written"
    assert len(writes) - 2 <= most
    if seconds < 1:
        assert seen == list(range(1, 21)), "in a small folder results are there at once"


def test_a_budget_that_holds_nothing_is_refused_before_the_watch_begins(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "model.resam")
    (tmp_path / "in").mkdir()
    result = resam_run("--engine", engine, "--watch", tmp_path / "in", "-o", tmp_path / "out", "--budget", "20")
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert "--budget 20: an empty instances.json takes" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_that_fits_several_scenes_is_refused_as_it_is_without_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (tmp_path / "p.csv").write_text("scene,x,y\na.png,40,40\nb.png,40,40\n")

    def arrive(*names: str) -> Callable[[], None]:
        return lambda: [draw_scene(folder / name, 0) for name in names] and None

    script = Script(monkeypatch, arrive("f1/a.png", "f2/a.png", "f1/b.png"), idle, idle, arrive("f2/b.png"), idle, idle)
    report = played(script, folder, out, points=tmp_path / "p.csv")
    assert (report.scenes, report.failed) == (4, 3)
    reasons = {scene["name"]: scene.get("reason", "") for scene in summary_of(out)["scenes"]}
    assert [name for name, reason in reasons.items() if "fits several scenes" in reason] == [
        "f1/a.png",
        "f2/a.png",
        "f2/b.png",
    ]


def test_watching_overwrites_no_file_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = make_folder(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    (out / "s0.geojson").write_text("mine")
    report = played(Script(monkeypatch, idle, idle), folder, out)
    assert (report.scenes, report.failed) == (2, 1)
    assert (out / "s0.geojson").read_text() == "mine"
    assert f"{out / 's0.geojson'}: exists, and is not this run's" in summary_of(out)["scenes"][0]["reason"]


def test_watching_asks_for_a_folder_apart_from_the_outputs(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "model.resam")
    result = resam_run("--engine", engine, "--watch", tmp_path / "none", "-o", tmp_path / "out")
    assert (result.code, "not a folder" in result.stderr) == (2, True)
    result = resam_run("--engine", engine, "--watch", tmp_path, "-o", tmp_path)
    assert (result.code, "choose another with -o" in result.stderr) == (2, True)


@pytest.mark.parametrize("points", [None, "p.csv"])
def test_watching_with_one_points_file_for_all(tmp_path: Path, points: str | None) -> None:
    """Scenes then wait for nothing but themselves."""
    watch = FolderWatch(tmp_path, tmp_path / "out", points_beside=points is None)
    (tmp_path / "a.png").write_bytes(b"1")
    watch.look()
    assert bool(watch.look()) == (points is not None)
