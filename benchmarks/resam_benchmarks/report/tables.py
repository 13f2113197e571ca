"""The tables of a benchmark as rows of text: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from resam_benchmarks.measure.metrics import SIZES
from resam_benchmarks.measure.statistics import MIN_GROUPS
from resam_benchmarks.report.summary import (
    PERCENTILES,
    TIMED,
    CaseSummary,
    differences,
    gain_in_words,
    percentiles,
    proposal_recall,
    seconds,
    size,
    speed_in_words,
    summarise,
    with_noise,
)


class Table(NamedTuple):
    """A title, a head, rows of as many texts, and a note below; `words`: columns of text, set flush left."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    words: frozenset[int] = frozenset({0})


def tables(data: Mapping[str, Any]) -> list[Table]:
    """All tables of a `bench.json` that have rows."""
    cases = summarise(data)
    made = [
        _quality(data, cases),
        _sizes(cases),
        _automatic(data),
        _latency(cases),
        _resources(data, cases),
        _differences(data),
    ]
    return [table for table in made if table.rows]


def _quality(data: Mapping[str, Any], cases: Sequence[CaseSummary]) -> Table:
    keys = ("coarse_miou", "miou", "coarse_miou_images", "miou_images", "coarse_boundary", "boundary")
    graded = [case for case in cases if case.quality]
    tolerance = data["data"].get("boundary_tolerance", 2)
    return Table(
        "Quality",
        [
            "",
            "mIoU coarse",
            "final",
            "over images, coarse",
            "final",
            f"boundary F ({tolerance:g} px), coarse",
            "final",
        ],
        [[case.name, *(with_noise(case.quality[key]) for key in keys)] for case in graded],
        "mIoU: mean over instances; over images: mean of the images' means. Brackets: 95 % interval, by resampling "
        f"images; none for fewer than {MIN_GROUPS}. Boundary F: harmonic mean of the shares of either boundary that "
        "lie within the tolerance (pixels of the scene) of the other one, mean over instances.",
    )


def _sizes(cases: Sequence[CaseSummary]) -> Table:
    graded = [case for case in cases if case.sizes]
    shown = [name for name in SIZES if any(name in case.sizes for case in graded)]
    counts = next((case.size_counts for case in graded), {})
    limits = {"small": "< 32² px", "medium": "< 96² px", "large": "≥ 96² px"}
    head = ["", *(f"{name} ({limits[name]}; {counts.get(name, 0)})" for name in shown)]
    return Table(
        "mIoU by true size",
        head,
        [[case.name, *(with_noise(case.sizes.get(name)) for name in shown)] for case in graded],
        "Final masks. COCO's sizes, of the true mask's area in pixels of the scene; behind them how many instances.",
    )


def _automatic(data: Mapping[str, Any]) -> Table:
    rows = []
    for rival in data["rivals"]:
        found = proposal_recall(rival)
        if found is not None:
            recall, proposed, instances = found
            scenes = str(len(rival["proposals"]))
            rows.append([rival["name"], with_noise(recall), f"{proposed:.1f}", str(instances), scenes])
    return Table(
        "Without points",
        ["", "recall at IoU 0.5", "proposals per scene", "instances", "scenes"],
        rows,
        "Of the true instances, those that a proposal of their own covers with IoU 0.5 or more.",
    )


def _latency(cases: Sequence[CaseSummary]) -> Table:
    rows = []
    for case in cases:
        stages = [
            percentiles([case.latency[stage][q] for q in PERCENTILES]) if stage in case.latency else "–"
            for stage in TIMED
        ]
        rows.append(
            [
                case.name,
                f"{case.prompts:.1f}",
                str(case.samples),
                *stages,
                "–" if case.host_share is None else f"{100 * case.host_share:.1f} %",
                f"{case.scenes_per_s:.3g}",
                f"{case.prompts_per_s:.3g}",
            ]
        )
    note = (
        "Whole: from an image in memory to masks at scene resolution; host: what of it is spent outside the graphs. "
        "Percentiles over all measurements; p90 takes at least 10 of them, p99 at least 100. A dash: too few, or not "
        "told apart. Per second: one scene after the other, nothing overlapped."
    )
    if tiled := max((case.tiled for case in cases), default=0):
        note += (
            f" {tiled} scene{'s are' if tiled > 1 else ' is'} encoded in parts: in tiles, the same for baselines as "
            "for the first engine, or in views."
        )
    head = ["", "prompts", "samples", "encoder p50 / p90 / p99", "loop", "whole", "host", "scenes/s", "prompts/s"]
    return Table("Latency", head, rows, note)


def _resources(data: Mapping[str, Any], cases: Sequence[CaseSummary]) -> Table:
    source, rows = data["energy_source"], []
    for rival in data["rivals"]:
        own = [case for case in cases if case.rival == rival["name"]]
        peaks = [case.peak_bytes for case in own if case.peak_bytes is not None]
        joules = [f"{case.joules.value:.3g} J ({case.label})" for case in own if case.joules is not None]
        rows.append(
            [
                rival["name"],
                size(rival["size_bytes"]),
                size(rival["peak_bytes"]),
                size(max(peaks, default=None)),
                size(rival["device_bytes"]),
                seconds(rival["load_s"]),
                seconds(rival["first_s"]),
                *([", ".join(joules) or "–"] if source else []),
            ]
        )
    head = ["", "file", "peak with loading", "peak while running", "device", "load", "first scene"]
    return Table(
        "Memory, size, cold start" + (", energy" if source else ""),
        [*head, *(["energy per scene"] if source else [])],
        rows,
        "Memory: most that was resident in the rival's own process, over all its turns; device: most that it held "
        "there. Load: imports and weights; first scene: the first measurement after it, in no other figure. "
        + (f"Energy: {source}, idle power included." if source else "Energy: no readable sensor."),
    )


def _differences(data: Mapping[str, Any]) -> Table:
    found = differences(data)
    rows = [
        [f"{d.rival} · {d.label}", speed_in_words(d.latency), gain_in_words(d.miou), gain_in_words(d.boundary)]
        for d in found
    ]
    reference = found[0].reference if found else ""
    return Table(
        f"Against {reference}",
        ["", "latency (whole)", "mIoU", "boundary F"],
        rows,
        "Latency: geometric mean of the ratios, paired by scene and repeat; masks: paired by instance. 95 % intervals, "
        f"by resampling scenes, or repeats where there are fewer than {MIN_GROUPS} scenes; noise unknown below "
        f"{MIN_GROUPS}. A difference whose interval holds zero (a ratio's one) is inside the noise.",
        frozenset({0, 1, 2, 3}),
    )
