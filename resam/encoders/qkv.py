"""LoRA on the queries and values of one attention block (Hu et al., arXiv 2106.09685).

    W = [W_q; W_k; W_v]    ->    [W_q + B_q A_q; W_k; W_v + B_v A_v]

with A (r, C) random and B (C, r) zero at the start. Written as a parametrization of the weight, so that whatever
reads the weight sees the sum, merging is exact, and what is left after it is the plain module. With G the gradient
of the output for tokens X, `project` takes the factors' gradients as

    dB_q = G_q^T (X A_q^T)        dA_q = (G_q B_q)^T X

(and so for v), which is what G^T X, the gradient of the whole weight, would give them at a fraction of the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

NAMES = ("query_down", "query_up", "value_down", "value_up")


@dataclass(frozen=True)
class Qkv:
    """The layer of an attention block that makes queries, keys and values: linear, or a 1 x 1 convolution.

    groups: its output channels are so many runs of [queries, keys, values]: 1 where the queries of all heads come
    first, the number of heads where each head has its own run.
    """

    layer: Any
    groups: int = 1

    @property
    def channels(self) -> tuple[int, int]:
        """Channels in, and channels of the queries (or keys, or values) out."""
        return int(self.layer.weight.shape[1]), int(self.layer.weight.shape[0]) // 3

    @property
    def lora(self) -> LoRA | None:
        """The LoRA on the layer's weight, if there is one."""
        if not parametrize.is_parametrized(self.layer, "weight"):
            return None
        found: LoRA = self.layer.parametrizations.weight[0]
        return found

    def add(self, rank: int) -> LoRA:
        """Put fresh LoRA on the layer."""
        added = LoRA(*self.channels, rank, self.groups).to(self.layer.weight)
        parametrize.register_parametrization(self.layer, "weight", added)
        return added

    def merge(self) -> None:
        """Write the sum into the weight and remove LoRA, if there is one."""
        if self.lora is not None:
            parametrize.remove_parametrizations(self.layer, "weight", leave_parametrized=True)


class LoRA(nn.Module):
    """The sum of a frozen weight (3K, C), or (3K, C, 1, 1), and its two low-rank terms. groups: see `Qkv`."""

    def __init__(self, channels: int, out_channels: int, rank: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.query_down = nn.Parameter(torch.empty(rank, channels))
        self.query_up = nn.Parameter(torch.zeros(out_channels, rank))
        self.value_down = nn.Parameter(torch.empty(rank, channels))
        self.value_up = nn.Parameter(torch.zeros(out_channels, rank))
        for down in (self.query_down, self.value_down):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the terms added, in its own shape."""
        query, value = self.query_up @ self.query_down, self.value_up @ self.value_down
        parts = [part.unflatten(0, (self.groups, -1)) for part in (query, torch.zeros_like(query), value)]
        return weight + torch.stack(parts, dim=1).reshape(weight.shape)


def project(qkv: nn.Linear, tokens: torch.Tensor) -> torch.Tensor:
    """`qkv(tokens)`, (..., C) -> (..., 3C), for a layer with one group of heads. Where it has LoRA only the factors and
    the tokens get a gradient."""
    if not parametrize.is_parametrized(qkv, "weight"):
        return qkv(tokens)
    lora: Any = qkv.parametrizations.weight[0]  # type: ignore[union-attr, index]
    out = F.linear(tokens, qkv.weight.detach(), qkv.bias)
    projected: torch.Tensor = _FactorGradients.apply(out, tokens.detach(), *lora.parameters())
    return projected


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
