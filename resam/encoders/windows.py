"""Tokens of a grid in windows, and back: one transposition each way, heads included."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """A grid of `grid` x `grid` tokens in windows of `side` x `side`, those at its end filled up with zeros."""

    grid: int
    side: int

    @property
    def count(self) -> int:
        """Windows along one side."""
        return -(-self.grid // self.side)

    def split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """Tokens (B, G * G, C) -> (B * count^2, heads, side, side, d)."""
        count, side, channels = self.count, self.side, x.shape[2] // heads
        if count == 1 and side == self.grid:
            return x.reshape(-1, side, side, heads, channels).permute(0, 3, 1, 2, 4)
        x = x.reshape(-1, self.grid, self.grid, heads * channels)
        extra = count * side - self.grid
        if extra:
            x = F.pad(x, (0, 0, 0, extra, 0, extra))
        x = x.reshape(-1, count, side, count, side, heads, channels).permute(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(-1, heads, side, side, channels)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """(B * count^2, heads, side^2, d) -> tokens (B, G * G, C): the inverse of `split`."""
        count, side, heads, channels = self.count, self.side, x.shape[1], x.shape[3]
        if count == 1 and side == self.grid:
            return x.transpose(1, 2).reshape(-1, side * side, heads * channels)
        x = x.reshape(-1, count, count, heads, side, side, channels).permute(0, 1, 4, 2, 5, 3, 6)
        x = x.reshape(-1, count * side, count * side, heads * channels)
        return x[:, : self.grid, : self.grid].reshape(-1, self.grid * self.grid, heads * channels)
