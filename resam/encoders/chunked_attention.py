"""Attention with added relative positions, a part of the scores at a time: the CPU's form of it.

softmax(q k^T + rel_h + rel_w) v, where the score matrix of a global block of ViT-B would take 0.8 GB. Rows of it are
made, used and dropped while they are in the cache, forwards and again backwards (the recomputation of Dao et al.,
arXiv 2205.14135, at the size of a cache in place of a GPU's). Against the folded form in torch's own fused kernel,
ViT-B's global block on two cores: 0.40 s against 0.88 forwards, 1.2 s against 2.2 backwards; the products are a third
as wide, since neither queries nor values carry positions. In bfloat16 on one core: 0.5 s against 1.8, and 1.2
against 3.4.

In bfloat16 scores are rounded before the softmax, as they are in the package's attention under autocast; sums are
float32's within a part of the scores, and bfloat16's (of keys and values) over the parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

CHUNK = 1 << 21  # scores at a time: 8 MB in float32, about what stays in a cache


def chunked_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor
) -> torch.Tensor:
    """q (scaled), k, v: (B, heads, HW, d); rel_h (B, heads, HW, H), rel_w (B, heads, HW, W): what a query adds for each
    row and each column of the grid. All of one dtype. Returns (B, heads, HW, d)."""
    out: torch.Tensor = _ChunkedAttention.apply(*(x.flatten(0, 1) for x in (q, k, v, rel_h, rel_w)))
    return out.unflatten(0, q.shape[:2])


class _ChunkedAttention(torch.autograd.Function):
    """As `chunked_attention`, with batch and heads in one axis."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        # they come as views of all heads' tokens: bfloat16's products would copy those for each part of the scores
        q, k, v, rel_h, rel_w = (x.contiguous() for x in inputs)
        ctx.save_for_backward(q, k, v, rel_h, rel_w)
        out = torch.empty_like(v)
        for some, rows in _chunks(q):
            out[some, rows] = _weights(q[some, rows], k[some], rel_h[some, rows], rel_w[some, rows]) @ v[some]
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, rel_h, rel_w = ctx.saved_tensors
        grid = (rel_h.shape[-1], rel_w.shape[-1])
        grad = grad.contiguous()
        dq, dh, dw = torch.empty_like(q), torch.empty_like(rel_h), torch.empty_like(rel_w)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for some, rows in _chunks(q):
            weights = _weights(q[some, rows], k[some], rel_h[some, rows], rel_w[some, rows])
            above = grad[some, rows]
            dv[some].baddbmm_(weights.transpose(1, 2), above)
            scores = torch._softmax_backward_data(above @ v[some].transpose(1, 2), weights, -1, weights.dtype)
            dq[some, rows] = scores @ k[some]
            dk[some].baddbmm_(scores.transpose(1, 2), q[some, rows])
            places = scores.unflatten(2, grid)
            dh[some, rows], dw[some, rows] = places.sum(3), places.sum(2)
        return dq, dk, dv, dh, dw


def _weights(q: torch.Tensor, k: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor) -> torch.Tensor:
    """Softmax of the scores of some queries, (b, rows, HW)."""
    scores = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).flatten(2)
    return scores.baddbmm_(q, k.transpose(1, 2)).softmax(-1)


def _chunks(q: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Parts of (B, HW): many whole matrices where they are small, else some rows of one."""
    count, tokens, _ = q.shape
    matrices, rows = max(1, CHUNK // tokens**2), max(1, min(tokens, CHUNK // tokens))
    for first in range(0, count, matrices):
        for row in range(0, tokens, rows):
            yield slice(first, first + matrices), slice(row, row + rows)
