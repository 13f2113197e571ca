"""A run's folder: when it may be made, and the files in it that are lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resam.training.options import write_options
from resam.training.outputs import writing
from resam.training.sources import SYNTHETIC
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write


def check_free(folder: Path) -> None:
    """`ResamError` where a folder holds a run or something else, or is no folder. Synthetic scenes that a stopped
    command has drawn there will do."""
    if folder.exists() and not folder.is_dir():
        raise ResamError(f"{folder}: is a file; choose another --output")
    if (folder / "config.toml").exists():
        raise ResamError(f"{folder}: already holds a run; resume it with --resume, or choose another --output")
    if folder.is_dir() and (foreign := sorted({path.name for path in folder.iterdir()} - {SYNTHETIC})):
        raise ResamError(f"{folder}: not a run folder, and not empty (it holds {foreign[0]}); choose another --output")


def start_folder(folder: Path, options: Any, data: Mapping[str, Any]) -> None:
    """Make a run's folder and write its `config.toml`. options: a dataclass; data: the paths that `resume`
    needs, by name."""
    check_free(folder)
    try:
        write_options(folder / "config.toml", options, data)
    except OSError as error:
        raise ResamError(f"{folder}: cannot write there ({error.strerror}); choose another --output") from None


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, a line an epoch. `ResamError` where it cannot be written."""
    path = folder / "metrics.jsonl"
    with writing(path), atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


class EventLog:
    """TensorBoard events, one step an epoch."""

    @staticmethod
    def check() -> Any:
        """TensorBoard's writer. `ResamError` where it is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ResamError("--tensorboard: tensorboard is not installed; pip install tensorboard") from None
        return SummaryWriter

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writer = self.check()(str(self._folder))

    def write(self, row: Mapping[str, Any]) -> None:
        """A row of `metrics.jsonl`. `ResamError` where it cannot be written."""
        with writing(self._folder):
            for name, value in row.items():
                if isinstance(value, float):
                    self._writer.add_scalar(name, value, row["epoch"])
            for stage, values in (row["watched"] or {}).items():
                if isinstance(values, dict) and values["miou"] is not None:
                    self._writer.add_scalar(f"miou/{stage}", values["miou"], row["epoch"])
            self._writer.flush()
