"""What `resam-train` refuses: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.cli import train
from resam.training.checkpoints import latest_checkpoint, save_checkpoint
from resam.training.options import TrainOptions, write_options
from resam.training.run_folder import check_free
from resam_runtime.common.errors import ResamError

from ..without import command_without

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _refused(folder: Path, *arguments: str) -> str:
    """Run the command where it must refuse: its one line. Nothing may be left in `folder`'s runs."""
    before = sorted(folder.rglob("*"))
    output = [] if "--resume" in arguments else ["-o", str(folder / "r")]
    result = CliRunner().invoke(train, [*arguments, *output])
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    assert sorted(folder.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--annotations", "none.json"], "none.json: No such file"),
        (["--annotations", "."], "Is a directory"),
        (["--preset", "nothing"], "nothing: no such preset"),
        (["--resume", "nothing"], "nothing: not a run folder"),
        (["--resume", "nothing", "--epochs", "3"], "leave out --epochs"),
        (["--resume", "nothing", "--images", "x"], "leave out --images"),
        (["--resume", "nothing", "--scenes", "48"], "leave out --scenes"),
        (["--base", "none.pth", "--scenes", "1"], "none.pth: no such base"),
        (["--scenes", "0"], "--scenes: expected at least 1"),
        (["--rank", "0"], "option rank: 0 is out of range"),
        (["--seed", "-1"], "option seed: -1 is out of range"),
        (["--learning-rate", "nan"], "option learning_rate: nan is out of range"),
        (["--teacher", "average", "--average", "0"], "option teacher: 'average' needs the option average"),
        (["--scale", "0.5", "--choose-scale"], "--scale and --choose-scale exclude each other"),
        (["--fit-within", "512", "--choose-scale"], "--fit-within and --choose-scale exclude each other"),
        (["--keypoints", "--points-file", "p.json", "--images", "."], "--keypoints and --points-file each say"),
        (["--scale", "0"], "option scale: 0.0 is out of range"),
        (["--images", "."], "--images needs --data or --annotations"),
        (["--test", "x.json"], "--test needs --data or --annotations"),
        (["--keypoints"], "--keypoints needs --data or --annotations"),
        (["--annotations", "x.json", "--scenes", "3"], "leave it out"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: list[str], cause: str, tmp_path: Path) -> None:
    assert cause in _refused(tmp_path, *arguments)


def _ring(x: float, y: float, side: float = 20.0) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def _broken_set(folder: Path, **changes: Any) -> Path:
    """A data set of one image with one instance, with something wrong."""
    (folder / "images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "images" / "a.png"), pixels)
    if "file" in changes:
        (folder / "images" / "a.png").write_bytes(changes.pop("file"))
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "segmentation": _ring(10, 10), "iscrowd": 0}
    annotation |= changes.pop("annotation", {})
    document = {"images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}], "annotations": [annotation]}
    text = changes.pop("text", b"") or json.dumps(document | changes).encode()
    (folder / "train.json").write_bytes(text)
    return folder


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"text": b'{"images": ['}, "train.json: not JSON"),
        ({"text": b"\xff\xfe\x00"}, "train.json: not JSON"),
        ({"text": b"[]"}, "train.json: expected a COCO object"),
        ({"images": []}, "train.json: lists no images"),
        ({"annotations": []}, "train.json: no instance with a point"),
        ({"annotation": {"id": [1]}}, "train.json: annotations: id: expected a whole number or a text"),
        ({"annotation": {"id": 1.5}}, "annotations: id: expected a whole number or a text as its id, got '1.5'"),
        ({"annotation": {"category_id": {}}}, "train.json: annotations: category_id: expected a whole number"),
        ({"annotation": {"iscrowd": "0"}}, "train.json: annotation 5: iscrowd: expected 0 or 1, got '0'"),
        ({"annotation": {"keypoints": [5, 5, 2], "segmentation": []}}, "RLE); --keypoints takes the points"),
        ({"annotation": {"image_id": 9}}, "train.json: annotation 5: no image has the id 9"),
        ({"annotation": {"segmentation": []}}, "train.json: annotation 5: no segmentation"),
        ({"annotation": {"segmentation": [[1, 2, 3, 4]]}}, "train.json: annotation 5: its polygons need"),
        (
            {"annotation": {"segmentation": {"size": [9, 9], "counts": [81]}}},
            "train.json: annotation 5: its RLE has size",
        ),
        ({"annotation": {"segmentation": _ring(300, 300)}}, "train.json: no instance with a point"),
        ({"images": [{"id": 1, "file_name": "b.png", "width": 100, "height": 80}]}, "b.png: no such image"),
        ({"file": b""}, "a.png: empty file"),
        ({"file": b"\x89PNG\r\n\x1a\n and nothing"}, "a.png: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_data_are_one_line_and_leave_nothing(
    changes: dict[str, Any], cause: str, base_file: Path, tmp_path: Path
) -> None:
    data = _broken_set(tmp_path / "set", **changes)
    assert cause in _refused(tmp_path, "--data", str(data), "--base", str(base_file), "--epochs", "1")


def test_a_point_outside_its_image_is_one_line(base_file: Path, tmp_path: Path) -> None:
    data = _broken_set(tmp_path / "set", annotation={"keypoints": [200, 10, 2], "num_keypoints": 1})
    line = _refused(tmp_path, "--data", str(data), "--base", str(base_file), "--keypoints")
    assert "train.json: a.png: instance 5: " in line
    assert "outside" in line


def test_a_folder_with_a_run_is_left_alone(base_file: Path, tmp_path: Path) -> None:
    data = _broken_set(tmp_path / "set")
    (tmp_path / "r").mkdir()
    write_options(tmp_path / "r" / "config.toml", TrainOptions())
    assert "already holds a run" in _refused(tmp_path, "--data", str(data), "--base", str(base_file))


def test_errors_leave_a_process_with_exit_code_2(tmp_path: Path) -> None:
    code, said = command_without("nothing", "resam.cli:train", ["--annotations", "none.json"], tmp_path)
    assert code == 2, said
    assert [line for line in said.splitlines() if line.startswith("error: ") and "none.json" in line]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "cause"), [(["--rank", "99"], "option rank: expected 1 to 32"), (["--start", "2"], "option start: ")]
)
def test_what_the_base_cannot_take_is_refused_before_there_is_a_folder(
    arguments: list[str], cause: str, base_file: Path, tmp_path: Path
) -> None:
    data = _broken_set(tmp_path / "set")
    assert cause in _refused(tmp_path, "--data", str(data), "--base", str(base_file), *arguments)


def test_a_test_split_with_a_broken_mask_is_refused_before_there_is_a_folder(base_file: Path, tmp_path: Path) -> None:
    data = _broken_set(tmp_path / "set")
    document = json.loads((data / "train.json").read_text())
    document["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    (data / "test.json").write_text(json.dumps(document))
    line = _refused(tmp_path, "--data", str(data), "--base", str(base_file))
    assert "test.json: annotation 5: its polygons need" in line


def test_tensorboard_that_is_not_installed_is_said_before_there_is_a_folder(
    base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    data = _broken_set(tmp_path / "set")
    line = _refused(tmp_path, "--data", str(data), "--base", str(base_file), "--tensorboard")
    assert "tensorboard is not installed" in line


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--rank", "99"], "option rank: expected 1 to 32"),
        (["--start", "2"], "option start: "),
        (["--tensorboard"], "tensorboard is not installed"),
    ],
)
def test_synthetic_scenes_are_not_drawn_for_a_run_that_is_refused(
    arguments: list[str], cause: str, base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cause in _refused(tmp_path, "--base", str(base_file), "--scenes", "1", *arguments)


def _points(folder: Path, name: str) -> Path:
    """A points file of one point, of an instance of that name, in the image of `_broken_set`."""
    (folder / "p.csv").write_text(f"scene,instance,x,y\na.png,{name},15,15\n")
    return folder / "p.csv"


def test_points_without_a_mask_are_refused_before_there_is_a_folder_that_supervised_training_could_not_use(
    base_file: Path, tmp_path: Path
) -> None:
    data = _broken_set(tmp_path / "set")
    arguments = ["--data", str(data), "--base", str(base_file), "--supervised", "--epochs", "1", "--rank", "2"]
    line = _refused(tmp_path, *arguments, "--points-file", str(_points(tmp_path, "7")))
    assert "no annotation 7, which supervised training needs" in line
    right = [*arguments, "--points-file", str(_points(tmp_path, "5")), "--preset", "tiny", "-o", str(tmp_path / "r")]
    result = CliRunner().invoke(train, right)
    assert result.exit_code == 0, result.output


def test_a_mask_that_cannot_be_read_is_refused_for_points_that_are_read_too(base_file: Path, tmp_path: Path) -> None:
    data = _broken_set(tmp_path / "set", annotation={"segmentation": [[1, 2, 3, 4]]})
    arguments = ["--data", str(data), "--base", str(base_file), "--supervised"]
    line = _refused(tmp_path, *arguments, "--points-file", str(_points(tmp_path, "5")))
    assert "train.json: annotation 5: its polygons need" in line


def test_a_folder_of_something_else_is_left_alone(base_file: Path, tmp_path: Path) -> None:
    data = _broken_set(tmp_path / "set")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "holiday.jpg").touch()
    line = _refused(tmp_path, "--data", str(data), "--base", str(base_file))
    assert f"{tmp_path / 'r'}: not a run folder, and not empty (it holds holiday.jpg); choose another --output" in line


@pytest.mark.parametrize("content", [None, "synthetic"])
def test_a_folder_that_is_empty_or_has_drawn_scenes_alone_is_free(content: str | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / content).mkdir()
    check_free(tmp_path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--points", "3"], "--points: "),
        (["--negatives", "2", "--resample-points"], "--negatives, --resample-points: "),
    ],
)
def test_a_number_of_points_beside_a_points_file_is_said_to_be_idle(
    flags: list[str], said: str, base_file: Path, tmp_path: Path
) -> None:
    images = _broken_set(tmp_path / "set") / "images"
    points = _points(tmp_path, "5")
    arguments = ["--images", str(images), "--points-file", str(points), "--base", str(base_file), "--pseudo", "final"]
    result = CliRunner().invoke(train, [*arguments, *flags, "--epochs", "0", "--rank", "2", "-o", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    assert f"{said}training uses the points in {points} as they are" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--queue", "4", "--beta", "2"], "--queue, --beta: no effect without soft semantic alignment"),
        (["--supervised", "--pseudo", "coarse"], "--pseudo: no effect where true masks are taught"),
        (["--teacher", "average", "--average", "0.5"], "--teacher: no effect where the base's consensus is taught"),
        (["--rank", "1"], None),
    ],
)
def test_options_that_do_nothing_are_said_to(
    flags: list[str], said: str | None, base_file: Path, tmp_path: Path
) -> None:
    data = _broken_set(tmp_path / "set")
    command = ["--data", str(data), "--base", str(base_file), "--epochs", "0", "--no-choose-scale", "--rank", "2"]
    result = CliRunner().invoke(train, [*command, *flags, "-o", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert said in shown if said else "no effect" not in shown


def test_a_path_that_cannot_be_written_down_is_refused_and_one_with_odd_letters_is_not(
    base_file: Path, tmp_path: Path
) -> None:
    options, path = TrainOptions(), tmp_path / "config.toml"
    with pytest.raises(ResamError, match="rename it"):
        write_options(path, options, {"train": "lat\udce9in"})
    assert not path.exists()
    odd = {"train": 'a\nb\t"c"\\d\x7fé'}
    write_options(path, options, odd)
    assert tomllib.loads(path.read_text("utf-8"))["data"] == odd


def test_a_checkpoint_damaged_anywhere_is_one_line_that_names_it(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path, 3, {"trainer": {"queue": torch.rand(4, 8)}, "history": "[]"}).read_bytes()
    path, said = tmp_path / "epoch-0003.pt", set()
    cut = [whole[:at] for at in range(0, len(whole), 97)]
    for data in [b"junk" * 10, *cut]:
        path.write_bytes(data)
        with pytest.raises(ResamError) as caught:
            latest_checkpoint(tmp_path)
        said.add(str(caught.value))
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            latest_checkpoint(tmp_path)  # a byte of the queue may be any
        except ResamError as error:
            said.add(str(error))
    assert said == {f"{path}: damaged checkpoint; remove it to resume from an earlier one"}
