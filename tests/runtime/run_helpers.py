"""Folders of small scenes with points, and `resam-run` called in this process or in another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from click.testing import CliRunner

from resam_runtime.cli import run

from ..forks import FORKS
from .engines import write_engine

TILE = 64
ONE_CORE = ("--threads", "1")  # threads that wait for work spin, and a run starts with more of that than of work


@dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str


def resam_run(*arguments: object) -> Outcome:
    """`resam-run` in this process. A traceback fails the test."""
    result = CliRunner().invoke(run, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def start_run(*arguments: object) -> subprocess.Popen[str]:
    """`resam-run` in a process of its own, on one core."""
    command = [sys.executable, "-c", "from resam_runtime.cli import run; run()", *ONE_CORE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fork_run(*arguments: object) -> BaseProcess:
    """As `start_run`, silent, in a copy of a process that has imported what a run needs: for tests of many starts."""
    process: BaseProcess = FORKS.Process(target=_quiet_run, args=([*ONE_CORE, *map(str, arguments)],))
    process.start()
    return process


def _quiet_run(arguments: list[str]) -> None:
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        run(arguments)


def make_engine(path: Path, **changes: Any) -> Path:
    """An engine whose masks are the discs around points, as far as they are bright."""
    write_engine(path, image_size=TILE, radius=10.0, by_value=True, **changes)
    return path


def draw_scene(path: Path, seed: int, width: int = 100, height: int = 80, count: int = 4) -> list[list[int]]:
    """Write an image of bright discs; returns their centres."""
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), 30, np.uint8)
    centres = []
    for number in range(count):
        x, y = int(generator.integers(12, width - 12)), int(generator.integers(12, height - 12))
        cv2.circle(image, (x, y), 7, (195 + 12 * (number % 5),) * 3, -1)
        centres.append([x, y])
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return centres


def make_folder(folder: Path, count: int = 3, **size: int) -> Path:
    """A folder of scenes s0.png, s1.png, ... with a points file beside each."""
    for number in range(count):
        path = folder / f"s{number}.png"
        write_points(path, draw_scene(path, number, **size))
    return folder


def write_points(scene: Path, centres: list[list[int]]) -> None:
    instances = [{"id": number, "points": [centre]} for number, centre in enumerate(centres, 1)]
    scene.with_suffix(".points.json").write_text(json.dumps({"instances": instances}))


def instances_of(out: Path) -> dict[str, Any]:
    data = json.loads((out / "instances.json").read_text())
    assert isinstance(data, dict)
    return data


def summary_of(out: Path) -> dict[str, Any]:
    data = json.loads((out / "summary.json").read_text())
    assert isinstance(data, dict)
    return data
