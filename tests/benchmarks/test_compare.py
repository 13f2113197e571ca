"""`resam-bench compare` for CI: its exit code says whether something became worse."""

from __future__ import annotations

import json
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


def test_slower_than_the_limit_fails_and_names_the_case(compare: Any) -> None:
    result = compare(make_document(seed=1), make_document(seed=2, slow=1.3), "--limit", "10%")
    assert result.exit_code == 1
    assert "REGRESSION" in result.output
    assert "adapted · 1 point" in result.output
    assert compare(make_document(seed=1), make_document(seed=2, slow=1.3), "--limit", "50%").exit_code == 0


def test_faster_passes(compare: Any) -> None:
    assert compare(make_document(seed=1, slow=1.5), make_document(seed=2)).exit_code == 0


def test_slower_inside_the_noise_passes(compare: Any) -> None:
    before, after = make_document(samples=2), make_document(samples=2)
    for place, case in enumerate(after["cases"]):
        for sample, factor in zip(case["samples"], (0.4, 2.6, 0.9, 1.9)):
            sample["whole_s"] = before["cases"][place]["samples"][0]["whole_s"] * factor
            sample["encoder_s"] = sample["loop_s"] = None
    result = compare(before, after)
    assert result.exit_code == 0, result.output
    assert "inside the noise" in result.output


def test_worse_masks_fail(compare: Any) -> None:
    assert compare(make_document(), make_document(fall=0.03), "--miou-limit", "0.01").exit_code == 1
    assert compare(make_document(), make_document(fall=0.03), "--miou-limit", "0.05").exit_code == 0


def test_more_memory_fails(compare: Any) -> None:
    result = compare(make_document(), make_document(memory=300_000_000))
    assert result.exit_code == 1
    assert "peak memory" in result.output


def test_another_machine_is_a_warning(compare: Any) -> None:
    other = make_document()
    other["machine"]["processor"] = "another"
    result = compare(make_document(), other)
    assert result.exit_code == 0
    assert "processor differs" in result.output


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
