"""`resam-bench ablation`: what each part of the method adds, in one table, over seeds.

A row is a name and changes to the options (`resam_benchmarks.ablation.rows`). A cell is a row, a data set and a seed:
the base is adapted on the training split and measured on the test split; rows that are not trained have one cell. All
rows of a data set see the same scenes, the same points and, with the same seed, the same order, views and first
weights, so that differences between rows are paired. What is made before the first epoch (a scale, a consensus) is the
base's alone and the same for every seed: it is made once. Cells are written as they are done, and a run that was
stopped goes on with those that lack.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resam_benchmarks.ablation import document as ablation_document
from resam_benchmarks.ablation.rows import NAMES, ROWS, Row, check_changes
from resam_benchmarks.measure import machine
from resam_benchmarks.measure.runner import Progress
from resam_benchmarks.report import document
from resam_runtime.common.errors import ResamError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from resam.data.coco import CocoData
    from resam.data.training_set import TrainingSet
    from resam.model.bases import Base
    from resam.training.options import TrainOptions
    from resam_runtime.points import Prompt

SYNTHETIC = "synthetic"
FROZEN = "frozen"  # the folder, in the output, of what the base alone makes
TEACHER_AVERAGE = 0.99


@dataclass(frozen=True)
class Settings:
    """What an ablation is made of. scenes, limit: training and test scenes at most, evenly chosen (0: all).

    data: folders, or "synthetic". precision: of training, as of resam-train; evaluation is in full. changes: options on
    top of the preset, for every row; none that a row decides, and not the seed.
    """

    data: tuple[str, ...] = (SYNTHETIC,)
    seeds: int = 3
    rows: tuple[str, ...] = NAMES
    preset: str = "tiny"
    scenes: int = 10
    limit: int = 8
    precision: str = "auto"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Split:
    """A data set as the cells use it. prompts: those of `test`, for evaluation."""

    name: str
    train: CocoData
    test: CocoData
    prompts: list[list[Prompt]]
    about: dict[str, Any]


@dataclass(frozen=True)
class _Prepared:
    """What the seeds of a row share, and the seconds that it took."""

    samples: TrainingSet
    seconds: float


def ablate(
    settings: Settings,
    out: Path,
    command: str,
    progress: Progress = lambda done, total, what: None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compute the cells that `out`/ablation.json lacks and return its contents (written after each cell).

    note: given one line per finished cell. Raises `ResamError` for unknown rows, bad options or data, options that a
    row decides, and where `out` holds an ablation of other data, options or another base.
    """
    from resam.model.bases import load_base
    from resam.training.devices import make_fabric

    unknown = [name for name in settings.rows if name not in NAMES]
    if unknown:
        raise ResamError(f"--rows: no row {unknown[0]!r}; rows are {', '.join(NAMES)}")
    rows = [row for row in ROWS if row.name in settings.rows or row.name == "base"]
    check_changes(settings.changes, rows)
    options = {row.name: _options(settings, row) for row in rows}
    splits = [_open(name, settings, out) for name in dict.fromkeys(settings.data)]
    if len({split.name for split in splits}) < len(splits):
        raise ResamError(f"--data: two data sets have the same name ({', '.join(split.name for split in splits)})")
    base = load_base(options["base"].base)
    fresh = _fresh(settings, rows, options, splits, base, command)
    found = ablation_document.go_on(out / "ablation.json", fresh)
    done = {(cell["data"], cell["row"], cell["seed"]) for cell in found["cells"]}
    cells = [(split, row, seed) for seed in range(settings.seeds) for split in splits for row in rows
             if row.trained or seed == 0]  # fmt: skip
    cells = [cell for cell in cells if (cell[0].name, cell[1].name, cell[2]) not in done]
    if cells and found["cells"]:
        ablation_document.add_run(found, fresh)
    fabric = make_fabric(precision=settings.precision, encoder_width=base.architecture.width)
    prepared: dict[tuple[str, str], _Prepared] = {}
    began, commit = time.perf_counter(), machine.commit()
    for number, (split, row, seed) in enumerate(cells):
        what = f"{split.name}, {row.name}, seed {seed}"
        chosen = dataclasses.replace(options[row.name], seed=seed)

        def advance(share: float, what: str = what, number: int = number) -> None:
            progress(int(1000 * (number + share)), 1000 * len(cells), what)

        cell = {
            "data": split.name,
            "row": row.name,
            "seed": seed,
            **_measure(split, row, chosen, fabric, prepared, out / FROZEN, advance),
        }
        found["cells"].append({**cell, "commit": commit})
        document.write(out / "ablation.json", found)
        left = (time.perf_counter() - began) / (number + 1) * (len(cells) - number - 1)
        note(
            f"[{number + 1}/{len(cells)}] {what}: mIoU {cell['coarse']['miou']:.3f} after Coarse, "
            f"{cell['final']['miou']:.3f} after Requery, {cell['seconds']:.0f} s, {_minutes(left)} left"
        )
    return found


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _options(settings: Settings, row: Row) -> TrainOptions:
    from resam.training.options import read_options

    changes = {**settings.changes, **row.changes}
    if "average" not in changes and changes.get("teacher") == "average" and not read_options(settings.preset).average:
        changes["average"] = TEACHER_AVERAGE  # a preset that keeps no average has no teacher either
    return read_options(settings.preset, **changes)


def _measure(
    split: _Split,
    row: Row,
    options: TrainOptions,
    fabric: Fabric,
    prepared: dict[tuple[str, str], _Prepared],
    cache: Path,
    advance: Callable[[float], None],
) -> dict[str, Any]:
    """Train (or not) and evaluate: mIoU and its kin after Coarse and after Requery, figures of training, seconds (with
    those of what was prepared, so that a cell's are those of a run by itself).

    prepared: by data set and row; what lacks is added. cache: where what the base alone makes is kept, for rows and
    runs that share it.
    """
    from resam.model.bases import load_base
    from resam.training.evaluate import evaluate, summarise
    from resam.training.preparation import prepared_set
    from resam.training.run_data import RunData
    from resam.training.trainer import Trainer

    base, key = load_base(options.base), (split.name, row.name)
    if key not in prepared:
        began = time.perf_counter()
        samples = prepared_set(options, base, RunData(split.train), fabric, cache)
        prepared[key] = _Prepared(samples, time.perf_counter() - began)
    began = time.perf_counter() - prepared[key].seconds
    samples = prepared[key].samples.seeded(options.seed)
    trainer = Trainer(base, samples, options, fabric)
    epochs = options.epochs if row.trained else 0
    steps = epochs * -(-len(samples) // options.batch)
    total, done = max(1, steps + len(split.test.scenes)), 0

    def step(row: Any = None) -> None:
        nonlocal done
        done += 1
        advance(min(1.0, done / total))

    means: dict[str, float] = {}
    for _ in range(epochs):
        means = trainer.run_epoch(step)
    trained = time.perf_counter() - began
    with trainer.averaged():  # in full precision, whatever it was trained in
        found = evaluate(trainer.encoder, trainer.loop, split.test, split.prompts, samples.framing, advance=step)
    return {
        **summarise(found),
        "instances_measured": [[one.scene, *(round(iou, 5) for iou in one.ious)] for one in found],
        "labels": _label_quality(samples),
        "training": means,
        "steps": trainer.step,
        "tiles": len(samples),
        "scale": samples.framing.scale,
        "training_seconds": trained,
        "seconds": time.perf_counter() - began,
    }


def _label_quality(samples: TrainingSet) -> float | None:
    """Mean IoU, on the grids of the tiles, of the masks that are taught with the true ones; None where none were made
    before training."""
    from resam.data.tiles import tile_masks

    ious = []
    size, grid = samples.architecture.image_size, samples.architecture.mask_size
    for sample in samples.samples:
        scene = samples.data.scenes[sample.scene]
        known = {instance.id: instance for instance in scene.instances}
        for number in sample.prompts:
            label = samples.label(sample.scene, number)
            own = samples.prompts[sample.scene][number].id
            if label is None or own is None or own not in known:
                return None
            truth = tile_masks([scene.mask(known[own])], sample.tile, grid, size, (False, False))[0] > 0.5
            taught = label.full() > 0.5
            ious.append((taught & truth).sum() / max(1, (taught | truth).sum()))
    return float(sum(ious) / len(ious)) if ious else None


def _open(source: str, settings: Settings, out: Path) -> _Split:
    from resam.data.coco import CocoData, find_splits
    from resam.data.prompts import scene_prompts
    from resam.synthetic import write_dataset
    from resam.training.options import read_options
    from resam.training.sources import SYNTHETIC_SEED

    folder, name = Path(source), Path(source).resolve().name
    if source == SYNTHETIC:  # a folder of that name is ./synthetic
        train, test = settings.scenes or 48, settings.limit or 20
        folder, name = out / f"{SYNTHETIC}-{train}-{test}", SYNTHETIC
        if not folder.is_dir():
            write_dataset(folder, train, 0, test, SYNTHETIC_SEED)
    files = find_splits(folder)
    tested = next(split for split in ("test", "val", "train") if split in files)
    shown = _part(CocoData.open(files["train"]), settings.scenes)
    held = _part(CocoData.open(files[tested]), settings.limit)
    prompts = scene_prompts(held, read_options(settings.preset, **settings.changes).test_points)
    about = {
        "name": name,
        "train": {"digest": shown.digest, "scenes": len(shown.scenes), "instances": shown.count},
        "test": {"split": tested, "digest": held.digest, "scenes": len(held.scenes), "instances": held.count},
    }
    return _Split(name, shown, held, prompts, about)


def _part(data: CocoData, count: int) -> CocoData:
    """At most `count` (0: all) of the scenes that have instances, evenly spread. The digest stays: so do the points."""
    from resam.data.spread import spread

    scenes = [scene for scene in data.scenes if scene.instances]
    if not scenes:
        raise ResamError(f"{data.path}: no instances in {len(data.scenes)} images")
    if 0 < count < len(scenes):
        scenes = [scenes[i] for i in spread(len(scenes), count)]
    return dataclasses.replace(data, scenes=tuple(scenes))


def _fresh(
    settings: Settings,
    rows: Sequence[Row],
    options: Mapping[str, TrainOptions],
    splits: Sequence[_Split],
    base: Base,
    command: str,
) -> dict[str, Any]:
    """The document of this run alone, without a cell."""
    return {
        "format": ablation_document.FORMAT,
        "version": ablation_document.VERSION,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "base": {"name": base.name, "sha256": base.sha256},
        "data": [split.about for split in splits],
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                "trained": row.trained,
                "precision": settings.precision,
                "options": {key: value for key, value in options[row.name].to_dict().items() if key != "seed"},
            }
            for row in rows
        ],
        "resumed": [],
        "cells": [],
    }
