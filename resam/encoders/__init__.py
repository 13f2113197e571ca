"""Image encoders: one file a family, one line a family in `ENCODERS`. Nothing else knows an encoder's inside."""

from __future__ import annotations

from torch import nn

from resam.encoders.efficientvit import EfficientVit
from resam.encoders.family import Architecture, EncoderFamily
from resam.encoders.tiny_vit import TinyVit
from resam.encoders.vit import Vit

ENCODERS: dict[str, EncoderFamily] = {family.name: family for family in (Vit(), TinyVit(), EfficientVit())}
ARCHITECTURES: dict[str, Architecture] = {
    name: architecture for family in ENCODERS.values() for name, architecture in family.known.items()
}


def family_of(encoder: nn.Module) -> EncoderFamily:
    """The family that made an encoder. `TypeError` for a module of none."""
    for family in ENCODERS.values():
        if family.owns(encoder):
            return family
    raise TypeError(f"{type(encoder).__name__} is no image encoder of {', '.join(ENCODERS)}")
