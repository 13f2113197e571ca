"""The order of measurements, workers, and what a run brings home."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resam_benchmarks.measure import runner
from resam_benchmarks.measure.cases import BenchScene, Case, Rival, Turn, schedule
from resam_benchmarks.measure.contender import measure_scene
from resam_benchmarks.measure.metrics import Crop
from resam_benchmarks.measure.runner import run
from resam_benchmarks.measure.worker import Worker
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.prompt_batch import PromptBatch
from tests.benchmarks import contenders

SQUARES = "tests.benchmarks.contenders:Squares"


def scene(folder: Path, number: int, centres: list[tuple[int, int]], side: int = 9) -> tuple[BenchScene, PromptBatch]:
    """A black scene whose true masks are squares around the points."""
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    truths = [Crop(np.ones((side, side), bool), (x - side // 2, y - side // 2)) for x, y in centres]
    points = PromptBatch(np.array(centres, np.float32)[:, None], np.ones((len(centres), 1), np.int32))
    return BenchScene(path.name, str(path), 64, 64, truths, list(range(len(truths)))), points


def case(name: str, scenes: list[tuple[BenchScene, PromptBatch]], repeats: int = 2, **options: float) -> Case:
    rival = Rival(name, SQUARES, options, 123, {"automatic": True})
    return Case(rival, "1 point", [s for s, _ in scenes], [p for _, p in scenes], repeats, graded=True)


def bare_case(scenes: int, repeats: int) -> Case:
    return Case(Rival("r", SQUARES, {}), "x", [None] * scenes, [None] * scenes, repeats, graded=False)  # type: ignore[list-item]


def test_every_case_meets_a_scene_before_any_meets_the_next() -> None:
    turns = list(schedule([bare_case(3, 2), bare_case(3, 2), bare_case(3, 2)]))
    assert len(turns) == len(set(turns)) == 18
    for start in range(0, 18, 3):
        block = turns[start : start + 3]
        assert len({(turn.repeat, turn.scene) for turn in block}) == 1
        assert {turn.case for turn in block} == {0, 1, 2}
    assert {turns[start].case for start in range(0, 18, 3)} == {0, 1, 2}, "the same case always goes first"


def test_no_case_always_follows_the_same_other_one() -> None:
    turns = list(schedule([bare_case(8, 3) for _ in range(4)]))
    blocks = [[turn.case for turn in turns[start : start + 4]] for start in range(0, len(turns), 4)]
    before = [(one, other) for block in blocks for one, other in itertools.pairwise(block)]
    for one in range(4):
        ahead, behind = (before.count(pair) for pair in ((one, (one + 1) % 4), ((one + 1) % 4, one)))
        assert ahead == behind > 0


def test_cases_of_different_length_each_get_all_their_turns() -> None:
    cases = [bare_case(2, 3), bare_case(4, 1)]
    turns = list(schedule(cases))
    for index, one in enumerate(cases):
        expected = {Turn(r, s, index) for r in range(one.repeats) for s in range(len(one.scenes))}
        assert {turn for turn in turns if turn.case == index} == expected
    assert list(schedule([])) == []


def test_a_machine_that_slows_down_hurts_equal_cases_alike() -> None:
    turns = list(schedule([bare_case(10, 3), bare_case(10, 3)]))
    clock, spent = 1.0, {0: 0.0, 1: 0.0}
    for turn in turns:
        clock *= 1.02
        spent[turn.case] += clock
    assert spent[0] == pytest.approx(spent[1], rel=0.03)


def test_a_run_brings_home_samples_grades_and_memory(tmp_path: Path) -> None:
    scenes = [scene(tmp_path, 0, [(20, 20), (50, 40)]), scene(tmp_path, 1, [(30, 30)])]
    seen: list[str] = []
    result = run(
        [case("exact", scenes), case("large", scenes, side=11, seconds=0.02, ballast_mb=60)],
        automatic_scenes=2,
        progress=lambda done, total, what: seen.append(what),
    )
    exact, large = result.cases
    assert [(s.repeat, s.scene) for s in exact.samples] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [s.prompts for s in exact.samples] == [2, 1, 2, 1]
    assert min(s.timing.whole for s in large.samples) >= 0.02
    assert all(s.timing.host == pytest.approx(s.timing.whole) for s in exact.samples)
    assert [(g.scene, g.id) for g in exact.grades] == [(0, 0), (0, 1), (1, 0)], "graded once, not per repeat"
    assert [g.iou for g in exact.grades] == [1.0] * 3
    assert [g.coarse_iou for g in exact.grades] == pytest.approx([81 / 121] * 3)
    assert [g.iou for g in large.grades] == pytest.approx([81 / 121] * 3)
    assert exact.grades[0].area == 81
    first, second = result.rivals
    assert first.description != second.description, "each rival has a process of its own"
    assert second.peak_bytes is not None
    assert first.peak_bytes is not None
    assert second.peak_bytes - first.peak_bytes > 50e6
    assert first.proposals == [(0, 1, [True, False]), (1, 1, [False])]
    assert first.load_s > 0
    assert first.first_s > 0
    assert any("exact" in what for what in seen)


def many(count: int) -> list[tuple[int, int]]:
    return [(8 + 6 * i, 20) for i in range(count)]


def test_peak_memory_is_the_most_of_all_turns_and_of_that_rival_alone(tmp_path: Path) -> None:
    """Warm-up and last turn are the cheapest here, and the expensive rival's memory is not its neighbour's."""
    scenes = [scene(tmp_path, number, many(count)) for number, count in enumerate((1, 6, 1))]
    with Worker(SQUARES) as worker:
        if not forgets_peaks(worker):
            pytest.skip("this kernel cannot forget a peak")
    result = run([case("greedy", scenes, prompt_mb=30), case("modest", scenes)], threads=1)
    greedy, modest = result.rivals
    peaks = {(s.repeat, s.scene): s.timing.peak_bytes or 0 for s in result.cases[0].samples}
    for repeat in (0, 1):
        assert peaks[repeat, 1] - max(peaks[repeat, 0], peaks[repeat, 2]) > 120e6, "each turn has a peak of its own"
    assert greedy.peak_bytes is not None
    assert modest.peak_bytes is not None
    assert greedy.peak_bytes >= max(peaks.values())
    assert greedy.peak_bytes - modest.peak_bytes > 150e6


def test_peak_memory_counts_loading_but_not_what_grading_takes(tmp_path: Path) -> None:
    scenes = [scene(tmp_path, 0, many(2))]
    result = run([case("loads", scenes, loading_mb=200), case("graded", scenes, coarse_mb=200)], threads=1)
    loads, graded = (rival.peak_bytes for rival in result.rivals)
    assert loads is not None
    assert graded is not None
    assert loads - graded > 150e6


def test_the_automatic_mode_looks_at_scenes_from_the_whole_split(tmp_path: Path) -> None:
    scenes = [scene(tmp_path, number, [(20, 20)]) for number in range(9)]
    result = run([case("r", scenes, repeats=1)], automatic_scenes=3)
    assert [index for index, _, _ in result.rivals[0].proposals] == [0, 4, 8]


def test_a_number_of_threads_holds_for_opencv_too() -> None:
    with Worker(SQUARES, threads=1) as worker:
        assert worker.call(contenders.threads) == 1


class Meter:
    """Stands for a sensor that a thread must look at; counts what it is asked."""

    sampled, source = True, "made up"

    def __init__(self) -> None:
        self.running, self.stopped = False, 0

    def start(self) -> None:
        self.running = True

    def stop(self) -> float:
        self.running, self.stopped = False, self.stopped + 1
        return 2.5


def test_a_sensor_is_not_looked_at_while_the_clock_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, busy = Meter(), []
    original = Worker.call

    def call(self: Worker, function: Any, *arguments: Any) -> Any:
        found = original(self, function, *arguments)
        if function is measure_scene:
            busy.append((found[0], meter.running))
        return found

    monkeypatch.setattr(runner, "EnergyMeter", lambda: meter)
    monkeypatch.setattr(Worker, "call", call)
    result = run([case("r", [scene(tmp_path, 0, [(20, 20)])], repeats=3)])
    samples = result.cases[0].samples
    assert [sample.joules for sample in samples] == [2.5] * 3
    timed = [timing for timing, running in busy if not running]
    assert all(sample.timing in timed for sample in samples)
    assert len(result.cases[0].grades) == 1


def forgets_peaks(worker: Worker) -> bool:
    worker.call(contenders.touch, 80)
    before = worker.memory()["peak"]
    worker.reset_peak()
    return worker.memory()["peak"] != before


def test_what_a_worker_prints_does_not_disturb_it_and_errors_come_through() -> None:
    with Worker(SQUARES, {"side": 3}) as worker:
        assert worker.call(contenders.add, 2) == 3
        assert worker.call(contenders.chatter) == "heard"
        with pytest.raises(RuntimeError, match="a defect"):
            worker.call(contenders.fail)
        assert worker.call(contenders.add, 3) == 4
    with pytest.raises(ResamError, match=r"model\.resam: not an engine"):
        Worker("tests.benchmarks.contenders:Broken")


def test_a_worker_that_dies_is_an_error_of_one_line() -> None:
    with Worker(SQUARES) as worker, pytest.raises(ResamError, match="exit status 3") as caught:
        worker.call(contenders.die)
    assert "\n" not in str(caught.value)


def test_peak_memory_is_that_of_the_worker_and_can_start_anew() -> None:
    with Worker(SQUARES) as worker:
        before = worker.memory()["peak"]
        worker.call(contenders.touch, 80)
        after = worker.memory()
        assert before is not None
        assert after["peak"] is not None
        assert after["peak"] - before > 70e6
        worker.reset_peak()
        again = worker.memory()["peak"]
        assert again is not None
        if again == after["peak"]:
            pytest.skip("this kernel cannot forget a peak")
        assert after["peak"] - again > 60e6
