"""Muon (Jordan et al., 2024): momentum whose matrix is made orthogonal before the step.

For matrices only; biases, norms and embeddings stay with AdamW. In bfloat16 only where asked for, unlike
`torch.optim.Muon`: its matrix products are slow on processors without instructions for them. Steps are scaled to
AdamW's usual size, 0.2 sqrt(max(rows, columns)) (Liu et al., "Muon is scalable", 2025), so that both share one
learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)  # drives singular values towards 1 in five rounds


class Muon(torch.optim.Optimizer):
    """Muon for a list of 2-D parameters."""

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of the products that make an update orthogonal."""
        self._dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # closures are not supported
        """One step from the gradients in `.grad` (parameters without one are left alone)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(state["momentum"], group["momentum"]).to(self._dtype))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix (m, n) with singular values about 1, by a Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
