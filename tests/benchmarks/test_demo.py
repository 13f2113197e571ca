"""The demonstration: what its page says, and what a second run in the same folder does. It runs whole in tests/docs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from resam_benchmarks.demo.cli import demo
from resam_benchmarks.demo.page import DemoPage, demo_page
from resam_benchmarks.demo.picture import GAP, write_picture
from resam_benchmarks.demo.steps import DemoOptions, DemoRecord
from resam_benchmarks.demo.strips import LOOP_MASKS, ShownScene, _first_of_each_kind
from resam_runtime.common.errors import ResamError

from ..without import command_without
from .documents import make_document


def bench(**changes: Any) -> dict[str, Any]:
    """A made-up bench.json of base, adapted (fp32) and adapted-int8, one point per instance."""
    data = json.loads(json.dumps(make_document(**changes)).replace("base <1>", "base"))
    data["cases"] = [case for case in data["cases"] if case["label"] == "1 point"]
    int8 = {**data["cases"][1], "rival": "adapted-int8", "name": "adapted-int8 · 1 point"}
    data["cases"].append(int8)
    data["rivals"].append({**data["rivals"][1], "name": "adapted-int8"})
    for rival, precision in zip(data["rivals"], ("fp32", "fp32", "int8-fp32")):
        rival["about"] = {"precision": precision}
    return data


def scene(instances: int = 3, value: int = 10, engines: tuple[str, ...] = ("base", "adapted")) -> ShownScene:
    picture = np.full((40, 60, 3), value, np.uint8)
    stages = {name: dict.fromkeys(LOOP_MASKS, picture) for name in engines}
    return ShownScene("test_00002_dry_<dock>.png", instances, picture, picture, stages)


STEPS = ("drawing", "adapting", "measuring")


def page(data: dict[str, Any], missing: dict[str, str], folder: Path, scale: float = 1.0) -> str:
    data["data"]["scenes"][2]["name"] = scene().name
    return demo_page(DemoPage(folder, [scene()], {"train": 61.0, "export": 5.0}, missing, scale, STEPS, 3, data))


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_the_page_gives_means_and_the_paired_gain(tmp_path: Path) -> None:
    data = bench(fall=-0.05)  # the adapted model is better by 0.05 on every instance
    shown = text_of(page(data, {}, tmp_path))
    base, adapted = (np.mean([grade["iou"] for grade in case["grades"]]) for case in data["cases"][:2])
    assert f"{base:.3f}" in shown
    assert f"{adapted:.3f}" in shown
    assert "+0.050 [+0.050, +0.050]" in shown
    assert "inside the noise" not in shown.split("From points to masks")[0]
    own = [grade["iou"] for grade in data["cases"][1]["grades"] if grade["scene"] == 2]
    assert f"Final , adapted: mIoU {np.mean(own):.2f}" in shown
    assert "1 min 6 s" in shown


def test_a_gain_inside_the_noise_is_called_that(tmp_path: Path) -> None:
    data = bench()
    rng = np.random.default_rng(1)
    for grade in data["cases"][1]["grades"]:
        grade["iou"] += rng.normal(0, 0.2)
    assert "This difference is inside the noise" in text_of(page(data, {}, tmp_path))


@pytest.mark.parametrize("scenes", [3, 5, 6])
def test_below_six_scenes_the_noise_is_called_unknown(scenes: int, tmp_path: Path) -> None:
    shown = text_of(page(bench(samples=scenes), {}, tmp_path)).split("From points to masks")[0]
    assert ("The noise is unknown : below 6 scenes" in shown) == (scenes < 6)
    assert ("95 % intervals" in shown) == ("This difference is inside the noise" in shown) == (scenes >= 6)


def test_a_chosen_scale_is_said_beside_the_gain(tmp_path: Path) -> None:
    assert "scale" not in text_of(page(bench(), {}, tmp_path)).split("From points to masks")[0]
    assert "scale 0.71: a part of the difference" in text_of(page(bench(), {}, tmp_path, 0.707))


def test_a_precision_that_was_not_made_says_why(tmp_path: Path) -> None:
    shown = page(bench(), {"fp16": "loop: masks differ by 3 <limit 1>"}, tmp_path)
    assert "loop: masks differ by 3 &lt;limit 1&gt;" in shown
    assert "not exported" in shown
    assert "INT8" in shown


def test_the_page_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shown = page(bench(), {}, tmp_path)
    assert not re.search(r'(src|href)="(?!data:|out/")', shown), "links only to what is there, and fetches nothing"
    assert "<dock>" not in shown
    assert shown.count("data:image/jpeg") == 2 + 2 * len(LOOP_MASKS)


def test_an_unfinished_page_shows_the_base_says_what_is_left_and_is_read_again(tmp_path: Path) -> None:
    shown = demo_page(DemoPage(tmp_path, [scene(engines=("base",))], {"scenes": 9.0}, {}, 1.0, STEPS, 1))
    assert '<meta http-equiv="refresh"' in shown
    assert shown.count("data:image/jpeg") == 1 + len(LOOP_MASKS)
    assert "2 of 3 steps are left" in text_of(shown)
    assert re.findall(r"(drawing|adapting|measuring) (done|now|to come)", text_of(shown)) == [
        ("drawing", "done"), ("adapting", "now"), ("measuring", "to come")
    ]  # fmt: skip
    assert "http-equiv" not in page(bench(), {}, tmp_path), "a finished page stays as it is"


def test_what_is_found_without_points_is_shown_with_its_figures(tmp_path: Path) -> None:
    found = dataclasses.replace(scene(), found=scene().points, found_count=17)
    row = {"scenes": 8, "instances": 50, "recall": 0.42, "precision": None, "ap50_free": 0.314, "seconds": 0.5,
           "encoder_seconds": 0.25}  # fmt: skip
    shown = text_of(demo_page(DemoPage(tmp_path, [found], {}, {}, 1.0, STEPS, 2, None, {"rows": [row]})))
    assert "17 found; 3 are there" in shown
    assert "Of 50 objects in 8 test scenes it finds 42 %; none of what it finds is right" in shown
    assert "0.314" in shown
    assert "With no click" not in text_of(page(bench(), {}, tmp_path))


def test_shown_scenes_are_the_first_of_each_kind() -> None:
    names = ["test_00000_sea.png", "test_00001_sea.png", "test_00002_dry_dock.png", "test_00003_town.png"]
    assert _first_of_each_kind(names, 2) == [0, 2]
    assert _first_of_each_kind(names, 4) == [0, 1, 2, 3]
    assert _first_of_each_kind(names, 9) == [0, 1, 2, 3]


def test_the_picture_shows_the_busiest_scenes(tmp_path: Path) -> None:
    import cv2

    write_picture(tmp_path / "loop.jpg", [scene(3, 10), scene(9, 200), scene(5, 100)], "adapted", rows=2)
    picture = cv2.imread(str(tmp_path / "loop.jpg"))
    assert picture.shape == (2 * 40 + GAP, 4 * 60 + 3 * GAP, 3)
    assert abs(int(picture[10, 10, 0]) - 200) < 5
    assert abs(int(picture[70, 10, 0]) - 100) < 5


def test_a_second_run_with_other_options_says_what_to_do(tmp_path: Path) -> None:
    DemoRecord(tmp_path / "demo" / "demo.json", DemoOptions(scenes=3))
    DemoRecord(tmp_path / "demo" / "demo.json", DemoOptions(scenes=3))
    with pytest.raises(ResamError, match=r"holds a demo made with --scenes 3 .*choose another -o"):
        DemoRecord(tmp_path / "demo" / "demo.json", DemoOptions(scenes=4))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(demo, ["-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no demo" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


DEMO = "resam_benchmarks.demo.cli:demo"


def test_a_missing_module_of_our_own_is_a_defect_with_a_traceback(tmp_path: Path) -> None:
    code, said = command_without("resam_benchmarks.demo.steps", DEMO, ["-o", "demo"], tmp_path)
    assert code == 1
    assert "Traceback" in said


@pytest.mark.parametrize("missing", ["segment_anything", "onnx", "onnxscript"])
def test_a_missing_extra_is_named_before_anything_is_done(missing: str, tmp_path: Path) -> None:
    code, said = command_without(missing, DEMO, ["-o", "demo", "--scenes", "1", "--epochs", "1"], tmp_path)
    assert code == 2, said
    assert said == f"error: resam-demo: {missing} is not installed; pip install 'resam[train,export]'\n"
    assert not (tmp_path / "demo").exists()
