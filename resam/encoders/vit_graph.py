"""SAM's ViT as it is exported: bytes in, embedding out, with everything constant worked out beforehand.

Same numbers, fewer and better operations. Writing x for a block's normalised tokens:

* the softmax does not change when all keys move by one vector, so the key bias is dropped; the rows of the attention
  sum to 1, so the value bias is carried through the output projection into its bias;
* the query's scale goes into its weights, and out of the tables of relative positions;
* projections act on the tokens of the tile, not on the padding of the windows (zeros before the projection, and
  after it, since neither keys nor values have a bias any more);
* windows and heads are put in place by one transposition;
* the patch embedding is a matrix product on the bytes as they come, 1/std in its weights;
* rows and columns of relative positions, and their one-hot codes, are constants;
* unless told to fold, blocks that see the whole grid add relative positions to the scores: on a CPU two additions
  cost less than a product three times as wide (ViT-B, two cores: 5.6 s an image against 6.3 s). The scores of the
  official sizes are made in four pieces: as fast, and a ViT-B's peak is 1.8 GB instead of 3.5.

`resam_export.verify` compares it with the encoder of training at every export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resam.encoders.convolutions import LastNorm, constant
from resam.encoders.vit_attention import FoldedAttention, one_hot_places, relative_tables
from resam.encoders.windows import Windows

LARGEST_SCORES = 1 << 26  # elements of a score matrix of one image, all heads, that a CPU holds at once (256 MB)


class VitGraph(nn.Module):
    """(B, S, S, 3) uint8 -> embedding (B, C, G, G); LoRA must be merged.

    vit: with folded attention. mean, std: of the pixels, (1, 3, 1, 1). fold: relative positions always as further
    channels of queries and keys (`resam.encoders.vit_attention`), so that the scores need no second pass: for GPUs,
    whose fused attention can then take them.
    """

    def __init__(self, vit: Any, mean: torch.Tensor, std: torch.Tensor, fold: bool) -> None:
        super().__init__()
        patch = vit.patch_embed.proj
        self.patch_size = int(patch.kernel_size[0])
        self.grid = int(vit.img_size) // self.patch_size
        dim = patch.out_channels
        weight = patch.weight / std  # (C, 3, p, p)
        weight = weight.permute(2, 3, 1, 0).reshape(-1, dim)
        self.patch_weight = constant(weight)  # (p * p * 3, C)
        position = patch.bias if vit.pos_embed is None else vit.pos_embed.reshape(1, -1, dim) + patch.bias
        self.position = constant(position)  # (1, G * G, C)
        self.mean = constant(mean.reshape(3).repeat(self.patch_size))  # a row of a patch
        self.blocks = nn.ModuleList(_BlockGraph(block, self.grid, fold) for block in vit.blocks)
        reduce, first_norm, smooth, second_norm = vit.neck
        self.reduce = constant(reduce.weight.reshape(reduce.out_channels, -1).t())
        self.norms = nn.ModuleList(LastNorm(norm.weight, norm.bias, norm.eps) for norm in (first_norm, second_norm))
        self.smooth = smooth

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        size, grid = self.patch_size, self.grid
        x = image.to(self.mean.dtype).reshape(-1, grid, size, grid, size * 3) - self.mean
        x = x.permute(0, 1, 3, 2, 4).reshape(-1, grid * grid, size * size * 3)
        x = x @ self.patch_weight + self.position  # (B, G * G, C)
        for block in self.blocks:
            x = block(x)
        x = self.norms[0](x @ self.reduce)
        x = self.smooth(x.transpose(1, 2).reshape(-1, x.shape[2], grid, grid))
        return self.norms[1](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _BlockGraph(nn.Module):
    """One transformer block on tokens (B, G * G, C)."""

    def __init__(self, block: Any, grid: int, fold: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.lin1, self.activation, self.lin2 = block.mlp.lin1, block.mlp.act, block.mlp.lin2
        self.attention = _AttentionGraph(block.attn, int(block.window_size), grid, fold)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.lin2(self.activation(self.lin1(self.norm2(x))))


class _AttentionGraph(nn.Module):
    """Attention of tokens (B, G * G, C) within windows, or (window 0) over the whole grid."""

    def __init__(self, attention: FoldedAttention, window: int, grid: int, fold: bool) -> None:
        super().__init__()
        self.heads, self.side = attention.num_heads, window or grid
        self.windows = Windows(grid, self.side)
        dim = attention.proj.in_features
        scale = float(attention.scale)
        q, k, v = attention.qkv.weight.reshape(3, dim, dim).unbind(0)
        q_bias, _, v_bias = attention.qkv.bias.reshape(3, dim).unbind(0)
        self.query, self.query_bias = constant(q.t() * scale), constant(q_bias * scale)
        self.key, self.value = constant(k.t()), constant(v.t())
        self.out = constant(attention.proj.weight.t())
        self.out_bias = constant(attention.proj.bias + attention.proj.weight @ v_bias)
        self.use_rel_pos = attention.use_rel_pos
        self.fold = fold or window > 0  # within windows the fold is next to nothing
        scores = self.heads * self.side**4
        self.pieces = next(n for n in range(1, self.side + 1) if self.side % n == 0 and scores <= n * LARGEST_SCORES)
        if self.use_rel_pos:
            rows, columns = relative_tables(attention, self.side, self.side)  # (side, side, d)
            self.rows = constant(rows.transpose(1, 2) / scale)
            self.columns = constant(columns.transpose(1, 2) / scale)
            if self.fold:
                self.places = constant(one_hot_places(self.side, self.side, q)[None, None])  # (1, 1, side^2, 2 side)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, heads = self.side, self.heads
        q = self.windows.split(x @ self.query + self.query_bias, heads)  # (B * windows^2, h, side, side, d)
        k = self.windows.split(x @ self.key, heads).flatten(2, 3)
        v = self.windows.split(x @ self.value, heads).flatten(2, 3)
        query, tokens = q.flatten(2, 3), side * side
        if not self.use_rel_pos:
            scores = query @ k.transpose(2, 3)
        else:
            rel_h = (q @ self.rows).flatten(2, 3)  # (B * windows^2, h, side^2, side)
            rel_w = (q.transpose(2, 3) @ self.columns).transpose(2, 3).reshape(-1, heads, tokens, side)
            if not self.fold:
                return self._project(self._added(query, k.transpose(2, 3), v, rel_h, rel_w))
            k = torch.cat((k, self.places.expand(k.shape[0], heads, -1, -1)), dim=-1)
            scores = torch.cat((query, rel_h, rel_w), dim=-1) @ k.transpose(2, 3)
        return self._project(scores.softmax(-1) @ v)

    def _added(
        self, query: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
    ) -> torch.Tensor:
        """Attention (B, h, side^2, d) with relative positions added to the scores, some rows of the grid at a time."""
        attended = []
        for q, h, w in zip(*(x.chunk(self.pieces, dim=2) for x in (query, rel_h, rel_w)), strict=True):
            scores = (q @ k).reshape(-1, self.heads, q.shape[2], self.side, self.side)
            scores = (scores + h.unsqueeze(-1) + w.unsqueeze(-2)).flatten(3)
            attended.append(scores.softmax(-1) @ v)
        return torch.cat(attended, dim=2)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        return self.windows.join(x) @ self.out + self.out_bias
