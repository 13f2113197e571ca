"""Runs cases, each rival in a worker of its own, all in turn; grades the masks between measurements."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from resam.data.spread import spread
from resam_benchmarks.measure import metrics
from resam_benchmarks.measure.cases import BenchScene, Case, Rival, Turn, schedule
from resam_benchmarks.measure.contender import (
    Answer,
    Timing,
    describe_contender,
    find_masks,
    measure_scene,
    prepare_scene,
)
from resam_benchmarks.measure.energy import EnergyMeter
from resam_benchmarks.measure.metrics import Crop
from resam_benchmarks.measure.worker import Worker

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what comes next)."""


@dataclass(frozen=True)
class Measurement:
    """One measurement: when, where, how long (seconds) and with how much memory, with how many prompts, joules."""

    repeat: int
    scene: int
    timing: Timing
    prompts: int
    joules: float | None = None


@dataclass(frozen=True)
class Grade:
    """One instance: its true area in pixels, IoU and boundary F-score of its coarse and of its final mask."""

    scene: int
    id: int | str
    area: int
    coarse_iou: float
    iou: float
    coarse_boundary: float
    boundary: float
    score: float


@dataclass
class RivalResult:
    """What was found out about a rival as a whole; bytes and seconds.

    peak_bytes: most resident memory of its process, over loading and all turns. device_bytes: most that its process
    held of the device. before_bytes: resident before anything was loaded. proposals: per scene of the automatic mode
    (scene, how many were proposed, for each true instance whether one fits).
    """

    rival: Rival
    description: str = ""
    load_s: float = 0.0
    first_s: float = 0.0
    peak_bytes: int | None = None
    before_bytes: int | None = None
    device_bytes: int | None = None
    proposals: list[tuple[int, int, list[bool]]] = field(default_factory=list)


@dataclass
class CaseResult:
    """Measurements and grades of one case."""

    case: Case
    samples: list[Measurement] = field(default_factory=list)
    grades: list[Grade] = field(default_factory=list)


@dataclass
class BenchResult:
    """Everything a run found out; `energy_source` is None where the machine tells no energy."""

    rivals: list[RivalResult]
    cases: list[CaseResult]
    energy_source: str | None


def run(
    cases: Sequence[Case],
    threads: int | None = None,
    automatic_scenes: int = 0,
    progress: Progress = lambda done, total, what: None,
    tolerance: float = metrics.BOUNDARY_TOLERANCE,
) -> BenchResult:
    """Measure all cases in the order of `schedule`.

    Before it, every case runs once unmeasured on its first scene (the first of a rival is its cold start). The
    automatic mode of the rivals that have one runs after it, on `automatic_scenes` scenes, evenly chosen. Raises
    `ResamError` where a rival cannot be loaded or dies.
    """
    rivals = list({case.rival.name: case.rival for case in cases}.values())
    turns = list(schedule(cases))
    results = {rival.name: RivalResult(rival) for rival in rivals}
    case_results = [CaseResult(case) for case in cases]
    meter = EnergyMeter()
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for rival in rivals:
            progress(0, len(turns), f"loading {rival.name}")
            workers[rival.name] = stack.enter_context(Worker(rival.factory, rival.options, threads))
            _note_loading(workers[rival.name], results[rival.name])
        for case in cases:
            progress(0, len(turns), f"warming up {case.name}")
            _warm_up(case, workers[case.rival.name], results[case.rival.name])
        for done, turn in enumerate(turns):
            case = cases[turn.case]
            progress(done, len(turns), case.name)
            sample, answer = _measure(turn, case, workers[case.rival.name], meter)
            case_results[turn.case].samples.append(sample)
            _note_memory(results[case.rival.name], sample.timing, workers[case.rival.name])
            if answer is not None:
                case_results[turn.case].grades += grade(turn.scene, case.scenes[turn.scene], answer, tolerance)
        for rival in rivals:
            if rival.about.get("automatic"):
                scenes = next(case.scenes for case in cases if case.rival.name == rival.name)
                for index in spread(len(scenes), automatic_scenes):
                    progress(len(turns), len(turns), f"{rival.name} without points: {scenes[index].name}")
                    found = workers[rival.name].call(find_masks, scenes[index].path)
                    recall = metrics.recall_at(found, scenes[index].truths)
                    results[rival.name].proposals.append((index, len(found), recall))
    return BenchResult(list(results.values()), case_results, meter.source)


def _note_loading(worker: Worker, result: RivalResult) -> None:
    memory = worker.memory()
    result.load_s = worker.created_s
    result.peak_bytes, result.before_bytes, result.device_bytes = memory["peak"], memory["before"], memory["device"]


def _warm_up(case: Case, worker: Worker, result: RivalResult) -> None:
    timing, _ = worker.call(measure_scene, case.scenes[0].path, case.points[0], False)
    if not result.description:
        result.description = worker.call(describe_contender)
        result.first_s = timing.whole
    _note_memory(result, timing, worker)


def _note_memory(result: RivalResult, timing: Timing, worker: Worker) -> None:
    """Keep the largest peaks: of the last turn alone they would be those of the smallest case as well as not."""
    result.peak_bytes = max(result.peak_bytes or 0, timing.peak_bytes or 0)
    device = worker.memory()["device"]
    if device is not None:
        result.device_bytes = max(result.device_bytes or 0, device)


def _measure(turn: Turn, case: Case, worker: Worker, meter: EnergyMeter) -> tuple[Measurement, Answer | None]:
    points, path = case.points[turn.scene], case.scenes[turn.scene].path
    wanted = case.graded and turn.repeat == 0
    worker.call(prepare_scene, path)
    if meter.sampled:
        timing, answer = worker.call(measure_scene, path, points, wanted)
        meter.start()
        worker.call(measure_scene, path, points, False)
        return Measurement(turn.repeat, turn.scene, timing, len(points), meter.stop()), answer
    meter.start()
    timing, answer = worker.call(measure_scene, path, points, wanted and meter.source is None)
    joules = meter.stop()
    if wanted and answer is None:  # the masks would have been collected on the energy's bill
        _, answer = worker.call(measure_scene, path, points, True)
    return Measurement(turn.repeat, turn.scene, timing, len(points), joules), answer


def grade(index: int, scene: BenchScene, answer: Answer, tolerance: float) -> list[Grade]:
    """Compare the masks of one scene with its truths, instance by instance."""
    if len(answer.final) != len(scene.truths):
        raise ValueError(f"{scene.name}: {len(answer.final)} masks for {len(scene.truths)} instances")
    nothing = Crop(scene.truths[0].mask[:0, :0], (0, 0)) if scene.truths else None
    grades = []
    for place, truth in enumerate(scene.truths):
        final, score = answer.final[place]
        coarse = answer.coarse[place] if answer.coarse else nothing
        assert coarse is not None
        grades.append(
            Grade(
                index,
                scene.ids[place],
                truth.area,
                metrics.iou(coarse, truth),
                metrics.iou(final, truth),
                metrics.boundary_f(coarse, truth, tolerance),
                metrics.boundary_f(final, truth, tolerance),
                float(score),
            )
        )
    return grades
