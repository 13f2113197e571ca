"""The trainer of a distillation: what a window teaches. `resam.training.epochs` walks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from resam.encoders.convolutions import take_statistics
from resam.model.bases import Base
from resam.model.parts import Trained
from resam.training.distill.losses import DISTILLED
from resam.training.distill.models import Student
from resam.training.distill.options import DistillOptions
from resam.training.distill.step import Model, compare, imitate, teach
from resam.training.distill.windows import HELD, TwoTiles, Windows
from resam.training.epochs import EpochTrainer
from resam_runtime.common.errors import ResamError

COMPARED = 4  # prompts of each window on which student and teacher are compared


class Distiller(EpochTrainer[TwoTiles]):
    """Teaches the student's encoder, in place; all else is frozen. The means of an epoch: the terms of the loss, and
    `agreement`: IoU of the student's and the teacher's masks."""

    summed = (*DISTILLED, "total", "agreement", "tiles")

    def __init__(
        self, teacher: Base, student: Student, windows: Windows, options: DistillOptions, fabric: Fabric
    ) -> None:
        self.windows, self.options, self.base = windows, options, student.base
        for base in (teacher, student.base):
            base.sam.requires_grad_(False)
        self.teacher, self.student = (Model(base).to(fabric.device).eval() for base in (teacher, student.base))
        encoder = student.base.sam.image_encoder
        encoder.requires_grad_(True)
        super().__init__(fabric, options, [Trained(list(encoder.parameters()))])
        self._fresh = student.fresh

    def begin(self) -> None:
        """Before the first epoch: batch norms of random weights take their statistics of the first windows, and keep
        them. The average has none of its own."""
        if self._fresh:
            first = (self.load(number) for number in self.order()[:HELD])
            device = self.fabric.device
            take_statistics(self.student.encoder, (torch.from_numpy(one.student)[None].to(device) for one in first))

    def order(self) -> list[int]:
        return self.windows.order(self.epoch)

    def load(self, number: int) -> TwoTiles:
        return self.windows.load(number, self.epoch)

    def learn(self, view: TwoTiles, progress: float, scale: float, number: int) -> Mapping[str, float]:
        options = self.options
        with self._autocast():  # a context of its own: autocast remembers weights cast without gradient until its end
            target, asked = teach(self.teacher, self.student, view, options.chunk, options.masks > 0)
        try:
            with self._autocast():
                return imitate(self.student, view, target, asked, options, scale) | {"tiles": 1.0}
        except FloatingPointError as error:
            where = f"epoch {self.epoch + 1}, step {self.step + 1} ({view.name})"
            raise ResamError(f"{where}: loss is not finite ({error}); lower the learning rate") from None

    def means(self, sums: Mapping[str, float]) -> dict[str, float]:
        tiles = max(1.0, sums["tiles"])
        return {name: value / tiles for name, value in sums.items() if name != "tiles"}

    def compare(self) -> dict[str, float]:
        """The averaged student on the windows kept from training, see `step.compare`: `held_embedding`, `held_points`,
        `held_boxes`. Nothing where none are kept."""
        windows = [self.windows.plain(held, COMPARED) for held in self.windows.held]
        with self.averaged(), self._autocast():
            rows = [compare(self.teacher, self.student, one, self.options.chunk) for one in windows]
        names = rows[0] if rows else ()
        return {f"held_{name}": float(np.mean([row[name] for row in rows])) for name in names}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return self.fabric.autocast()

    def state(self) -> dict[str, Any]:
        return super().state() | {"encoder": self.base.sam.image_encoder.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.base.sam.image_encoder.load_state_dict(state["encoder"])
        super().load_state(state)
