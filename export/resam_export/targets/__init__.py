"""What `resam-export --for` writes for: other people's tools, one file each. A new one is a file here and a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resam_runtime.engine.engine_file import EngineFile

from .x_anylabeling import write_x_anylabeling

Target = Callable[[EngineFile, Path], list[Path]]
"""(engine, folder) -> the files written there, whole or absent. Raises `ResamError`."""

TARGETS: Mapping[str, Target] = {"x-anylabeling": write_x_anylabeling}
