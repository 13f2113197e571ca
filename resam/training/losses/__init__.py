"""The loss of Reinforce: the sum of the terms in `LOSSES`, each times its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resam.training.losses.alignment import ALIGNMENT
from resam.training.losses.dice import DICE
from resam.training.losses.focal import FOCAL
from resam.training.losses.prompter import PROMPTER
from resam.training.losses.score import SCORE
from resam.training.losses.term import Loss

if TYPE_CHECKING:
    from resam.training.options import TrainOptions

LOSSES: tuple[Loss, ...] = (FOCAL, DICE, SCORE, ALIGNMENT, PROMPTER)


def loss_weights(options: TrainOptions, progress: float) -> dict[str, float]:
    """The weight of each term, by name, at `progress` 0..1 of training."""
    return {loss.name: loss.weight_at(options, progress) for loss in LOSSES}
