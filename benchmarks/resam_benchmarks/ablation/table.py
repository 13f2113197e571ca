"""The table of an ablation, in the terminal and as a page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resam_benchmarks.measure.statistics import paired_difference
from resam_benchmarks.report.page_style import conditions, page, save_page, section
from resam_benchmarks.report.tables import Table

COLUMNS = (
    ("coarse", "miou", "mIoU after Coarse"),
    ("final", "miou", "after Requery"),
    ("coarse", "miou_images", "over images, after Coarse"),
    ("final", "miou_images", "after Requery"),
)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def tables_of(found: Mapping[str, Any]) -> list[Table]:
    """One table per data set of an `ablation.json`: mean over the seeds, spread, difference to the base row.

    The base row of a row is the untrained one of its Requery and scale; where that was not measured, the one of its
    Requery at the base's own scale, else `base`.
    """
    return [_table(found, about) for about in found["data"]]


def _base_of(row: Mapping[str, Any], untrained: Sequence[Mapping[str, Any]]) -> str:
    """The name of the row that `row` gains over (`tables_of`)."""
    own = _way(row)
    for way in (own, (own[0], False, 1.0)):
        for other in untrained:
            if _way(other) == way:
                return str(other["name"])
    return "base"


def _way(row: Mapping[str, Any]) -> tuple[str, bool, float]:
    """How a row, trained or not, comes to its masks: Requery, whether the scale is chosen, the scale if it is not."""
    options = row["options"]
    return options["requery"], options.get("choose_scale", False), options.get("scale", 1.0)


def _table(found: Mapping[str, Any], about: Mapping[str, Any]) -> Table:
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for cell in found["cells"]:
        if cell["data"] == about["name"]:
            cells.setdefault(cell["row"], []).append(cell)
    untrained = [row for row in found["rows"] if not row["trained"] and row["name"] in cells]
    lines = []
    for row in found["rows"]:
        own = cells.get(row["name"], [])
        if not own:
            continue
        base = cells.get(_base_of(row, untrained))
        texts = []
        for stage, key, _ in COLUMNS:
            reference = base[0][stage][key] if base and row["trained"] else None
            text = _text([cell[stage][key] for cell in own], reference)
            if reference is not None and base and key == "miou" and len(own) == 1:
                text += _interval(own[0], base[0], stage)
            texts.append(text)
        quality = [cell["labels"] for cell in own if cell.get("labels") is not None]
        texts.append(f"{statistics.fmean(quality):.3f}" if quality else "")
        labelled = [cell["training"]["labelled"] for cell in own if cell["training"]]
        texts.append(f"{100 * statistics.fmean(labelled):.0f} %" if labelled else "")
        texts.append(f"{statistics.fmean([cell['seconds'] for cell in own]):.0f} s")
        lines.append([row["title"], str(len(own)) if row["trained"] else "", *texts])
    train, test = about["train"], about["test"]
    where = f"{test['instances']} instances in {test['scenes']} scenes of the {test['split']} split"
    if test["split"] == "train":
        where += " (there is no other: the supervised row has seen their masks)"
    note = (
        f"Trained on {train['instances']} instances in {train['scenes']} scenes, tested on {where}. Mean ± standard "
        "deviation over the seeds; in brackets the difference to the base with the same Requery and scale; where that "
        "was not measured, with the same Requery at its own scale, else to the first row; of one seed with an "
        "interval (95 %, paired by instance, resampled by image). mIoU: mean over instances; over "
        "images: mean of the images' means. Labels: mean IoU of the masks that are taught with the true ones, of the "
        "training split. Labelled: instances with a pseudo-label in the last epoch."
    )
    trained = [row for row in found["rows"] if row["trained"] and row["name"] in cells]
    averaged = [row["title"] for row in trained if row["options"].get("average")]
    if 0 < len(averaged) < len(trained):  # the averaged teacher, where the preset keeps no average: it needs one
        note += f" Measured with the average of its weights, the others with the last ones: {'; '.join(averaged)}."
    head = ["", "seeds", *(title for _, _, title in COLUMNS), "labels", "labelled", "a run"]
    return Table(str(about["name"]), head, lines, note)


def _text(values: Sequence[float], reference: float | None) -> str:
    mean, deviation = mean_and_deviation(values)
    text = f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"
    return text if reference is None else f"{text} ({mean - reference:+.3f})"


def _interval(cell: Mapping[str, Any], base: Mapping[str, Any], stage: str) -> str:
    """Of one seed's difference to the base, paired by instance, resampled by image; nothing where it is not known."""
    rows, others = (found.get("instances_measured") or [] for found in (cell, base))
    if not rows or [row[0] for row in rows] != [row[0] for row in others]:
        return ""
    column = 1 if stage == "coarse" else 2
    found = paired_difference([r[column] for r in rows], [r[column] for r in others], [r[0] for r in rows])
    return f" ({found.low:+.3f} to {found.high:+.3f})" if found.known else ""


def write_page(found: Mapping[str, Any], path: Path) -> None:
    """Write the tables as one HTML file."""
    options: Mapping[str, Any] = next((row["options"] for row in found["rows"]), {})
    body = "<h1>Ablation</h1><p class=lead>What each part of the method adds, over seeds.</p>"
    for made in tables_of(found):
        body += section(made)
    shown = ("epochs", "batch", "learning_rate", "rank", "start", "tau", "rounds", "beta", "average", "strength")
    more = [
        ("Base", f"{found['base']['name']}, sha256 {found['base']['sha256'][:16]}..."),
        ("Options", ", ".join(f"{name} {options.get(name)}" for name in shown)),
        ("Data", ", ".join(f"{about['name']} {about['train']['digest'][:16]}..." for about in found["data"])),
        ("Precision", next((row["precision"] for row in found["rows"]), "")),
        *(("Resumed", _resumed(run, found)) for run in found["resumed"]),
    ]
    body += conditions(found, more)
    save_page(path, page("Ablation", body))


def _resumed(run: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """A later run's time and command, and what of its machine and versions is not as in the first."""
    text = f"{run['created']}: {run['command']}"
    if run["machine"] != first["machine"]:
        machine = run["machine"]
        text += f"; on {machine['processor']}, {machine['cores']} cores, {', '.join(machine['devices']) or 'no device'}"
    other = [f"{name} {version}" for name, version in run["versions"].items() if first["versions"].get(name) != version]
    return text + (f"; with {', '.join(other)}" if other else "")
