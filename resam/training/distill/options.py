"""The options of a distillation: one flat table, as those of training are."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resam.training.options import check_ranges, read_toml, typed
from resam_runtime.common.errors import ResamError


@dataclass(frozen=True)
class DistillOptions:
    """Everything that decides what a distillation computes, but for teacher, student and images; `ResamError` for a
    value out of range."""

    # what is seen
    tiles: int = 0  # of an epoch; 0: as many as the images are cut into
    zoom: float = 1.5  # a window is up to so many times larger or smaller than the runtime would cut it
    strength: float = 0.5  # probability of each photometric change, before teacher and student look
    set_aside: float = 0.05  # share of the images that both are compared on, and that nothing is learned from
    # what is learned
    prompts: int = 4  # points of a grid in each tile, asked alone and then with the box of the teacher's mask
    masks: float = 1.0  # weight of the masks beside the embedding; 0: they are not decoded
    # optimisation
    epochs: int = 20
    batch: int = 4  # tiles per step, over all devices
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100  # steps, at most a tenth of all
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.99  # decay of the weights' exponential average, which is what a run keeps; 0: the last weights
    seed: int = 0
    chunk: int = 8  # prompts decoded at once

    def __post_init__(self) -> None:
        checks = {
            "tiles": self.tiles >= 0,
            "zoom": 1 <= self.zoom <= 8,
            "strength": 0 <= self.strength <= 1,
            "set_aside": 0 <= self.set_aside < 1,
            "prompts": 1 <= self.prompts <= 4096,
            "masks": 0 <= self.masks < math.inf,
            "epochs": self.epochs >= 1,
            "batch": self.batch >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": self.warmup >= 0,
            "clip": self.clip > 0,
            "average": 0 <= self.average < 1,
            "seed": 0 <= self.seed < 1 << 63,  # torch takes no larger one
            "chunk": self.chunk >= 1,
        }
        check_ranges(self, checks)

    @classmethod
    def of(cls, where: str, values: dict[str, Any]) -> DistillOptions:
        """From plain values (None: the default). `ResamError` for one that is no option or of another type."""
        return typed(cls, {name: value for name, value in values.items() if value is not None}, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class DistillSources:
    """Where a distillation's parts lie: names, or absolute paths, as text; base: the teacher's, "" for its own."""

    teacher: str
    student: str
    images: str
    base: str = ""

    @classmethod
    def choose(cls, teacher: str, student: str, images: Path, base: str | None) -> DistillSources:
        """From the command's arguments: what is a file or a folder here becomes absolute, so that a run can be resumed
        from anywhere."""
        return cls(_absolute(teacher), _absolute(student), str(images.resolve()), _absolute(base or ""))


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def read_config(path: Path) -> tuple[DistillOptions, DistillSources]:
    """A run's `config.toml`. `ResamError` for one of another kind of run."""
    values = read_toml(path)
    try:
        sources = DistillSources(**values.pop("data"))
    except (KeyError, TypeError):
        raise ResamError(f"{path}: no run of resam-distill; resam-train --resume continues one of its own") from None
    return typed(DistillOptions, values, str(path)), sources
