"""`resam-run` as a user meets it: outputs, exit codes, and what is said of bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from resam_runtime.annotate.cli import annotate
from resam_runtime.cli import run
from resam_runtime.common.errors import command_errors
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.masks.instance import Instance
from resam_runtime.points import PointsFile
from resam_runtime.run import process_scene
from resam_runtime.run.options import RunOptions
from resam_runtime.run.process_scene import SceneJob
from resam_runtime.run.run import Run
from resam_runtime.run.scene_prompts import PointsSource
from resam_runtime.scenes.scene_files import find_scenes, output_stems
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.writers import WRITERS, Record, SceneWriter
from resam_runtime.writers.record import annotation

from .run_helpers import draw_scene, instances_of, make_engine, make_folder, resam_run, summary_of, write_points


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


def files_of(out: Path) -> set[str]:
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and ".resam" not in p.parts}


def test_a_folder_becomes_every_output(engine: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = resam_run("--engine", engine, images, "-o", out, "--format", "coco,geojson,overlay,labels")
    assert result.code == 0
    first, last = result.stdout.splitlines()
    assert "model.resam" in first
    assert "ONNX Runtime" in first
    assert "CPU" in first
    assert last.startswith("12 instances in 3 scenes")
    assert str(out) in last
    assert result.stderr == ""
    own = {f"s{i}{suffix}" for i in range(3) for suffix in (".geojson", ".png", ".labels.png")}
    assert files_of(out) == own | {"instances.json", "summary.json"}
    data, summary = instances_of(out), summary_of(out)
    assert [image["file_name"] for image in data["images"]] == ["s0.png", "s1.png", "s2.png"]
    assert len(data["annotations"]) == 12
    assert summary["complete"]
    assert summary["totals"] == {
        "scenes": 3,
        "failed": 0,
        "instances": 12,
        "points": 12,
        "skipped": 0,
        "found_by": {"points": 12},
    }
    assert set(summary["seconds"]) == {"read", "prepare", "inference", "write"}


def test_masks_are_those_of_the_segmenter(engine: Path, images: Path, tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    resam_run("--engine", engine, images / "s1.png", "-o", tmp_path / "out")
    points = json.loads((images / "s1.points.json").read_text())["instances"]
    image = cv2.imread(str(images / "s1.png"))[..., ::-1].copy()
    expected = Segmenter(engine)(image, [entry["points"][0] for entry in points])
    found = instances_of(tmp_path / "out")["annotations"]
    assert len(found) == len(expected)
    for item, one in zip(found, expected):
        mask = np.zeros(image.shape[:2], bool)
        x, y = one.origin
        mask[y : y + one.mask.shape[0], x : x + one.mask.shape[1]] = one.mask
        np.testing.assert_array_equal(coco_mask.decode(item["segmentation"]).astype(bool), mask)
        # and the disc that was drawn around its point is what was found
        px, py = points[item["index"]]["points"][0]
        assert mask[int(py), int(px)]
        assert 80 <= mask.sum() <= 400


def test_formats_are_chosen(engine: Path, images: Path, tmp_path: Path) -> None:
    resam_run("--engine", engine, images / "s0.png", "-o", tmp_path / "out", "--format", "geojson")
    assert files_of(tmp_path / "out") == {"s0.geojson", "summary.json"}


def test_one_points_file_serves_all_and_unknown_scenes_are_noted(engine: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "points.csv"
    table.write_text("scene,instance,x,y,label\ns0.png,1,40,40,1\ns2.png,5,20,30,1\nother.png,1,3,3,1\n")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--points", table)
    assert result.code == 0
    assert [item["instance"] for item in instances_of(tmp_path / "out")["annotations"]] == [1, 5]
    summary = summary_of(tmp_path / "out")
    assert "other.png" in summary["notes"][0]
    assert result.stderr == "note: points for 'other.png', which is not among the scenes\n"
    assert "no points for it" in summary["scenes"][1]["notes"][0]


def test_a_folder_below_the_annotated_one_gets_its_own_points(engine: Path, tmp_path: Path) -> None:
    for name in ("a.png", "sub/a.png"):
        draw_scene(tmp_path / "images" / name, 0)
    table = tmp_path / "points.csv"
    table.write_text("scene,instance,x,y\na.png,above,40,40\nsub/a.png,below,30,30\n")
    for given, expected in (("images", ["above", "below"]), ("images/sub", ["below"]), ("images/a.png", ["above"])):
        out = tmp_path / f"out of {Path(given).name}"
        assert resam_run("--engine", engine, tmp_path / given, "-o", out, "--points", table).code == 0
        assert [item["instance"] for item in instances_of(out)["annotations"]] == expected
    coco = {"images": [{"id": 1, "file_name": "images/a.png"}]}
    coco["annotations"] = [{"id": 1, "image_id": 1, "point": [40, 40]}]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    arguments = ["--engine", engine, tmp_path / "images", "-o", tmp_path / "coco", "--points", tmp_path / "coco.json"]
    assert resam_run(*arguments).stderr == ""
    assert [scene["instances"] for scene in summary_of(tmp_path / "coco")["scenes"]] == [1, 0]


def test_many_notes_are_cut_short_on_the_console(engine: Path, images: Path, tmp_path: Path) -> None:
    rows = "".join(f"other{number}.png,3,3\n" for number in range(150))
    (tmp_path / "p.csv").write_text(f"scene,x,y\ns0.png,40,40\n{rows}")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--points", tmp_path / "p.csv")
    *notes, last = result.stderr.splitlines()
    assert len(notes) == 10
    assert last == f"note: 140 more, see {tmp_path / 'out' / 'summary.json'}"
    assert len(summary_of(tmp_path / "out")["notes"]) == 101


def test_instances_json_is_a_points_file_itself(engine: Path, images: Path, tmp_path: Path) -> None:
    resam_run("--engine", engine, images, "-o", tmp_path / "a")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "b", "--points", tmp_path / "a" / "instances.json")
    assert result.code == 0
    first, second = instances_of(tmp_path / "a")["annotations"], instances_of(tmp_path / "b")["annotations"]
    assert [item["segmentation"] for item in first] == [item["segmentation"] for item in second]


def test_two_runs_give_the_same_bytes(engine: Path, images: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        resam_run("--engine", engine, images, "-o", tmp_path / name)
    assert (tmp_path / "a/instances.json").read_bytes() == (tmp_path / "b/instances.json").read_bytes()


def test_exclusive_gives_each_pixel_to_one_instance(engine: Path, tmp_path: Path) -> None:
    scene = tmp_path / "images" / "a.png"
    draw_scene(scene, 0)
    write_points(scene, [[40, 40], [44, 42], [47, 38]])
    cv2.imwrite(str(scene), np.full((80, 100, 3), 200, np.uint8))
    from pycocotools import mask as coco_mask

    overlaps = []
    for flags in ([], ["--exclusive"]):
        out = tmp_path / f"out{len(flags)}"
        assert resam_run("--engine", engine, scene.parent, "-o", out, *flags).code == 0
        masks = [coco_mask.decode(item["segmentation"]) for item in instances_of(out)["annotations"]]
        overlaps.append((np.sum(masks, axis=0) > 1).sum())
    assert overlaps[0] > 0
    assert overlaps[1] == 0


def test_a_budget_holds_and_is_reported(engine: Path, images: Path, tmp_path: Path) -> None:
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--budget", "1500")
    assert result.code == 0
    assert (tmp_path / "out/instances.json").stat().st_size <= 1500
    assert "left out by --budget" in result.stdout
    # another budget needs no second inference: the run is resumed
    assert resam_run("--engine", engine, images, "-o", tmp_path / "out", "--resume", "--budget", "100k").code == 0
    assert len(instances_of(tmp_path / "out")["annotations"]) == 12
    too_small = resam_run("--engine", engine, images, "-o", tmp_path / "x", "--budget", "20")
    assert (too_small.code, files_of(tmp_path / "x")) == (2, set())


def test_a_budget_that_holds_no_instance_loses_nothing_else(engine: Path, tmp_path: Path) -> None:
    """Categories that are only numbers are known once the points are: they must not fail the run at its end."""
    centres = draw_scene(tmp_path / "images/a.png", 0)
    instances = [{"points": [centre], "category": 5 + i} for i, centre in enumerate(centres * 8)]
    points = tmp_path / "points.json"
    points.write_text(json.dumps({"scenes": {"a.png": {"instances": instances}}}))
    out = tmp_path / "out"
    result = resam_run("--engine", engine, tmp_path / "images", "--points", points, "-o", out, "--budget", "250")
    assert result.code == 0, result.stderr
    assert (out / "instances.json").stat().st_size <= 250
    assert instances_of(out)["annotations"] == []
    assert "0 instances in 1 scene, 32 instances left out by --budget" in result.stdout
    assert summary_of(out)["notes"] == ["--budget 250: none of 32 instances fits into instances.json"]


def test_automatic_finds_instances_without_points(engine: Path, tmp_path: Path) -> None:
    centres = draw_scene(tmp_path / "images/a.png", 5, count=3)
    result = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out", "--automatic")
    assert result.code == 0
    boxes = [item["bbox"] for item in instances_of(tmp_path / "out")["annotations"]]
    for x, y in centres:
        assert any(left <= x < left + width and top <= y < top + height for left, top, width, height in boxes)
    scores = [item["score"] for item in instances_of(tmp_path / "out")["annotations"]]
    least = sorted(scores)[len(scores) // 2] + 1e-3
    arguments = ["--engine", engine, tmp_path / "images", "-o", tmp_path / "sure", "--automatic"]
    resam_run(*arguments, "--min-score", least)
    sure = [item["score"] for item in instances_of(tmp_path / "sure")["annotations"]]
    assert len(sure) < len(scores)
    assert all(score >= least for score in sure)
    other = resam_run(*arguments, "--min-score", 0.1, "--resume")
    assert (other.code, "--min-score" in other.stderr) == (2, True)


def test_automatic_finds_nothing_where_there_is_no_data(engine: Path, tmp_path: Path) -> None:
    image = np.full((90, 300, 4), 30, np.uint8)
    image[..., 3] = 255
    for x in (150, 200, 260):
        cv2.circle(image, (x, 45), 7, (200, 200, 200, 255), -1)
    image[:, :140, 3] = 0  # more than a tile, and a strip of the next
    path = tmp_path / "images/a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), image)
    # what stands for no data is brighter than the ground: an instance everywhere, were it looked at
    arguments = ["--engine", engine, path.parent, "-o", tmp_path / "out", "--automatic", "--min-score", "0.3"]
    assert resam_run(*arguments).code == 0
    found = instances_of(tmp_path / "out")["annotations"]
    assert all(item["bbox"][0] >= 139 for item in found)
    for x in (150, 200, 260):
        assert any(item["bbox"][0] <= x < item["bbox"][0] + item["bbox"][2] for item in found)

    model = Segmenter(engine, device="cpu", threads=1)
    job = SceneJob(find_scenes([path], tmp_path / "x")[0], model, PointsSource(), RunOptions(automatic=True))
    tiles = [prepared.tile for prepared in job.read()]
    assert tiles == [tile for tile in model.tiles(300, 90) if tile.x + tile.width > 140]


def test_boxes_are_prompts_and_come_back_from_the_output(engine: Path, images: Path, tmp_path: Path) -> None:
    instances = {
        "s0.png": [{"id": 1, "box": [20, 20, 39, 35]}],
        "s1.png": [{"id": 7, "box": [50, 30, 70, 45], "points": [[60, 40]]}],
    }
    points = tmp_path / "p.json"
    points.write_text(json.dumps({"scenes": {name: {"instances": value} for name, value in instances.items()}}))
    arguments = ["--engine", engine, images, "--format", "coco", "--points"]
    assert resam_run(*arguments, points, "-o", tmp_path / "one").code == 0
    first, second = instances_of(tmp_path / "one")["annotations"]
    assert (first["points"], first["labels"], first["box_prompt"]) == ([], [], [20, 20, 39, 35])
    assert (second["points"], second["labels"], second["box_prompt"]) == ([[60, 40]], [1], [50, 30, 70, 45])
    # the engine of the tests fills a box as far as it is bright
    left, top, width, height = first["bbox"]
    assert 20 <= left <= left + width - 1 <= 39
    assert 20 <= top <= top + height - 1 <= 35

    again = tmp_path / "one/instances.json"
    assert resam_run(*arguments, again, "-o", tmp_path / "two").code == 0
    assert instances_of(tmp_path / "two")["annotations"] == [first, second]
    assert resam_run(*arguments, again, "--boxes", "-o", tmp_path / "three").code == 0
    for item in instances_of(tmp_path / "three")["annotations"]:
        before = next(one for one in (first, second) if one["instance"] == item["instance"])
        x, y, width, height = before["bbox"]
        assert item["box_prompt"] == [x, y, x + width - 1, y + height - 1]
    other = resam_run(*arguments, again, "-o", tmp_path / "three", "--resume")
    assert (other.code, "--boxes" in other.stderr) == (2, True)


# --- bad input ---------------------------------------------------------------------------------------------------


def test_failed_scenes_are_listed_and_the_rest_goes_on(engine: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes((images / "s0.png").read_bytes()[:300])
    (images / "text.jpg").write_text("hello")
    result = resam_run("--engine", engine, images, images / "none.png", "-o", tmp_path / "out")
    assert result.code == 1
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 3
    assert "3 scenes failed" in result.stdout
    summary = summary_of(tmp_path / "out")
    reasons = {entry["name"]: entry["reason"] for entry in summary["scenes"] if entry["status"] == "failed"}
    assert set(reasons) == {"broken.png", "text.jpg", "none.png"}
    assert "truncated" in reasons["broken.png"]
    assert "No such file" in reasons["none.png"]
    assert all("\n" not in reason for reason in reasons.values())
    assert len(instances_of(tmp_path / "out")["annotations"]) == 12


def test_strict_stops_at_the_first_failure(engine: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.png").write_bytes(b"junk")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--strict")
    assert result.code == 1
    assert "0 instances in 0 scenes, 1 scene failed, stopped early" in result.stdout
    assert not summary_of(tmp_path / "out")["complete"]


def test_when_every_scene_fails_nothing_could_be_done(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    (tmp_path / "a.points.json").write_text('{"instances": []}')
    assert resam_run("--engine", engine, tmp_path / "a.png", "-o", tmp_path / "out").code == 2


def test_a_name_that_no_file_can_have_is_one_line(engine: Path, tmp_path: Path) -> None:
    result = resam_run("--engine", engine, "n" * 400, "-o", tmp_path / "out", "--automatic")
    assert result.code == 2
    assert result.stderr.count("\n") == 1
    assert "nnn: File name too long" in result.stderr


def test_errors_of_the_system_are_one_line_and_defects_of_ours_are_not() -> None:
    def outcome(error: BaseException) -> Any:
        @click.command()
        @command_errors
        def command() -> None:
            raise error

        return CliRunner().invoke(command)

    refused = outcome(PermissionError(errno.EACCES, "Permission denied", "/root/x"))
    assert (refused.exit_code, refused.stderr) == (2, "error: /root/x: Permission denied\n")
    renamed = outcome(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"))
    assert renamed.stderr == "error: b: Invalid cross-device link\n"
    assert outcome(OSError(errno.ENOSPC, "No space left on device")).stderr == "error: No space left on device\n"
    for defect in (OSError("could not get source code"), ValueError("x")):
        assert outcome(defect).exception is defect


def test_a_reader_that_went_away_ends_the_run_quietly(engine: Path, images: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from resam_runtime.cli import run; run()"
    command = [sys.executable, "-c", code, "--engine", engine, images, "-o", tmp_path / "out"]
    try:
        done = subprocess.run(list(map(str, command)), stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_points_outside_are_skipped_and_listed(engine: Path, images: Path, tmp_path: Path) -> None:
    write_points(images / "s0.png", [[40, 40], [400, 40], [5, -3]])
    result = resam_run("--engine", engine, images / "s0.png", "-o", tmp_path / "out")
    assert result.code == 0
    assert "skipped: s0.png: instance 2: point 400, 40 lies outside the image of 100 x 80 px" in result.stderr
    assert [entry["instance"] for entry in summary_of(tmp_path / "out")["scenes"][0]["skipped"]] == [2, 3]
    assert len(instances_of(tmp_path / "out")["annotations"]) == 1


def test_an_index_counts_what_was_not_skipped_and_is_that_of_the_label_raster(
    engine: Path, images: Path, tmp_path: Path
) -> None:
    write_points(images / "s0.png", [[400, 40], [40, 40], [60, 20]])
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images / "s0.png", "-o", out, "--format", "coco,labels").code == 0
    labels = cv2.imread(str(out / "s0.labels.png"), cv2.IMREAD_UNCHANGED)
    found = [(item["instance"], item["index"], item["points"]) for item in instances_of(out)["annotations"]]
    assert found == [(2, 0, [[40.0, 40.0]]), (3, 1, [[60.0, 20.0]])]
    assert set(np.unique(labels)) == {0, 1, 2}


def test_when_every_instance_is_skipped_nothing_could_be_done(engine: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("scene,instance,x,y,label\ns0.png,1,40,40,0\ns1.png,2,400,40,1\n")
    out = tmp_path / "out"
    arguments = ["--engine", engine, images, "-o", out, "--points", tmp_path / "p.csv"]
    first, again = resam_run(*arguments), resam_run(*arguments, "--resume")
    assert "skipped: s0.png: instance 1: has no positive point" in first.stderr
    for result in (first, again):
        assert result.code == 2
        assert result.stderr.splitlines()[-1] == (
            f"error: nothing was segmented, all 2 instances were skipped; see {out / 'summary.json'}"
        )


def test_scenes_in_which_nothing_is_found_are_no_failure(engine: Path, tmp_path: Path) -> None:
    draw_scene(tmp_path / "images/a.png", 0, count=0)  # nothing for --automatic
    draw_scene(tmp_path / "images/b.png", 1)
    (tmp_path / "p.csv").write_text("scene,x,y,label\nb.png,3,3,0\n")
    arguments = ["--engine", engine, tmp_path / "images", "-o", tmp_path / "out", "--points", tmp_path / "p.csv"]
    result = resam_run(*arguments, "--automatic")
    assert (result.code, "0 instances in 2 scenes, 1 instance skipped" in result.stdout) == (0, True)


def test_a_scene_without_points_gives_an_empty_result(engine: Path, images: Path, tmp_path: Path) -> None:
    write_points(images / "s0.png", [])
    (images / "s1.points.json").unlink()
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out")
    assert result.code == 0
    assert "4 instances in 3 scenes, 1 scene without points; " in result.stdout, "s0.png has a file: nothing is there"
    assert [scene["instances"] for scene in summary_of(tmp_path / "out")["scenes"]] == [0, 0, 4]
    assert json.loads((tmp_path / "out/s0.geojson").read_text())["features"] == []


def test_scenes_without_points_are_counted_in_what_was_done_before(engine: Path, images: Path, tmp_path: Path) -> None:
    (images / "s1.points.json").unlink()
    out = tmp_path / "out"
    assert resam_run("--engine", engine, images, "-o", out).code == 0
    for path in (out / ".resam" / "scenes").iterdir():
        record = json.loads(path.read_text())
        record["notes"].append("no points of interest")  # what tells them is not how a note begins
        path.write_text(json.dumps(record))
    result = resam_run("--engine", engine, images, "-o", out, "--resume")
    assert "8 instances in 3 scenes, 1 scene without points; " in result.stdout
    told = ["note: s0.png", "note: s1.png", "note: s2.png"]
    assert [line.split(": no points of interest")[0] for line in result.stderr.splitlines()] == told
    assert summary_of(out)["scenes"][1]["notes"][0] == "no points file beside it"


def test_a_scene_asks_once_what_the_points_file_calls_it(
    engine: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    match = PointsFile.match
    monkeypatch.setattr(PointsFile, "match", lambda self, name, *more: asked.append(name) or match(self, name, *more))
    (tmp_path / "p.csv").write_text("scene,x,y\ns0.png,40,40\n")
    arguments = ["--engine", engine, images, "-o", tmp_path / "out", "--points", tmp_path / "p.csv", "--automatic"]
    assert resam_run(*arguments).code == 0
    assert sorted(asked) == sorted(["s0.png", "s1.png", "s2.png"] * 2)  # and once before the run begins


def test_broken_points_beside_a_scene_fail_that_scene_alone(engine: Path, images: Path, tmp_path: Path) -> None:
    (images / "s1.points.json").write_text("{")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out")
    assert result.code == 1
    assert "s1.points.json: not JSON" in result.stderr


def test_points_beside_scenes_of_the_same_name_need_no_path(engine: Path, tmp_path: Path) -> None:
    for folder in ("f1", "f2"):
        scene = tmp_path / "images" / folder / "DJI_0001.png"
        [(x, y), *_] = draw_scene(scene, 0)
        scene.with_suffix(".points.csv").write_text(f"scene,x,y\nDJI_0001.png,{x},{y}\n")
    result = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out")
    assert (result.code, result.stderr) == (0, "")
    assert [scene["instances"] for scene in summary_of(tmp_path / "out")["scenes"]] == [1, 1]


@pytest.mark.parametrize("flags", [[], ["--automatic"]])
def test_points_beside_a_scene_that_are_not_its_own_fail_it(
    engine: Path, images: Path, tmp_path: Path, flags: list[str]
) -> None:
    other = {"scenes": {"S0.PNG": {"instances": [{"points": [[40, 40]]}]}}}
    (images / "s0.points.json").write_text(json.dumps(other))
    nothing = {"scenes": {"s1.png": {"instances": []}, **other["scenes"]}}
    (images / "s1.points.json").write_text(json.dumps(nothing))
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", *flags)
    assert result.code == 1
    assert result.stderr == f"failed: s0.png: {images / 's0.points.json'}: holds points for S0.PNG, none for s0.png\n"
    assert [scene.get("instances") for scene in summary_of(tmp_path / "out")["scenes"]] == [None, 0, 4]


def test_too_many_points_for_the_engine_skip_that_instance(images: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.resam", max_points_per_instance=2)
    points = {"instances": [{"id": 1, "points": [[40, 40]]}, {"id": 2, "points": [[1, 1], [2, 2], [3, 3]]}]}
    (images / "s0.points.json").write_text(json.dumps(points))
    result = resam_run("--engine", engine, images / "s0.png", "-o", tmp_path / "out")
    assert result.code == 0
    assert "instance 2: 3 points, the engine takes 2 per instance" in result.stderr


def test_a_folders_own_points_file_is_taken_and_said(engine: Path, images: Path, tmp_path: Path) -> None:
    """resam-annotate images/, then resam-run images/: nothing is to be named twice."""
    for beside in images.glob("*.points.*"):
        beside.unlink()
    points = {"scenes": {"s0.png": {"instances": [{"id": 7, "points": [[40, 40]]}]}}}
    (images / "points.json").write_text(json.dumps(points))
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out")
    assert f"points from {images / 'points.json'}" in result.stderr
    document = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [annotation["instance"] for annotation in document["annotations"]] == [7]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{images}", "--engine", "none.resam"], "none.resam"),
        (["{images}", "--engine", "{junk}"], "junk.resam"),
        (["{empty}", "--engine", "{engine}"], "no images found"),
        (["{bare}", "--engine", "{engine}"], "no points; give --points"),
        (["{images}", "--engine", "{engine}", "--points", "none.csv"], "none.csv: No such file"),
        (["{images}", "--engine", "{engine}", "--points", "{foreign}"], "has points for none of the scenes"),
        (["{images}", "--engine", "{engine}", "--points", "{nameless}"], "add the scene's file name"),
        (["{images}", "--engine", "{engine}", "-o", "{images}"], "cannot go into the folder of the scenes"),
        (["{images}/s0.png", "--engine", "{engine}", "-o", "{images}"], "cannot go into the folder of the scenes"),
        (["{images}", "--engine", "{engine}", "-o", "{junk}/out"], "cannot write there"),
        (["{images}", "--engine", "{engine}", "--device", "abacus"], "abacus"),
        (["{images}", "--engine", "{engine}", "--format", "pdf"], "'pdf' is not one of"),
        (["{images}", "--engine", "{engine}", "--bands", "1,2"], "one or three bands"),
        (["{images}", "--engine", "{engine}", "--budget", "much"], "not a number of bytes"),
        (["{bare}/b.png", "--engine", "{engine}"], "b.png: No such file"),
        (
            ["{bare}/b.png", "{bare}/c.png", "--engine", "{engine}", "--automatic"],
            "b.png: No such file or directory (and 1",
        ),
        (["{annotated}/a.png", "--engine", "{engine}"], "no points; there is {annotated}/points.json: give --points"),
        (["{images}", "--engine", "{engine}", "--watch", "{images}"], "not both"),
        (["{images}", "--engine", "{engine}", "--resume", "--overwrite"], "exclude each other"),
        (
            ["{images}", "--engine", "{engine}", "--min-score", "0.5"],
            "has no prompter and finds nothing by itself; add --automatic",
        ),
        (["--watch", "none", "--engine", "{engine}", "--strict"], "leave one out"),
        (["{images}", "--engine", "{engine}", "--poll", "2"], "--poll needs --watch"),
        (
            ["{images}", "--engine", "{engine}", "--format", "coco", "--simplify", "0.5"],
            "--simplify applies to",
        ),
        (
            ["{images}", "--engine", "{engine}", "--format", "overlay", "--crs", "source"],
            "--crs applies to",
        ),
        (["{images}", "--engine", "{engine}", "--automatic", "--min-score", "2"], "2.0 is not in the range"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    engine: Path, images: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "junk.resam").write_bytes(b"not a zip")
    (tmp_path / "empty").mkdir()
    for folder in ("bare", "annotated"):
        draw_scene(tmp_path / folder / "a.png", 0)
    (tmp_path / "annotated/points.json").write_text('{"scenes": {}}')
    (tmp_path / "foreign.csv").write_text("scene,x,y\nz.png,1,1\n")
    (tmp_path / "nameless.csv").write_text("x,y\n1,1\n")
    known = {
        "images": images,
        "engine": engine,
        "junk": tmp_path / "junk.resam",
        "empty": tmp_path / "empty",
        "bare": tmp_path / "bare",
        "annotated": tmp_path / "annotated",
        "foreign": tmp_path / "foreign.csv",
        "nameless": tmp_path / "nameless.csv",
    }
    filled = [argument.format(**known) for argument in arguments]
    result = resam_run(*filled, *([] if "-o" in arguments else ["-o", tmp_path / "out"]))
    assert result.code == 2
    assert said.format(**known) in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in images.iterdir() if p.suffix == ".png") == ["s0.png", "s1.png", "s2.png"]


@pytest.mark.parametrize("command", [run, annotate])
def test_help_and_version_are_as_elsewhere(command: click.Command) -> None:
    short, long = (CliRunner().invoke(command, [flag]) for flag in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert " .csv" not in long.output, "it reads as NAME.csv"
    version = CliRunner().invoke(command, ["--version"])
    assert (version.exit_code, version.output.split(", ")[0]) == (0, command.name)


def test_neither_images_nor_a_folder_to_watch_is_told_from_both(engine: Path) -> None:
    result = resam_run("--engine", engine)
    assert result.code == 2
    assert result.stderr.endswith("Error: give IMAGES, files or folders, or --watch DIR\n")


def test_a_read_only_output_is_one_line(
    engine: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if os.geteuid() == 0:  # permissions do not stop root: a read-only file system does

        def refuse(self: Path, *args: Any, **options: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        out.chmod(0o500)
    result = resam_run("--engine", engine, images, "-o", out)
    assert result.code == 2
    assert result.stderr.startswith(f"error: {out}: cannot write there")
    assert len(result.stderr.splitlines()) == 1


# --- names -------------------------------------------------------------------------------------------------------


def test_scenes_of_the_same_name_do_not_overwrite_each_other(engine: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "sub/a.png", "sub/deep/a.png", "A.bmp"):
        path = tmp_path / "images" / name
        centres = draw_scene(path, len(name))
        path.with_name(path.name + ".points.csv").write_text("x,y\n" + "\n".join(f"{x},{y}" for x, y in centres))
    out = tmp_path / "out"
    assert resam_run("--engine", engine, tmp_path / "images", "-o", out, "--format", "coco,geojson,labels").code == 0
    assert summary_of(out)["totals"]["scenes"] == 5
    outputs = [name for scene in summary_of(out)["scenes"] for name in scene["outputs"]]
    assert len({name.casefold() for name in outputs}) == 10
    assert "sub/a.geojson" in outputs
    assert "a.png.geojson" in outputs
    assert files_of(out) == {*outputs, "instances.json", "summary.json"}


def test_scene_names_are_unique_across_folders(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        draw_scene(tmp_path / name, 0)
    scenes = find_scenes([tmp_path / "x", tmp_path / "y", tmp_path / "y/b.png"], tmp_path / "out")
    assert [scene.name for scene in scenes] == ["b.png", "x/a.png", "y/a.png"]


def test_labels_of_one_scene_never_meet_the_overlay_of_another() -> None:
    stems = output_stems(["a.png", "a.labels.png", "b.png", "b.png.tif", "b.tif"])
    outputs = [f"{stem}{suffix}" for stem in stems.values() for suffix in (".png", ".labels.png", ".geojson")]
    assert len(set(outputs)) == len(outputs)


def test_outputs_of_a_run_are_not_scenes_of_the_next(engine: Path, images: Path) -> None:
    for _ in range(2):
        result = resam_run("--engine", engine, images, "-o", images / "out", "--overwrite")
        assert result.code == 0
    again = find_scenes([images], images / "elsewhere")
    assert [scene.name for scene in again] == ["s0.png", "s1.png", "s2.png"]


# --- georeferenced and large scenes ------------------------------------------------------------------------------


def make_geotiff(path: Path, width: int, height: int, **profile: Any) -> list[list[int]]:
    """Bright discs on a 100 px lattice, written block by block; returns their centres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rasterio = pytest.importorskip("rasterio")
    from rasterio.windows import Window

    block = np.full((100, 100), 30, np.uint8)
    cv2.circle(block, (50, 50), 9, 200, -1)
    options = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8"}
    options |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "crs": "EPSG:32633"}
    options |= {"transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5000000), **profile}
    with rasterio.Env(GDAL_CACHEMAX=64 << 20), rasterio.open(path, "w", **options) as out:
        strip = np.tile(block, (1, -(-width // 100)))[:, :width]
        for top in range(0, height, 100):
            rows = min(100, height - top)
            out.write(np.stack([strip[:rows]] * 3), window=Window(0, top, width, rows))
    return [[x, y] for y in range(50, height - 20, 100) for x in range(50, width - 20, 100)]


def test_a_geotiff_gives_wgs84_polygons_and_labels_with_its_crs(engine: Path, tmp_path: Path) -> None:
    centres = make_geotiff(tmp_path / "scene.tif", 400, 300)
    write_points(tmp_path / "scene.tif", centres)
    out = tmp_path / "out"
    assert resam_run("--engine", engine, tmp_path / "scene.tif", "-o", out, "--format", "coco,geojson,labels").code == 0
    import rasterio
    from rasterio.warp import transform

    with rasterio.open(out / "scene.labels.tif") as labels:
        assert labels.crs.to_epsg() == 32633
        values = labels.read(1)
    features = json.loads((out / "scene.geojson").read_text())["features"]
    assert len(features) == len(centres) == 12
    for feature, (x, y) in zip(features, centres):
        assert values[y, x] == feature["properties"]["index"] + 1
        ring = np.array(feature["geometry"]["coordinates"][0])
        longitude, latitude = transform("EPSG:32633", "EPSG:4326", [500000 + (x + 0.5) / 2], [5000000 - (y + 0.5) / 2])
        assert ring[:-1].mean(0) == pytest.approx([longitude[0], latitude[0]], abs=1e-5)


def test_what_is_to_be_known_of_a_scene_is_told(engine: Path, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    make_geotiff(tmp_path / "a.tif", 200, 200, transform=None)  # a CRS without a place
    write_points(tmp_path / "a.tif", [[50, 50]])
    result = resam_run("--engine", engine, tmp_path / "a.tif", "-o", tmp_path / "out")
    [noted] = summary_of(tmp_path / "out")["scenes"][0]["notes"]
    assert (result.code, result.stderr) == (0, f"note: a.tif: {noted}\n")


def map_points(path: Path, *places: tuple[float, float]) -> Path:
    """A GeoJSON file of points in metres of UTM zone 33."""
    crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": list(place)}}
        for place in places
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return path


def test_map_points_that_lie_in_no_scene_are_told(engine: Path, tmp_path: Path) -> None:
    for number, west in enumerate((500000, 600000)):
        transform = pytest.importorskip("rasterio").Affine(0.5, 0, west, 0, -0.5, 5000000)
        make_geotiff(tmp_path / f"images/{number}.tif", 200, 200, transform=transform)
    first, second, nowhere = (500025, 4999975), (600025, 4999975), (700000, 5000000)
    arguments = ["--engine", engine, tmp_path / "images", "--format", "coco", "--points"]

    both = resam_run(*arguments, map_points(tmp_path / "both.geojson", first, second), "-o", tmp_path / "both")
    assert (both.code, both.stdout.count("in no scene")) == (0, 0)

    arguments.append(map_points(tmp_path / "some.geojson", first, nowhere, second, nowhere))
    for flags in ([], ["--resume"]):  # what is done already counts too
        some = resam_run(*arguments, "-o", tmp_path / "some", *flags)
        assert some.code == 0
        assert "2 instances in 2 scenes, 2 instances of the points file lie in no processed scene" in some.stdout
    assert "2 instances of the points file lie in no processed scene" in summary_of(tmp_path / "some")["notes"][0]


def test_map_points_of_which_none_lies_in_a_scene_are_a_mistake(engine: Path, tmp_path: Path) -> None:
    make_geotiff(tmp_path / "images/a.tif", 200, 200)
    path = map_points(tmp_path / "p.geojson", (700000, 5000000))
    arguments = ["--engine", engine, tmp_path / "images", "--points", path]
    result = resam_run(*arguments, "-o", tmp_path / "out")
    assert result.code == 2
    assert result.stderr == (
        f"error: {path}: none of its points lies in a scene that could be read; check its coordinates, its crs, "
        "and that the scenes are georeferenced\n"
    )
    automatic = resam_run(*arguments, "-o", tmp_path / "automatic", "--automatic")
    assert (automatic.code, "1 instance of the points file lies in no processed scene" in automatic.stdout) == (0, True)


def test_points_outside_their_tile_are_told(engine: Path, tmp_path: Path) -> None:
    draw_scene(tmp_path / "a.png", 0, width=200)
    points = {"instances": [{"id": 7, "points": [[20, 40], [100, 40], [180, 40]]}, {"points": [[90, 40], [100, 50]]}]}
    (tmp_path / "a.points.json").write_text(json.dumps(points))
    assert resam_run("--engine", engine, tmp_path / "a.png", "-o", tmp_path / "out").code == 0
    (scene,) = summary_of(tmp_path / "out")["scenes"]
    assert scene["notes"] == ["instance 7: 2 of 3 points lie outside its tile of 64 x 64 px and were not used"]


def test_a_picture_among_georeferenced_scenes_has_no_map_points(engine: Path, tmp_path: Path) -> None:
    make_geotiff(tmp_path / "images/a.tif", 200, 200)
    draw_scene(tmp_path / "images/quicklook.png", 0)
    path = map_points(tmp_path / "p.geojson", (500025, 4999975))
    arguments = ["--engine", engine, tmp_path / "images", "--points", path]
    result = resam_run(*arguments, "-o", tmp_path / "out")
    assert (result.code, result.stderr) == (0, "")
    assert "1 instance in 2 scenes, 1 scene without points" in result.stdout
    assert summary_of(tmp_path / "out")["scenes"][1]["notes"] == [
        "no points for it in p.geojson: it is not georeferenced"
    ]
    assert resam_run(*arguments, "-o", tmp_path / "automatic", "--automatic").code == 0
    assert [scene["instances"] > 0 for scene in summary_of(tmp_path / "automatic")["scenes"]] == [True, True]
    (tmp_path / "images/a.tif").unlink()
    alone = resam_run(*arguments, "-o", tmp_path / "alone")
    assert (alone.code, "and that the scenes are georeferenced" in alone.stderr) == (2, True)


def test_map_points_beside_a_scene_that_lie_elsewhere_fail_it(engine: Path, tmp_path: Path) -> None:
    make_geotiff(tmp_path / "a.tif", 200, 200)
    path = map_points(tmp_path / "a.points.geojson", (700000, 5000000))
    result = resam_run("--engine", engine, tmp_path / "a.tif", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"failed: a.tif: {path}: none of its points lies in a.tif; check its coordinates" in result.stderr
    map_points(path)
    assert resam_run("--engine", engine, tmp_path / "a.tif", "-o", tmp_path / "out", "--overwrite").code == 0


def test_a_geotiff_without_a_suffix_is_one_all_the_same(engine: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "scene"
    place = rasterio.transform.from_origin(500000, 5000000, 1, 1)
    profile = {"driver": "GTiff", "height": 80, "width": 100, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as out:
        out.write(np.full((3, 80, 100), 200, np.uint8))
    write_points(path, [[40, 40]])
    assert resam_run("--engine", engine, path, "-o", tmp_path / "out", "--format", "labels").code == 0
    with rasterio.open(tmp_path / "out" / "scene.labels.tif") as labels:
        assert (labels.crs.to_epsg(), labels.transform) == (32633, place)


def test_a_scene_with_more_pixels_than_rle_can_count_is_refused_at_once(engine: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "large.tif"
    profile = {"driver": "GTiff", "height": 70_000, "width": 70_000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", sparse_ok=True, tiled=True, blockxsize=16384, blockysize=16384, **profile):
        pass
    write_points(path, [[40, 40]])
    result = resam_run("--engine", engine, path, "-o", tmp_path / "out")
    assert result.code == 2
    assert "large.tif: 70000 x 70000 px are more than COCO's RLE can count" in result.stderr


def test_every_instance_of_a_tiled_scene_is_found_once(engine: Path, tmp_path: Path) -> None:
    centres = make_geotiff(tmp_path / "scene.tif", 600, 500)
    write_points(tmp_path / "scene.tif", centres)
    assert resam_run("--engine", engine, tmp_path / "scene.tif", "-o", tmp_path / "out", "--format", "coco").code == 0
    found = instances_of(tmp_path / "out")["annotations"]
    assert [item["index"] for item in found] == list(range(len(centres)))
    for item, (x, y) in zip(found, centres):
        left, top, width, height = item["bbox"]
        assert abs(left + (width - 1) / 2 - x) <= 1
        assert abs(top + (height - 1) / 2 - y) <= 1


def test_the_files_of_a_whole_run_need_the_memory_of_one_scene(engine: Path, tmp_path: Path) -> None:
    run_of_many = Run(EngineFile.open(engine), (), tmp_path / "out", PointsSource(), RunOptions())
    square = Instance(
        0, 0.5, 0.5, np.ones((9, 9), bool), (9, 9), np.ones((1, 2), np.float32), np.ones(1, int), (900, 900)
    )
    item = {**annotation(square), "segmentation": {"size": [900, 900], "counts": "a" * 200}}
    names = [f"{number}.png" for number in range(12)]
    with run_of_many.take_folder("new") as folder:
        for name in names:
            items = [{**item, "index": i} for i in range(150)]
            folder.save(Record(name, name, scene=SceneInfo(name, 900, 900), points=150, annotations=items))
        segmenter = Segmenter(engine, threads=1)
        tracemalloc.start()
        try:
            one = folder.record(names[0])
            each = tracemalloc.get_traced_memory()[0]
            del one
            tracemalloc.reset_peak()
            report = run_of_many.finish(folder, names, segmenter, 1.0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert report.instances == summary_of(tmp_path / "out")["totals"]["instances"] == 12 * 150
    assert peak < 5 * each


@pytest.mark.slow
def test_a_large_geotiff_needs_the_memory_of_a_few_tiles(tmp_path: Path) -> None:
    """Peak memory of a 6000 x 6000 scene (108 MB of pixels) against that of a 600 x 600 one, in fresh processes."""
    engine = make_engine(tmp_path / "model.resam")
    peaks = {}
    for side in (600, 6000):
        scene = tmp_path / f"s{side}.tif"
        write_points(scene, make_geotiff(scene, side, side)[:2000])
        code = (
            "import resource, sys\nfrom resam_runtime.cli import run\n"
            "try:\n    run()\nfinally:\n    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        out = tmp_path / f"o{side}"
        command = [
            sys.executable,
            "-c",
            code,
            "--engine",
            engine,
            scene,
            "-o",
            out,
            "--format",
            "coco,geojson,overlay,labels",
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        peaks[side] = int(done.stdout.split("peak ")[1])
    assert peaks[6000] - peaks[600] < 400_000, f"{peaks} kB"


# --- the disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [name for name, writer in WRITERS.items() if isinstance(writer, SceneWriter)])
def test_a_full_disk_stops_with_one_line_and_resumes(
    engine: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    formats = ["--format", f"coco,geojson,overlay,labels,{writer}"]
    kind = type(WRITERS[writer])
    real, calls = kind.write, []  # type: ignore[attr-defined]

    def full(self: SceneWriter, path: Path, *rest: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(self, path, *rest)

    monkeypatch.setattr(kind, "write", full)
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", *formats)
    assert result.code == 3
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'out'}: cannot write (No space left on device); what is done is kept, use --resume"
    ]
    monkeypatch.undo()
    assert resam_run("--engine", engine, images, "-o", tmp_path / "out", "--resume", *formats).code == 0
    resam_run("--engine", engine, images, "-o", tmp_path / "whole", *formats)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert (tmp_path / "out/instances.json").read_bytes() == (tmp_path / "whole/instances.json").read_bytes()


def test_a_disk_that_is_really_full_stops_with_one_line_and_resumes(engine: Path, images: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        (small / "filler").write_bytes(b"0" * 60_000)
        out = small / "out"
        result = resam_run("--engine", engine, images, "-o", out)
        assert result.code == 3
        assert "No space left on device" in result.stderr
        assert not [p for p in small.rglob("*") if ".tmp" in p.name], "no partial file"
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True, capture_output=True)
        assert resam_run("--engine", engine, images, "-o", out, "--resume").code == 0
        resam_run("--engine", engine, images, "-o", tmp_path / "whole")
        assert (out / "instances.json").read_bytes() == (tmp_path / "whole/instances.json").read_bytes()
    finally:
        subprocess.run(["umount", str(small)], check=False, capture_output=True)


# --- the pipeline ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["segment_tile", "in_order", "annotation", "open_scene"])
def test_an_unexpected_error_in_any_stage_fails_the_scene_and_never_hangs(
    engine: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("the cat sat on it")

    monkeypatch.setattr(Segmenter if stage == "segment_tile" else process_scene, stage, broken)
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--exclusive")
    assert result.code == 2
    reasons = [scene["reason"] for scene in summary_of(tmp_path / "out")["scenes"]]
    assert len(reasons) == 3
    assert all("unexpected RuntimeError: the cat sat on it" in reason for reason in reasons)
    assert "broken" in summary_of(tmp_path / "out")["scenes"][0]["traceback"]


def test_a_failing_observer_ends_the_run_instead_of_hanging_it(engine: Path, images: Path, tmp_path: Path) -> None:
    from resam_runtime.engine.engine_file import EngineFile
    from resam_runtime.run.report import Observer
    from resam_runtime.run.run import Run

    class Broken(Observer):
        def scene(self, record: Record) -> None:
            raise KeyError("observer")

    run = Run.prepare(EngineFile.open(engine), [images], tmp_path / "out", options=RunOptions())
    with pytest.raises(KeyError, match="observer"):
        run.execute(Segmenter(engine), observer=Broken())
