"""LoRA on the queries and values of the encoder's attention (Hu et al., arXiv 2106.09685).

    W = [W_q; W_k; W_v]    ->    [W_q + B_q A_q; W_k; W_v + B_v A_v]

with A (r, C) random and B (C, r) zero at the start. Written as a parametrization of `qkv.weight`, so that whatever
reads the weight sees the sum, merging is exact, and what is left after it is the plain SAM module. With G the gradient
of the output for tokens X, `project` takes the factors' gradients as

    dB_q = G_q^T (X A_q^T)        dA_q = (G_q B_q)^T X

(and so for v), which is what G^T X, the gradient of the whole weight, would give them at a fraction of the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

NAMES = ("query_down", "query_up", "value_down", "value_up")


class LoRA(nn.Module):
    """The sum of a frozen (3C, C) weight and its two low-rank terms."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.query_down = nn.Parameter(torch.empty(rank, channels))
        self.query_up = nn.Parameter(torch.zeros(channels, rank))
        self.value_down = nn.Parameter(torch.empty(rank, channels))
        self.value_up = nn.Parameter(torch.zeros(channels, rank))
        for down in (self.query_down, self.value_down):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """(3C, C) -> (3C, C)."""
        query, value = self.query_up @ self.query_down, self.value_up @ self.value_down
        return weight + torch.cat((query, torch.zeros_like(query), value))


def project(qkv: nn.Linear, tokens: torch.Tensor) -> torch.Tensor:
    """`qkv(tokens)`, (..., C) -> (..., 3C). Where `qkv` has LoRA only its factors and the tokens get a gradient."""
    if not parametrize.is_parametrized(qkv, "weight"):
        return qkv(tokens)
    out = F.linear(tokens, qkv.weight.detach(), qkv.bias)
    projected: torch.Tensor = _FactorGradients.apply(out, tokens.detach(), *_lora_of(qkv).parameters())
    return projected


def _lora_of(qkv: Any) -> LoRA:
    lora: LoRA = qkv.parametrizations.weight[0]
    return lora


class _FactorGradients(torch.autograd.Function):
    """Hands `out` on; on the way back it works out the gradients of LoRA's factors, given in the order of `NAMES`."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, tokens: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(tokens.to(out.dtype), *factors)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, *factors = ctx.saved_tensors
        channels = tokens.shape[-1]
        x, g = tokens.flatten(0, -2), grad.flatten(0, -2)
        found = []
        for down, up, columns in zip(factors[::2], factors[1::2], (g[:, :channels], g[:, 2 * channels :])):
            found.append(((columns @ up.to(g.dtype)).t() @ x).to(down.dtype))
            found.append((columns.t() @ (x @ down.to(g.dtype).t())).to(up.dtype))
        return grad, None, *found


def check_lora(encoder: ImageEncoderViT, rank: int, start: int) -> None:
    """`ValueError` unless 1 <= rank <= C and 0 <= start < depth, or where LoRA is there already."""
    depth, channels = len(encoder.blocks), encoder.blocks[0].attn.proj.in_features
    if not 0 <= start < depth:
        raise ValueError(f"start: expected a block from 0 to {depth - 1}, got {start}")
    if not 1 <= rank <= channels:
        raise ValueError(f"rank: expected 1 to {channels}, got {rank}")
    if any(True for _ in lora_layers(encoder)):
        raise ValueError("the encoder has LoRA already; merge it first")


def add_lora(encoder: ImageEncoderViT, rank: int = 4, start: int = 0) -> list[nn.Parameter]:
    """Freeze the encoder and add LoRA of `rank` to its blocks from `start` on; returns the trainable parameters.

    `ValueError` as `check_lora`.
    """
    check_lora(encoder, rank, start)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for block in list(encoder.blocks)[start:]:
        qkv = block.attn.qkv
        lora = LoRA(qkv.in_features, rank).to(qkv.weight)
        parametrize.register_parametrization(qkv, "weight", lora)
        parameters += lora.parameters()
    return parameters


def lora_layers(encoder: ImageEncoderViT) -> Iterator[tuple[int, LoRA]]:
    """Block numbers and LoRA modules, in order."""
    for number, block in enumerate(encoder.blocks):
        if parametrize.is_parametrized(block.attn.qkv, "weight"):
            yield number, _lora_of(block.attn.qkv)


def lora_state(encoder: ImageEncoderViT) -> dict[str, torch.Tensor]:
    """The adapter: `blocks.N.NAME` -> tensor, detached and shared with the modules, for each of `NAMES`."""
    return {
        f"blocks.{number}.{name}": getattr(layer, name).detach()
        for number, layer in lora_layers(encoder)
        for name in NAMES
    }


def load_lora(encoder: ImageEncoderViT, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors into the encoder, adding LoRA of their rank and first block where there is none.

    `ValueError` naming the tensor that does not fit.
    """
    if not any(True for _ in lora_layers(encoder)):
        try:
            start = min(int(name.split(".")[1]) for name in state)
            rank = int(state[f"blocks.{start}.query_down"].shape[0])
        except (KeyError, ValueError, IndexError):
            raise ValueError("holds no LoRA tensors (blocks.N.query_down, ...)") from None
        add_lora(encoder, rank, start)
    own = lora_state(encoder)
    if own.keys() != state.keys():
        raise ValueError(f"tensors do not fit: {', '.join(sorted(own.keys() ^ state.keys())[:3])}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name}: expected shape {tuple(value.shape)}, got {tuple(state[name].shape)}")
        value.copy_(state[name])


def merge_lora(encoder: ImageEncoderViT) -> None:
    """Write the sums into the weights and remove LoRA: the plain encoder is left behind, with the same output."""
    for block in encoder.blocks:
        if parametrize.is_parametrized(block.attn.qkv, "weight"):
            parametrize.remove_parametrizations(block.attn.qkv, "weight", leave_parametrized=True)
