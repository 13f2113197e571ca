"""TinyViT as it is exported: the same numbers as `TinyVitEncoder`, from bytes, with fewer operations.

* batch norm is in the weights of the convolution before it, and 1/std of the pixels in the first one's;
* 1 x 1 convolutions are matrix products on tokens, channels last, as attention and MLP have them;
* attention works on the tokens of the tile, not on the padding of its windows. TinyViT pads before the layer norm,
  which makes of zeros its bias b: with W b taken out of keys and values, padding is zero after the projection. The
  softmax does not change when all keys move by one vector; the rows of the attention sum to 1, so the values' share
  goes through the output projection into its bias;
* the query's scale is in its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from resam.encoders.convolutions import Folded, LastNorm, Pointwise, constant
from resam.encoders.windows import Windows


class TinyVitGraph(nn.Module):
    """(B, S, S, 3) uint8 -> embedding (B, C, S / 16, S / 16); LoRA must be merged."""

    def __init__(self, encoder: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.mean = constant(mean.reshape(3))
        first, second = encoder.patch_embed.conv1, encoder.patch_embed.conv2
        self.first, self.second = Folded(first.conv, first.bn, std), Folded(second.conv, second.bn)
        stages = list(encoder.stages)
        self.convolutions = nn.ModuleList(_ConvBlock(block) for block in stages[0].blocks)
        grid = encoder.img_size // 4
        self.merges, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage in stages[1:]:
            merge = _Merge(stage.downsample, grid)
            grid = merge.grid_after
            self.merges.append(merge)
            self.stages.append(nn.Sequential(*(_Block(block, grid) for block in stage.blocks)))
        self.grid = grid
        reduce, first_norm, smooth, second_norm = encoder.neck
        self.reduce, self.smooth = Pointwise(reduce), Folded(smooth)
        self.norms = nn.ModuleList(LastNorm(norm.weight, norm.bias, norm.eps) for norm in (first_norm, second_norm))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = (image.to(self.mean.dtype) - self.mean).permute(0, 3, 1, 2)
        x = self.second(F.gelu(self.first(x)))  # (B, C, S / 4, S / 4)
        for block in self.convolutions:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)  # tokens, (B, G * G, C) from here on
        for merge, stage in zip(self.merges, self.stages, strict=True):
            x = stage(merge(x))
        x = _map(self.norms[0](self.reduce(x)), self.grid)
        return self.norms[1](self.smooth(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvBlock(nn.Module):
    """timm's `MBConv` on (B, C, H, W)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.expand, self.spread, self.shrink = (Folded(c.conv, c.bn) for c in (block.conv1, block.conv2, block.conv3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x + self.shrink(F.gelu(self.spread(F.gelu(self.expand(x))))))


class _Merge(nn.Module):
    """timm's `PatchMerging`: tokens (B, G * G, C) -> (B, G' * G', C')."""

    def __init__(self, merge: Any, grid: int) -> None:
        super().__init__()
        self.grid, self.grid_after = grid, grid // merge.conv2.conv.stride[0]
        self.first, self.last = (Pointwise(c.conv, c.bn) for c in (merge.conv1, merge.conv3))
        self.spread = Folded(merge.conv2.conv, merge.conv2.bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.spread(_map(F.gelu(self.first(x)), self.grid)))
        return self.last(x.flatten(2).transpose(1, 2))


class _Block(nn.Module):
    """timm's `TinyVitBlock` on tokens (B, G * G, C)."""

    def __init__(self, block: Any, grid: int) -> None:
        super().__init__()
        self.grid, self.attention = grid, _Attention(block.attn, Windows(grid, block.window_size))
        self.local = Folded(block.local_conv.conv, block.local_conv.bn)
        self.norm, self.up, self.down = block.mlp.norm, block.mlp.fc1, block.mlp.fc2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.local(_map(x + self.attention(x), self.grid)).flatten(2).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(x))))


class _Attention(nn.Module):
    """timm's `Attention` within windows, on tokens (B, G * G, C)."""

    def __init__(self, attention: Any, windows: Windows) -> None:
        super().__init__()
        self.heads, self.windows = attention.num_heads, windows
        norm, dim = attention.norm, attention.proj.in_features
        weight = attention.qkv.weight.reshape(self.heads, 3, -1, dim).transpose(0, 1).reshape(3, dim, dim)
        padded = attention.qkv.bias + attention.qkv.weight @ norm.bias  # what padding becomes
        q_bias, _, v_bias = padded.reshape(self.heads, 3, -1).transpose(0, 1).reshape(3, dim)
        scale = float(attention.scale)
        self.norm_weight, self.eps = constant(norm.weight), norm.eps
        self.query, self.query_bias = constant(weight[0].t() * scale), constant(q_bias * scale)
        self.key, self.value = constant(weight[1].t()), constant(weight[2].t())
        self.out = constant(attention.proj.weight.t())
        self.out_bias = constant(attention.proj.bias + attention.proj.weight @ v_bias)
        self.bias = constant(attention.attention_biases[:, attention.attention_bias_idxs])  # (heads, side^2, side^2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x, x.shape[-1:], self.norm_weight, None, self.eps)
        q, k, v = (self.windows.split(y, self.heads).flatten(2, 3) for y in
                   (x @ self.query + self.query_bias, x @ self.key, x @ self.value))  # fmt: skip
        scores = q @ k.transpose(2, 3) + self.bias
        return self.windows.join(scores.softmax(-1) @ v) @ self.out + self.out_bias


def _map(tokens: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, G * G, C) -> (B, C, G, G)."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], grid, grid)
