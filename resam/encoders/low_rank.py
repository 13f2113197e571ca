"""LoRA on any weight (Hu et al., arXiv 2106.09685): a product of two thin matrices is added to some of its rows.

    W[rows]    ->    W[rows] + B A

with A (r, columns) random and B (rows, r) zero at the start. Written as a parametrization of the weight, so that
whatever reads the weight sees the sum, merging is exact, and what is left after it is the plain module. With G the
gradient of a linear layer's output for tokens X, `project` takes the factors' gradients as

    dB = G[:, rows]^T (X A^T)        dA = (G[:, rows] B)^T X

which is what G^T X, the gradient of the whole weight, would give them at a fraction of the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

Rows = slice | torch.Tensor
"""Which rows of a weight; of a tensor of more axes those along the first, each taken as one row"""
WHOLE: Mapping[str, Rows] = {"": slice(None)}
"""One term for all rows"""


def factor_names(term: str) -> tuple[str, str]:
    """What A and B of a term are called."""
    return (f"{term}_down", f"{term}_up") if term else ("down", "up")


class LoRA(nn.Module):
    """The sum of a frozen weight and its low-rank terms. terms: their names and the rows that each is added to."""

    def __init__(self, weight: torch.Tensor, rank: int, terms: Mapping[str, Rows] = WHOLE) -> None:
        super().__init__()
        flat = weight.detach().flatten(1)
        self.rows, self.rank = tuple(terms.values()), rank
        self.names = tuple(name for term in terms for name in factor_names(term))
        for term, rows in terms.items():
            down = nn.Parameter(flat.new_empty(rank, flat.shape[1]))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            up = nn.Parameter(flat.new_zeros(flat[rows].shape[0], rank))
            for name, factor in zip(factor_names(term), (down, up)):
                self.register_parameter(name, factor)

    @property
    def factors(self) -> list[nn.Parameter]:
        """down and up of each term, in order."""
        return [getattr(self, name) for name in self.names]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with the terms added, in its own shape."""
        factors = self.factors
        added = torch.zeros_like(weight).flatten(1)
        for rows, down, up in zip(self.rows, factors[::2], factors[1::2]):
            added[rows] = (up @ down).to(added.dtype)
        return weight + added.reshape(weight.shape)


def lora_of(layer: Any) -> LoRA | None:
    """The LoRA on a layer's weight, if there is one."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    found: LoRA = layer.parametrizations.weight[0]
    return found


def put_lora(layer: nn.Module, rank: int, terms: Mapping[str, Rows] = WHOLE) -> LoRA:
    """Put fresh LoRA on a layer's weight."""
    lora = LoRA(layer.weight, rank, terms)  # type: ignore[arg-type]
    parametrize.register_parametrization(layer, "weight", lora)
    if isinstance(layer, nn.Linear):
        layer.forward = partial(project, layer)  # type: ignore[method-assign]
    return lora


def merge_into(layer: nn.Module) -> None:
    """Write the sum into the weight and remove LoRA, if there is one."""
    if lora_of(layer) is not None:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        vars(layer).pop("forward", None)


def project(layer: nn.Linear, tokens: torch.Tensor) -> torch.Tensor:
    """`layer(tokens)`, (..., C) -> (..., K). Where it has LoRA only the factors and the tokens get a gradient."""
    lora = lora_of(layer)
    if lora is None:
        return layer(tokens)
    with torch.no_grad():
        weight = layer.weight
    out = F.linear(tokens, weight, layer.bias)
    projected: torch.Tensor = _FactorGradients.apply(out, tokens.detach(), lora.rows, *lora.factors)
    return projected


class _FactorGradients(torch.autograd.Function):
    """Hands `out` on; on the way back it works out the gradients of LoRA's factors, given as `LoRA.factors` are."""

    @staticmethod
    def forward(
        ctx: Any, out: torch.Tensor, tokens: torch.Tensor, rows: tuple[Rows, ...], *factors: torch.Tensor
    ) -> torch.Tensor:
        ctx.rows = rows
        ctx.save_for_backward(tokens.to(out.dtype), *factors)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, *factors = ctx.saved_tensors
        x, g = tokens.flatten(0, -2), grad.flatten(0, -2)
        found = []
        for down, up, rows in zip(factors[::2], factors[1::2], ctx.rows):
            columns = g[:, rows]
            found.append(((columns @ up.to(g.dtype)).t() @ x).to(down.dtype))
            found.append((columns.t() @ (x @ down.to(g.dtype).t())).to(up.dtype))
        return grad, None, None, *found
