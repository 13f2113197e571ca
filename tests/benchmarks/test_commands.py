"""`resam-bench` as a user meets it: each command on an engine that answers at once and scenes drawn here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import resam
from resam_benchmarks.ablation.rows import ROWS
from resam_benchmarks.baselines.rivals import engine_rivals
from resam_benchmarks.cli import bench
from resam_benchmarks.measure.dataset import load
from resam_runtime.masks.rle import encode_rle

from ..runtime.engines import write_engine

SIDE, DISC = 64, 9


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine whose mask is the bright disc under a point."""
    path = tmp_path_factory.mktemp("engine") / "discs.resam"
    write_engine(path, SIDE, 8, radius=14.0, by_value=True)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO data set of three scenes with two bright discs each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(3):
        image = np.full((SIDE, SIDE, 3), 20, np.uint8)
        name = f"s{number}.png"
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for x, y in ((16, 18 + number), (46, 44 - number)):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            cv2.circle(mask, (x, y), DISC, 1, -1)
            image[mask > 0] = 200
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": encode_rle(mask.astype(bool), (0, 0), (SIDE, SIDE)),
                    "area": int(mask.sum()),
                    "bbox": [x - DISC, y - DISC, 2 * DISC + 1, 2 * DISC + 1],
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / "images" / name), image)
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder / "test.json").write_text(json.dumps(document))
    return folder


def _masks_gone(content: Any, images: Path) -> None:
    for annotation in content["annotations"]:
        del annotation["segmentation"]


def _masks_empty(content: Any, images: Path) -> None:
    content["annotations"] = []


# what may be wrong with a data set: it is changed, or its images are
DAMAGE: dict[str, Callable[[Any, Path], object]] = {
    "noimages": lambda content, images: content.update(images=[], annotations=[]),
    "boxes": _masks_gone,
    "absent": lambda content, images: (images / "s1.png").unlink(),
    "resized": lambda content, images: cv2.imwrite(str(images / "s2.png"), np.zeros((9, 9, 3), np.uint8)),
    "unpointed": _masks_empty,
}


def resam_bench(*arguments: object) -> Result:
    """A traceback fails the test."""
    result = CliRunner().invoke(bench, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(path: Path) -> Any:
    """JSON as other programs read it: without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_run_measures_an_engine_on_a_data_set(engine: Path, data: Path, tmp_path: Path) -> None:
    result = resam_bench(engine, "--data", data, "--points", "1,2", "--repeats", 2, "--threads", 1, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Quality" in result.output
    assert str(tmp_path / "bench.html") in result.output
    found = read(tmp_path / "bench.json")
    assert [case["label"] for case in found["cases"]] == ["1 point", "2 points"]
    for case in found["cases"]:
        assert len(case["samples"]) == 3 * 2
        ious = [grade["iou"] for grade in case["grades"]]
        assert len(ious) == 6
        # the engine answers on a grid of 2 px and leaves out the rim, a point in which finds nothing
        assert np.median(ious) > 0.6
    proposals = found["rivals"][0]["proposals"]
    assert [scene["found"] for scene in proposals] == [[True, True]] * 3
    page = (tmp_path / "bench.html").read_text()
    assert "discs" in page
    assert "<script src" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_an_engine_is_measured_with_views_beside_itself(engine: Path, data: Path, tmp_path: Path) -> None:
    arguments = (engine, "--data", data, "--views", 2, "--automatic", 0, "--repeats", 1, "--threads", 1)
    result = resam_bench(*arguments, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    found = read(tmp_path / "bench.json")
    assert [case["rival"] for case in found["cases"]] == ["discs", "discs, 2 views"]
    plain, averaged = ([grade["iou"] for grade in case["grades"]] for case in found["cases"])
    assert averaged == pytest.approx(plain, abs=0.1)
    # views are encoded when prompts ask for them: their time belongs to the encoder, not to the loop
    for case, in_parts in zip(found["cases"], (False, True), strict=True):
        assert all(sample["tiled"] == in_parts for sample in case["samples"])
    assert "encoded in parts" in result.output


def test_compare_fails_on_a_regression_alone(engine: Path, data: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    resam_bench("run", engine, "--data", data, "--automatic", 0, "--threads", 1, "-o", before)
    slow = read(before / "bench.json")
    same = resam_bench("compare", before / "bench.json", before / "bench.json")
    assert (same.exit_code, "0 regressions" in same.output) == (0, True)
    for sample in slow["cases"][0]["samples"]:
        for stage in ("whole_s", "encoder_s", "loop_s"):
            sample[stage] *= 10  # more than a busy machine makes of them
    after.mkdir()
    (after / "bench.json").write_text(json.dumps(slow))
    worse = resam_bench("compare", before / "bench.json", after / "bench.json")
    assert worse.exit_code == 1
    assert "REGRESSION" in worse.output


def test_robustness_draws_a_falling_curve(engine: Path, data: Path, tmp_path: Path) -> None:
    result = resam_bench("robustness", engine, "--data", data, "--limit", 2, "--threads", 1, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    curves = read(tmp_path / "robustness.json")["engines"]["discs"]
    assert set(curves) == {"noise", "blur", "haze", "brightness", "JPEG"}
    means = {kind: [np.mean([row[1] for row in level]) for level in levels] for kind, levels in curves.items()}
    assert all(len(level) == 4 for levels in curves.values() for level in levels)  # two scenes of two instances
    assert {levels[0] for levels in means.values()} == {means["noise"][0]}  # clean is the same picture for all
    assert means["noise"][0] > 0.6
    # the engine compares brightness: blur bleeds over the rim, noise and JPEG artefacts of flat discs hardly matter
    assert means["blur"][4] < means["blur"][0] - 0.1
    assert means["JPEG"][1] > means["JPEG"][0] - 0.1
    page = (tmp_path / "robustness.html").read_text()
    assert page.count("<svg") >= 5
    assert all(kind in page for kind in curves)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "nothing to measure"),
        (["run", "none.resam"], "none.resam"),
        (["run", "{engine}", "{engine}"], "given twice"),
        (["run", "{engine}", "--data", "{empty}"], "holds no test.json"),
        (["run", "{engine}", "--random", "tiny"], "leave out engine files"),
        (["run", "{engine}", "--baseline", "torch"], "--base-weights"),
        (["run", "{engine}", "--points", "0", "--data", "{data}"], "whole numbers from 1"),
        (["run", "{engine}", "--repeats", "0"], "--repeats"),
        (["run", "{engine}", "--tolerance", "nan", "--data", "{data}"], "expected a number from 0"),
        (["run", "{engine}", "--points", "2"], "--points: needs --data"),
        (["run", "{engine}", "--limit", "2"], "--limit: needs --data"),
        (["run", "{engine}", "--data", "{data}", "--prompts", "2"], "--prompts: --data has prompts of its own"),
        (["run", "{engine}", "--automatic", "4"], "--automatic: needs --data"),
        (["run", "{engine}", "--data", "{data}/test.json", "--split", "val"], "--split: --data is one annotation file"),
        (["run", "{engine}", "--data", "{data}", "--adapter", "none"], "--adapter: is for baselines"),
        (["run", "{engine}", "--base-weights", "none"], "--base-weights: is for baselines"),
        (
            ["run", "--random", "tiny", "--baseline", "torch", "--base-weights", "none"],
            "--base-weights: the weights of",
        ),
        (["run", "{engine}", "--precision", "fp16"], "--precision: needs --random"),
        (["run", "{base}", "--baseline", "torch", "--adapter", "none"], "made without an adapter; leave out --adapter"),
        (["run", "{engine}", "{link}"], "given twice"),
        (["run", "{cut}", "--data", "{data}"], "cut.resam"),
        (["run", "{empty}"], "empty"),
        (["run", "{engine}", "--device", "tensor"], "tensor"),
        (["run", "{engine}", "--data", "{empty}/none.json"], "none.json"),
        (["run", "{engine}", "--data", "{noimages}"], "lists no images"),
        (["run", "{engine}", "--data", "{boxes}"], "annotation 1"),
        (["run", "{engine}", "--data", "{absent}"], "s1.png"),
        (["run", "{engine}", "--data", "{resized}"], "s2.png"),
        (["run", "{engine}", "--data", "{unpointed}"], "no instances"),
        (["compare", "{empty}/a.json", "{empty}/b.json"], "a.json"),
        (["compare", "{junk}", "{junk}"], "junk.json"),
        (["compare", "{junk}", "{junk}", "--limit", "much"], "expected a share"),
        (["compare", "{junk}", "{junk}", "--limit", "10"], "expected a share such as 10%"),
        (["robustness", "{engine}", "--data", "{empty}"], "holds no test.json"),
        (["robustness", "{cut}", "--data", "{data}"], "cut.resam"),
        (["robustness", "{engine}", "{engine}", "--data", "{data}"], "given twice"),
        (["robustness", "{engine}", "--data", "{boxes}"], "annotation 1"),
        (
            ["robustness", "{engine}", "--data", "{data}/test.json", "--split", "val"],
            "--split: --data is one annotation",
        ),
        (["train", "--device", "gpu"], "--device gpu: expected cpu"),
        (["train", "--device", "cuda:77"], "finds"),
        (["train", "--steps", "0"], "--steps"),
        (["train", "--instances", "x"], "whole numbers from 1"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    engine: Path, data: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.json").write_text("{}")
    (tmp_path / "link.resam").symlink_to(engine)
    (tmp_path / "cut.resam").write_bytes(engine.read_bytes()[: engine.stat().st_size // 2])
    write_engine(tmp_path / "base.resam", base={"name": "tiny"})
    known = {
        "engine": engine,
        "base": tmp_path / "base.resam",
        "data": data,
        **{name: tmp_path / name for name in ("empty", *DAMAGE)},
    }
    known |= {"junk": tmp_path / "junk.json", "link": tmp_path / "link.resam", "cut": tmp_path / "cut.resam"}
    for name, damage in DAMAGE.items():
        if f"{{{name}}}" in arguments:
            shutil.copytree(data, tmp_path / name)
            content = read(data / "test.json")
            damage(content, tmp_path / name / "images")
            (tmp_path / name / "test.json").write_text(json.dumps(content))
    out = [] if arguments[0] == "compare" else ["-o", tmp_path / "out"]
    result = resam_bench(*(argument.format(**known) for argument in arguments), *out)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    if result.stderr.startswith("error: "):  # else the two lines of usage before it
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "robustness", "train"])
def test_a_place_that_cannot_hold_results_is_refused_before_anything_is_measured(
    engine: Path, data: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = [] if command == "train" else [engine, "--data", data]
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        result = resam_bench(command, *arguments, "-o", out)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "is a file" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_engines_of_one_name_are_told_apart_and_from_baselines(engine: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/a/m.resam", "y/a/m.resam", "y/b/n.resam", "torch.resam")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(engine, path)

    def names(*chosen: int) -> list[str]:
        return [rival.name for rival in engine_rivals([paths[i] for i in chosen])]

    assert names(0, 2) == ["m", "n"]
    assert names(0, 1) == ["x/a/m.resam", "y/a/m.resam"]
    assert names(2, 3) == ["n.resam", "torch.resam"]
    stray = tmp_path / os.fsdecode(b"stray\xff.resam")
    shutil.copy(engine, stray)
    assert [rival.name for rival in engine_rivals([stray])] == ["stray?"]


def test_scenes_without_a_prompt_are_left_out_and_numbers_stay_numbers(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "some")
    content = read(data / "test.json")
    for annotation in content["annotations"][2:4]:
        annotation["segmentation"]["counts"] = encode_rle(np.zeros((1, 1), bool), (0, 0), (SIDE, SIDE))["counts"]
    (tmp_path / "some" / "test.json").write_text(json.dumps(content))
    loaded = load(tmp_path / "some", "test", [1, 2])
    assert [scene.name for scene in loaded.scenes] == ["s0.png", "s2.png"]
    assert [list(scene.ids) for scene in loaded.scenes] == [[1, 2], [5, 6]]
    assert all(len(points) == 2 for per_scene in loaded.points.values() for points in per_scene)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_stopped_run_leaves_nothing_behind(engine: Path, data: Path, tmp_path: Path, how: str) -> None:
    words = [sys.executable, "-m", "resam_benchmarks.cli", engine, "--data", data, "--repeats", "100000", "-o", "out"]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    group = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (workers := children(group.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        if how == "SIGTERM":
            group.terminate()
        else:
            os.killpg(group.pid, signal.SIGINT)  # as a terminal does it: the workers get it too
        _, errors = group.communicate(timeout=30)
    finally:
        if group.poll() is None:
            group.kill()
    assert group.returncode != 0
    assert b"Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").glob("resam*"))
    assert not [worker for worker in workers if Path("/proc", worker).exists()]


def children(parent: int) -> list[str]:
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


@pytest.mark.parametrize("command", [[], ["run"], ["compare"], ["robustness"], ["train"], ["ablation"]])
def test_every_help_has_an_example_and_two_flags_and_every_command_a_version(command: list[str]) -> None:
    result = resam_bench(*command, "--help")
    assert result.exit_code == 0
    assert "Example: resam-bench" in result.output
    assert resam_bench(*command, "-h").output == result.output
    said = resam_bench(*command, "--version")
    assert (said.exit_code, f"version {resam.__version__}" in said.output) == (0, True)


def test_the_help_of_the_ablation_names_its_rows() -> None:
    words = "".join(resam_bench("ablation", "--help").output.split())  # a name may be broken at its hyphen
    assert all(row.name in words for row in ROWS)
