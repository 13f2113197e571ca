"""`demo.html`: what the demonstration found out, on one page that stands alone and opens offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2

from resam_benchmarks.demo.strips import LOOP_MASKS, Picture, ShownScene
from resam_benchmarks.measure import statistics
from resam_benchmarks.report.page_style import conditions, page, table
from resam_benchmarks.report.plots import bars
from resam_benchmarks.report.summary import (
    CaseSummary,
    Difference,
    differences,
    gain_in_words,
    seconds,
    size,
    speed_in_words,
    summarise,
    with_noise,
)
from resam_runtime.engine.precisions import PRECISIONS

BASE, ADAPTED = "base", "adapted"  # names of the engine files
RELOAD = 10  # s after which an unfinished page is read again
_MASK_WORDS = {
    "coarse": ("Coarse", "from the points alone"),
    "refined": ("Refined", "confident pixels not claimed by another object, and their box"),
    "final": ("Final", "decoded again with the box"),
}
_STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class DemoPage:
    """What the page shows. seconds: per step that was done; missing: why a precision was not exported; steps: what
    each step does, of which the first `done` are done. bench: a `bench.json`, finding: a `finding.json`, once there
    are.
    """

    folder: Path
    scenes: Sequence[ShownScene]
    seconds: Mapping[str, float]
    missing: Mapping[str, str]
    scale: float
    steps: Sequence[str]
    done: int
    bench: Mapping[str, Any] | None = None
    finding: Mapping[str, Any] | None = None


def demo_page(demo: DemoPage) -> str:
    """The whole page, with what there is so far."""
    title, bench = "resam: the demonstration", demo.bench
    intro = (
        "<h1>Clicks, and nothing else</h1>"
        '<p class="lead">A small Segment Anything model meets new scenes, with clicks on their objects and no mask. '
        "It learns from three clicks an object, and is asked with one.</p>"
    )
    if bench is None:
        body = [intro, _left(demo), _scenes(demo), _found(demo)]
        return page(title, "".join(body), _STYLE, again=RELOAD)
    steps = ", ".join(f"{name} {duration(value)}" for name, value in demo.seconds.items())
    time = [("Time", f"{duration(sum(demo.seconds.values()))}: {steps}")]
    body = [intro, _head(demo, bench), _scenes(demo), _found(demo), _precisions(demo, bench), _files(demo), _next()]
    return page(title, "".join([*body, conditions(bench, time)]), _STYLE)


def _left(demo: DemoPage) -> str:
    """What is done, what is going on, what is left."""
    rows = []
    for number, what in enumerate(demo.steps):
        state = "done" if number < demo.done else "now" if number == demo.done else "to come"
        rows.append(f'<li class="{state.split()[0]}">{html.escape(what)} <span>{state}</span></li>')
    return (
        f"<p>The work goes on: {len(demo.steps) - demo.done} of {len(demo.steps)} steps are left. This page fills by "
        f'itself.</p><ol class="steps">{"".join(rows)}</ol>'
    )


def _head(demo: DemoPage, bench: Mapping[str, Any]) -> str:
    cases = {case.rival: case for case in summarise(bench)}
    found = next(d for d in differences(bench) if d.rival == ADAPTED)
    scenes = bench["data"]["scenes"]
    instances = sum(scene["instances"] for scene in scenes)
    whole = cases[ADAPTED].median.value
    gain = found.miou
    assert gain is not None
    if gain.known:
        noise = "Brackets: 95 % intervals, by resampling scenes."
        noise += "" if gain.beyond(0) else " <b>This difference is inside the noise.</b>"
    else:
        noise = f"<b>The noise is unknown</b>: below {statistics.MIN_GROUPS} scenes there are no intervals."
    if demo.scale != 1:
        noise += f" Training chose, without masks, scale {demo.scale:.2f}: a part of the difference."
    return (
        "<p>Before and after, on scenes not seen in training:</p>"
        '<div class="tiles">'
        f"{_tile(with_noise(cases[BASE].quality['miou']), 'mIoU of the base')}"
        f"{_tile(with_noise(cases[ADAPTED].quality['miou']), 'mIoU adapted from clicks')}"
        f"{_tile(_gain(gain), 'gained, paired by object')}"
        f"{_tile(seconds(whole), 'for a scene of 512 px, fp32, median')}"
        "</div>"
        f'<p class="small soft">mIoU: mean intersection over union of {instances} objects in {len(scenes)} scenes, one '
        f"point each. {noise}</p>"
    )


def _tile(figure: str, what: str) -> str:
    value, _, noise = figure.partition(" ")
    if value and noise and not noise.startswith("["):  # a value with its unit
        value, noise = figure, ""
    small = f" <small>{html.escape(noise)}</small>" if noise else ""
    return f'<div class="tile"><b>{html.escape(value)}{small}</b><span>{html.escape(what)}</span></div>'


def _gain(gain: statistics.Estimate) -> str:
    return f"{gain.value:+.3f}" + (f" [{gain.low:+.3f}, {gain.high:+.3f}]" if gain.low == gain.low else "")


def _scenes(demo: DemoPage) -> str:
    kinds = len(demo.scenes)
    engines = [name for name in (ADAPTED, BASE) if all(name in scene.stages for scene in demo.scenes)]
    which = "A scene" if kinds == 1 else f"{kinds} scenes"
    words = {
        2: "Top: the points, and the adapted model's masks. Bottom: the truth, and the base's masks from the same "
        "points.",
        1: "The base's masks from one point on each object. The adapted model's masks follow.",
    }[len(engines)]
    parts = [f"<h2>From points to masks</h2><p>{which}, the first of each kind in the test set. {words}</p>"]
    for scene in demo.scenes:
        figures = [_figure(scene.points, f"<b>Points</b>, {scene.instances}: the only input", scene.name)]
        figures += _row(demo, scene, engines[0])
        if len(engines) > 1:
            figures.append(_figure(scene.truth, "<b>Truth</b>, not used in training", scene.name))
            figures += _row(demo, scene, engines[1])
        parts.append(
            f'<section class="scene"><h3>{html.escape(_kind(scene))} <span>{html.escape(scene.name)}</span></h3>'
            f'<div class="grid">{"".join(figures)}</div></section>'
        )
    return "".join(parts)


def _kind(scene: ShownScene) -> str:
    return scene.name.rsplit(".", 1)[0].split("_", 2)[-1].replace("_", " ").capitalize()


def _row(demo: DemoPage, scene: ShownScene, name: str) -> list[str]:
    own = _grades(demo.bench, scene, name) if demo.bench is not None else []
    figures = []
    for stage in LOOP_MASKS:
        title, words = _MASK_WORDS[stage]
        key = {"coarse": "coarse_iou", "final": "iou"}.get(stage)
        if key is not None and own:
            words = f"mIoU {sum(grade[key] for grade in own) / len(own):.2f}"
        caption = f"<b>{title}</b>, {name}: {html.escape(words)}"
        figures.append(_figure(scene.stages[name][stage], caption, f"{scene.name}, {name}, {stage}"))
    return figures


def _grades(bench: Mapping[str, Any], scene: ShownScene, rival: str) -> list[Mapping[str, Any]]:
    """What was measured of a rival on one scene."""
    case = next(case for case in bench["cases"] if case["rival"] == rival)
    names = [entry["name"] for entry in bench["data"]["scenes"]]
    return [grade for grade in case["grades"] if names[grade["scene"]] == scene.name]


def _found(demo: DemoPage) -> str:
    """What the prompter finds without points: figures, once measured, and pictures."""
    shown = [(scene, scene.found) for scene in demo.scenes if scene.found is not None]
    if not shown:
        return ""
    figures = []
    for scene, picture in shown:
        caption = f"<b>{html.escape(_kind(scene))}</b>: {scene.found_count} found; {scene.instances} are there"
        figures.append(_figure(picture, caption, f"{scene.name}, found without points"))
    words = ""
    if demo.finding is not None:
        row = demo.finding["rows"][0]
        words = (
            f" Of {row['instances']} objects in {row['scenes']} test scenes it finds {_share(row['recall'])}; "
            f"{_share(row['precision'])} of what it finds is right (IoU above 0.5). AP50 without classes: "
            f"{row['ap50_free']:.3f}. A scene takes {seconds(row['seconds'])}, the encoder alone "
            f"{seconds(row['encoder_seconds'])}."
        )
    return (
        "<h2>With no click</h2><p>The same clicks taught a prompter what to look for. It gets nothing but the image; a "
        f'colour is a class.{words}</p><div class="grid">{"".join(figures)}</div>'
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f} %"


def _figure(picture: Picture, caption: str, alt: str) -> str:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    source = base64.b64encode(data.tobytes()).decode("ascii")
    height, width = picture.shape[:2]
    return (
        f'<figure><img width="{width}" height="{height}" alt="{html.escape(alt)}" '
        f'src="data:image/jpeg;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _precisions(demo: DemoPage, bench: Mapping[str, Any]) -> str:
    own = {**bench, "cases": [case for case in bench["cases"] if case["rival"] != BASE]}
    against = {found.rival: found for found in differences(own)}
    rivals = {rival["name"]: rival for rival in bench["rivals"]}
    rows, lengths = [], []
    for number, case in enumerate(summarise(own)):
        rival = rivals[case.rival]
        name = PRECISIONS[rival["about"]["precision"]].title
        rows.append([name, *_precision_row(case, rival, against.get(case.rival))])
        lengths.append((name, case.median.value, number))
    rows += [[PRECISIONS[precision].title, *["–"] * 4, "not exported", "see below"] for precision in demo.missing]
    reasons = "".join(
        f'<p class="small">{PRECISIONS[precision].title} was not exported: {html.escape(reason)}.</p>'
        for precision, reason in demo.missing.items()
    )
    head = ["", "file", "encoder p50", "whole p50", "p90", "latency against fp32", "mIoU against fp32"]
    where = bench["machine"]
    device = ", ".join(where["devices"]) or f"{where['processor']}, {where['cores']} cores"
    note = (
        "Measured in one run, the engines taking turns on every scene, so that a busy machine slows all of them alike. "
        "fp16 is made for GPUs: a CPU without half-precision arithmetic converts it back and gains nothing. INT8 is "
        "the encoder's products with weights, and those that upscale masks; the rest is fp32, for CPUs."
    )
    return (
        f"<h2>One model, three precisions</h2><p>The adapted engine on this machine ({html.escape(device)}): from an "
        "image in memory to masks at scene resolution, encoder and both passes of the decoder.</p>"
        f'<div class="card">{table(head, rows, frozenset({0, 5, 6}))}{bars(lengths, seconds, "latency", 900)}</div>'
        f'{reasons}<p class="small soft">{note}</p>'
    )


def _precision_row(case: CaseSummary, rival: Mapping[str, Any], found: Difference | None) -> list[str]:
    encoder = seconds(case.latency["encoder"][50]) if "encoder" in case.latency else "–"
    speed = "1" if found is None else speed_in_words(found.latency)
    quality = f"{case.quality['miou'].value:.3f}"
    if found is not None:
        quality = gain_in_words(found.miou)
    return [
        size(rival["size_bytes"]),
        encoder,
        seconds(case.median.value),
        seconds(case.latency["whole"][90]),
        speed,
        quality,
    ]


def _files(demo: DemoPage) -> str:
    entries = [
        ("run/report.html", "the training run: curves, strips per epoch, options"),
        ("run/adapter.safetensors", "its result: the LoRA weights"),
        ("run/synthetic/", "the scenes, a COCO data set with exact masks"),
        ("engines/adapted.resam", "the engine file; unzip it, open its graphs in Netron"),
        ("finding/finding.json", "what was found with no click, in figures"),
        ("out/", "what resam-run wrote: overlays, GeoJSON, instances.json, summary.json"),
        ("bench/bench.html", "every measurement behind this page"),
        ("loop.jpg", "one scene, from points to masks"),
    ]
    rows = "".join(
        f'<dt><a href="{name}"><code>{name}</code></a></dt><dd>{html.escape(what)}</dd>'
        for name, what in entries
        if (demo.folder / name).exists()
    )
    return f'<h2>Where to find everything</h2><dl class="facts">{rows}</dl>'


def _next() -> str:
    lines = [
        ("resam-annotate images/ -o points.json", "click objects, in the browser"),
        ("resam-train --images images/ --points-file points.json -o runs/mine", "adapt: minutes to hours, by the base"),
        ("resam-export runs/mine/adapter.safetensors -o model.resam", "one engine file"),
        ("resam-run --engine model.resam images/ --points points.json -o out", "instances.json, GeoJSON, overlays"),
    ]
    wide = max(len(command) for command, _ in lines)
    code = "\n".join(f"{html.escape(f'{c:{wide}}')}  <i># {html.escape(what)}</i>" for c, what in lines)
    return f"<h2>Next: your images</h2><pre>{code}</pre>"


def duration(value: float) -> str:
    """Seconds as "42 s" or "6 min 5 s"."""
    whole = round(value)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
