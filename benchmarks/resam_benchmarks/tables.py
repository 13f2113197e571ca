"""The tables of a benchmark as rows of text: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from resam_benchmarks.metrics import SIZES
from resam_benchmarks.summary import (
    differences,
    gain_in_words,
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
    made = [_quality(data), _sizes(data), _automatic(data), _latency(data), _resources(data), _differences(data)]
    return [table for table in made if table.rows]


def _quality(data: Mapping[str, Any]) -> Table:
    rows = [
        [
            case.name,
            with_noise(case.quality["coarse_miou"]),
            with_noise(case.quality["miou"]),
            with_noise(case.quality["miou_images"]),
            with_noise(case.quality["coarse_boundary"]),
            with_noise(case.quality["boundary"]),
        ]
        for case in summarise(data)
        if case.quality
    ]
    tolerance = data["data"].get("boundary_tolerance", 2)
    return Table(
        "Quality",
        ["", "mIoU coarse", "mIoU final", "over images", f"boundary F coarse ({tolerance:g} px)", "boundary F final"],
        rows,
        "mIoU: mean over instances; “over images”: mean of the images' means. ± half of the 95 % interval, images "
        "resampled.",
    )


def _sizes(data: Mapping[str, Any]) -> Table:
    cases = [case for case in summarise(data) if case.sizes]
    shown = [name for name in SIZES if any(name in case.sizes for case in cases)]
    counts = next((case.size_counts for case in cases), {})
    limits = {"small": "< 32² px", "medium": "< 96² px", "large": "larger"}
    head = ["", *(f"{name} ({limits[name]}; {counts.get(name, 0)})" for name in shown)]
    return Table(
        "mIoU by true size",
        head,
        [[case.name, *(with_noise(case.sizes.get(name)) for name in shown)] for case in cases],
    )


def _automatic(data: Mapping[str, Any]) -> Table:
    rows = []
    for rival in data["rivals"]:
        found = proposal_recall(rival)
        if found is not None:
            rows.append([rival["name"], with_noise(found[0]), f"{found[1]:.1f}", str(len(rival["proposals"]))])
    return Table("Without points", ["", "recall at IoU 0.5", "proposals per scene", "scenes"], rows)


def _latency(data: Mapping[str, Any]) -> Table:
    rows = []
    for case in summarise(data):
        stages = [
            " / ".join(seconds(case.latency[stage][q].value) for q in (50, 90, 99)) if stage in case.latency else "–"
            for stage in ("encoder", "loop", "whole")
        ]
        host = "–" if case.host_share is None else f"{100 * case.host_share:.1f} %"
        rows.append(
            [case.name, f"{case.prompts:.1f}", *stages, host, f"{case.scenes_per_s:.2f}", f"{case.prompts_per_s:.1f}"]
        )
    return Table(
        "Latency",
        ["", "prompts", "encoder p50 / p90 / p99", "loop", "whole", "host", "scenes/s", "prompts/s"],
        rows,
        "Whole: from an image in memory to masks at scene resolution; host: what of it is spent outside the graphs.",
    )


def _resources(data: Mapping[str, Any]) -> Table:
    peaks: dict[str, int] = {}
    energy: dict[str, str] = {}
    for case in summarise(data):
        if case.peak_bytes is not None:
            peaks[case.rival] = max(peaks.get(case.rival, 0), case.peak_bytes)
        if case.joules is not None:
            energy[case.rival] = f"{case.joules.value:.3g} J"
    rows = [
        [
            rival["name"],
            size(rival["size_bytes"]),
            size(rival["peak_bytes"]),
            size(peaks.get(rival["name"])),
            size(rival["device_bytes"]),
            seconds(rival["load_s"]),
            seconds(rival["first_s"]),
            energy.get(rival["name"], "–"),
        ]
        for rival in data["rivals"]
    ]
    source = data["energy_source"]
    return Table(
        "Memory, size, cold start, energy",
        ["", "file", "peak with loading", "peak while running", "device", "load", "first scene", "energy per scene"],
        rows,
        "Host memory: resident in a process of its own. "
        + (f"Energy: {source}." if source else "Energy: this machine has no sensor that can be read."),
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
        "Paired by scene; 95 % intervals. A difference whose interval holds zero (a ratio's one) is inside the noise.",
        frozenset({0, 1, 2, 3}),
    )
