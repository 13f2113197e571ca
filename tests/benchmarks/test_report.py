"""The page, its plots and the tables: they stand alone, hold the right figures, and say when a difference is noise."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from resam_benchmarks.measure.statistics import Estimate
from resam_benchmarks.report import plots
from resam_benchmarks.report.console import print_tables
from resam_benchmarks.report.page_style import save_page
from resam_benchmarks.report.plots import Axis, Dot, Series
from resam_benchmarks.report.report_html import bench_page
from resam_benchmarks.report.summary import (
    differences,
    gain_in_words,
    proposal_recall,
    seconds,
    speed_in_words,
    summarise,
    with_noise,
)
from resam_benchmarks.report.tables import tables
from tests.benchmarks.documents import make_document

SVG = "{http://www.w3.org/2000/svg}"


def assert_stands_alone(page: str) -> None:
    """No address of another machine or file is fetched by a page."""
    assert not re.search(r"https?://(?!www\.w3\.org/)|<script[^>]+src|<link|@import|url\((?!data:)", page)
    for address in re.findall(r'\bsrc="([^"]*)"', page):
        assert address.startswith("data:")


@pytest.fixture(scope="module")
def page() -> str:
    return bench_page(make_document(slow=2.0, fall=0.1))


def test_the_page_stands_alone_and_escapes_names(page: str) -> None:
    assert_stands_alone(page)
    assert "base &lt;1&gt;" in page
    assert "<1>" not in page
    assert "made &amp; up" in page
    assert "&lt;scenes&gt;" in page


def test_every_plot_is_well_formed_and_drawn(page: str) -> None:
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(found) == 4
    for svg in found:
        root = ET.fromstring(svg)
        shapes = [*root.iter("circle"), *root.iter("rect")]
        assert len(shapes) >= 2
        _, _, width, height = (float(value) for value in root.attrib["viewBox"].split())
        for circle in root.iter("circle"):
            assert 0 < float(circle.attrib["cx"]) < width
            assert 0 < float(circle.attrib["cy"]) < height


def test_figures_are_those_of_the_samples() -> None:
    data = make_document()
    case = summarise(data)[0]
    grades = data["cases"][0]["grades"]
    assert case.quality["miou"].value == pytest.approx(sum(g["iou"] for g in grades) / len(grades))
    own = [g["iou"] for g in grades if g["area"] < 1024]
    assert case.sizes["small"].value == pytest.approx(sum(own) / len(own))
    assert case.size_counts == {"small": 30, "medium": 60}
    whole = sorted(s["whole_s"] for s in data["cases"][0]["samples"])
    assert case.median.value == case.latency["whole"][50] == pytest.approx((whole[29] + whole[30]) / 2)
    assert case.median.low < case.median.value < case.median.high
    assert case.host_share == pytest.approx(0.04)
    assert case.prompts_per_s == pytest.approx(3 * case.scenes_per_s)
    recall = proposal_recall(data["rivals"][0])
    assert recall is not None
    assert (recall[0].value, *recall[1:]) == (pytest.approx(2 / 3), 7, 3)


def test_a_difference_is_called_noise_only_where_it_is_noise() -> None:
    same = differences(make_document())
    assert [d.rival for d in same] == ["adapted", "adapted"]
    assert not any(d.latency.beyond(1) for d in same)
    worse = differences(make_document(slow=1.3, fall=0.05))[0]
    assert worse.latency.beyond(1)
    assert worse.latency.value == pytest.approx(1.3, rel=0.05)
    assert worse.miou is not None
    assert worse.miou.value == pytest.approx(-0.05)
    assert worse.miou.beyond(0)
    assert "inside the noise" in speed_in_words(same[0].latency)
    assert "slower [" in speed_in_words(worse.latency)
    assert gain_in_words(Estimate(0.01, -0.02, 0.04)) == "+0.010, inside the noise"
    assert gain_in_words(Estimate(-0.05, -0.06, -0.04)) == "-0.050 [-0.060, -0.040]"
    assert gain_in_words(Estimate(-2e-5, -3e-5, -1e-5)) == "less than 0.001 apart"
    assert gain_in_words(Estimate(-2e-5, -3e-4, 1e-4)) == "+0.000, inside the noise"
    assert speed_in_words(Estimate(0.5, 0.4, 0.625)) == "2.00 x faster [1.60, 2.50]"


def test_tables_have_a_row_per_case_and_no_ragged_rows() -> None:
    made = {table.title: table for table in tables(make_document())}
    assert set(made) == {
        "Quality", "mIoU by true size", "Without points", "Latency", "Memory, size, cold start", "Against base <1>",
    }  # fmt: skip
    for table in made.values():
        assert {len(row) for row in table.rows} == {len(table.head)}
    assert len(made["Quality"].rows) == 4
    assert "no readable sensor" in made["Memory, size, cold start"].note


def latency_alone(repeats: int, scenes: int = 1) -> dict[str, Any]:
    """A run with so many measurements of each of so many scenes, and no truth; the second rival twice as slow."""
    data = make_document(slow=2.0, samples=scenes)
    for case in data["cases"]:
        first = [sample for sample in case["samples"] if sample["repeat"] == 0]
        case["samples"] = [
            {**sample, "repeat": r, "whole_s": sample["whole_s"] * (1 + r / 100)}
            for r in range(repeats)
            for sample in first
        ]
        case["grades"] = []
    return data


def row_of(title: str, data: dict[str, Any], name: str) -> dict[str, str]:
    """A table's row under its column heads."""
    table = next(table for table in tables(data) if table.title == title)
    return dict(zip(table.head, next(row for row in table.rows if row[0] == name)))


@pytest.mark.parametrize(
    ("repeats", "scenes", "expected"),
    [
        (2, 1, "noise unknown"),
        (2, 3, "noise unknown"),
        (6, 1, "x slower ["),
        (6, 3, "x slower ["),
        (1, 6, "x slower ["),
    ],
)
def test_two_repeats_are_no_measure_of_noise(repeats: int, scenes: int, expected: str) -> None:
    found = row_of("Against base <1>", latency_alone(repeats, scenes), "adapted · 1 point")
    assert expected in found["latency (whole)"]


def test_the_tail_of_a_few_measurements_is_not_shown() -> None:
    name = "adapted · 1 point"
    shown = [
        row_of("Latency", latency_alone(repeats), name)["whole"].removesuffix(" ms").split(" / ")
        for repeats in (6, 10, 100)
    ]
    assert [[part == "–" for part in row] for row in shown] == [[False, True, True], [False, False, True], [False] * 3]


def test_instances_of_one_image_say_nothing_about_other_images() -> None:
    data = make_document(samples=1)
    for case in data["cases"]:
        case["grades"] = [{**case["grades"][0], "id": i, "iou": i / 40} for i in range(40)]
    assert "[" not in row_of("Quality", data, "adapted · 1 point")["mIoU coarse"]
    assert "noise unknown" in row_of("Against base <1>", data, "adapted · 1 point")["mIoU"]


def test_energy_is_shown_for_each_case_and_memory_is_the_most_of_all() -> None:
    data = make_document()
    data["energy_source"] = "a rail"
    for place, case in enumerate(data["cases"]):
        for sample in case["samples"]:
            sample["joules"], sample["peak_bytes"] = 1.0 + place, 100_000_000 * (2 - place)
    row = row_of("Memory, size, cold start, energy", data, "base <1>")
    assert row["energy per scene"] == "1 J (1 point), 2 J (2 points)"
    assert row["peak while running"] == "200 MB"


def test_both_ways_of_averaging_are_shown_before_and_after_the_loop() -> None:
    data = make_document()
    table = next(table for table in tables(data) if table.title == "Quality")
    assert table.head[1:5] == ["mIoU coarse", "final", "over images, coarse", "final"]
    grades = data["cases"][0]["grades"]
    assert float(table.rows[0][3].split()[0]) == pytest.approx(
        sum(g["coarse_iou"] for g in grades) / len(grades), abs=1e-3
    )


def test_names_with_markup_quotes_and_stray_bytes_are_shown_as_they_are(tmp_path: Path, capsys: Any) -> None:
    data = make_document()
    nasty = "a\"b'<script>[/red]:car:\udcff"
    for part in (*data["rivals"], *data["cases"]):
        for key in ("name", "rival"):
            if key in part:
                part[key] = part[key].replace("adapted", nasty)
    save_page(tmp_path / "page.html", bench_page(data))
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    print_tables({**data, "rivals": [], "cases": [{**c, "rival": "r", "name": "x[/red]:car:"} for c in data["cases"]]})
    assert "x[/red]:car:" in capsys.readouterr().out


def test_a_run_without_truth_has_latency_and_no_quality() -> None:
    data = make_document()
    for case in data["cases"]:
        case["grades"] = []
    for rival in data["rivals"]:
        rival["proposals"] = []
    titles = [table.title for table in tables(data)]
    assert titles == ["Latency", "Memory, size, cold start", "Against base <1>"]
    assert "against mIoU" not in bench_page(data)


def test_an_axis_places_values_in_order_and_marks_round_ones() -> None:
    svg = plots.plot(
        [Series("a", [Dot(1, 0.003), Dot(10, 0.03), Dot(100, 3.0)])], Axis("n", log=True), Axis("s", seconds, log=True)
    )
    root = ET.fromstring(svg)
    xs = [float(c.attrib["cx"]) for c in root.iter("circle")]
    ys = [float(c.attrib["cy"]) for c in root.iter("circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys == sorted(ys, reverse=True)
    texts: list[Any] = [t.text for t in root.iter("text")]
    assert {"1", "10", "100", "10 ms", "100 ms", "1 s"} <= set(texts)


def test_nothing_measured_is_said_not_drawn() -> None:
    assert "not measured" in plots.plot([Series("a", [Dot(float("nan"), 1)])], Axis("x"), Axis("y"))
    assert "not measured" in plots.bars([("a", None, 0)], seconds, "x")
    assert [seconds(v) for v in (0.00012, 0.0123, 1.234, float("nan"))] == ["0.12 ms", "12.3 ms", "1.23 s", "–"]


def test_an_interval_is_shown_as_it_is_and_an_end_beyond_zero_not_as_zero() -> None:
    assert with_noise(Estimate(0.299, 0.047, 0.783)) == "0.299 [0.047, 0.783]"
    assert with_noise(Estimate(-0.0001, -0.2, 0.1)) == "0.000 [-0.200, 0.100]"
    assert gain_in_words(Estimate(-0.003, -0.013, -0.0004)) == "-0.003 [-0.013, -4e-04]"
    assert gain_in_words(Estimate(-0.003, -0.013, 0.0004)) == "-0.003, inside the noise"
