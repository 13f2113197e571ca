"""The benchmark in one call: engines and baselines, a data set or the synthetic latency scene, results in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resam_benchmarks.baselines import rivals
from resam_benchmarks.baselines.random_engine import export_random
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure import dataset
from resam_benchmarks.measure.cases import BenchScene, Case, Rival
from resam_benchmarks.measure.metrics import BOUNDARY_TOLERANCE
from resam_benchmarks.measure.runner import Progress, run
from resam_benchmarks.report import document, report_html
from resam_benchmarks.report.page_style import save_page
from resam_runtime.common.errors import ResamError, counted
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import FP32
from resam_runtime.scenes.scene import open_scene
from resam_runtime.tiles.prompt_batch import PromptBatch


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    data: a COCO data set; None: latency alone, on the synthetic scene with `prompts` prompts. points: numbers of points
    per instance; negatives: as many negative ones beside them. limit: scenes at most. random: an architecture to
    measure with random weights in place of engines, in each `precision` (a name of
    `resam_runtime.engine.precisions.PRECISIONS`).
    views: above 1, every engine a second time, with masks averaged over so many views. base_weights, adapter: where
    the baselines' weights lie, if not in the package. repeats: of every scene; None: 3, and 10 of the synthetic scene,
    which has no other scenes beside it to tell the noise from. automatic: scenes for the automatic mode. threads: of
    every rival (None: its own choice).
    """

    engines: Sequence[Path] = ()
    data: Path | None = None
    split: str = "test"
    points: Sequence[int] = (1,)
    negatives: bool = False
    prompts: Sequence[int] = (1, 16, 64)
    baselines: Sequence[str] = ()
    views: int = 1
    random: str | None = None
    precision: Sequence[str] = (FP32.name,)
    base_weights: str | None = None
    adapter: Path | None = None
    limit: int | None = None
    repeats: int | None = None
    automatic: int = 8
    device: str | None = None
    threads: int | None = None
    tolerance: float = BOUNDARY_TOLERANCE
    seed: int = 0


def benchmark(
    options: BenchOptions, folder: Path, command: str = "", progress: Progress = lambda done, total, what: None
) -> dict[str, Any]:
    """Measure, write `bench.json` and `bench.html` to `folder`, return what `bench.json` holds.

    Raises `ResamError` for options that do not go together, and for whatever engines, data or baselines raise.
    """
    _check(options)
    document.check_folder(folder)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resam-bench-")))
        contenders = _rivals(options, work, progress)
        cases, about = _cases(options, contenders, work)
        automatic = options.automatic if options.data is not None else 0
        result = run(cases, options.threads, automatic, progress, options.tolerance)
    data = document.document(
        result,
        command=command,
        data={**about, "boundary_tolerance": options.tolerance},
        seeds={"scene and weights": options.seed, "bootstrap": 0},
    )
    document.write(folder / "bench.json", data)
    data = document.read(folder / "bench.json")
    save_page(folder / "bench.html", report_html.bench_page(data))
    return data


def _check(options: BenchOptions) -> None:
    if not options.engines and options.random is None:
        raise ResamError("resam-bench: nothing to measure; give engine files, or --random vit_b for latency alone")
    if options.random is not None and (options.engines or options.data is not None):
        raise ResamError("--random: measures latency only; leave out engine files and --data")
    numbers = (
        *options.points,
        *options.prompts,
        *(number for number in (options.repeats, options.limit) if number is not None),
    )
    if not options.points or not options.prompts or min(numbers) < 1:
        raise ResamError("--points, --prompts, --repeats, --limit: expected whole numbers of at least 1")


def _rivals(options: BenchOptions, work: Path, progress: Progress) -> list[Rival]:
    engines, weights = list(options.engines), None
    if options.random is not None:
        chosen = list(dict.fromkeys(options.precision))
        progress(0, 1, f"exporting {options.random} with random weights, {', '.join(chosen)}")
        weights = Weights(random=options.random, seed=options.seed)
        engines = export_random(weights, work, chosen)
    made = rivals.engine_rivals(engines, options.device, options.threads, options.views)
    if options.baselines:
        progress(0, 1, f"preparing {', '.join(options.baselines)}")
        manifest = EngineFile.open(engines[0]).manifest
        weights = weights or rivals.weights_of(engines[0], options.base_weights, options.adapter)
        made += rivals.baseline_rivals(options.baselines, weights, manifest, work, options.device, options.threads)
    return made


def _cases(options: BenchOptions, contenders: Sequence[Rival], work: Path) -> tuple[list[Case], Mapping[str, Any]]:
    repeats = options.repeats or (3 if options.data is not None else 10)
    if options.data is None:
        scene, prompts = dataset.latency_scene(work, options.prompts, options.seed)
        cases = [
            Case(rival, counted(count, "prompt"), [scene], [prompts[count]], repeats, graded=False)
            for count in options.prompts
            for rival in contenders
        ]
        name = f"synthetic scene, {dataset.LATENCY_SIDE} px" + (
            f", {options.random} with random weights" if options.random else ""
        )
        return cases, {"name": name}
    data = dataset.load(options.data, options.split, options.points, options.limit, options.negatives)
    cases = [
        Case(rival, counted(count, "point"), data.scenes, _known_sizes(rival, data, count), repeats, graded=True)
        for count in options.points
        for rival in contenders
    ]
    return cases, data.about


def _known_sizes(rival: Rival, data: dataset.BenchData, count: int) -> Sequence[PromptBatch]:
    """The prompts of every scene; for an engine that knows the sizes of classes with those of their instances."""
    engine = EngineFile.open(rival.options["path"], verify=False) if rival.about.get("kind") == "engine" else None
    if engine is None or (sizes := engine.manifest.sizes) is None:
        return data.points[count]
    return [
        dataclasses.replace(batch, sides=sizes.sides(scene.categories, _metres(scene) if sizes.in_metres else None))
        for scene, batch in zip(data.scenes, data.points[count])
    ]


def _metres(scene: BenchScene) -> float | None:
    with open_scene(scene.path) as opened:
        return opened.info.metres_per_pixel
