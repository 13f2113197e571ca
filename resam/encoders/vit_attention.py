"""The encoder's attention without SAM's (HW x HW) matrix of decomposed relative positions.

segment-anything (`modeling/image_encoder.py`, `Attention`) adds rel_h and rel_w to a (HW x HW) score matrix per
head. Folded into queries and keys,

    q' = [q * scale, rel_h(q), rel_w(q)]        k' = [k, onehot(row), onehot(column)]

the product q' k'^T is that same score, and `scaled_dot_product_attention` runs it without a bias tensor: the form for
GPUs. On a CPU in float32 and bfloat16 `resam.encoders.chunked_attention` adds them instead.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn
from torch.nn import functional as F

from resam.encoders.chunked_attention import chunked_attention
from resam.encoders.low_rank import project


class FoldedAttention(nn.Module):
    """Multi-head self-attention over a (H, W) grid of tokens, equal to the package's `Attention`.

    Shares the parameters (and so the state-dict keys) of the module it replaces: `qkv`, `proj`, `rel_pos_h`,
    `rel_pos_w`.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.use_rel_pos = attention.use_rel_pos
        self.qkv = attention.qkv
        self.proj = attention.proj
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) float -> (B, H, W, C)."""
        batch, height, width, channels = x.shape
        heads = self.num_heads
        qkv = project(self.qkv, x).reshape(batch, height * width, 3, heads, channels // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, HW, d)
        scaled = q * self.scale
        if not self.use_rel_pos:
            out = F.scaled_dot_product_attention(scaled, k, v, scale=1.0)
        else:
            grid = q.reshape(batch, heads, height, width, -1)
            rows, columns = (table.to(q.dtype) for table in relative_tables(self, height, width))
            # (B, heads, H, W, H): row h of the grid meets rows[h]. `matmul` would keep a copy of the table per head
            rel_h = torch.einsum("bnhwd,hkd->bnhwk", grid, rows)
            rel_w = torch.einsum("bnhwd,wkd->bnhwk", grid, columns)
            tokens = (batch, heads, height * width)
            rel_h, rel_w = rel_h.reshape(*tokens, height), rel_w.reshape(*tokens, width)
            if q.device.type == "cpu" and q.dtype in (torch.float32, torch.bfloat16):
                out = chunked_attention(scaled, k, v, rel_h, rel_w)
            else:
                k = torch.cat((k, one_hot_places(height, width, q).expand(batch, heads, -1, -1)), dim=-1)
                folded = torch.cat((scaled, rel_h, rel_w), dim=-1)
                out = F.scaled_dot_product_attention(folded, k, v, scale=1.0)
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))


def relative_tables(attention: FoldedAttention, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a token's query meets for each row and each column of the grid: (H, H, d) and (W, W, d)."""
    rows = get_rel_pos(height, height, _middle(attention.rel_pos_h, height))
    return rows, get_rel_pos(width, width, _middle(attention.rel_pos_w, width))


def _middle(table: torch.Tensor, size: int) -> torch.Tensor:
    """The rows of a relative-position table that a grid of `size` needs: a distance in tokens keeps its meaning on a
    smaller grid (the package would squeeze the table; on the full grid both take all of it)."""
    extra = (table.shape[0] - (2 * size - 1)) // 2
    return table[extra : table.shape[0] - extra] if extra > 0 else table


def one_hot_places(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(HW, H + W): for each token the one-hot code of its row, then of its column."""
    row = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    column = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat((row, column), dim=1)


def fold_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Replace, in place, every attention of the encoder by its folded form; returns the encoder."""
    for block in encoder.blocks:
        if isinstance(block.attn, Attention):
            block.attn = FoldedAttention(block.attn)
    return encoder
