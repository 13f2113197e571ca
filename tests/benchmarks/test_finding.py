"""What is found without points, by COCO's evaluation: right masks of the right class count, once each."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from resam_benchmarks.cli import bench
from resam_benchmarks.finding.curve import clicked_images, curve, write_curve
from resam_benchmarks.finding.evaluation import FoundMask, Scenes, average_precision, evaluate
from resam_runtime.masks.rle import encode_rle

from ..runtime.engines import write_engine


def square(x: int, y: int, side: int = 10) -> dict[str, object]:
    return encode_rle(np.ones((side, side), bool), (x, y), (100, 100))


@pytest.fixture
def truth() -> Scenes:
    """Two scenes with two instances each, of classes 1 and 2."""
    scenes = Scenes(categories={1: "a", 2: "b"})
    for _ in range(2):
        scenes.add(100, 100, [(square(10, 10), 1), (square(50, 50), 2)])
    return scenes


def test_what_is_all_right_has_figures_of_one(truth: Scenes) -> None:
    masks = [FoundMask(square(10, 10), 0.9, 1, True), FoundMask(square(50, 50), 0.8, 2, True)]
    figures = evaluate(truth, {1: masks, 2: masks}, True)
    for name in ("ap", "ap50", "ap50_free", "ar100_free", "recall50_free", "precision", "recall", "ar100_small"):
        assert figures[name] == pytest.approx(1), name
    assert figures["ar100_large"] is None
    assert figures["proposals"] == 2


def test_a_wrong_class_is_wrong_with_classes_alone(truth: Scenes) -> None:
    masks = [FoundMask(square(10, 10), 0.9, 2, True), FoundMask(square(50, 50), 0.8, 1, True)]
    figures = evaluate(truth, {1: masks, 2: masks}, True)
    assert (figures["ap50"], figures["precision"], figures["recall"]) == (0, 0, 0)
    assert figures["ap50_free"] == pytest.approx(1)


def test_a_second_mask_and_a_faint_one_count_as_they_should(truth: Scenes) -> None:
    masks = [
        FoundMask(square(10, 10), 0.9, 1, True),
        FoundMask(square(11, 10), 0.8, 1, True),  # the same object again
        FoundMask(square(50, 50), 0.1, 2, False),  # below the threshold
    ]
    figures = evaluate(truth, {1: masks, 2: []}, True)
    assert (figures["precision"], figures["recall"]) == (0.5, 0.25)
    assert figures["recall50_free"] == 0.5


def test_nothing_found_is_no_error(truth: Scenes) -> None:
    figures = evaluate(truth, {1: [], 2: []}, False)
    assert (figures["ap50_free"], figures["precision"], figures["recall"]) == (0, None, 0)


def test_the_average_precision_is_that_of_coco(truth: Scenes) -> None:
    rng = np.random.default_rng(3)
    found = {
        number: [FoundMask(square(*rng.integers(5, 60, 2)), float(rng.random()), None, True) for _ in range(6)]
        + [FoundMask(square(10 + number, 10), float(rng.random()), None, True)]
        for number in (1, 2)
    }
    figures = evaluate(truth, found, False)
    low, high = figures["ap50_free_interval"]
    assert low <= figures["ap50_free"] <= high
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4) == pytest.approx(
        (26 * 1.0 + 25 * 2 / 3) / 101
    )


def test_the_command_compares_prompter_and_grid(tmp_path: Path) -> None:
    write_engine(tmp_path / "finds.resam", 64, 8, radius=24.0, by_value=True, finds=True)
    image = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(image, (20, 22), 9, (190, 190, 190), -1)
    cv2.circle(image, (46, 44), 9, (255, 255, 255), -1)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), image)
    boxes = [[11, 13, 19, 19], [37, 35, 19, 19]]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": k, "bbox": b, "area": 361,
         "segmentation": [[b[0], b[1], b[0] + 19, b[1], b[0] + 19, b[1] + 19, b[0], b[1] + 19]]}
        for i, (b, k) in enumerate(zip(boxes, (5, 4)))
    ]  # fmt: skip
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 4, "name": "White"}, {"id": 5, "name": "gray"}],  # other numbers, the same names
        "annotations": annotations,
    }
    (tmp_path / "test.json").write_text(json.dumps(data))
    arguments = ["find", str(tmp_path / "finds.resam"), "--data", str(tmp_path), "--automatic", "1", "--threads", "1"]
    result = CliRunner().invoke(bench, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out/finding.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["finds, prompter", "finds, --automatic on 1 scenes"]
    assert (rows[0]["precision"], rows[0]["recall"]) == (1, 1)
    assert rows[1]["ap"] is None
    assert all(row["seconds"] > 0 for row in rows)


def test_engines_taught_on_more_images_make_a_curve(tmp_path: Path) -> None:
    def row(images: int | None, value: float, scenes: int = 9) -> dict[str, object]:
        figures = dict.fromkeys(("recall50_free", "ap50_free", "ap50", "ap"), value)
        return {"clicked_images": images, "scenes": scenes, **figures}

    rows = [row(160, 0.4), row(10, 0.1), row(40, 0.2), row(640, 0.9, scenes=2), {"scenes": 9}]
    assert write_curve(tmp_path / "finding.svg", {"rows": rows})
    drawn = ElementTree.parse(tmp_path / "finding.svg").getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    lines = [one for one in drawn.iter() if one.get("class") == "line"]
    assert len(lines) == 3
    places = [tuple(map(float, place.split())) for place in lines[0].get("d", "")[1:].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2), "each four times the one before"
    assert y1 - y2 == pytest.approx(2 * (y0 - y1), abs=0.2)
    assert curve({"rows": [row(10, 0.1), row(10, 0.2)]}) is None
    assert curve({"rows": [row(None, 0.1), row(10, 0.2)]}) is None


def test_the_number_of_clicked_images_is_what_the_engine_says() -> None:
    assert clicked_images({"data": {"scenes": 40}}) == 40
    assert clicked_images({"data": {}}) is None
    assert clicked_images(None) is None
