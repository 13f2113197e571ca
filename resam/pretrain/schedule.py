"""The optimizers of pretraining and their learning rate: a warm-up, a constant stretch, a straight fall to zero.

The fall is the last stretch of the run, so a run can be told to end: going on with fewer steps begins it.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam

from resam.pretrain.muon import Muon

WARMUP = 200  # steps


def learning_rate(step: int, steps: int, falling: int, peak: float) -> float:
    """The rate of a step (from 0 on) of `steps`, of which the last `falling` fall."""
    return peak * min(1.0, (step + 1) / WARMUP, (steps - step) / max(1, falling))


def make_optimizers(sam: Sam, rate: float, bf16: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformers, AdamW for all else."""
    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in sam.named_parameters():
        vectors = ("point_embeddings", "not_a_point", "no_mask", "iou_token", "mask_tokens", "rel_pos")
        is_matrix = parameter.ndim == 2 and not any(word in name for word in vectors)
        (matrices if is_matrix else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    dtype = torch.bfloat16 if bf16 else torch.float32
    return [Muon(matrices, lr=rate, weight_decay=0.02, dtype=dtype), adam]
