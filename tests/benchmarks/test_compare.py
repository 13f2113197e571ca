"""`resam-bench compare` for CI: its exit code says whether something became worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resam_benchmarks.cli import bench
from tests.benchmarks.documents import make_document


@pytest.fixture
def compare(tmp_path: Path) -> Any:
    def call(before: dict[str, Any], after: dict[str, Any], *options: str) -> Result:
        paths = []
        for name, data in (("before", before), ("after", after)):
            paths.append(tmp_path / f"{name}.json")
            paths[-1].write_text(json.dumps(data), encoding="utf-8")
        return CliRunner().invoke(bench, ["compare", *map(str, paths), *options])

    return call


def test_the_same_speed_measured_twice_passes(compare: Any) -> None:
    result = compare(make_document(seed=1), make_document(seed=2), "--limit", "5%")
    assert result.exit_code == 0, result.output
    assert "0 regressions" in result.output


def test_what_stayed_as_it_was_did_not_fall(compare: Any) -> None:
    output = compare(make_document(seed=1), make_document(seed=1)).output
    assert "+0.0000 [+0.0000, +0.0000]" in " ".join(output.split())
    assert "-0.0000" not in output


def test_slower_than_the_limit_fails_and_names_the_case(compare: Any) -> None:
    result = compare(make_document(seed=1), make_document(seed=2, slow=1.3), "--limit", "10%")
    assert result.exit_code == 1
    assert "REGRESSION" in result.output
    assert "adapted · 1 point" in result.output
    assert compare(make_document(seed=1), make_document(seed=2, slow=1.3), "--limit", "50%").exit_code == 0


def test_faster_passes(compare: Any) -> None:
    assert compare(make_document(seed=1, slow=1.5), make_document(seed=2)).exit_code == 0


@pytest.mark.parametrize(
    ("before", "after", "regression"),
    [
        ([1.0], [1.3], True),  # one measurement each: the limit alone decides
        ([1.0, 1.2, 1.1], [1.3, 1.4, 1.35], True),
        ([1.0, 1.2, 1.1], [1.4, 1.15, 1.6], False),  # they overlap, and are too few for an interval
        ([1.0, 1.1] * 5, [1.3, 1.4] * 5, True),
        ([0.5, 1.0, 2.0, 4.0, 0.7, 1.3, 3.0], [0.6, 1.2, 2.4, 5.0, 0.8, 1.5, 3.3], False),
    ],
)
def test_repeats_of_one_scene_must_be_slower_beyond_their_noise(
    compare: Any, before: list[float], after: list[float], regression: bool
) -> None:
    documents = [make_document(samples=1), make_document(samples=1)]
    for document, seconds in zip(documents, (before, after)):
        for case in document["cases"]:
            sample = {**case["samples"][0], "encoder_s": None, "loop_s": None}
            case["samples"] = [{**sample, "repeat": r, "whole_s": value} for r, value in enumerate(seconds)]
    result = compare(*documents)
    assert result.exit_code == int(regression), result.output
    assert ("REGRESSION" in result.output) == regression
    assert ("inside the noise" in result.output) != regression


def test_scenes_of_very_different_cost_do_not_hide_a_regression(compare: Any) -> None:
    """Scene by scene all are slower by a fifth; the medians of both runs have intervals far wider than that."""
    documents = [make_document(seed=1, samples=8), make_document(seed=2, samples=8, slow=1.2)]
    for document in documents:
        for case in document["cases"]:
            for sample in case["samples"]:
                for stage in ("whole_s", "encoder_s", "loop_s"):
                    sample[stage] *= 3.0 ** sample["scene"]
    assert compare(*documents).exit_code == 1


def test_a_case_that_is_no_longer_measured_fails_and_a_new_one_does_not(compare: Any) -> None:
    less = make_document()
    less["cases"] = less["cases"][:3]
    result = compare(make_document(), less)
    assert (result.exit_code, "1 missing" in result.output) == (1, True)
    assert "adapted · 2 points" in result.output
    result = compare(less, make_document())
    assert result.exit_code == 0
    assert "adapted · 2 points: in the second run only" in result.stderr


def test_objects_that_the_automatic_mode_no_longer_finds_fail(compare: Any) -> None:
    worse = make_document()
    for rival in worse["rivals"]:
        rival["proposals"][0]["found"] = [True, False, False]
    result = compare(make_document(), worse)
    assert (result.exit_code, "recall" in result.output) == (1, True)


def test_worse_masks_fail(compare: Any) -> None:
    assert compare(make_document(), make_document(fall=0.03), "--miou-limit", "0.01").exit_code == 1
    assert compare(make_document(), make_document(fall=0.03), "--miou-limit", "0.05").exit_code == 0


def test_more_memory_fails(compare: Any) -> None:
    result = compare(make_document(), make_document(memory=300_000_000))
    assert result.exit_code == 1
    assert "peak memory" in result.output


def test_timings_of_another_machine_are_refused_but_masks_can_be_compared(compare: Any) -> None:
    other = make_document(slow=5)
    other["machine"]["processor"] = "another"
    result = compare(make_document(), other)
    assert result.exit_code == 2
    assert "processor differs" in result.stderr
    assert result.stderr.count("\n") == 1
    assert compare(make_document(), other, "--quality-only").exit_code == 0
    other = make_document(fall=0.05)
    other["machine"]["power_mode"] = "NV Power Mode: 15W\n2"
    assert "power_mode differs" in compare(make_document(), other).stderr
    assert compare(make_document(), other).stderr.count("\n") == 1
    assert compare(make_document(), other, "--quality-only").exit_code == 1


def test_runs_on_other_scenes_are_refused(compare: Any) -> None:
    fewer = make_document(samples=29)  # as with another --limit: number 3 is another scene
    assert "scenes differ" in compare(make_document(), fewer).stderr
    for key, value in (("digest", "1"), ("boundary_tolerance", 5)):
        other = make_document()
        other["data"][key] = value
        result = compare(make_document(), other)
        assert (result.exit_code, f"{key} differ" in result.stderr) == (2, True)
    other = make_document()
    other["seeds"] = {"bootstrap": 1}
    assert compare(make_document(), other).exit_code == 2


def test_another_number_of_threads_is_a_warning(compare: Any) -> None:
    other = make_document()
    other["rivals"][0]["description"] = "elsewhere, 1 threads"
    result = compare(make_document(), other)
    assert result.exit_code == 0
    assert "somewhere; then elsewhere, 1 threads" in result.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("machine"),
        lambda data: data.pop("rivals"),
        lambda data: data["cases"][0].pop("grades"),
        lambda data: data["cases"][0]["samples"][0].pop("whole_s"),
        lambda data: data["cases"][0]["samples"][0].update(whole_s=0),
        lambda data: data["cases"][0]["grades"][0].update(iou=None),
        lambda data: data["cases"].append(3),
        lambda data: data["rivals"][0].pop("proposals"),
        lambda data: data["data"].pop("scenes"),
    ],
)
def test_a_damaged_result_is_an_error_of_one_line(compare: Any, damage: Any) -> None:
    data = make_document()
    damage(data)
    for pair in ((make_document(), data), (data, make_document())):
        result = compare(*pair)
        assert result.exit_code == 2
        assert "damaged" in result.stderr
        assert result.stderr.count("\n") == 1


def _emptied(data: dict[str, Any]) -> None:
    for case in data["cases"]:
        case["samples"], case["grades"] = [], []


def _few_left(data: dict[str, Any]) -> None:
    for case in data["cases"]:
        case["grades"] = case["grades"][:5]


LESS: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "nothing measured": (_emptied, ["whole, median", "mIoU, boundary F", "0 of them", "16 missing"]),
    "one case ungraded": (
        lambda data: data["cases"][0].update(grades=[]),
        ["base <1> · 1 point", "90 instances", "1 missing"],
    ),
    "a few easy masks": (_few_left, ["90 instances", "5 of them", "4 missing"]),
    "one scene not timed": (lambda data: data["cases"][3]["samples"].pop(), []),
    "no latency of one scene": (
        lambda data: data["cases"][3].update(samples=[s for s in data["cases"][3]["samples"] if s["scene"] != 7]),
        ["adapted · 2 points", "30 scenes", "29 of them", "3 missing"],
    ),
    "a stage not timed": (
        lambda data: [s.update(loop_s=None) for s in data["cases"][0]["samples"]],
        ["loop", "1 missing"],
    ),
    "no rivals": (lambda data: data.update(rivals=[]), ["peak memory", "file", "recall", "6 missing"]),
    "no memory": (lambda data: data["rivals"][0].update(peak_bytes=None), ["200 MB", "1 missing"]),
    "nothing proposed": (lambda data: data["rivals"][1].update(proposals=[]), ["recall", "3 instances", "1 missing"]),
}


@pytest.mark.parametrize("what", LESS)
def test_what_is_no_longer_measured_fails_and_is_named(compare: Any, what: str) -> None:
    change, said = LESS[what]
    less = make_document()
    change(less)
    result = compare(make_document(), less)
    assert result.exit_code == (1 if said else 0), result.output  # fewer repeats are no loss
    assert all(words in result.output for words in said), result.output
    assert "0 regressions" in result.output
    if what != "nothing measured":
        assert compare(less, make_document()).exit_code == 0


def test_masks_alone_need_no_latencies_but_masks(compare: Any) -> None:
    untimed, ungraded = make_document(), make_document()
    for timed, graded in zip(untimed["cases"], ungraded["cases"]):
        timed["samples"], graded["grades"] = [], []
    assert compare(make_document(), untimed, "--quality-only").exit_code == 0
    assert compare(make_document(), ungraded, "--quality-only").exit_code == 1


def test_a_first_run_that_measured_nothing_cannot_be_compared(compare: Any) -> None:
    nothing = make_document()
    _emptied(nothing)
    nothing["rivals"] = []
    result = compare(nothing, make_document())
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "nothing can be compared" in result.stderr


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e300", str(10**400)])
@pytest.mark.parametrize("place", ["iou", "whole_s", "peak_bytes"])
def test_a_number_that_cannot_be_compared_is_damage(tmp_path: Path, number: str, place: str) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    data = make_document()
    good.write_text(json.dumps(data), encoding="utf-8")
    for part in (data["cases"][0]["grades"][0], data["cases"][0]["samples"][0], data["rivals"][0]):
        if place in part:
            part[place] = "here"
    bad.write_text(json.dumps(data).replace('"here"', number), encoding="utf-8")
    for paths in ([good, bad], [bad, good]):
        result = CliRunner().invoke(bench, ["compare", *map(str, paths)])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert "bad.json: damaged" in result.stderr


VALUES: list[Any] = ["517 MB", [1], {}, True, -1]
WRONG = [
    (part, key, value)
    for part, key, right in (
        ("rivals", "peak_bytes", ()),
        ("rivals", "size_bytes", ()),
        ("rivals", "description", ("517 MB",)),
        ("samples", "encoder_s", ()),
        ("samples", "loop_s", ()),
        ("samples", "scene", (-1,)),
        ("grades", "scene", (-1,)),
        ("proposals", "found", ()),
    )
    for value in VALUES
    if value not in right
]


@pytest.mark.parametrize(("part", "key", "value"), WRONG)
def test_a_value_of_another_kind_is_an_error_of_one_line(compare: Any, part: str, key: str, value: Any) -> None:
    data = make_document()
    case, rival = data["cases"][0], data["rivals"][0]
    owner = {"rivals": rival, "proposals": rival["proposals"][0]}.get(part) or case[part][0]
    owner[key] = value
    result = compare(make_document(), data)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "after.json: damaged" in result.stderr


@pytest.mark.parametrize("limit", ["-0.1", "nan", "inf"])
def test_a_limit_that_nothing_could_exceed_is_refused(compare: Any, limit: str) -> None:
    assert compare(make_document(), make_document(fall=0.2), "--miou-limit", limit).exit_code == 2
    assert compare(make_document(), make_document(slow=2), "--limit", limit).exit_code == 2


def test_a_file_cut_short_is_an_error_of_one_line(tmp_path: Path) -> None:
    text = json.dumps(make_document())
    (tmp_path / "good.json").write_text(text, encoding="utf-8")
    (tmp_path / "cut.json").write_text(text[: len(text) // 2], encoding="utf-8")
    result = CliRunner().invoke(bench, ["compare", str(tmp_path / "good.json"), str(tmp_path / "cut.json")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "cut.json: damaged (not JSON" in result.stderr


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "resam-bench", "version": 9}', '{"format": "x"}'])
def test_a_file_that_is_no_result_is_an_error_of_one_line(tmp_path: Path, content: str) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(make_document()), encoding="utf-8")
    bad.write_text(content, encoding="utf-8")
    for paths in ([good, bad], [good, tmp_path / "absent.json"]):
        result = CliRunner().invoke(bench, ["compare", *map(str, paths)])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_runs_without_a_common_case_cannot_be_compared(compare: Any) -> None:
    other = make_document()
    for case in other["cases"]:
        case["name"] += " elsewhere"
    result = compare(make_document(), other)
    assert result.exit_code == 2
    assert "no case is in both runs" in result.stderr
