"""Engine files that come with the package and go by a name: `--engine tiny`. Their model card is docs/tiny-base.md."""

from __future__ import annotations

import os
from pathlib import Path

SHIPPED = {"tiny": Path(__file__).with_name("tiny.resam")}
"""Name -> file. `resam-export --base tiny --fp16` made it."""


def engine_path(named: str | os.PathLike[str]) -> Path:
    """The file of an engine: the one of that path or, where there is none, the shipped one of that name."""
    path = Path(named)
    return path if os.path.lexists(path) else SHIPPED.get(os.fspath(named), path)
