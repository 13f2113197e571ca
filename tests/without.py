"""Commands of ours where a package is not installed, or a module of ours is missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .forks import FORKS


def command_without(missing: str, command: str, arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run `command` ("module:name") in `folder`, where `missing` cannot be imported; its exit code and stderr.

    In a copy of a process that has torch, since most of the time would be torch's import; without torch in one of its
    own.
    """
    if missing == "torch":
        words = [sys.executable, "-c", f"from {__name__} import run; import sys; run(*sys.argv[1:])"]
        ended = subprocess.run(
            [*words, missing, command, *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        return ended.returncode, ended.stderr
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch) / "stderr"
        process = start(command, arguments, folder, said, missing)
        process.join(120)
        process.kill()
        process.join()
        return process.exitcode, said.read_text()


def start(command: str, arguments: Sequence[str], folder: Path, said: Path, missing: str = "nothing") -> Any:
    """The process of `command` in `folder`, a copy of one that has torch; it writes stderr to `said`, and computes with
    one thread."""
    process = FORKS.Process(target=_run_there, args=(folder, said, missing, command, *arguments))
    process.start()
    return process


def _run_there(folder: Path, said: Path, *words: str) -> None:
    importlib.import_module("torch").set_num_threads(1)
    os.chdir(folder)
    for path, descriptor in ((os.devnull, 1), (said, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    run(*words)


def run(missing: str, command: str, *arguments: str) -> None:
    sys.modules[missing] = None  # type: ignore[assignment]
    module, name = command.split(":")
    getattr(importlib.import_module(module), name)(list(arguments))
