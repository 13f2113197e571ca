"""What a loss is: a name, what it looks at, and its weight. A further one is one file here and one line in `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from resam.training.tile import Pseudo, TileTensors

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from resam.training.options import TrainOptions


class Decoded(NamedTuple):
    """Masks that the student decoded, beside what they are taught.

    logits: (n, h, w) float32. target: (n, h, w) in 0..1, without gradient. scores: (n,) float32, the predicted IoU.
    """

    logits: torch.Tensor
    target: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class TileSeen:
    """A tile whose strong view is encoded. embedding: (1, C, G, G), which gradient may flow back into.

    queue: what the tiles before it left (`resam.training.losses.alignment`). sam: the model, with its trained parts.
    """

    embedding: torch.Tensor
    tile: TileTensors
    pseudo: Pseudo
    queue: torch.Tensor
    options: TrainOptions
    sam: Sam | None = None


@dataclass(frozen=True)
class Loss:
    """A term of the loss.

    of "mask": value(Decoded) -> (n,), of each decoded mask; a tile's is the mean over its instances, and over the
    prompts each was asked with. of "tile": value(TileSeen) -> (), once a tile. weight: a number, or one of the options
    and of the progress, 0..1, of training; where it is 0 the term is not computed.
    """

    name: str
    of: Literal["mask", "tile"]
    value: Callable[[Any], torch.Tensor]
    weight: float | Callable[[TrainOptions, float], float] = 1.0

    def weight_at(self, options: TrainOptions, progress: float) -> float:
        """The weight at `progress` 0..1 of training."""
        return self.weight(options, progress) if callable(self.weight) else self.weight
