"""From raw samples to the figures people read: percentiles, means and differences, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resam_benchmarks.measure import statistics
from resam_benchmarks.measure.metrics import SIZES, size_class
from resam_benchmarks.measure.statistics import Estimate

TIMED = ("encoder", "loop", "whole")
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class CaseSummary:
    """One case. latency: per stage the `PERCENTILES` of all samples, seconds, NaN where there are too few for one;
    median: of the whole, with its noise; quality figures 0 to 1, absent where nothing was graded.

    samples: how many measurements; tiled: of how many scenes that needed several tiles. host_share: of the whole, spent
    outside the graphs. joules: per scene. sizes: mIoU per COCO size that occurs.
    """

    name: str
    rival: str
    label: str
    prompts: float
    samples: int
    tiled: int
    latency: dict[str, dict[int, float]]
    median: Estimate
    scenes_per_s: float
    prompts_per_s: float
    host_share: float | None
    peak_bytes: int | None
    joules: Estimate | None
    quality: dict[str, Estimate] = field(default_factory=dict)
    sizes: dict[str, Estimate] = field(default_factory=dict)
    size_counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A case against the reference rival's case of the same label.

    latency: how many times the reference's (whole); miou, boundary: what it is better by. None where not measured.
    """

    label: str
    rival: str
    reference: str
    latency: Estimate
    miou: Estimate | None
    boundary: Estimate | None


def summarise(data: Mapping[str, Any]) -> list[CaseSummary]:
    """The cases of a `bench.json`, in its order."""
    return [_case(case) for case in data["cases"] if case["samples"]]


def _case(case: Mapping[str, Any]) -> CaseSummary:
    samples, grades = case["samples"], case["grades"]
    whole = _known(samples, "whole_s")
    latency = {
        stage: {q: statistics.percentile(values, q) for q in PERCENTILES}
        for stage in TIMED
        if len(values := _known(samples, f"{stage}_s")) == len(samples)
    }
    prompts = [sample["prompts"] for sample in samples]
    host, joules = _known(samples, "host_s"), _known(samples, "joules")
    peaks = _known(samples, "peak_bytes")
    groups, drawn = [grade["scene"] for grade in grades], timing_groups(samples)
    quality, sizes, counts = {}, {}, {}
    if grades:
        for key, field_name in (
            ("miou", "iou"), ("coarse_miou", "coarse_iou"),
            ("boundary", "boundary"), ("coarse_boundary", "coarse_boundary"),
        ):  # fmt: skip
            quality[key] = statistics.mean(_known(grades, field_name), groups)
        for key, field_name in (("miou_images", "iou"), ("coarse_miou_images", "coarse_iou")):
            quality[key] = statistics.mean_over_groups(_known(grades, field_name), groups)
        for size in SIZES:
            own = [grade for grade in grades if size_class(grade["area"]) == size]
            if own:
                sizes[size] = statistics.mean(_known(own, "iou"), [grade["scene"] for grade in own])
                counts[size] = len(own)
    return CaseSummary(
        name=case["name"],
        rival=case["rival"],
        label=case["label"],
        prompts=sum(prompts) / len(prompts),
        samples=len(samples),
        tiled=len({sample["scene"] for sample in samples if sample.get("tiled")}),
        latency=latency,
        median=statistics.median(whole, drawn),
        scenes_per_s=len(whole) / sum(whole),
        prompts_per_s=sum(prompts) / sum(whole),
        host_share=sum(host) / sum(whole) if len(host) == len(whole) else None,
        peak_bytes=int(max(peaks)) if peaks else None,
        joules=statistics.mean(joules, drawn) if len(joules) == len(samples) else None,
        quality=quality,
        sizes=sizes,
        size_counts=counts,
    )


def timing_groups(samples: Sequence[Mapping[str, Any]]) -> list[int]:
    """What timings are resampled by: their scene, or, of few scenes, the repeat they belong to. In the second case an
    interval speaks of these scenes alone."""
    scenes = [sample["scene"] for sample in samples]
    if len(set(scenes)) >= statistics.MIN_GROUPS:
        return scenes
    return [sample["repeat"] for sample in samples]


def differences(data: Mapping[str, Any]) -> list[Difference]:
    """Every rival against the first one, label by label, paired by scene and repeat."""
    cases = [case for case in data["cases"] if case["samples"]]
    if not cases:
        return []
    reference_name = cases[0]["rival"]
    references = {case["label"]: case for case in cases if case["rival"] == reference_name}
    return [
        _difference(case, references[case["label"]])
        for case in cases
        if case["rival"] != reference_name and case["label"] in references
    ]


def _difference(case: Mapping[str, Any], reference: Mapping[str, Any]) -> Difference:
    own, other = _by(case["samples"], "repeat", "scene"), _by(reference["samples"], "repeat", "scene")
    shared = [key for key in own if key in other]
    ratio = statistics.paired_ratio(
        [own[key]["whole_s"] for key in shared],
        [other[key]["whole_s"] for key in shared],
        timing_groups([own[key] for key in shared]),
    )
    miou = boundary = None
    graded, other_graded = _by(case["grades"], "scene", "id"), _by(reference["grades"], "scene", "id")
    both = [key for key in graded if key in other_graded]
    if both:
        miou, boundary = (
            statistics.paired_difference(
                [graded[key][name] for key in both], [other_graded[key][name] for key in both], [key[0] for key in both]
            )
            for name in ("iou", "boundary")
        )
    return Difference(case["label"], case["rival"], reference["rival"], ratio, miou, boundary)


def proposal_recall(rival: Mapping[str, Any]) -> tuple[Estimate, float, int] | None:
    """Recall of the automatic mode at IoU 0.5, proposals per scene, true instances; None where it was not measured."""
    proposals = rival["proposals"]
    found = [hit for scene in proposals for hit in scene["found"]]
    if not found:
        return None
    groups = [scene["scene"] for scene in proposals for _ in scene["found"]]
    return statistics.mean(found, groups), sum(scene["proposed"] for scene in proposals) / len(proposals), len(found)


def _known(rows: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _by(rows: Sequence[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


# --- how figures are written -------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """A duration, three digits: 12.3 ms, 1.23 s."""
    if not math.isfinite(value):
        return "–"
    return f"{value * 1e3:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def percentiles(values: Sequence[float]) -> str:
    """Durations in the unit of the first: 12.3 / 14.0 / – ms."""
    if not math.isfinite(values[0]):
        return "–"
    factor, unit = (1e3, "ms") if values[0] < 0.9995 else (1.0, "s")
    shown = (f"{value * factor:.{digits_of(value * factor)}f}" if math.isfinite(value) else "–" for value in values)
    return f"{' / '.join(shown)} {unit}"


def digits_of(value: float) -> int:
    """Decimals that give three significant digits, or none where there are more before the point."""
    return max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2


def size(value: float | None) -> str:
    """Bytes in MB (10^6), three digits; a dash for None."""
    return "–" if value is None else f"{value / 1e6:,.0f} MB" if value >= 99.5e6 else f"{value / 1e6:.3g} MB"


def with_noise(estimate: Estimate | None, digits: int = 3) -> str:
    """A value and its interval, which is rarely even on both sides; the value alone where the interval is unknown, a
    dash for None."""
    if estimate is None or not math.isfinite(estimate.value):
        return "–"
    # + 0.0: no "-0.000"
    text, *ends = (f"{round(v, digits) + 0.0:.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{text} [{', '.join(ends)}]" if estimate.known else text


def gain_in_words(estimate: Estimate | None) -> str:
    """A difference, or that it lies inside the noise."""
    if estimate is None or not math.isfinite(estimate.value):
        return "–"
    value, low, high = (round(end, 3) + 0.0 for end in (estimate.value, estimate.low, estimate.high))
    if not estimate.known:
        return f"{value:+.3f} (noise unknown)"
    if not estimate.beyond(0):
        return f"{value:+.3f}, inside the noise"
    if value == low == high == 0:
        return "less than 0.001 apart"  # beyond the noise, and of no interest
    # an end that is beyond zero is not to look like zero
    ends = (f"{end:+.3f}" if round(end, 3) else f"{end:+.0e}" for end in (estimate.low, estimate.high))
    return f"{value:+.3f} [{', '.join(ends)}]"


def speed_in_words(estimate: Estimate) -> str:
    """A ratio of latencies as "2.10 x slower", or that it lies inside the noise."""
    if not math.isfinite(estimate.value):
        return "–"
    slower = estimate.value >= 1
    factor, low, high = (v if slower else 1 / v for v in (estimate.value, estimate.low, estimate.high))
    if not slower:
        low, high = high, low
    words = f"{factor:.2f} x {'slower' if slower else 'faster'}"
    if not estimate.known:
        return f"{words} (noise unknown)"
    return f"{words} [{low:.2f}, {high:.2f}]" if estimate.beyond(1) else f"{words}, inside the noise"
