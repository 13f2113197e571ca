"""What families with convolutions share: batch norm that keeps its statistics in training, and is folded at export."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)


def keep_statistics(module: Module) -> Module:
    """Put every batch norm into evaluation mode: one tile is no batch to take statistics of."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return module


@torch.no_grad()
def take_statistics(module: nn.Module, samples: Iterable[torch.Tensor]) -> None:
    """Give every batch norm in `module` the mean and variance of what reaches it of all samples, which `module` takes
    one by one; without any batch norm nothing happens. For fresh weights, whose statistics are nobody's."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean of all samples
    for sample in samples:
        module(sample)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


class Folded(nn.Module):
    """A convolution with the batch norm after it, if there is one, in its weights. std: what the pixels that it reads
    are still to be divided by, (1, 3, 1, 1)."""

    def __init__(self, convolution: nn.Conv2d, norm: Any = None, std: torch.Tensor | None = None) -> None:
        super().__init__()
        weight, bias = convolution.weight.detach(), convolution.bias
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        if std is not None:
            weight = weight / std
        if norm is not None:
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * scale[:, None, None, None]
            bias = norm.bias + (bias - norm.running_mean) * scale
        self.weight, self.bias = constant(weight), constant(bias)
        self.stride, self.padding, self.groups = convolution.stride, convolution.padding, convolution.groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)


class Pointwise(nn.Module):
    """As `Folded`, a 1 x 1 convolution as a matrix product on (..., C): channels last."""

    def __init__(self, convolution: nn.Conv2d, norm: Any = None) -> None:
        super().__init__()
        folded = Folded(convolution, norm)
        self.weight, self.bias = constant(folded.weight[:, :, 0, 0].t()), folded.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class LastNorm(nn.Module):
    """SAM's LayerNorm2d as a layer norm over the last axis."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = constant(weight), constant(bias), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def constant(x: torch.Tensor) -> nn.Parameter:
    """A tensor of a graph to be exported: a copy, detached."""
    return nn.Parameter(x.detach().contiguous().clone(), requires_grad=False)
