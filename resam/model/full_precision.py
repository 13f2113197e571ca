"""Geometry stays in float32 where the rest runs under autocast: at 1024 px a coordinate in bfloat16 is 4 px wide."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def full_precision(like: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which autocast of `like`'s device is off. Nothing where it is off already, as when tracing."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
