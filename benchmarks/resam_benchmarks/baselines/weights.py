"""The weights that all rivals of one run share: a base, an adapter merged into it, or random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resam_runtime.common.errors import ResamError

if TYPE_CHECKING:
    from resam.encoders import Architecture
    from resam.model.bases import Base


PACKAGES = ("torch", "segment_anything", "safetensors")  # that `Weights.load` imports


@dataclass(frozen=True)
class Weights:
    """base: "tiny" or a checkpoint file; random: an architecture ("vit_b") whose weights are drawn from `seed`, in
    place of a base; adapter: the file of an adapter, merged in. Exactly one of base and random is set.
    """

    base: str | None = None
    adapter: str | None = None
    random: str | None = None
    seed: int = 0

    def load(self) -> Base:
        """The base with a plain SAM in evaluation mode, LoRA merged. `ResamError` for a name that is no architecture's,
        and for files that do not fit."""
        from resam.model.bases import load_base, random_base
        from resam.training.checkpoints import Adapter, apply_adapter

        if self.random is not None:
            base = random_base(known_architecture(self.random), self.random, self.seed)
            # a SAM's scores are about 0.5 to 1; those of random weights may be zero but for rounding, which an export's
            # verification would take for an error
            base.sam.mask_decoder.iou_prediction_head.layers[-1].bias.data.add_(0.5)
        else:
            assert self.base is not None
            base = load_base(self.base)
        if self.adapter is not None:
            apply_adapter(base, Adapter.open(self.adapter))
        base.sam.eval().requires_grad_(False)
        return base

    def describe(self) -> dict[str, Any]:
        """Plain facts for the report."""
        return {
            "base": f"random {self.random}, seed {self.seed}" if self.random else self.base,
            "adapter": Path(self.adapter).name if self.adapter else None,
        }


def known_architecture(name: str) -> Architecture:
    """The architecture of that name. `ResamError` where there is none."""
    from resam.encoders import ARCHITECTURES

    if name not in ARCHITECTURES:
        raise ResamError(f"--random {name}: no such architecture; give one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
