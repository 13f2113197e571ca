"""Runs `resam-export` with the CPU compiler, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .bindings import HERE, compiler


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, what it printed where, and the modules that it imported."""

    code: int
    out: str
    err: str
    modules: frozenset[str]

    @property
    def error(self) -> str:
        """The one line that begins with "error: "."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


def resam_export(scratch: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run it; `scratch`: a folder for what this needs itself. environment: see `run.py`."""
    scratch.mkdir(exist_ok=True)
    report = scratch / "modules.json"
    command = [sys.executable, str(HERE / "run.py"), str(report), *map(str, arguments)]
    variables = {**compiler(), **(environment or {}), "COLUMNS": "200"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=os.getcwd())
    modules = json.loads(report.read_text()) if report.exists() else []
    return Outcome(done.returncode, done.stdout, done.stderr, frozenset(modules))
