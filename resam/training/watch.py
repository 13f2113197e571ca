"""What a run measures while it goes: the averaged weights on the splits that have masks. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions, pointed, scene_prompts
from resam.training.evaluate import evaluate, summarise
from resam.training.progress import Reporter
from resam.training.trainer import Trainer
from resam_runtime.points import Prompt
from resam_runtime.tiles.tiling import Framing


@dataclass(frozen=True)
class Measurable:
    """A split and the points that it is measured with, drawn from its masks."""

    data: CocoData
    prompts: list[list[Prompt]]

    @classmethod
    def of(cls, split: CocoData | None, points: PointOptions, reporter: Reporter) -> Measurable | None:
        """None, and a note, for a split without masks. Raises `ResamError` for masks that cannot be read."""
        if split is None:
            return None
        if not any(instance.annotation.get("segmentation") for scene in split.scenes for instance in scene.instances):
            reporter.note(f"{split.path}: has no masks, so nothing is measured on it")
            return None
        return cls(split, scene_prompts(split, points, note=reporter.note))


class Watch:
    """Measures a trainer's averaged weights: on some scenes of `watched` after each epoch, on all of `tested`."""

    def __init__(
        self,
        trainer: Trainer,
        watched: Measurable | None,
        tested: Measurable | None,
        reporter: Reporter,
        limit: int,
    ) -> None:
        """limit: scenes that `glance` looks at."""
        self._trainer, self._watched, self._tested = trainer, watched, tested
        self._reporter, self._limit = reporter, limit

    def glance(self) -> dict[str, Any] | None:
        """`summarise` of a few scenes of the watched split; None without it."""
        if self._watched is None or not self._limit:
            return None
        return self._measure(self._watched, self._trainer.samples.framing, self._limit)

    def test(self, who: str, framing: Framing) -> dict[str, dict[str, Any]]:
        """All scenes of the tested split, as an entry of `RunResult.tested`; none without that split."""
        if self._tested is None:
            return {}
        self._reporter.start(f"testing: {who}", len(pointed(self._tested.prompts)))
        return {who: self._measure(self._tested, framing, None)}

    def _measure(self, split: Measurable, framing: Framing, limit: int | None) -> dict[str, Any]:
        trainer = self._trainer
        with trainer.averaged():  # in full precision, as an engine has it, whatever training uses
            return summarise(
                evaluate(
                    trainer.encoder,
                    trainer.loop,
                    split.data,
                    split.prompts,
                    framing,
                    limit=limit,
                    advance=self._reporter.step if limit is None else lambda: None,
                )
            )
