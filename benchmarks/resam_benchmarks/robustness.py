"""mIoU of engines under corruptions: a curve per corruption and engine, the same pictures and points for all."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resam_benchmarks import dataset, document, machine, statistics
from resam_benchmarks.contender import read_image
from resam_benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from resam_benchmarks.metrics import Crop, iou
from resam_benchmarks.page_style import page, table
from resam_benchmarks.plots import Axis, Dot, Series, legend, plot
from resam_benchmarks.rivals import engine_rivals
from resam_benchmarks.runner import Progress
from resam_benchmarks.statistics import Estimate
from resam_benchmarks.summary import with_noise
from resam_benchmarks.tables import Table
from resam_runtime import Segmenter
from resam_runtime.files import atomic_write


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

    Returns plain data: {"engines": {name: {corruption: [per severity 0..5: [[scene, IoU] per instance]]}}, ...}.
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
            image = corrupt(clean, kind, severity, seed=number) if severity else clean
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
        "data": {**data.about, "scenes": len(data.scenes), "points": points},
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "engines": curves,
    }


def curve(scores: Sequence[Sequence[Sequence[float]]]) -> list[Estimate]:
    """mIoU at each severity, 0 to 5."""
    return [statistics.mean([row[1] for row in rows], [row[0] for row in rows]) for rows in scores]


def table_of(found: Mapping[str, Any]) -> Table:
    """mIoU of every engine: clean, and under each corruption averaged over the severities."""
    rows = []
    for name, kinds in found["engines"].items():
        clean = next(iter(kinds.values()))[0]
        cells = [with_noise(statistics.mean([row[1] for row in clean], [row[0] for row in clean]))]
        for levels in kinds.values():
            hurt = [row for rows_of_level in levels[1:] for row in rows_of_level]
            cells.append(with_noise(statistics.mean([row[1] for row in hurt], [row[0] for row in hurt])))
        rows.append([name, *cells])
    head = ["", "clean", *(f"{kind}, mean of 5" for kind in CORRUPTIONS)]
    return Table("mIoU under corruption", head, rows, "± half of the 95 % interval, images resampled.")


def write_results(found: Mapping[str, Any], folder: Path, command: str) -> None:
    """Write robustness.json and robustness.html to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    document.write(folder / "robustness.json", {**found, "command": command})
    with atomic_write(folder / "robustness.html") as temporary:
        temporary.write_text(robustness_page(found), encoding="utf-8")


def robustness_page(found: Mapping[str, Any]) -> str:
    """The page: a card per corruption, and the table."""
    names = list(found["engines"])
    x = Axis("severity", lambda value: "clean" if value == 0 else f"{value:g}", ticks=range(len(SEVERITIES) + 1))
    y = Axis("mIoU", lambda value: f"{value:.2f}")
    cards = []
    for kind in CORRUPTIONS:
        series = []
        for colour, name in enumerate(names):
            values = curve(found["engines"][name][kind])
            dots = [
                Dot(level, value.value, value.low, value.high, hint=f"{name}, {kind} {level}: {value.value:.3f}")
                for level, value in enumerate(values)
            ]
            series.append(Series(name, dots, colour))
        cards.append(f'<div class="card"><h3>{html.escape(kind)}</h3>{plot(series, x, y, height=300)}</div>')
    shown = table_of(found)
    data = found["data"]
    body = (
        f"<h1>Robustness: {html.escape(data['name'])}</h1>"
        f'<p class="lead">{data["scenes"]} scenes, {data["points"]} point{"s" * (data["points"] != 1)} per instance, the same '
        "corrupted pictures for every engine. Bars: 95 % intervals.</p>"
        f'{legend([(name, colour) for colour, name in enumerate(names)])}<div class="cards">{"".join(cards)}</div>'
        f"<h2>{shown.title}</h2>{table(shown.head, shown.rows, shown.words)}"
    )
    return page(f"resam-bench robustness: {data['name']}", body)
