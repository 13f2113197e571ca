"""A run that hangs ends all the same: some time after the second signal, wherever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .run_helpers import make_folder

HURRIED = (
    "import functools, os, sys\n"
    "from resam_runtime.common import commands\n"
    "commands.second_signal_ends = functools.partial(commands.second_signal_ends, grace=0.5)\n"
    "from resam_runtime.cli import run\n"
    "from resam_runtime.scenes import decoded\n"
    "fifo = os.environ.get('HANGS')\n"
    "if fifo:\n"
    "    decoded.read_regular = lambda path: open(fifo, 'rb').read()\n"
    "run()\n"
)


@pytest.mark.parametrize("where", ["a scene that the reader waits for", "points that are asked for"])
def test_two_signals_end_a_run_that_hangs(engine: Path, tmp_path: Path, where: str) -> None:
    images, out, fifo = make_folder(tmp_path / "images", 1), tmp_path / "out", tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = ["--engine", engine, images, "-o", out] + (["--points", fifo] if "points" in where else [])
    process = subprocess.Popen(
        [sys.executable, "-c", HURRIED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ} | ({} if "points" in where else {"HANGS": str(fifo)}),
    )
    writer = os.open(fifo, os.O_WRONLY)  # waits until it is being read
    time.sleep(0.3)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 143
    assert errors == "error: ended in the middle of it; what is done is kept\n"


@pytest.mark.parametrize("beside", ["s0.png.aux.xml", "s0.wld"])
def test_a_run_does_not_wait_for_a_fifo_beside_a_scene(engine: Path, tmp_path: Path, beside: str) -> None:
    images = make_folder(tmp_path / "images", 1)
    os.mkfifo(images / beside)
    start = "from resam_runtime.cli import run; run()"
    command = [sys.executable, "-c", start, "--engine", engine, images, "-o", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
