"""`resam-bench train`: our training step against the reference's, same weights and image, taking turns."""

from __future__ import annotations

import datetime
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resam_benchmarks.baselines.weights import Weights, known_architecture
from resam_benchmarks.measure import machine, statistics
from resam_benchmarks.measure.runner import Progress
from resam_benchmarks.measure.worker import Worker
from resam_benchmarks.report import document
from resam_benchmarks.report.page_style import conditions, page, save_page, section
from resam_benchmarks.report.plots import Axis, Dot, Series, legend, plot
from resam_benchmarks.report.summary import seconds, size, speed_in_words
from resam_benchmarks.report.tables import Table

RIVALS = {
    "resam": "resam_benchmarks.steps.train_steps:OurStep",
    "reference": "resam_benchmarks.steps.reference_step:ReferenceStep",
}


def measure_steps(
    architecture: str,
    instances: Sequence[int],
    steps: int = statistics.MIN_GROUPS,
    device: str | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    progress: Progress = lambda done, total, what: None,
    seed: int = 0,
    reference_precision: str | None = None,
) -> dict[str, Any]:
    """Measure `steps` steps of both after one to warm up, for each number of instances per image.

    reference_precision: of the reference's step, by default that of ours.

    Returns plain data: {"cases": [{"instances", "rival", "seconds": [...], "losses": [...], "peak_bytes",
    "loaded_bytes", "device_bytes"}], ...}; both rivals of a case run in processes of their own, one idle while the
    other works.
    """
    from resam_benchmarks.baselines.torch_device import torch_device
    from resam_benchmarks.steps.train_steps import StepInput, StepSettings, timed_step

    device = torch_device(device)
    precisions = {"resam": precision, "reference": reference_precision or precision}
    tile = known_architecture(architecture).image_size
    cases: list[dict[str, Any]] = []
    total, done = len(instances) * (steps + 1) * len(RIVALS), 0
    for count in instances:
        images = [StepInput.make(tile, count, seed + step) for step in range(steps + 1)]
        rows: dict[str, dict[str, Any]] = {}
        workers: dict[str, Worker] = {}
        try:
            for name, factory in RIVALS.items():
                progress(done, total, f"loading {name}")
                settings = StepSettings(device, precisions[name], threads=threads)
                options = {"weights": Weights(random=architecture, seed=seed), "settings": settings}
                workers[name] = Worker(factory, options, threads)
                loaded = workers[name].memory()["current"]
                rows[name] = {"instances": count, "rival": name, "seconds": [], "losses": [], "loaded_bytes": loaded}
                rows[name] |= {"peak_bytes": 0, "device_bytes": None}
            for number, image in enumerate(images):
                for name in RIVALS if number % 2 == 0 else reversed(RIVALS):
                    progress(done, total, f"{name}, {count} instances")
                    workers[name].reset_peak()
                    spent, loss, on_device = workers[name].call(timed_step, image)
                    done += 1
                    row = rows[name]
                    row["peak_bytes"] = max(row["peak_bytes"], workers[name].memory()["peak"] or 0)
                    row["device_bytes"] = max(filter(None, (row["device_bytes"], on_device)), default=None)
                    if number:
                        row["seconds"].append(spent)
                        row["losses"].append(loss)
        finally:
            for worker in workers.values():
                worker.close()
        cases += rows.values()
    return {
        "format": "resam-train-bench",
        "version": 1,
        "architecture": architecture,
        "device": device,
        "precision": precisions["resam"],
        "reference_precision": precisions["reference"],
        "seeds": {"weights and scenes": seed},
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "cases": cases,
    }


def table_of(found: Mapping[str, Any]) -> Table:
    """Seconds per image and peak memory of both, and their ratios."""
    rows = []
    steps = f"{len(found['cases'][0]['seconds'])} step{'s' * (len(found['cases'][0]['seconds']) != 1)}"
    by_count: dict[int, dict[str, Mapping[str, Any]]] = {}
    for case in found["cases"]:
        by_count.setdefault(case["instances"], {})[case["rival"]] = case
    for count, pair in by_count.items():
        ours, theirs = pair["resam"], pair["reference"]
        ratio = statistics.paired_ratio(ours["seconds"], theirs["seconds"], range(len(ours["seconds"])))
        # where a device has memory of its own, that is the memory that counts
        key = "device_bytes" if ours["device_bytes"] else "peak_bytes"
        rows.append(
            [
                f"{found['architecture']}, {count} instance{'s' * (count != 1)}",
                _median(ours),
                _median(theirs),
                speed_in_words(ratio),
                size(ours[key]),
                size(theirs[key]),
                f"{ours[key] / theirs[key]:.2f} x",
            ]
        )
    return Table(
        "One training step",
        ["", "resam, s/image", "reference, s/image", "resam is", "resam, peak", "reference, peak", "memory ratio"],
        rows,
        f"{found['device']}, {_precisions(found)}, random weights, medians of {steps}; ratio of speeds: geometric "
        "mean, paired by image. Memory: most that the process held during a step (on CUDA: of the device). The "
        "reference's step is written anew and plainly: it encodes the weak view twice, has the package's attention and "
        "masks of full size.",
        frozenset({0, 3}),
    )


def _precisions(found: Mapping[str, Any]) -> str:
    ours = found["precision"]
    theirs = found["reference_precision"]
    return f"both in {ours}" if ours == theirs else f"resam in {ours} and the reference in {theirs}"


def _median(case: Mapping[str, Any]) -> str:
    return seconds(statistics.percentile(case["seconds"], 50))


def write_results(found: Mapping[str, Any], folder: Path, command: str) -> None:
    """Write train.json and train.html to a folder."""
    document.write(folder / "train.json", {**found, "command": command})
    save_page(folder / "train.html", train_page({**found, "command": command}))


def train_page(found: Mapping[str, Any]) -> str:
    """The page: every step as a dot, a card per number of instances, and the table."""
    cards = []
    for count in dict.fromkeys(case["instances"] for case in found["cases"]):
        pair = [case for case in found["cases"] if case["instances"] == count]
        x = Axis("step", ticks=range(1, len(pair[0]["seconds"]) + 1))
        series = [
            Series(case["rival"], [Dot(number, value) for number, value in enumerate(case["seconds"], start=1)], colour)
            for colour, case in enumerate(pair)
        ]
        title = f"{count} instance{'s' * (count != 1)}"
        chart = plot(series, x, Axis("s/image", zero=True), height=300)
        cards.append(f'<div class="card"><h3>{title}</h3>{chart}</div>')
    body = (
        f"<h1>Training step: {html.escape(found['architecture'])}</h1>"
        '<p class="lead">The same images, weights and device for both, taking turns.</p>'
        f'{legend([(name, colour) for colour, name in enumerate(RIVALS)])}<div class="cards">{"".join(cards)}</div>'
        f"{section(table_of(found))}{conditions(found)}"
    )
    return page(f"resam-bench train: {found['architecture']}", body + "<footer>Raw samples: train.json.</footer>")
