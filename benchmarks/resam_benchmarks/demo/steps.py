"""The demonstration's steps, each a call of what the commands call: train, export, run, measure, show.

A step whose result is there is not done again, so a second run in the same folder goes on with a stopped one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resam_benchmarks.bench import BenchOptions, benchmark
from resam_benchmarks.demo.page import DemoPage, demo_page
from resam_benchmarks.demo.picture import write_picture
from resam_benchmarks.demo.strips import draw_scenes
from resam_benchmarks.report.console import progress_bar
from resam_benchmarks.report.document import read as read_bench
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write, sha256_file
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import FP16, FP32, INT8_FP32, Precision

EXPORTED = (FP32, FP16, INT8_FP32)  # of the adapted model
SHOWN = 5  # scenes on the page
CALIBRATION = 16  # training scenes that the INT8 encoder is calibrated on
CHECKED = 4  # synthetic scenes that fp16 and INT8 are verified on; resam-export takes more, and minutes
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoOptions:
    """scenes: to train on; epochs: times each is seen; limit: test scenes to measure; repeats: timings of each.

    The defaults are for ten minutes on two CPU cores; `resam-train` by itself trains longer.
    """

    scenes: int = 24
    epochs: int = 2
    limit: int = 16
    repeats: int = 2


class DemoRecord:
    """`demo.json`: the options of a demonstration, the seconds of each step, and engines that could not be made."""

    def __init__(self, path: Path, options: DemoOptions) -> None:
        """Begin it or go on with it. `ResamError` where the folder holds something else or other options."""
        self.path, self.options = path, asdict(options)
        self.seconds: dict[str, float] = {}
        self.missing: dict[str, str] = {}
        if path.is_file():
            self._read()
        elif path.parent.exists() and (not path.parent.is_dir() or any(path.parent.iterdir())):
            raise ResamError(f"{path.parent}: exists and holds no demo; choose another folder with -o")
        else:
            self.write()

    def _read(self) -> None:
        folder = self.path.parent
        try:
            held = json.loads(self.path.read_text("utf-8"))
            options, self.seconds, self.missing = held["options"], held["seconds"], held["missing"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResamError(f"{self.path}: damaged ({error}); remove {folder} and start again") from None
        if options != self.options:
            given = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
            raise ResamError(f"{folder}: holds a demo made with {given}; repeat those to resume, or choose another -o")

    def write(self) -> None:
        """Save it."""
        data = {"options": self.options, "seconds": self.seconds, "missing": self.missing}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def run_demo(folder: Path, options: DemoOptions, say: Say = lambda line: None) -> Path:
    """All steps, in `folder`; returns the page's path. Raises `ResamError` as the steps do.

    run/ is the training run, engines/ the engine files, out/ what `resam-run` writes, bench/ what `resam-bench` does.
    """
    record = DemoRecord(folder / "demo.json", options)
    steps: list[tuple[str, str, Callable[[], bool]]] = [
        (
            "train",
            "adapting the tiny base to synthetic scenes, from one point per object",
            lambda: _train(folder, options),
        ),
        (
            "export",
            "exporting engines: the base, and the adapted model in three precisions",
            lambda: _export(folder, record, say),
        ),
        ("run", "segmenting test scenes not seen in training", lambda: _run(folder)),
        ("measure", "measuring quality and speed of every engine, in turns", lambda: _measure(folder, options)),
    ]
    for number, (name, what, step) in enumerate(steps, 1):
        say(f"[{number}/{len(steps) + 1}] {what}")
        start = time.perf_counter()
        if step():
            record.seconds[name] = record.seconds.get(name, 0.0) + time.perf_counter() - start
            record.write()
            say(f"      {time.perf_counter() - start:.0f} s")
        else:
            say("      there already")
    say(f"[{len(steps) + 1}/{len(steps) + 1}] writing the page")
    bench = read_bench(folder / "bench" / "bench.json")
    engines = {"base": folder / "engines" / "base.resam", "adapted": _engine(folder, FP32)}
    scenes = draw_scenes(engines, folder / "run" / "synthetic" / "test.json", bench, SHOWN)
    write_picture(folder / "loop.jpg", scenes, "adapted")
    page = folder / "demo.html"
    scale = EngineFile.open(_engine(folder, FP32)).manifest.scale
    with atomic_write(page) as temporary:
        shown = DemoPage(folder, bench, scenes, record.seconds, record.missing, scale)
        temporary.write_text(demo_page(shown), encoding="utf-8")
    return page


def _engine(folder: Path, precision: Precision) -> Path:
    return folder / "engines" / ("adapted.resam" if precision is FP32 else f"adapted-{precision.name}.resam")


def _train(folder: Path, options: DemoOptions) -> bool:
    from resam.training.options import read_options
    from resam.training.progress import Live
    from resam.training.run import run
    from resam.training.run_folder import start_folder
    from resam.training.sources import Sources

    target = folder / "run"
    if (target / "adapter.safetensors").is_file():
        return False
    resume = (target / "config.toml").is_file()
    chosen = read_options(target / "config.toml") if resume else read_options("tiny", epochs=options.epochs)
    sources = Sources.choose(None, None, None, None, None, False, options.scenes)
    if not resume:
        start_folder(target, chosen, sources.to_dict())
    with Live() as reporter:
        sources.prepare(target, reporter)
        # the engines are measured on the test split at the end: not twice
        data = replace(sources.open(target), tested=None)
        run(target, chosen, data, reporter=reporter, resume=resume)
    return True


def _export(folder: Path, record: DemoRecord, say: Say) -> bool:
    from resam.data.coco import CocoData
    from resam.model.bases import Base, load_base
    from resam.training.checkpoints import Adapter, load_adapted
    from resam_export.engine import export_engine

    adapter = folder / "run" / "adapter.safetensors"
    digest = sha256_file(adapter)
    made = False
    base_engine = folder / "engines" / "base.resam"
    with progress_bar() as progress:

        def export(path: Path, base: Base, adapter: Adapter | None, **how: Any) -> None:
            say(f"      {path.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            show = lambda step: progress(0, 0, f"{path.name}: {step}")  # noqa: E731
            export_engine(base, adapter, path, show, **how)

        if not _holds(base_engine, None):
            export(base_engine, load_base("tiny"), None)
            made = True
        for precision in EXPORTED:
            path = _engine(folder, precision)
            if _holds(path, digest) or precision.name in record.missing:
                continue
            made = True
            scenes = CocoData.open(folder / "run" / "synthetic" / "train.json").scenes[:CALIBRATION]
            images = [scene.path for scene in scenes] if precision.quantised else None
            checked = None if precision.exact else CHECKED
            try:
                export(path, *load_adapted(adapter), precision=precision.name, images=images, scenes=checked)
            except ResamError as error:
                if precision.exact:
                    raise
                # an engine that is not accurate enough is not written: the page says so
                record.missing[precision.name] = str(error)
                say(f"      not made: {error}")
    return made


def _holds(path: Path, adapter: str | None) -> bool:
    """Whether `path` is a whole engine file of this adapter (None: of the bare base)."""
    if not path.is_file():
        return False
    held = EngineFile.open(path).manifest.adapter
    return (None if held is None else held.get("sha256")) == adapter


def _run(folder: Path) -> bool:
    from resam.data.coco import CocoData
    from resam.data.prompts import PointOptions, scene_prompts
    from resam_runtime.run.progress import TerminalProgress
    from resam_runtime.run.run import Run
    from resam_runtime.segment.segmenter import Segmenter

    if (folder / "out" / "summary.json").is_file():
        return False
    data = CocoData.open(folder / "run" / "synthetic" / "test.json")
    points = {
        scene.name: {
            "width": scene.width,
            "height": scene.height,
            "instances": [{"id": p.id, "points": p.coords.tolist(), "labels": p.labels.tolist()} for p in prompts],
        }
        for scene, prompts in zip(data.scenes, scene_prompts(data, PointOptions()))
    }
    with atomic_write(folder / "points.json") as temporary:
        temporary.write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": points}), "utf-8")
    engine = EngineFile.open(_engine(folder, FP32))
    scenes = [scene.path for scene in data.scenes]
    prepared = Run.prepare(engine, scenes, folder / "out", folder / "points.json")
    with TerminalProgress() as progress:
        report = prepared.execute(Segmenter(engine), "resume", observer=progress)
    if report.exit_code:
        raise ResamError(f"{folder / 'out' / 'summary.json'}: {report.failed} scenes failed; it lists why")
    return True


def _measure(folder: Path, options: DemoOptions) -> bool:
    engines = [folder / "engines" / "base.resam", *(p for q in EXPORTED if (p := _engine(folder, q)).is_file())]
    result = folder / "bench" / "bench.json"
    if result.is_file() and {rival["name"] for rival in read_bench(result)["rivals"]} == {p.stem for p in engines}:
        return False
    chosen = BenchOptions(
        engines=engines,
        data=folder / "run" / "synthetic",
        limit=options.limit,
        repeats=options.repeats,
        automatic=0,
    )
    with progress_bar() as progress:
        benchmark(chosen, folder / "bench", f"resam-demo -o {folder}", progress)
    return True
