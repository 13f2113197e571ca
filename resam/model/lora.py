"""The adapter: LoRA on the queries and values of an encoder's attention blocks, whatever its family.

`resam.encoders.qkv` has the method, and each family says where it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from resam.encoders import family_of
from resam.encoders.qkv import NAMES, LoRA, Qkv


def check_lora(encoder: nn.Module, rank: int, start: int) -> None:
    """`ValueError` unless 1 <= rank <= C and 0 <= start < depth, or where LoRA is there already."""
    places = _places(encoder)
    depth, channels = len(places), min(min(place.channels) for place in places)
    if not 0 <= start < depth:
        raise ValueError(f"start: expected a block from 0 to {depth - 1}, got {start}")
    if not 1 <= rank <= channels:
        raise ValueError(f"rank: expected 1 to {channels}, got {rank}")
    if any(True for _ in lora_layers(encoder)):
        raise ValueError("the encoder has LoRA already; merge it first")


def add_lora(encoder: nn.Module, rank: int = 4, start: int = 0) -> list[nn.Parameter]:
    """Freeze the encoder and add LoRA of `rank` to its attention blocks from `start` on; returns the trainable
    parameters.

    `ValueError` as `check_lora`.
    """
    check_lora(encoder, rank, start)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    return [parameter for place in _places(encoder)[start:] for parameter in place.add(rank).parameters()]


def lora_layers(encoder: nn.Module) -> Iterator[tuple[int, LoRA]]:
    """Numbers of attention blocks and LoRA modules, in order."""
    for number, place in enumerate(_places(encoder)):
        if place.lora is not None:
            yield number, place.lora


def lora_state(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter: `blocks.N.NAME` -> tensor, detached and shared with the modules, for each of `NAMES`."""
    return {
        f"blocks.{number}.{name}": getattr(layer, name).detach()
        for number, layer in lora_layers(encoder)
        for name in NAMES
    }


def load_lora(encoder: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors into the encoder, adding LoRA of their rank and first block where there is none.

    `ValueError` naming the tensor that does not fit.
    """
    if not any(True for _ in lora_layers(encoder)):
        try:
            start = min(int(name.split(".")[1]) for name in state)
            rank = int(state[f"blocks.{start}.query_down"].shape[0])
        except (KeyError, ValueError, IndexError):
            raise ValueError("holds no LoRA tensors (blocks.N.query_down, ...)") from None
        add_lora(encoder, rank, start)
    own = lora_state(encoder)
    if own.keys() != state.keys():
        raise ValueError(f"tensors do not fit: {', '.join(sorted(own.keys() ^ state.keys())[:3])}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name}: expected shape {tuple(value.shape)}, got {tuple(state[name].shape)}")
        value.copy_(state[name])


def merge_lora(encoder: nn.Module) -> None:
    """Write the sums into the weights and remove LoRA: the plain encoder is left behind, with the same output."""
    for place in _places(encoder):
        place.merge()


def _places(encoder: nn.Module) -> list[Qkv]:
    return family_of(encoder).qkv(encoder)
