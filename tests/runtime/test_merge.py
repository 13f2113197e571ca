"""Shards of a run, and what they are together: the files of one run, to the byte."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from resam_runtime.merge.cli import merge
from resam_runtime.run.shard import Shard

from .run_helpers import Outcome, make_engine, make_folder, resam_run, summary_of

FORMATS = ("--format", "coco,geojson,geoparquet")
SCENES, SHARDS = 5, 3


def resam_merge(*arguments: object) -> Outcome:
    result = CliRunner().invoke(merge, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("images"), SCENES)
    (folder / "torn.png").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def parts(engine: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    for number in range(SHARDS):
        shard = ("--shard", f"{number}/{SHARDS}")
        assert resam_run("--engine", engine, images, "-o", folder / str(number), *FORMATS, *shard).code in (0, 1, 2)
    return [folder / str(number) for number in range(SHARDS)]


def test_every_scene_is_in_one_shard_and_stays_there() -> None:
    names = [f"north/s{number}.tif" for number in range(3000)]
    held = {name: [number for number in range(7) if Shard(number, 7).holds(name)] for name in names}
    assert all(len(numbers) == 1 for numbers in held.values())
    sizes = Counter(numbers[0] for numbers in held.values())
    assert max(sizes.values()) < 1.2 * 3000 / 7
    assert held["north/s0.tif"] == [6], "as it ever was: a run resumed by a later version does the same scenes"


def test_the_parts_together_are_the_run_to_the_byte(
    engine: Path, images: Path, parts: list[Path], tmp_path: Path
) -> None:
    assert resam_run("--engine", engine, images, "-o", tmp_path / "whole", *FORMATS).code == 1
    assert resam_run("--engine", engine, images, "-o", tmp_path / "one", *FORMATS, "--shard", "0/1").code == 1
    random.Random(0).shuffle(shuffled := list(parts))
    for given, out in ((parts, "a"), (shuffled, "b"), ([tmp_path / "one"], "c")):
        assert resam_merge(*given, "-o", tmp_path / out).code == 1, "a scene failed"
        for name in ("instances.json", "instances.parquet"):
            assert (tmp_path / out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "a/summary.json").read_bytes() == (tmp_path / "b/summary.json").read_bytes()
    made, expected = summary_of(tmp_path / "a"), summary_of(tmp_path / "whole")
    for member in ("totals", "complete", "options", "notes"):
        assert made[member] == expected[member]
    for one, other in zip(made["scenes"], expected["scenes"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    files = Counter(path.name for part in parts for path in part.glob("*.geojson"))
    assert files == Counter(f"s{number}.geojson" for number in range(SCENES))


def test_a_shard_without_scenes_is_done_at_once(engine: Path, images: Path, tmp_path: Path) -> None:
    empty = next(n for n in range(50) if not any(Shard(n, 50).holds(f"s{i}.png") for i in range(SCENES)))
    result = resam_run("--engine", engine, images / "s0.png", "-o", tmp_path / "out", "--shard", f"{empty}/50")
    assert (result.code, json.loads((tmp_path / "out/instances.json").read_text())["images"]) == (0, [])


def test_points_for_scenes_of_other_shards_are_no_news(engine: Path, images: Path, tmp_path: Path) -> None:
    instances = {f"s{n}.png": {"instances": [{"points": [[40, 40]]}]} for n in range(SCENES)}
    points = tmp_path / "points.json"
    points.write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": instances}))
    arguments = ("--engine", engine, images, "--points", points, "--shard", "0/3", "-o", tmp_path / "out")
    assert "not among the scenes" not in resam_run(*arguments).stderr


@pytest.mark.parametrize(
    ("text", "said"), [("3/3", "the last is 2/3"), ("-1/3", "not K/N"), ("1", "not K/N"), ("0/0", "not K/N")]
)
def test_a_shard_that_cannot_be_is_refused(engine: Path, images: Path, tmp_path: Path, text: str, said: str) -> None:
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--shard", text)
    assert result.code == 2
    assert said in result.stderr


def test_another_shard_does_not_resume_a_run(engine: Path, images: Path, parts: list[Path], tmp_path: Path) -> None:
    shutil.copytree(parts[0], tmp_path / "part")
    again = ("--engine", engine, images, "-o", tmp_path / "part", *FORMATS, "--resume")
    result = resam_run(*again, "--shard", "1/3")
    assert (result.code, "--shard 0/3" in result.stderr) == (2, True)
    assert resam_run(*again, "--shard", f"0/{SHARDS}").code in (0, 1, 2)


def test_a_shard_that_was_not_given_is_told(parts: list[Path], tmp_path: Path) -> None:
    result = resam_merge(*parts[:2], "-o", tmp_path / "out")
    assert (result.code, "1 shard not given" in result.stdout) == (1, True)
    summary = summary_of(tmp_path / "out")
    assert (summary["complete"], summary["notes"]) == (False, ["without shards 2"])


def test_parts_that_do_not_belong_together_are_refused(
    engine: Path, images: Path, parts: list[Path], tmp_path: Path
) -> None:
    other = make_engine(tmp_path / "other.resam", refine_threshold=0.4)
    shutil.copytree(parts[2], tmp_path / "cut")
    (tmp_path / "cut/summary.json").unlink()
    for arguments, said in (
        ((parts[0], parts[0]), "both hold"),
        ((parts[0], images), "not an output folder of resam-run"),
        ((parts[0], tmp_path / "cut"), "resume it first"),
        ((other, "--shard", "1/3", *FORMATS), "another engine"),
        ((engine, "--shard", "1/3", *FORMATS, "--exclusive"), "in --exclusive"),
        ((engine, "--shard", "1/4", *FORMATS), "different counts"),
    ):
        if arguments[0] in (engine, other):
            made = tmp_path / said.split()[-1]
            resam_run("--engine", arguments[0], images, "-o", made, *arguments[1:])
            arguments = (parts[0], made)
        result = resam_merge(*arguments, "-o", tmp_path / "out")
        assert (result.code, said in result.stderr) == (2, True), result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_what_is_there_is_replaced_on_request_only(parts: list[Path], tmp_path: Path) -> None:
    assert resam_merge(*parts, "-o", tmp_path / "out").code == 1
    result = resam_merge(*parts, "-o", tmp_path / "out")
    assert (result.code, "--overwrite" in result.stderr) == (2, True)
    assert resam_merge(*parts, "-o", tmp_path / "out", "--overwrite").code == 1
    assert "holds another run" in resam_merge(*parts, "-o", parts[0], "--overwrite").stderr
