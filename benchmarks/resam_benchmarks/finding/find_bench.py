"""`resam-bench find`: what engines find in scenes of a data set without points, by their prompters and by the grid of
`--automatic`, on the same scenes, with the time that it takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resam.data.coco import CocoData, CocoScene
from resam.data.spread import spread
from resam_benchmarks.finding.curve import clicked_images
from resam_benchmarks.finding.evaluation import FoundMask, Scenes, evaluate
from resam_benchmarks.measure.machine import describe
from resam_benchmarks.report.console import Progress
from resam_benchmarks.report.tables import Table
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import GRAPHS
from resam_runtime.masks.instance import Instance
from resam_runtime.masks.rle import encode_rle
from resam_runtime.segment.automatic import AutomaticOptions
from resam_runtime.segment.segmenter import Image, Segmenter

FAINTEST = 0.05  # score down to which instances are found, so that AP sees the whole curve
TIMED = 8  # scenes on which the time is taken, at the engine's own thresholds


def measure(
    engines: Sequence[Path],
    annotations: Path,
    *,
    limit: int | None = None,
    automatic: int = 0,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Every engine's prompter on the scenes of an annotation file (at most `limit`, evenly chosen), and the grids of
    all engines on `automatic` of these; an engine without a prompter has its grid alone. Plain data.

    Raises `ResamError` for files that cannot be read, a data set without instances, and where there is nothing to
    measure.
    """
    data = CocoData.open(annotations)
    scenes = [scene for scene in data.scenes if scene.instances]
    if not scenes:
        raise ResamError(f"{annotations}: no instances in {len(data.scenes)} images; give a split with annotations")
    scenes = [scenes[i] for i in spread(len(scenes), limit or len(scenes))]
    few = [scenes[i] for i in spread(len(scenes), automatic)] if automatic else []
    opened = [EngineFile.open(path) for path in engines]
    if not any(engine.manifest.prompter for engine in opened) and not few:
        raise ResamError("no engine has a prompter; train one with resam-train --prompter, or give --automatic N")
    rows, seen = [], list[list[str]]()
    for engine in opened:
        if engine.manifest.prompter is not None:
            rows.append(_prompter(engine, data, scenes, device, threads, progress))
            if few and len(few) < len(scenes):
                rows.append(_prompter(engine, data, few, device, threads, progress, f" on {len(few)} scenes"))
        if few and (graphs := _without_prompter(engine)) not in seen:  # its grid finds what that of an equal one finds
            rows.append(_grid(engine, data, few, device, threads, progress))
            seen.append(graphs)
    return {
        "kind": "finding",
        "data": {"name": annotations.resolve().parent.name, "file": annotations.name, "digest": data.digest},
        "machine": describe(),
        "rows": rows,
    }


def _without_prompter(engine: EngineFile) -> list[str]:
    """What tells an engine's other graphs from those of another engine."""
    return [spec.sha256 for name, spec in sorted(engine.manifest.graphs.items()) if name in GRAPHS]


def _prompter(
    engine: EngineFile,
    data: CocoData,
    scenes: Sequence[CocoScene],
    device: str | None,
    threads: int | None,
    progress: Progress,
    where: str = "",
) -> dict[str, Any]:
    spec = engine.manifest.prompter
    assert spec is not None
    faint = Segmenter(engine, device, threads, min_score=min(FAINTEST, *(one.threshold for one in spec.classes)))
    numbers = {name.casefold(): number for number, name in data.categories.items()}
    of_class = {one.id: (numbers.get(one.name.casefold()), one.threshold) for one in spec.classes}

    def found(one: Instance) -> FoundMask:
        assert one.category is not None
        assert one.category.id is not None
        number, threshold = of_class[one.category.id]
        return FoundMask(one.rle, one.score, number, one.score >= threshold)

    row = _row(f"{engine.path.stem}, prompter{where}", faint, found, data, scenes, True, progress)
    row["clicked_images"] = clicked_images(engine.manifest.training)
    return {**row, **_times(Segmenter(engine, device, threads), scenes)}


def _grid(
    engine: EngineFile,
    data: CocoData,
    scenes: Sequence[CocoScene],
    device: str | None,
    threads: int | None,
    progress: Progress,
) -> dict[str, Any]:
    segmenter = Segmenter(engine, device, threads, automatic=AutomaticOptions())

    def found(one: Instance) -> FoundMask:
        return FoundMask(one.rle, one.score, None, True)

    name = f"{engine.path.stem}, --automatic on {len(scenes)} scenes"
    row = _row(name, segmenter, found, data, scenes, False, progress)
    return {**row, **_times(segmenter, scenes[:1])}


def _row(
    name: str,
    segmenter: Segmenter,
    found: Any,
    data: CocoData,
    scenes: Sequence[CocoScene],
    with_classes: bool,
    progress: Progress,
) -> dict[str, Any]:
    truth, masks = Scenes(categories=data.categories), {}
    for done, scene in enumerate(scenes):
        progress(done, len(scenes), name)
        true = [(scene.mask(one), one.category) for one in scene.instances]
        whole = (scene.height, scene.width)
        number = truth.add(scene.width, scene.height, [(encode_rle(m, (0, 0), whole), k) for m, k in true if m.any()])
        masks[number] = [found(one) for one in segmenter(scene.read())]
    instances = len(truth.annotations)
    return {"name": name, "scenes": len(scenes), "instances": instances, **evaluate(truth, masks, with_classes)}


def _times(segmenter: Segmenter, scenes: Sequence[CocoScene]) -> dict[str, Any]:
    """Seconds a scene, whole and of the encoder alone: medians over some of the scenes."""
    whole, encoder = [], []
    for scene in [scenes[i] for i in spread(len(scenes), TIMED)]:
        image: Image = scene.read()
        begin = time.perf_counter()
        segmenter(image)
        middle = time.perf_counter()
        for tile in segmenter.tiles(scene.width, scene.height):
            segmenter.encode_tile(segmenter.prepare_tile(tile.cut(image), tile))
        whole.append(middle - begin)
        encoder.append(time.perf_counter() - middle)
    return {"seconds": float(np.median(whole)), "encoder_seconds": float(np.median(encoder))}


def table_of(found: Mapping[str, Any]) -> Table:
    """One row a rival."""
    head = ["", "AP", "AP50", "AP50 without classes", "recall at 100, IoU 0.5", "over IoU 0.5-0.95", "small", "medium",
            "large", "precision", "recall", "masks a scene", "s a scene", "encoder"]  # fmt: skip
    keys = ("recall50_free", "ar100_free", "ar100_small", "ar100_medium", "ar100_large", "precision", "recall")
    rows = []
    for row in found["rows"]:
        interval = row["ap50_free_interval"]
        between = "" if interval is None else " ({:.3f} to {:.3f})".format(*interval)
        cells = [
            _cell(row["ap"]),
            _cell(row["ap50"]),
            _cell(row["ap50_free"]) + between,
            *(_cell(row[k]) for k in keys),
        ]
        times = [f"{row['proposals']:.0f}", f"{row['seconds']:.2f}", f"{row['encoder_seconds']:.2f}"]
        rows.append([row["name"], *cells, *times])
    sizes = {(row["scenes"], row["instances"]) for row in found["rows"]}
    counts = "; ".join(f"{instances} instances in {scenes} scenes" for scenes, instances in sorted(sizes, reverse=True))
    return Table(
        f"Found without points: {found['data']['name']}, {found['data']['file']}",
        head,
        rows,
        f"{counts}. COCO's evaluation of masks; AP50 without classes with 95 % of bootstrap samples of the scenes; "
        "recall at 100 masks a scene, without classes, at IoU 0.5, over 0.5 to 0.95, and that by size; precision and "
        f"recall at the engine's own thresholds, IoU 0.5. Masks from score {FAINTEST} on; seconds at the engine's own "
        "thresholds.",
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
