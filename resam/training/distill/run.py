"""A distillation: a folder as any run's, whose result is a base, `base.safetensors`: the student's encoder, as the
average of its weights, around the teacher's prompt encoder and mask decoder.

Nothing is labelled, so what is measured is how far the student's masks are the teacher's, on images kept from training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

import resam
from resam.training.checkpoints import own_checkpoint, save_checkpoint, write_base
from resam.training.devices import on_main
from resam.training.distill.distiller import Distiller
from resam.training.distill.losses import DISTILLED
from resam.training.distill.models import RESULT, Student, Teacher
from resam.training.distill.options import DistillOptions, DistillSources
from resam.training.distill.strips import two_masks
from resam.training.distill.windows import Windows
from resam.training.progress import Reporter, Silent
from resam.training.report import is_shown, write_page, write_strip
from resam.training.run_folder import start_folder, write_metrics
from resam_runtime.tiles.tiling import Framing

SHOWN_PROMPTS = 9


@dataclass(frozen=True)
class Distilled:
    """The base's path, and a row for each epoch."""

    base: Path
    history: list[dict[str, Any]]


class DistillRun:
    """One distillation, new or resumed; every process of several has one, see `resam.training.run.TrainingRun`."""

    def __init__(
        self,
        folder: Path,
        options: DistillOptions,
        sources: DistillSources,
        teacher: Teacher,
        fabric: Fabric,
        reporter: Reporter | None = None,
        resume: bool = False,
    ) -> None:
        """teacher: opened from `sources`. Unless it resumes, the folder is made once student and images have proved
        good.

        Raises `ResamError` for a student or images that will not do, a checkpoint made with others, and a file that
        cannot be written.
        """
        self.folder, self.options, self.sources, self.fabric = folder, options, sources, fabric
        self.teacher, self.reporter = teacher, reporter or Silent()
        self.student = Student.make(sources.student, teacher.base, options.seed)
        sizes = (teacher.base.architecture.image_size, self.student.base.architecture.image_size)
        framing = Framing(self.student.base.fit_within, teacher.scale)
        self.windows = Windows(Path(sources.images), sizes, framing, options, self.reporter)
        self.history: list[dict[str, Any]] = []
        self._framing = framing
        saved = own_checkpoint(folder, self._identity, "options, images, teacher or student") if resume else None
        if not resume:
            on_main(fabric, partial(start_folder, folder, options, asdict(sources)))
        self.distiller = Distiller(teacher.base, self.student, self.windows, options, fabric)
        if saved is None:
            self.distiller.begin()
        else:
            self.history = json.loads(saved["history"])
            self.distiller.load_state(saved["trainer"])

    def train(self) -> Distilled:
        """All epochs that are left, and the base. Raises `ResamError` for a loss that is not finite, and a file that
        cannot be written."""
        distiller, epochs, windows = self.distiller, self.options.epochs, self.windows
        self.reporter.note(
            f"{self.student.base.name} learns from {self.teacher.base.name}: {len(windows.images)} images, "
            f"{len(windows)} tiles an epoch" + (f", going on after epoch {distiller.epoch}" if distiller.epoch else "")
        )
        if not distiller.epoch:
            on_main(self.fabric, partial(self._draw, 0))
        while distiller.epoch < epochs:
            self.reporter.start(f"epoch {distiller.epoch + 1}/{epochs}", -(-len(windows) // self.options.batch))
            means = distiller.run_epoch(lambda row: self.reporter.step({**row, "memory_mb": distiller.memory_mb()}))
            on_main(self.fabric, partial(self._keep_epoch, means))
        on_main(self.fabric, self._end)
        return Distilled(self.folder / RESULT, self.history)

    @property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it."""
        told = {"options": self.options.to_dict(), "teacher": self.teacher.digests, "student": self.student.start}
        return told | {"images": self.windows.digest}

    def _keep_epoch(self, means: dict[str, float]) -> None:
        distiller = self.distiller
        row: dict[str, Any] = {"epoch": distiller.epoch, "step": distiller.step, **means, **distiller.compare()}
        self.history.append(row)
        self.reporter.epoch(row, self.options.epochs)
        self._draw(distiller.epoch)
        state: dict[str, Any] = {"trainer": distiller.state(), "identity": self._identity, "tested": "{}"}
        state |= {"history": json.dumps(self.history), "framing": asdict(self._framing)}
        save_checkpoint(self.folder / "checkpoints", distiller.epoch, state)
        self._write_pages()

    def _end(self) -> None:
        record = {
            "distilled": {
                "teacher": self.teacher.describe(),
                "student": self.student.start,
                "images": {"count": len(self.windows.images), "sha256": self.windows.digest},
                "options": self.options.to_dict(),
                "agreement": {name: value for name, value in self.history[-1].items() if name.startswith("held_")},
                "resam_version": resam.__version__,
            }
        }
        with self.distiller.averaged():
            write_base(self.folder / RESULT, self.student.base, record)
        self._write_pages()
        if self.teacher.scale != 1:
            self.reporter.note(
                f"the teacher was adapted to scenes at scale {self.teacher.scale:.3g}, which a base does not say: give "
                f"resam-run or resam-train --scale {self.teacher.scale:.3g}"
            )

    def _write_pages(self) -> None:
        write_metrics(self.folder, self.history)
        held = [name for name in ("points", "boxes") if all(f"held_{name}" in row for row in self.history)]
        curves: dict[str, dict[str, list[float]]] = {
            "loss": {"total": [row["total"] for row in self.history]},
            "its terms": {name: [row[name] for row in self.history] for name in DISTILLED},
            "IoU with the teacher's masks": {
                "while learning": [row["agreement"] for row in self.history],
                **{f"images kept aside, {name}": [row[f"held_{name}"] for row in self.history] for name in held},
            },
        }
        names = f"{self.student.base.name}, taught by {self.teacher.base.name} on {len(self.windows.images)} images"
        shown = "The tile with points of a grid; the teacher's masks of them; the student's, after each epoch shown"
        counted = f"<p>{len(self.windows.held)} windows are kept from training to compare both.</p>"
        page = ("Teacher and student", shown)
        write_page(self.folder, names, counted, curves, page, self.options.to_dict(), len(self.history))

    def _draw(self, epoch: int) -> None:
        """Write `strips/` of the averaged student. `ResamError` where they cannot be written."""
        if is_shown(epoch, self.options.epochs):
            distiller = self.distiller
            windows = [self.windows.plain(window, SHOWN_PROMPTS) for window in self.windows.shown]
            with distiller.averaged(), self.fabric.autocast():
                strips = [two_masks(distiller.teacher, distiller.student, tiles) for tiles in windows]
            for place, strip in enumerate(strips):
                write_strip(self.folder, place, epoch, strip)
