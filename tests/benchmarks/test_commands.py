"""`resam-bench` as a user meets it: each command on an engine that answers at once and scenes drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from resam_benchmarks.cli import bench
from resam_runtime.masks import encode_rle

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


def resam_bench(*arguments: object) -> Result:
    """A traceback fails the test."""
    result = CliRunner().invoke(bench, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(path: Path) -> Any:
    return json.loads(path.read_text())


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


def test_compare_fails_on_a_regression_alone(engine: Path, data: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    resam_bench("run", engine, "--data", data, "--automatic", 0, "--threads", 1, "-o", before)
    slow = read(before / "bench.json")
    same = resam_bench("compare", before / "bench.json", before / "bench.json")
    assert (same.exit_code, "0 regressions" in same.output) == (0, True)
    for sample in slow["cases"][0]["samples"]:
        for stage in ("whole_s", "encoder_s", "loop_s"):
            sample[stage] *= 3
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
        (["run", "{engine}", "--points", "0"], "whole numbers from 1"),
        (["compare", "{empty}/a.json", "{empty}/b.json"], "a.json"),
        (["compare", "{junk}", "{junk}"], "junk.json"),
        (["compare", "{junk}", "{junk}", "--limit", "much"], "expected a share"),
        (["robustness", "{engine}", "--data", "{empty}"], "holds no test.json"),
        (["train", "--instances", "x"], "whole numbers from 1"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(engine: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.json").write_text("{}")
    known = {"engine": engine, "empty": tmp_path / "empty", "junk": tmp_path / "junk.json"}
    out = [] if arguments[0] == "compare" else ["-o", tmp_path / "out"]
    result = resam_bench(*(argument.format(**known) for argument in arguments), *out)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [[], ["run"], ["compare"], ["robustness"], ["train"]])
def test_every_help_has_an_example(command: list[str]) -> None:
    result = resam_bench(*command, "--help")
    assert result.exit_code == 0
    assert "Example: resam-bench" in result.output
