"""mIoU of engines under corruptions: a curve per corruption and engine, the same pictures and points for all."""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.baselines.rivals import engine_rivals
from resam_benchmarks.measure import dataset, machine, statistics
from resam_benchmarks.measure.contender import read_image
from resam_benchmarks.measure.metrics import Crop, iou
from resam_benchmarks.measure.runner import Progress
from resam_benchmarks.measure.statistics import Estimate
from resam_benchmarks.report import document
from resam_benchmarks.report.page_style import conditions, page, save_page, section
from resam_benchmarks.report.plots import Axis, Dot, Series, legend, plot
from resam_benchmarks.report.summary import gain_in_words, with_noise
from resam_benchmarks.report.tables import Table
from resam_benchmarks.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from resam_runtime import Segmenter

SEED = 0  # of the first scene's corruptions; each scene has its own


def measure(
    engines: Sequence[Path],
    data_folder: Path,
    split: str = "test",
    points: int = 1,
    limit: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Segment every scene clean and under each corruption and severity.

    Returns plain data: {"engines": {name: {corruption: [per severity 0..5: [[scene, IoU] per instance]]}}, ...}, the
    instances always in the same order.
    """
    data = dataset.load(data_folder, split, [points], limit)
    rivals = engine_rivals(engines, device, threads)
    segmenters = {rival.name: Segmenter(rival.options["path"], device, threads) for rival in rivals}
    curves: dict[str, dict[str, list[list[list[float]]]]] = {
        rival.name: {kind: [[] for _ in range(len(SEVERITIES) + 1)] for kind in CORRUPTIONS} for rival in rivals
    }
    looks = [("", 0), *((kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES)]
    for number, scene in enumerate(data.scenes):
        clean, prompts = read_image(scene.path), data.points[points][number]
        for place, (kind, severity) in enumerate(looks):
            progress(number * len(looks) + place, len(data.scenes) * len(looks), f"{kind or 'clean'} {severity or ''}")
            image = corrupt(clean, kind, severity, seed=SEED + number) if severity else clean
            for name, segmenter in segmenters.items():
                found = segmenter(image, prompts.coords, prompts.labels)
                scores = [
                    [number, iou(Crop(instance.mask, instance.origin), truth)]
                    for instance, truth in zip(found, scene.truths, strict=True)
                ]
                for target in CORRUPTIONS if not severity else (kind,):
                    curves[name][target][severity] += scores
    return {
        "format": "resam-robustness",
        "version": 1,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": {**data.about, "scenes": [scene.name for scene in data.scenes], "points": points},
        "seeds": {"corruptions": SEED},
        "descriptions": {name: segmenter.describe() for name, segmenter in segmenters.items()},
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "engines": curves,
    }


def curve(scores: Sequence[Sequence[Sequence[float]]]) -> list[Estimate]:
    """mIoU at each severity, 0 to 5."""
    return [statistics.mean([row[1] for row in rows], [row[0] for row in rows]) for rows in scores]


def tables_of(found: Mapping[str, Any]) -> list[Table]:
    """mIoU of every engine, clean and under each corruption (mean over the severities); what that is below clean; and
    whether an engine loses more than the first one does."""
    head = ["", "clean", *(f"{kind}, mean of 5" for kind in CORRUPTIONS)]
    levels, losses, more = [], [], []
    lost = {name: {kind: _lost(kinds[kind]) for kind in CORRUPTIONS} for name, kinds in found["engines"].items()}
    first = next(iter(lost))
    for name, kinds in found["engines"].items():
        clean = next(iter(kinds.values()))[0]
        scenes = [scene for scene, _ in clean]
        ious = [np.array([iou for _, iou in clean]), *(_hurt(kinds[kind]) for kind in CORRUPTIONS)]
        levels.append([name, *(with_noise(statistics.mean(values, scenes)) for values in ious)])
        losses.append([name, *(with_noise(statistics.mean(lost[name][kind], scenes)) for kind in CORRUPTIONS)])
        if name != first:
            apart = (statistics.paired_difference(lost[name][k], lost[first][k], scenes) for k in CORRUPTIONS)
            more.append([name, *(gain_in_words(difference) for difference in apart)])
    note = f"Brackets: 95 % interval, by resampling images; none for fewer than {statistics.MIN_GROUPS}."
    made = [
        Table("mIoU under corruption", head, levels, note),
        Table(
            "Lost against clean",
            ["", *head[2:]],
            losses,
            "mIoU clean minus mIoU corrupted, per instance.",
        ),
        Table(
            f"Lost more than {first}",
            ["", *head[2:]],
            more,
            f"An engine's loss minus that of {first}, paired by instance: above zero, it is more fragile.",
            frozenset(range(len(head))),
        ),
    ]
    return [made_table for made_table in made if made_table.rows]


def _hurt(levels: Sequence[Sequence[Sequence[float]]]) -> NDArray[np.float64]:
    """IoU of each instance, mean over the severities 1 to 5, (N,)."""
    return np.mean([[iou for _, iou in rows] for rows in levels[1:]], axis=0)


def _lost(levels: Sequence[Sequence[Sequence[float]]]) -> NDArray[np.float64]:
    """What each instance's IoU is lower by than clean, mean over the severities, (N,)."""
    return np.array([iou for _, iou in levels[0]]) - _hurt(levels)


def write_results(found: Mapping[str, Any], folder: Path, command: str) -> None:
    """Write robustness.json and robustness.html to a folder."""
    document.write(folder / "robustness.json", {**found, "command": command})
    save_page(folder / "robustness.html", robustness_page({**found, "command": command}))


def robustness_page(found: Mapping[str, Any]) -> str:
    """The page: a card per corruption, and the table."""
    names = list(found["engines"])
    x = Axis("severity", lambda value: "clean" if value == 0 else f"{value:g}", ticks=range(len(SEVERITIES) + 1))
    curves = {(kind, name): curve(found["engines"][name][kind]) for kind in CORRUPTIONS for name in names}
    ends = [v for values in curves.values() for e in values for v in (e.value, e.low, e.high) if math.isfinite(v)]
    y = Axis("mIoU", lambda value: f"{value:.2f}", shows=ends)  # one scale: the cards are compared
    cards = []
    for kind in CORRUPTIONS:
        series = []
        for colour, name in enumerate(names):
            values = curves[kind, name]
            dots = [
                Dot(level, value.value, value.low, value.high, hint=f"{name}, {kind} {level}: {value.value:.3f}")
                for level, value in enumerate(values)
            ]
            series.append(Series(name, dots, colour))
        cards.append(
            f'<div class="card"><h3>{html.escape(kind[0].upper() + kind[1:])}</h3>'
            f"{plot(series, x, y, height=300, apart=6)}</div>"
        )
    data, scenes = found["data"], len(found["data"]["scenes"])
    lead = (
        f"{scenes} scene{'s' * (scenes != 1)}, {data['points']} point{'s' * (data['points'] != 1)} per instance, the "
        "same corrupted pictures and points for every engine. "
        f"Bars: 95 % intervals, from {statistics.MIN_GROUPS} scenes on."
    )
    body = (
        f"<h1>Robustness: {html.escape(data['name'])}</h1>"
        f'<p class="lead">{lead}</p>'
        f'{legend([(name, colour) for colour, name in enumerate(names)])}<div class="cards">{"".join(cards)}</div>'
    )
    for made in tables_of(found):
        body += section(made)
    more = [
        ("Data", f"sha256 {data['digest'][:16]}..."),
        *((f"Severity 1 to 5, {name}", kind.describe()) for name, kind in CORRUPTIONS.items()),
        *found["descriptions"].items(),
    ]
    body += conditions(found, more)
    return page(f"resam-bench robustness: {data['name']}", body)
