"""Two runs against each other: what became worse by more than a limit, and by more than the noise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from resam_benchmarks.measure import statistics
from resam_benchmarks.measure.statistics import MIN_GROUPS, Estimate
from resam_benchmarks.report.summary import TIMED, seconds, size
from resam_runtime.common.errors import ResamError

Key = TypeVar("Key", bound=Hashable)
TICK = 1e-9  # s; the clock may see nothing pass in a stage, and ratios need something


class Change(NamedTuple):
    """One figure in both runs. worse: by which factor (1.2: a fifth worse), or, where `share`, by how much a share of 1
    such as mIoU fell.

    noisy: better and worse cannot be told apart. regression: beyond the limit and beyond the noise.
    """

    case: str
    figure: str
    before: str
    after: str
    worse: Estimate
    share: bool
    noisy: bool
    regression: bool


class Missing(NamedTuple):
    """What the first run measured and the second did not: a case, or a figure of one. before, after: how much of it."""

    case: str
    figure: str
    before: str
    after: str


class Comparison(NamedTuple):
    """All changes; what the second run lacks; cases that it has alone; what else differs (one line each)."""

    changes: list[Change]
    missing: list[Missing]
    added: list[str]
    warnings: list[str]

    @property
    def regressions(self) -> list[Change]:
        """Those beyond limit and noise."""
        return [change for change in self.changes if change.regression]

    @property
    def failed(self) -> bool:
        """Whether something became worse, or is no longer measured."""
        return bool(self.regressions or self.missing)


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], limit: float, miou_limit: float, quality_only: bool = False
) -> Comparison:
    """Compare two `bench.json` by case name.

    limit: relative, for latency, memory and file size (0.1: a tenth); miou_limit: absolute, for mIoU, boundary F-score
    and recall. quality_only: compare masks alone, which do not depend on the machine. Raises `ResamError` where no case
    is in both, nothing in them was measured before, the scenes are not the same, or timings of two machines would be
    compared.
    """
    old, new = ({case["name"]: case for case in data["cases"]} for data in (before, after))
    shared = [name for name in old if name in new]
    if not shared:
        raise ResamError(
            f"no case is in both runs; one has {', '.join(old) or 'none'}, the other {', '.join(new) or 'none'}"
        )
    _check_same(before, after, quality_only)
    changes: list[Change] = []
    lost = [Missing(name, "", "measured", "missing") for name in old if name not in new]
    for name in shared:
        if not quality_only:
            _latency(name, old[name], new[name], limit, changes, lost)
        _quality(name, old[name], new[name], miou_limit, changes, lost)
    _recall(before, after, miou_limit, changes, lost)
    if not quality_only:
        _sizes(before, after, limit, changes, lost)
    if not changes and not lost:
        kinds = "graded mask" if quality_only else "latency and no graded mask"
        raise ResamError(f"nothing can be compared: the first run holds no {kinds} of the cases that both have")
    was = {rival["name"]: rival["description"] for rival in before["rivals"]}
    warnings = [
        f"{rival['name']} ran differently: {was[rival['name']]}; then {rival['description']}"
        for rival in after["rivals"]
        if was.get(rival["name"], rival["description"]) != rival["description"]
    ]
    return Comparison(changes, lost, [name for name in new if name not in old], warnings)


def _check_same(before: Mapping[str, Any], after: Mapping[str, Any], quality_only: bool) -> None:
    """`ResamError` for runs whose figures mean different things."""
    for what in ("digest", "boundary_tolerance", "scenes"):
        one, other = before["data"].get(what), after["data"].get(what)
        if one != other:
            shown = "" if what == "scenes" else f" ({one} and {other})"
            raise ResamError(
                f"the two runs measured different things: data, {what} differ{shown}; measure both with the same "
                "--data, --split, --limit and --tolerance"
            )
    if before["seeds"] != after["seeds"]:
        raise ResamError(f"the two runs differ in their seeds: {before['seeds']} and {after['seeds']}; measure again")
    for what in () if quality_only else ("processor", "cores", "devices", "board", "power_mode"):
        one, other = (" ".join(str(data["machine"].get(what)).split()) for data in (before, after))
        if one != other:
            raise ResamError(
                f"timings of two machines cannot be compared: {what} differs ({one} and {other}); measure both on one "
                "machine, or compare the masks alone with --quality-only"
            )


def _latency(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], limit: float, changes: list[Change], lost: list[Missing]
) -> None:
    for stage in TIMED:
        runs = [_by_scene(case["samples"], f"{stage}_s") for case in (old, new)]
        scenes = _shared(name, f"{stage}, median", "scenes", runs[0], runs[1], lost)
        if not scenes:
            continue
        ratio, noisy = _slowdown(*([run[scene] for scene in scenes] for run in runs))
        was, now = (seconds(float(np.median(np.concatenate(list(run.values()))))) for run in runs)
        regression = ratio.value > 1 + limit and not noisy
        changes.append(Change(name, f"{stage}, median", was, now, ratio, False, noisy, regression))


def _shared(
    case: str, figure: str, what: str, before: Mapping[Key, Any], after: Mapping[Key, Any], lost: list[Missing]
) -> list[Key]:
    """The keys that both runs measured. Where the first has more, `lost` gets a line: the mean over what is left may be
    that of the easy ones, or of nothing. what: the keys are, in words."""
    keys = [key for key in before if key in after]
    if len(keys) < len(before):
        lost.append(Missing(case, figure, f"{len(before)} {what}", f"{len(keys)} of them"))
    return keys


def _by_scene(samples: Sequence[Mapping[str, Any]], key: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for sample in samples:
        if sample[key] is not None:
            found.setdefault(sample["scene"], []).append(max(sample[key], TICK))
    return found


def _slowdown(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> tuple[Estimate, bool]:
    """How many times the latencies (per scene, its repeats) became, and whether that may be noise.

    Scenes differ more than runs do, so it is the geometric mean of the scenes' own ratios, and scenes are resampled. Of
    few scenes the repeats are, in both runs. Of few repeats too there is no interval; it may be noise unless every
    measurement of a scene is slower, or every one faster, than all it had before.
    """
    ratios = [float(np.median(b) / np.median(a)) for a, b in zip(before, after)]
    if len(ratios) >= MIN_GROUPS:
        found = statistics.paired_ratio(ratios, np.ones(len(ratios)), range(len(ratios)))
        return found, not found.beyond(1)
    value = math.exp(float(np.mean(np.log(ratios))))
    passes = [[math.exp(float(np.mean(np.log(repeat)))) for repeat in zip(*scenes)] for scenes in (before, after)]
    found = statistics.median_ratio(passes[1], passes[0])
    if found.known:
        return Estimate(value, found.low, found.high), not found.beyond(1)
    slower = all(min(b) > max(a) for a, b in zip(before, after))
    faster = all(max(b) < min(a) for a, b in zip(before, after))
    return Estimate(value), not (slower or faster)


def _quality(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], limit: float, changes: list[Change], lost: list[Missing]
) -> None:
    runs = [{(g["scene"], str(g["id"])): g for g in case["grades"]} for case in (old, new)]
    if places := _shared(name, "mIoU, boundary F", "instances", runs[0], runs[1], lost):
        for figure, key in (("mIoU", "iou"), ("boundary F", "boundary")):
            was, now = ([run[place][key] for place in places] for run in runs)
            changes.append(_fall(name, figure, was, now, [scene for scene, _ in places], limit))


def _recall(
    before: Mapping[str, Any], after: Mapping[str, Any], limit: float, changes: list[Change], lost: list[Missing]
) -> None:
    """The automatic mode: which true instances it found."""
    new = {rival["name"]: rival["proposals"] for rival in after["rivals"]}
    for rival in before["rivals"]:
        runs = [
            {(scene["scene"], i): float(hit) for scene in proposals for i, hit in enumerate(scene["found"])}
            for proposals in (rival["proposals"], new.get(rival["name"], []))
        ]
        if places := _shared(rival["name"], "recall", "instances", runs[0], runs[1], lost):
            was, now = ([run[place] for place in places] for run in runs)
            changes.append(_fall(rival["name"], "recall", was, now, [scene for scene, _ in places], limit))


def _fall(
    case: str, figure: str, before: list[float], after: list[float], scenes: Sequence[int], limit: float
) -> Change:
    """A share of 1, instance by instance. The masks of one engine do not vary, the noise is that of the choice of
    scenes; where that is not known the limit alone decides."""
    fall = statistics.paired_difference(before, after, scenes)
    noisy = fall.known and not fall.beyond(0)
    was, now = (f"{sum(values) / len(values):.4f}" for values in (before, after))
    return Change(case, figure, was, now, fall, True, noisy, fall.value > limit and not noisy)


def _sizes(
    before: Mapping[str, Any], after: Mapping[str, Any], limit: float, changes: list[Change], lost: list[Missing]
) -> None:
    new = {rival["name"]: rival for rival in after["rivals"]}
    for rival in before["rivals"]:
        for figure, key in (("peak memory", "peak_bytes"), ("device memory", "device_bytes"), ("file", "size_bytes")):
            one, other = rival[key], new.get(rival["name"], {}).get(key)
            if one and other:
                ratio, texts = other / one, (size(one), size(other))
                changes.append(Change(rival["name"], figure, *texts, Estimate(ratio), False, False, ratio > 1 + limit))
            elif one:
                lost.append(Missing(rival["name"], figure, size(one), "missing"))
