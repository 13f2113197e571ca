"""Teacher and student: how they are opened, and what the student takes over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resam.encoders import ARCHITECTURES
from resam.encoders.family import with_decoder_of
from resam.model.bases import TINY_WEIGHTS, Base, load_base
from resam.model.sam import build_sam
from resam.training.checkpoints import Adapter, describe_base, load_adapted
from resam_runtime.common.errors import ResamError

RESULT = "base.safetensors"  # of a distillation, in its folder
ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Teacher:
    """A base, or an adapter merged into its base; scale: tile pixels for each pixel of a larger scene, as it was
    adapted to."""

    base: Base
    adapter: Adapter | None = None
    scale: float = 1.0

    @classmethod
    def open(cls, source: str, base: str | None = None) -> Teacher:
        """From a run's folder or an adapter file (base: the one that it was trained on, by default as `load_adapted`
        finds it), "tiny" or a checkpoint file. `ResamError` for anything else."""
        path = Path(source)
        if path.is_dir() and not (path / ADAPTER).is_file() and (path / RESULT).is_file():
            path = path / RESULT
        if path.is_dir() or (source != "tiny" and _is_adapter(path)):
            adapted, adapter = load_adapted(path, base)
            return cls(adapted, adapter, float(adapter.provenance["options"].get("scale", 1.0)))
        if base is not None:
            raise ResamError(f"--base is the one that an adapter was trained on, and {source} is none; leave it out")
        return cls(load_base(source if source == "tiny" else path))

    @property
    def digests(self) -> list[str]:
        """What tells it from any other."""
        return [self.base.sha256] + ([self.adapter.sha256] if self.adapter else [])

    def describe(self) -> dict[str, Any]:
        """For the record of what it has taught."""
        return {"base": describe_base(self.base), "adapter": self.adapter.sha256 if self.adapter else None}


def _is_adapter(path: Path) -> bool:
    if path.suffix != TINY_WEIGHTS.suffix:
        return False
    try:
        Adapter.open(path)
    except ResamError:
        return False
    return True


@dataclass(frozen=True)
class Student:
    """A base whose encoder is to be taught. fresh: its weights are random; start: what it began as, or its file's
    SHA-256."""

    base: Base
    fresh: bool
    start: str

    @classmethod
    def make(cls, name: str, teacher: Base, seed: int = 0) -> Student:
        """An architecture's name: an encoder with random weights, its last layers as wide as the teacher's embedding.
        A checkpoint: its encoder. The prompt encoder and the mask decoder are copies of the teacher's: places are
        relative to the tile there, so they fit a tile and a grid of any size.

        `ResamError` for what is neither, and for a checkpoint whose embedding has another number of channels.
        """
        known = ARCHITECTURES.get(name)
        wanted = teacher.architecture
        if known is not None:
            architecture, encoder = with_decoder_of(known, wanted), None
        elif Path(name).is_file():
            loaded = load_base(name)
            channels = loaded.architecture.embedding_dim
            if channels != wanted.embedding_dim:
                raise ResamError(
                    f"{name}: its embedding has {channels} channels, the teacher's {wanted.embedding_dim}; give "
                    f"another checkpoint, or an architecture's name, which begins with random weights and fits"
                )
            architecture, encoder = with_decoder_of(loaded.architecture, wanted), loaded
        else:
            raise ResamError(f"{name}: no such student; expected {', '.join(ARCHITECTURES)} or a checkpoint file")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sam = build_sam(architecture)
        for part in ("prompt_encoder", "mask_decoder"):
            getattr(sam, part).load_state_dict(getattr(teacher.sam, part).state_dict())
        if encoder is None:
            return cls(Base(sam, architecture, name, ""), True, name)
        sam.image_encoder.load_state_dict(encoder.sam.image_encoder.state_dict())
        return cls(Base(sam, architecture, encoder.name, ""), False, encoder.sha256)
