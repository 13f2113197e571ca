"""The demonstration's steps, each a call of what the commands call: train, export, run, measure, show.

A step whose result is there is not done again, so a second run in the same folder goes on with a stopped one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resam_benchmarks.bench import BenchOptions, benchmark
from resam_benchmarks.demo.page import DemoPage, demo_page
from resam_benchmarks.demo.picture import write_picture
from resam_benchmarks.demo.strips import ShownScene, draw_scenes
from resam_benchmarks.report import document
from resam_benchmarks.report.console import progress_bar
from resam_benchmarks.report.document import read as read_bench
from resam_benchmarks.report.page_style import save_page
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write, sha256_file
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import FP16, FP32, INT8_FP32, Precision
from resam_runtime.engine.shipped import engine_path

if TYPE_CHECKING:
    from resam.training.sources import Sources

EXPORTED = (FP32, FP16, INT8_FP32)  # of the adapted model
SHOWN = 5  # scenes on the page
CALIBRATION = 16  # training scenes that the INT8 encoder is calibrated on
CHECKED = 4  # synthetic scenes that fp16 and INT8 are verified on; resam-export takes more, and minutes
CLICKS = 3  # of an object, that its label is made from; the model is asked with one of them
PROMPTER_STEPS = 300  # of training the prompter; resam-train takes more
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoOptions:
    """scenes: to train on; epochs: times each is seen; limit: test scenes to measure; repeats: timings of each.

    The defaults are for ten to fifteen minutes on two CPU cores; `resam-train` by itself trains longer.
    """

    scenes: int = 16
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


@dataclass(frozen=True)
class Step:
    """One step: its name in demo.json, what it does in words, and the call; which says whether there was work left."""

    name: str
    doing: str
    call: Callable[[], bool]


def run_demo(
    folder: Path, options: DemoOptions, say: Say = lambda line: None, show: Callable[[Path], None] = lambda page: None
) -> Path:
    """All steps, in `folder`; returns the page's path. Raises `ResamError` as the steps do.

    The page is written after each step, and `show` is called with its path when it is there for the first time. run/ is
    the training run, engines/ the engine files, out/ what `resam-run` writes, finding/ what is found without points,
    bench/ what `resam-bench` measures.
    """
    record = DemoRecord(folder / "demo.json", options)
    steps = [
        Step("scenes", "drawing scenes, and the base's masks on the first", lambda: _scenes(folder, options)),
        Step("train", "adapting the tiny base to them from clicks, and its prompter", lambda: _train(folder, options)),
        Step("export", "exporting the adapted model in three precisions", lambda: _export(folder, record, say)),
        Step("run", "segmenting unseen test scenes from one click per object", lambda: _run(folder)),
        Step("find", "finding objects in test scenes without clicks", lambda: _find(folder, options)),
        Step("measure", "measuring quality and speed of every engine, in turns", lambda: _measure(folder, options)),
    ]
    page = _Page(folder, options, record, [step.doing for step in steps])
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.doing}")
        start = time.perf_counter()
        worked = step.call()
        taken = time.perf_counter() - start
        if worked:
            record.seconds[step.name] = record.seconds.get(step.name, 0.0) + taken
            record.write()
        say(f"      {taken:.0f} s" if worked else "      there already")
        page.write(number)
        if number == 1:
            show(page.path)
    write_picture(folder / "loop.jpg", page.scenes, "adapted")
    return page.path


class _Page:
    """demo.html, with what there is so far. scenes: the pictures on it."""

    def __init__(self, folder: Path, options: DemoOptions, record: DemoRecord, steps: list[str]) -> None:
        self.path = folder / "demo.html"
        self.scenes: list[ShownScene] = []
        self._folder, self._options, self._record, self._steps = folder, options, record, steps
        self._drawn: list[str] = []  # names of the engines in the pictures

    def write(self, done: int) -> None:
        """The page after `done` steps."""
        folder = self._folder
        engines = {"base": folder / "engines" / "base.resam", "adapted": _engine(folder, FP32)}
        engines = {name: path for name, path in engines.items() if path.is_file()}
        if list(engines) != self._drawn:
            test = folder / "run" / "synthetic" / "test.json"
            self.scenes = draw_scenes(engines, test, self._options.limit, SHOWN)
            self._drawn = list(engines)
        bench, finding = folder / "bench" / "bench.json", folder / "finding" / "finding.json"
        shown = DemoPage(
            folder,
            self.scenes,
            self._record.seconds,
            self._record.missing,
            EngineFile.open(engines["adapted"]).manifest.scale if "adapted" in engines else 1.0,
            self._steps,
            done,
            read_bench(bench) if done == len(self._steps) else None,
            json.loads(finding.read_text("utf-8")) if finding.is_file() else None,
        )
        save_page(self.path, demo_page(shown))


def _engine(folder: Path, precision: Precision) -> Path:
    return folder / "engines" / ("adapted.resam" if precision is FP32 else f"adapted-{precision.name}.resam")


def _scenes(folder: Path, options: DemoOptions) -> bool:
    """The run's folder with its scenes, and the base's engine: the one that ships."""
    from resam.training.options import read_options
    from resam.training.progress import Live
    from resam.training.run_folder import start_folder

    target, base = folder / "run", folder / "engines" / "base.resam"
    made = not (target / "synthetic" / "test.json").is_file() or not base.is_file()
    sources = _sources(options)
    if not (target / "config.toml").is_file():
        chosen = read_options(
            "tiny", epochs=options.epochs, points=CLICKS, asked=1, prompter=True, prompter_steps=PROMPTER_STEPS
        )
        start_folder(target, chosen, sources.to_dict())
    with Live() as reporter:
        sources.prepare(target, reporter)
    if not base.is_file():
        with atomic_write(base) as temporary:
            shutil.copyfile(engine_path("tiny"), temporary)
    return made


def _sources(options: DemoOptions) -> Sources:
    from resam.training.sources import Sources

    return Sources.choose(None, None, None, None, None, False, options.scenes)


def _train(folder: Path, options: DemoOptions) -> bool:
    from resam.training.options import read_options
    from resam.training.progress import Live
    from resam.training.run import run

    target = folder / "run"
    if (target / "adapter.safetensors").is_file():
        return False
    # the engines are measured on the test split at the end: not twice
    data = replace(_sources(options).open(target), tested=None)
    with Live() as reporter:
        run(target, read_options(target / "config.toml"), data, reporter=reporter, resume=True)
    return True


def _export(folder: Path, record: DemoRecord, say: Say) -> bool:
    from resam.data.coco import CocoData
    from resam.training.checkpoints import load_adapted
    from resam_export.engine import export_engine

    adapter = folder / "run" / "adapter.safetensors"
    digest = sha256_file(adapter)
    made = False
    with progress_bar() as progress:
        for precision in EXPORTED:
            path = _engine(folder, precision)
            if _holds(path, digest) or precision.name in record.missing:
                continue
            made = True
            say(f"      {path.name}")
            scenes = CocoData.open(folder / "run" / "synthetic" / "train.json").scenes[:CALIBRATION]
            images = [scene.path for scene in scenes] if precision.quantised else None
            checked = None if precision.exact else CHECKED
            try:
                show = lambda step, name=path.name: progress(0, 0, f"{name}: {step}")  # noqa: E731
                base, adapted = load_adapted(adapter)
                export_engine(
                    base, adapted, path, show, precision=precision.name, images=images, scenes=checked
                )  # fmt: skip
            except ResamError as error:
                if precision.exact:
                    raise
                # an engine that is not accurate enough is not written: the page says so
                record.missing[precision.name] = str(error)
                say(f"      not made: {error}")
    return made


def _holds(path: Path, adapter: str) -> bool:
    """Whether `path` is a whole engine file of this adapter."""
    if not path.is_file():
        return False
    held = EngineFile.open(path).manifest.adapter
    return held is not None and held.get("sha256") == adapter


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


def _find(folder: Path, options: DemoOptions) -> bool:
    from resam_benchmarks.finding.find_bench import measure

    result = folder / "finding" / "finding.json"
    if result.is_file():
        return False
    with progress_bar() as progress:
        found = measure(
            [_engine(folder, FP32)], folder / "run" / "synthetic" / "test.json", limit=options.limit, progress=progress
        )
    document.write(result, {**found, "command": f"resam-demo -o {folder}"})
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
