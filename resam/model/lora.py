"""Where LoRA goes: which layers of an encoder and of SAM's mask decoder, and what their tensors are called.

`resam.model.low_rank` has the method. In the encoder it is on the queries and values of each attention block ("qv"), or
on queries, keys and values and every other linear layer ("all"); in the decoder on every matrix but those of outputs
that nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder
from torch import nn

from resam.model.low_rank import WHOLE, LoRA, Rows, factor_names, lora_of, merge_into, put_lora

Layers = Literal["qv", "all"]
Places = Iterable[tuple[str, nn.Module, Mapping[str, Rows]]]
"""What the tensors of a layer are called, the layer, and the terms it can have"""
QKV = ("query", "key", "value")


def check_lora(encoder: ImageEncoderViT, rank: int, start: int) -> None:
    """`ValueError` unless 1 <= rank <= C and 0 <= start < depth, or where LoRA is there already."""
    depth, channels = len(encoder.blocks), encoder.blocks[0].attn.proj.in_features
    if not 0 <= start < depth:
        raise ValueError(f"start: expected a block from 0 to {depth - 1}, got {start}")
    if not 1 <= rank <= channels:
        raise ValueError(f"rank: expected 1 to {channels}, got {rank}")
    if any(True for _ in lora_layers(encoder)):
        raise ValueError("the encoder has LoRA already; merge it first")


def add_lora(encoder: ImageEncoderViT, rank: int = 4, start: int = 0, layers: Layers = "qv") -> list[nn.Parameter]:
    """Freeze the encoder and add LoRA of `rank` to its blocks from `start` on; returns the trainable parameters.

    `ValueError` as `check_lora`.
    """
    check_lora(encoder, rank, start)
    if layers not in get_args(Layers):
        raise ValueError(f"layers: expected {' or '.join(get_args(Layers))}, got {layers!r}")
    encoder.requires_grad_(False)
    names = QKV if layers == "all" else ("query", "value")
    parameters: list[nn.Parameter] = []
    for name, layer, terms in encoder_places(encoder):
        if int(name.split(".")[1]) >= start and (terms is not WHOLE or layers == "all"):
            own = terms if terms is WHOLE else {term: terms[term] for term in names}
            parameters += put_lora(layer, rank, own).factors
    return parameters


def encoder_places(encoder: ImageEncoderViT) -> Iterator[tuple[str, nn.Module, Mapping[str, Rows]]]:
    """Layers of an encoder that can have LoRA, in order: what their tensors are called, and the terms of each."""
    for number, block in enumerate(encoder.blocks):
        qkv: Any = block.attn.qkv
        channels = qkv.out_features // 3
        yield f"blocks.{number}", qkv, {name: slice(i * channels, (i + 1) * channels) for i, name in enumerate(QKV)}
        for path, layer in block.named_modules():
            if isinstance(layer, nn.Linear) and layer is not qkv:
                yield f"blocks.{number}.{path}", layer, WHOLE


def decoder_places(decoder: MaskDecoder) -> Iterator[tuple[str, nn.Module, Mapping[str, Rows]]]:
    """Those of a mask decoder: all but the hypernetworks of masks that are not read."""
    for path, layer in decoder.named_modules():
        other = path.startswith("output_hypernetworks_mlps.") and not path.startswith("output_hypernetworks_mlps.0.")
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d) and not other:
            yield f"mask_decoder.{path}", layer, WHOLE


def lora_layers(encoder: ImageEncoderViT) -> Iterator[tuple[str, LoRA]]:
    """What the tensors of an encoder's LoRA are called, and the LoRA, in order."""
    for name, layer, _ in encoder_places(encoder):
        if (lora := lora_of(layer)) is not None:
            yield name, lora


def lora_state(encoder: ImageEncoderViT) -> dict[str, torch.Tensor]:
    """The encoder's part of an adapter, see `state_of`: of block N `blocks.N.query_down`, `blocks.N.mlp.lin1.up` ..."""
    return state_of(encoder_places(encoder))


def load_lora(encoder: ImageEncoderViT, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors into the encoder, see `load_into`."""
    load_into(encoder_places(encoder), state)


def merge_lora(encoder: ImageEncoderViT) -> None:
    """Write the sums into the weights and remove LoRA: the plain encoder is left behind, with the same output."""
    merge_places(encoder_places(encoder))


def state_of(places: Places) -> dict[str, torch.Tensor]:
    """`PLACE.TERM_down` and `PLACE.TERM_up` of each place with LoRA, detached and shared with the modules."""
    state: dict[str, torch.Tensor] = {}
    for name, layer, _ in places:
        if (lora := lora_of(layer)) is not None:
            state |= {f"{name}.{factor}": getattr(lora, factor).detach() for factor in lora.names}
    return state


def load_into(places: Places, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors to their places, where there is none adding LoRA of their terms and rank.

    `ValueError` naming the tensor that does not fit.
    """
    found = list(places)
    fresh = not state_of(found)
    if fresh and not state:
        raise ValueError("holds no LoRA tensors (blocks.N.query_down, ...)")
    for name, layer, terms in found if fresh else ():
        downs = {term: f"{name}.{factor_names(term)[0]}" for term in terms}
        own = {term: rows for term, rows in terms.items() if downs[term] in state}
        if own:
            put_lora(layer, int(state[downs[next(iter(own))]].shape[0]), own)
    here = state_of(found)
    if here.keys() != state.keys():
        raise ValueError(f"tensors do not fit: {', '.join(sorted(here.keys() ^ state.keys())[:3])}")
    for name, value in here.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name}: expected shape {tuple(value.shape)}, got {tuple(state[name].shape)}")
        value.copy_(state[name])


def merge_places(places: Places) -> None:
    """Write the sums of all places into their weights and remove LoRA."""
    for _, layer, _ in places:
        merge_into(layer)
