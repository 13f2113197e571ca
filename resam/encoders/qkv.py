"""Where an attention block makes its queries, keys and values, which LoRA tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from resam.encoders.low_rank import Rows

NAMES = ("query", "key", "value")


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
    def terms(self) -> Mapping[str, Rows]:
        """Which output channels are queries, keys, values."""
        out = self.channels[1]
        if self.groups == 1:
            return {name: slice(i * out, (i + 1) * out) for i, name in enumerate(NAMES)}
        channels = torch.arange(3 * out).reshape(self.groups, 3, -1)
        return {name: channels[:, i].flatten() for i, name in enumerate(NAMES)}
