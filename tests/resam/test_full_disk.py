"""A disk that is full in the middle of a run: one line, exit code 2, no process left waiting, no half-written file."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.cli import train
from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.taught import SoftMask, save_masks
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.pretrain.run import NO_ROOM
from resam.training.checkpoints import save_checkpoint, write_adapter
from resam.training.devices import make_fabric, on_main
from resam.training.options import TrainOptions, write_options
from resam.training.outputs import write_bytes
from resam.training.report import draw_strips, write_report
from resam.training.trainer import Trainer
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY


@contextlib.contextmanager
def _full_after(size: int) -> Iterator[None]:
    """The system refuses to make a file larger than `size` bytes, in the middle of it, as where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "epoch-0003.pt": lambda folder: save_checkpoint(folder, 3, {"trainer": torch.rand(5000)}),
    "adapter.safetensors": lambda folder: write_adapter(
        folder / "adapter.safetensors", {"a": torch.rand(5000)}, {"options": {"base": "tiny"}}
    ),
    "report.html": lambda folder: write_report(folder, TrainOptions(), "1 point", [], {}),
    "tiny.safetensors": lambda folder: write_bytes(folder / "tiny.safetensors", bytes(5000), NO_ROOM),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(name: str, tmp_path: Path) -> None:
    for old in ("epoch-0001.pt", "epoch-0002.pt", name):
        (tmp_path / old).write_bytes(b"yesterday's")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with _full_after(1000), pytest.raises(ResamError) as caught:
        WRITERS[name](tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written (File too large); make room there")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_half_a_picture_is_no_picture(toy: Base, scenes: CocoData, tmp_path: Path) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
    trainer = Trainer(toy, samples, TrainOptions(rank=2, epochs=1), make_fabric(1, "cpu"))
    with _full_after(1000), pytest.raises(ResamError, match=r"strips/0-0000\.jpg: cannot be written \(File too large"):
        draw_strips(tmp_path, trainer, 0)
    assert not list((tmp_path / "strips").iterdir())


def test_what_the_system_refuses_the_main_process_is_an_error_for_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {(0, number): SoftMask.of(rng.random((64, 64))) for number in range(9)}
    with _full_after(1000), pytest.raises(ResamError, match="File too large"):
        on_main(make_fabric(1, "cpu"), lambda: save_masks(tmp_path / "consensus.npz", masks))
    assert not list(tmp_path.iterdir())


LIMITED = """
import os, resource
from resam.cli import train

make = os.open

def full(path, *more):
    # from the temporary file on that is to become the one which finds no room
    if str(path).endswith(".tmp" + os.environ["FULL_FOR"]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return make(path, *more)

os.open = full
train()
"""


@pytest.fixture
def arguments(base_file: Path, two_scenes: Path, tmp_path: Path) -> list[str]:
    """A run into run/, in the test's folder."""
    write_options(tmp_path / "options.toml", TrainOptions(epochs=1, batch=2, rank=2, base=str(base_file)))
    places = {"--annotations": two_scenes / "train.json", "--preset": tmp_path / "options.toml", "-o": tmp_path / "run"}
    return [str(word) for option in places.items() for word in option]


def check_end(code: int, stderr: str, folder: Path, named: str) -> None:
    assert code == 2, stderr
    said = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1, stderr
    assert said[0].startswith(f"error: {folder / named}: cannot be written (File too large)")
    assert "Traceback" not in stderr
    assert not (folder / named).exists()
    assert not list(folder.rglob("*.tmp*"))


@pytest.mark.parametrize(
    ("suffix", "named"), [(".pt", "checkpoints/epoch-0001.pt"), (".safetensors", "adapter.safetensors")]
)
def test_a_run_whose_disk_is_full_ends_with_one_line(
    suffix: str, named: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, full = os.open, contextlib.ExitStack()

    def limited(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(f".tmp{suffix}"):
            full.enter_context(_full_after(1000))
        return make(path, *more, **named)

    monkeypatch.setattr(os, "open", limited)
    with full:
        result = CliRunner().invoke(train, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    check_end(result.exit_code, result.stderr, tmp_path / "run", named)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "named"), [(".jpg", "strips/0-0000.jpg"), (".pt", "checkpoints/epoch-0001.pt")])
def test_so_does_a_run_of_two_processes(suffix: str, named: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    ended = subprocess.run(
        [sys.executable, tmp_path / "limited.py", *arguments, "--devices", "2", "--accelerator", "cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "FULL_FOR": suffix},
        timeout=120,
    )
    check_end(ended.returncode, ended.stderr, tmp_path / "run", named)
