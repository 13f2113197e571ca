"""EfficientViT as it is exported: the same numbers as `EfficientVitEncoder`, from bytes, with fewer operations.

* batch norm is in the weights of the convolution before it, and 1/std of the pixels in the first one's;
* linear attention, with k and q after the ReLU, is (V K^T) q / (sum(K) . q + eps): the sum of the keys in place of a
  row of ones among the values. The denominator is never negative, and eps, 1e-15, is lost in it unless it is zero: so
  it is held above eps instead, since an exporter takes so small a summand for zero and leaves it out. float16 cannot
  hold eps: `resam_export.precision` leaves the quotient in float32;
* bicubic enlargement is a product with a constant matrix along each axis, which every backend has.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from resam.encoders.convolutions import Folded, LastNorm, constant


class EfficientVitGraph(nn.Module):
    """(B, S, S, 3) uint8 -> embedding (B, C, S / 8, S / 8); LoRA must be merged."""

    def __init__(self, encoder: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.mean = constant(mean.reshape(3))
        network = copy.deepcopy(encoder)
        first = network.stem.in_conv
        first.conv, first.norm = Folded(first.conv, first.norm, std), nn.Identity()
        _fold(network)
        self.stem, self.stages = network.stem, network.stages
        self.inputs, self.middle, self.output = network.inputs, network.middle, Folded(network.output)
        self.enlarge = nn.ModuleList(_Enlarge(encoder.grid >> steps, encoder.grid) for steps in (2, 1, 0))
        self.norm = LastNorm(network.norm.weight, network.norm.bias, network.norm.eps)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = [self.stem((image.to(self.mean.dtype) - self.mean).permute(0, 3, 1, 2))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        parts = [
            enlarge(reduce(map_)) for enlarge, reduce, map_ in zip(self.enlarge, self.inputs, maps[:1:-1], strict=True)
        ]
        x = self.output(self.middle(parts[0] + parts[1] + parts[2]))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Attention(nn.Module):
    """timm's `LiteMLA` on (B, C, H, W)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.dim, self.eps = attention.dim, attention.eps
        self.qkv, self.aggreg, self.proj = attention.qkv, attention.aggreg, attention.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x)
        scales = torch.cat((qkv, *(aggregate(qkv) for aggregate in self.aggreg)), dim=1)
        heads = scales.shape[1] // (3 * self.dim)
        parts = scales.reshape(-1, heads, 3, self.dim, x.shape[2] * x.shape[3])
        q, k, v = F.relu(parts[:, :, 0]), F.relu(parts[:, :, 1]), parts[:, :, 2]  # (B, heads, d, HW)
        out = (v @ k.transpose(2, 3)) @ q
        total = k.sum(dim=3, keepdim=True).transpose(2, 3) @ q  # (B, heads, 1, HW)
        return self.proj((out / total.clamp(min=self.eps)).reshape(-1, heads * self.dim, x.shape[2], x.shape[3]))


class _Enlarge(nn.Module):
    """(B, C, from, from) -> (B, C, to, to), bicubic."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.same = before == after
        if not self.same:
            places = torch.eye(before)[None, None]  # each row a pixel of a line alone
            lines = F.interpolate(places, size=(before, after), mode="bicubic", align_corners=False)
            self.matrix = constant(lines[0, 0].t())  # (to, from)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.same:
            return x
        return (self.matrix @ (self.matrix @ x).transpose(2, 3)).transpose(2, 3)


def _fold(module: nn.Module) -> None:
    """Fold every batch norm of timm's `ConvNormAct` into its convolution; `_Attention` in place of `LiteMLA`."""
    from timm.models.efficientvit_mit import ConvNormAct, LiteMLA

    for name, part in list(module.named_children()):
        _fold(part)
        if isinstance(part, ConvNormAct) and isinstance(part.norm, nn.BatchNorm2d):
            part.conv, part.norm = Folded(part.conv, part.norm), nn.Identity()
        if isinstance(part, LiteMLA):
            setattr(module, name, _Attention(part))
