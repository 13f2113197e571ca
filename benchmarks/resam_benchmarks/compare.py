"""Two runs against each other: what became worse by more than a limit, and by more than the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from resam_benchmarks import statistics
from resam_benchmarks.statistics import Estimate
from resam_benchmarks.summary import size
from resam_runtime.errors import ResamError


class Change(NamedTuple):
    """One figure in both runs. worse: by which factor (1.2: a fifth worse), or for mIoU by how much it fell.

    regression: beyond the limit and beyond the noise.
    """

    case: str
    figure: str
    before: str
    after: str
    worse: Estimate
    regression: bool


class Comparison(NamedTuple):
    """All changes; cases that only one run has; why the runs may not be comparable (one line each)."""

    changes: list[Change]
    unmatched: list[str]
    warnings: list[str]

    @property
    def regressions(self) -> list[Change]:
        """Those beyond limit and noise."""
        return [change for change in self.changes if change.regression]


def compare(before: Mapping[str, Any], after: Mapping[str, Any], limit: float, miou_limit: float) -> Comparison:
    """Compare two `bench.json` by case name.

    limit: relative, for latency, memory and file size (0.1: a tenth); miou_limit: absolute. Raises `ResamError` where no
    case is in both.
    """
    old, new = ({case["name"]: case for case in data["cases"]} for data in (before, after))
    shared = [name for name in old if name in new]
    if not shared:
        raise ResamError(
            f"no case is in both runs; one has {', '.join(old) or 'none'}, the other {', '.join(new) or 'none'}"
        )
    changes: list[Change] = []
    for name in shared:
        changes += _latency(name, old[name], new[name], limit)
        changes += _quality(name, old[name], new[name], miou_limit)
    changes += _sizes(before, after, limit)
    warnings = [
        f"{what} differs: {one} and {other}"
        for what, one, other in (
            ("processor", before["machine"]["processor"], after["machine"]["processor"]),
            ("cores", before["machine"]["cores"], after["machine"]["cores"]),
            ("devices", before["machine"]["devices"], after["machine"]["devices"]),
            ("data", before["data"].get("digest"), after["data"].get("digest")),
            ("seeds", before["seeds"], after["seeds"]),
        )
        if one != other
    ]
    return Comparison(changes, sorted(old.keys() ^ new.keys()), warnings)


def _latency(name: str, old: Mapping[str, Any], new: Mapping[str, Any], limit: float) -> list[Change]:
    changes = []
    for stage in ("encoder", "loop", "whole"):
        one, other = ([s[f"{stage}_s"] for s in case["samples"] if s[f"{stage}_s"] is not None] for case in (old, new))
        if not one or not other:
            continue
        ratio = statistics.median_ratio(other, one)
        texts = [f"{1e3 * statistics.percentile(values, 50).value:.4g} ms" for values in (one, other)]
        # a single sample has no noise to compare with: the limit alone decides
        certain = ratio.low > 1 or math.isnan(ratio.low)
        changes.append(Change(name, f"{stage} p50", *texts, ratio, ratio.value > 1 + limit and certain))
    return changes


def _quality(name: str, old: Mapping[str, Any], new: Mapping[str, Any], limit: float) -> list[Change]:
    one, other = ({(g["scene"], str(g["id"])): g for g in case["grades"]} for case in (old, new))
    shared = [key for key in one if key in other]
    if not shared:
        return []
    changes = []
    for figure, key in (("mIoU", "iou"), ("boundary F", "boundary")):
        a, b = ([grades[place][key] for place in shared] for grades in (one, other))
        fall = statistics.paired_difference(a, b, [scene for scene, _ in shared])
        certain = fall.low > 0 or math.isnan(fall.low)
        texts = [f"{sum(values) / len(values):.4f}" for values in (a, b)]
        changes.append(Change(name, figure, *texts, fall, fall.value > limit and certain))
    return changes


def _sizes(before: Mapping[str, Any], after: Mapping[str, Any], limit: float) -> list[Change]:
    old = {rival["name"]: rival for rival in before["rivals"]}
    changes = []
    for rival in after["rivals"]:
        for figure, key in (("peak memory", "peak_bytes"), ("device memory", "device_bytes"), ("file", "size_bytes")):
            one, other = old.get(rival["name"], {}).get(key), rival[key]
            if one and other:
                ratio = other / one
                changes.append(
                    Change(rival["name"], figure, size(one), size(other), Estimate(ratio), ratio > 1 + limit)
                )
    return changes
