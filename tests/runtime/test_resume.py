"""A run may end at any moment, by a signal, SIGKILL or choice, and be resumed to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from resam_runtime.run.stop import StopRequest
from resam_runtime.segment.segmenter import Segmenter

from .run_helpers import draw_scene, fork_run, make_engine, make_folder, resam_run, start_run, summary_of, write_points

FORMATS = ("--format", "coco,geojson,overlay,labels")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


def assert_whole(out: Path) -> None:
    """Every file under its final name can be read to its end."""
    for path in out.rglob("*") if out.exists() else ():
        if not path.is_file() or path.name == "lock" or ".tmp" in path.name:
            continue
        if path.suffix in (".json", ".geojson"):
            json.loads(path.read_text())
        else:
            assert cv2.imdecode(__import__("numpy").fromfile(path, "uint8"), cv2.IMREAD_UNCHANGED) is not None, path


def kill_and_resume(engine: Path, tmp_path: Path, times: int, scenes: int) -> None:
    images = make_folder(tmp_path / "images", scenes)
    whole = tmp_path / "whole"
    begin = time.monotonic()
    process = fork_run("--engine", engine, images, "-o", whole, *FORMATS)
    started = None
    while process.is_alive():
        if started is None and (whole / ".resam").exists():
            started = time.monotonic() - begin
        time.sleep(0.002)
    full = time.monotonic() - begin
    assert process.exitcode == 0
    expected = (whole / "instances.json").read_bytes()
    generator = random.Random(7)
    interrupted = 0
    for number in range(times):
        out = tmp_path / f"out{number}"
        for _ in range(2):  # the resumed run is killed as well
            process = fork_run("--engine", engine, images, "-o", out, "--resume", *FORMATS)
            while not (out / ".resam").exists() and process.is_alive():
                time.sleep(0.002)  # loading writes nothing
            time.sleep(generator.uniform(0, max(0.05, full - (started or 0))))
            process.kill()
            process.join()
            interrupted += process.exitcode == -signal.SIGKILL
            assert_whole(out)
        assert resam_run("--engine", engine, images, "-o", out, "--resume", *FORMATS).code == 0
        assert (out / "instances.json").read_bytes() == expected
        assert_whole(out)
        assert not [path for path in out.rglob("*") if ".tmp" in path.name], "left-overs are cleaned up"
    assert interrupted >= times // 2, "most of them were killed while at work"


def test_a_killed_run_resumes_to_the_same_bytes(engine: Path, tmp_path: Path) -> None:
    kill_and_resume(engine, tmp_path, times=1, scenes=6)


@pytest.mark.slow
def test_a_run_killed_at_a_hundred_moments_resumes_to_the_same_bytes(engine: Path, tmp_path: Path) -> None:
    kill_and_resume(engine, tmp_path, times=50, scenes=6)  # each killed twice


@pytest.fixture(scope="module")
def many(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Scenes for a run that can be stopped before its end, and the instances.json of one that was not."""
    folder = tmp_path_factory.mktemp("many")
    images = make_folder(folder / "images", 30)
    assert resam_run("--engine", engine, images, "-o", folder / "whole", *FORMATS).code == 0
    return images, (folder / "whole/instances.json").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_is_in_hand_and_the_rest_can_be_resumed(
    engine: Path, many: tuple[Path, bytes], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (images, whole), out = many, tmp_path / "out"
    process = start_run("--engine", engine, images, "-o", out, *FORMATS)
    while not list(out.glob(".resam/scenes/*.json")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert stderr == ""
    assert "stopped early, use --resume" in stdout
    summary = summary_of(out)
    assert not summary["complete"]
    done = [scene["name"] for scene in summary["scenes"]]
    assert 1 <= len(done) < 30
    assert [image["file_name"] for image in json.loads((out / "instances.json").read_text())["images"]] == done
    assert resam_run("--engine", engine, images, "-o", out, "--resume", *FORMATS).code == 0
    assert (out / "instances.json").read_bytes() == whole


def test_a_second_signal_stops_within_a_scene(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = tmp_path / "images/a.png"
    write_points(scene, draw_scene(scene, 0, width=500, height=400, count=60))
    real, calls = Segmenter.segment_tile, []

    def slow(self: Segmenter, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args, **options)

    monkeypatch.setattr(Segmenter, "segment_tile", slow)
    result = resam_run("--engine", engine, scene.parent, "-o", tmp_path / "out")
    assert result.code == 143
    assert len(calls) == 3
    assert summary_of(tmp_path / "out")["scenes"] == []
    monkeypatch.undo()
    assert resam_run("--engine", engine, scene.parent, "-o", tmp_path / "out", "--resume").code == 0
    assert summary_of(tmp_path / "out")["totals"]["instances"] > 40


def test_an_earlier_run_is_neither_overwritten_nor_mixed_in_silence(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refused = resam_run("--engine", engine, images, "-o", out)
    assert refused.code == 2
    assert refused.stderr == f"error: {out}: holds an earlier run; use --resume or --overwrite\n"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert resam_run("--engine", engine, images / "s0.png", "-o", out, "--overwrite").code == 0
    assert sorted(path.name for path in out.glob("*.*")) == [
        ".resam",
        "instances.json",
        "s0.geojson",
        "s0.png",
        "summary.json",
    ]


def test_files_of_others_are_not_overwritten(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "instances.json").write_text("mine")
    result = resam_run("--engine", engine, images, "-o", out)
    assert result.code == 2
    assert "instances.json: exists" in result.stderr
    assert (out / "instances.json").read_text() == "mine"


def test_resuming_overwrites_no_file_of_others_either(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "s1.geojson").write_text("mine")
    arguments = ["--engine", engine, images, "-o", out, "--resume"]
    result = resam_run(*arguments)
    assert (result.code, f"{out / 's1.geojson'}: exists" in result.stderr) == (2, True)
    (out / "s1.geojson").unlink()
    assert resam_run(*arguments).code == 0
    write_points(images / "t.png", draw_scene(images / "t.png", 9))
    (out / "t.png").write_text("mine")
    for _ in range(2):
        result = resam_run(*arguments)
        assert (result.code, f"failed: t.png: {out / 't.png'}: exists, and is not" in result.stderr) == (1, True)
    assert (out / "t.png").read_text() == "mine"
    (out / "t.png").unlink()
    assert resam_run(*arguments).code == 0


def test_what_was_done_stays_though_its_image_is_gone(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (images / "bad.png").write_bytes(b"junk")
    assert resam_run("--engine", engine, images, "-o", out).code == 1
    before = (out / "instances.json").read_bytes()
    (images / "bad.png").unlink()
    (images / "s0.png").unlink()
    result = resam_run("--engine", engine, images, "-o", out, "--resume")
    assert (result.code, "12 instances in 3 scenes" in result.stdout) == (0, True)
    kept = "note: kept the earlier run's results of 1 scene that is no longer among the images\n"
    assert result.stderr == kept
    assert (out / "instances.json").read_bytes() == before
    assert summary_of(out)["notes"] == [result.stderr.removeprefix("note: ").strip()]
    # the same file by another name, and another whose outputs take the place of what is gone
    (images / "s0.jpg").write_bytes((images / "s1.png").read_bytes())
    (images / "other").mkdir()
    for name in ("s1.png", "s1.points.json"):
        (images / "other" / name).write_bytes((images / name).read_bytes())
    result = resam_run("--engine", engine, images, images / "other" / "s1.png", "-o", out, "--resume")
    assert sorted(scene["name"] for scene in summary_of(out)["scenes"]) == [
        "other/s1.png",
        "s0.jpg",
        "s1.png",
        "s2.png",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("engine", "the earlier run used another engine"),
        ("option", "the earlier run had --simplify 0.5, this one 2.0"),
        ("points file", "the points have changed"),
    ],
)
def test_a_run_is_not_resumed_with_something_else(
    engine: Path, images: Path, tmp_path: Path, change: str, said: str
) -> None:
    out, options = tmp_path / "out", []
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    before = (out / "instances.json").read_bytes()
    if change == "engine":
        engine = make_engine(tmp_path / "other.resam", refine_threshold=0.4)
    elif change == "option":
        options = ["--simplify", "2"]
    else:
        (tmp_path / "all.csv").write_text("scene,x,y\ns0.png,5,5\n")
        options = ["--points", str(tmp_path / "all.csv")]
    result = resam_run("--engine", engine, images, "-o", out, "--resume", *options)
    assert result.code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (out / "instances.json").read_bytes() == before
    assert resam_run("--engine", engine, images, "-o", out, "--overwrite", *options).code == 0


def test_resuming_does_only_what_is_missing(
    engine: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (images / "bad.png").write_bytes(b"junk")
    assert resam_run("--engine", engine, images, "-o", out).code == 1
    (out / "s1.geojson").unlink()
    draw_scene(images / "bad.png", 3)
    write_points(images / "bad.png", [[50, 40]])
    real, calls = Segmenter.segment_tile, []

    def counted(self: Segmenter, image: Any, tile: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        return real(self, image, tile, prompts, *args, **options)

    monkeypatch.setattr(Segmenter, "segment_tile", counted)
    assert resam_run("--engine", engine, images, "-o", out, "--resume").code == 0
    assert set(calls) == {1, 4}, "the failed scene and the one that lost an output, each tile once"
    assert (out / "s1.geojson").exists()
    monkeypatch.undo()
    assert resam_run("--engine", engine, images, "-o", tmp_path / "whole").code == 0
    assert (out / "instances.json").read_bytes() == (tmp_path / "whole/instances.json").read_bytes()


def test_resuming_does_again_what_has_changed(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    before = (out / "s2.geojson").stat().st_mtime_ns
    draw_scene(images / "s0.png", 99)
    write_points(images / "s1.png", [[50, 50]])
    assert resam_run("--engine", engine, images, "-o", out, "--resume").code == 0
    assert (out / "s2.geojson").stat().st_mtime_ns == before
    assert resam_run("--engine", engine, images, "-o", tmp_path / "whole").code == 0
    assert (out / "instances.json").read_bytes() == (tmp_path / "whole/instances.json").read_bytes()


def test_a_damaged_record_only_costs_its_scene(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    before = (out / "instances.json").read_bytes()
    next(iter(sorted(out.glob(".resam/scenes/*.json")))).write_text('{"format": 1, "na')
    assert resam_run("--engine", engine, images, "-o", out, "--resume").code == 0
    assert (out / "instances.json").read_bytes() == before


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_only_leftovers_of_our_own_are_cleaned_up(engine: Path, images: Path, tmp_path: Path, flag: str) -> None:
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    (out / "sub").mkdir()
    (out / "other" / ".resam").mkdir(parents=True)  # a run that may be at work
    ours = [out / ".resam.0123abcd.tmp.png", out / "sub/.resam.0123abcd.tmp", out / ".resam/.resam.89efcdab.tmp.json"]
    names = [".notes.abcdefgh.tmp", ".resam.notes.tmp", ".resam.0123abcd.tmpfile", ".x.resam.0123abcd.tmp"]
    theirs = [out / "other/.resam.0123abcd.tmp.png", *(out / name for name in names)]
    for path in (*ours, *theirs):
        path.write_text("x")
    assert resam_run("--engine", engine, images, "-o", out, flag).code == 0
    assert [path for path in ours if path.exists()] == []
    assert [path for path in theirs if not path.exists()] == []


def test_two_runs_do_not_share_an_output_folder(engine: Path, images: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    with (out / ".resam/lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        result = resam_run("--engine", engine, images, "-o", out, "--resume")
    assert result.code == 2
    assert "another run is writing there" in result.stderr


def test_a_stop_request_may_interrupt_another() -> None:
    """Two signals in a row: the second handler runs inside the first, which must hold no lock."""
    stop = StopRequest()
    nested = False

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        nonlocal nested
        if not nested:
            nested = True
            stop.request()
            nested = False

    def ask() -> None:
        sys.setprofile(interrupt)  # at every call and return within the first request
        stop.request()
        sys.setprofile(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for a lock that its own thread holds"
    assert stop.requested
    assert stop.at_once


def test_a_stop_request_wakes_a_sleeper() -> None:
    stop = StopRequest()
    assert not stop.wait(0.01)
    stop.request()
    begin = time.monotonic()
    assert stop.wait(10)
    assert time.monotonic() - begin < 1
    assert not stop.at_once
    stop.request()
    assert stop.at_once
