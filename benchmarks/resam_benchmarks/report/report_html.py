"""`bench.html`: the tables and plots of a `bench.json` on one page that stands alone."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping
from typing import Any

from resam_benchmarks.report.page_style import conditions, page, section
from resam_benchmarks.report.plots import Axis, Dot, Series, bars, legend, plot
from resam_benchmarks.report.summary import CaseSummary, seconds, size, summarise
from resam_benchmarks.report.tables import tables


def bench_page(data: Mapping[str, Any]) -> str:
    """The whole page for a `bench.json`."""
    cases = summarise(data)
    colours = {rival["name"]: i for i, rival in enumerate(data["rivals"])}
    body = [_head(data), _plots(data, cases, colours)]
    for made in tables(data):
        body.append(section(made))
    body.append(conditions(data, [(rival["name"], rival["description"]) for rival in data["rivals"]]))
    body.append("<footer>Raw samples: bench.json beside this page.</footer>")
    return page(f"resam-bench: {_data_name(data)}", "".join(body))


def _data_name(data: Mapping[str, Any]) -> str:
    return str(data["data"].get("name", "benchmark"))


def _head(data: Mapping[str, Any]) -> str:
    scenes = data["data"]["scenes"]
    instances = sum(scene["instances"] for scene in scenes)
    about = f"{len(scenes)} scene{'s' * (len(scenes) != 1)}" + (f", {instances} instances" if instances else "")
    return (
        f"<h1>{html.escape(_data_name(data))}</h1>"
        f'<p class="lead">{len(data["rivals"])} rivals on the same {about} and the same points, in one run, taking '
        "turns scene by scene.</p>"
    )


def _plots(data: Mapping[str, Any], cases: list[CaseSummary], colours: Mapping[str, int]) -> str:
    names = [rival["name"] for rival in data["rivals"]]
    # where cases do not differ in their prompts but the scenes do, the first case of each rival is shown
    one_case = len({case.prompts for case in cases}) == 1 and len({case.label for case in cases}) > 1
    title = "Latency against prompts" + (f" of {cases[0].label}" if one_case else "")
    cards = [_card(title, plot(_latency_series(cases, data, colours), _PROMPTS, _LATENCY))]
    graded = [case for case in cases if case.quality]
    if graded:
        cards.append(_card("Latency against mIoU", plot(_trade(graded, colours), _LATENCY, _MIOU)))
        if len({case.label for case in graded}) > 1:
            cards.append(_card("mIoU against points per instance", _points_plot(graded, colours)))
    rows = [(rival["name"], rival["peak_bytes"], colours[rival["name"]]) for rival in data["rivals"]]
    cards.append(_card("Peak host memory, including loading", bars(rows, size, "peak host memory")))
    return legend([(name, colours[name]) for name in names]) + f'<div class="cards">{"".join(cards)}</div>'


def _card(title: str, inside: str) -> str:
    return f'<div class="card"><h3>{html.escape(title)}</h3>{inside}</div>'


def _whole(value: float) -> str:
    return f"{value:g}"


_PROMPTS = Axis("prompts in the scene", _whole, log=True)
_LATENCY = Axis("latency, whole (median)", seconds, log=True)
_MIOU = Axis("mIoU, final masks", lambda value: f"{value:.2f}")


def _latency_series(cases: list[CaseSummary], data: Mapping[str, Any], colours: Mapping[str, int]) -> list[Series]:
    """Per rival its median latency at each number of prompts: cases that differ in it, else the scenes that do."""
    series = []
    for rival in colours:
        own = [case for case in cases if case.rival == rival]
        if len({case.prompts for case in own}) > 1:
            dots = [_latency_dot(case.prompts, case) for case in sorted(own, key=lambda case: case.prompts)]
            series.append(Series(rival, dots, colours[rival]))
        elif own:
            raw = next(case for case in data["cases"] if case["name"] == own[0].name)
            by_count: dict[int, list[float]] = {}
            for sample in raw["samples"]:
                by_count.setdefault(sample["prompts"], []).append(sample["whole_s"])
            dots = [Dot(count, statistics.median(v)) for count, v in sorted(by_count.items())]
            series.append(Series(rival, dots, colours[rival], joined=False))
    return series


def _latency_dot(x: float, case: CaseSummary) -> Dot:
    median = case.median
    return Dot(x, median.value, median.low, median.high, hint=f"{case.name}: {seconds(median.value)}")


def _trade(cases: list[CaseSummary], colours: Mapping[str, int]) -> list[Series]:
    series, several = [], len({case.label for case in cases}) > 1
    for rival in colours:
        dots = []
        for case in (case for case in cases if case.rival == rival):
            miou, latency = case.quality["miou"], case.median.value
            hint = f"{case.name}: mIoU {miou.value:.3f}, {seconds(latency)}"
            dots.append(Dot(latency, miou.value, miou.low, miou.high, case.label.split()[0] if several else "", hint))
        series.append(Series(rival, dots, colours[rival], joined=False))
    return series


def _points_plot(cases: list[CaseSummary], colours: Mapping[str, int]) -> str:
    series = []
    for rival in colours:
        dots = []
        for case in (case for case in cases if case.rival == rival and case.label.split()[0].isdigit()):
            miou = case.quality["miou"]
            hint = f"{case.name}: {miou.value:.3f}"
            dots.append(Dot(int(case.label.split()[0]), miou.value, miou.low, miou.high, hint=hint))
        series.append(Series(rival, dots, colours[rival]))
    counts = sorted({dot.x for one in series for dot in one.dots})
    return plot(series, Axis("points per instance", _whole, ticks=counts), _MIOU, apart=6)
