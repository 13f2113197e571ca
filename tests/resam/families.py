"""Toys of the encoder families that have convolutions, and their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from resam.encoders.efficientvit import EfficientVitArchitecture
from resam.encoders.family import describe_architecture
from resam.encoders.tiny_vit import TinyVitArchitecture
from resam.model.bases import Base, published_names, random_base

SMALL_DECODER: Any = {
    "embedding_dim": 32, "decoder_heads": 1, "decoder_mlp_dim": 32, "multimask_outputs": 0, "iou_hidden_dim": 16,
}  # fmt: skip
TOYS = {
    "tiny_vit": TinyVitArchitecture(
        image_size=64, embed_dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), heads=(2, 3, 2), windows=(3, 4, 3),
        **SMALL_DECODER,
    ),
    "efficientvit": EfficientVitArchitecture(
        image_size=64, widths=(4, 8, 8, 16, 32), depths=(1, 1, 1, 1, 2), head_dim=8, neck_dim=16, neck_depth=1,
        **SMALL_DECODER,
    ),
}  # fmt: skip


def shaken(architecture: Any) -> Base:
    """Random weights, none of them zero, so that nothing is equal by accident."""
    base = random_base(architecture, "toy")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in base.sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return base


def with_masks(base: Base) -> Base:
    """Its mask logits made large, in place: beyond the threshold of Refine, as random weights do not make them."""
    with torch.no_grad():
        base.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(30)
    return base


def published_state(base: Base) -> dict[str, torch.Tensor]:
    """The state dict of a base under the names of published checkpoints."""
    names = published_names(base.sam)
    return {names[key]: value.clone() for key, value in base.sam.state_dict().items()}


def write_checkpoint(base: Base, path: Path) -> Path:
    """A checkpoint of a toy: under the published names, with the size that its shapes do not tell."""
    record = {"architecture": describe_architecture(base.architecture)}
    save_file(published_state(base), path, metadata={"resam": json.dumps(record)})
    return path


def a_tile(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, size, size, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
