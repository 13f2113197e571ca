"""Where LoRA goes: which layers of an encoder and of SAM's mask decoder, and what their tensors are called.

`resam.encoders.low_rank` has the method. In the encoder it is on the queries and values of each attention block ("qv"),
or on queries, keys and values and every other linear layer ("all"), 1 x 1 convolutions among them; in the decoder on
every matrix but those of outputs that nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from segment_anything.modeling import MaskDecoder
from torch import nn

from resam.encoders import family_of
from resam.encoders.low_rank import WHOLE, LoRA, Rows, factor_names, lora_of, merge_into, put_lora

Layers = Literal["qv", "all"]
Places = Iterable[tuple[str, nn.Module, Mapping[str, Rows]]]
"""What the tensors of a layer are called, the layer, and the terms it can have"""


def check_lora(encoder: nn.Module, rank: int, start: int) -> None:
    """`ValueError` unless 1 <= rank <= C and 0 <= start < depth, or where LoRA is there already."""
    blocks = family_of(encoder).qkv(encoder)
    depth, channels = len(blocks), min(min(block.channels) for block in blocks)
    if not 0 <= start < depth:
        raise ValueError(f"start: expected a block from 0 to {depth - 1}, got {start}")
    if not 1 <= rank <= channels:
        raise ValueError(f"rank: expected 1 to {channels}, got {rank}")
    if any(True for _ in lora_layers(encoder)):
        raise ValueError("the encoder has LoRA already; merge it first")


def add_lora(encoder: nn.Module, rank: int = 4, start: int = 0, layers: Layers = "qv") -> list[nn.Parameter]:
    """Freeze the encoder and add LoRA of `rank` to its attention blocks from number `start` on, with "all" to the other
    layers from there on as well; returns the trainable parameters.

    `ValueError` as `check_lora`, and for `layers` that are none.
    """
    check_lora(encoder, rank, start)
    if layers not in get_args(Layers):
        raise ValueError(f"layers: expected {' or '.join(get_args(Layers))}, got {layers!r}")
    encoder.requires_grad_(False)
    first = family_of(encoder).qkv(encoder)[start].layer
    parameters: list[nn.Parameter] = []
    begun = False
    for _, layer, terms in list(encoder_places(encoder)):
        begun = begun or layer is first
        if begun and (layers == "all" or terms is not WHOLE):
            taken = {name: rows for name, rows in terms.items() if layers == "all" or name != "key"}
            parameters += put_lora(layer, rank, taken).factors
    return parameters


def encoder_places(encoder: nn.Module) -> Iterator[tuple[str, nn.Module, Mapping[str, Rows]]]:
    """Layers of an encoder that can have LoRA, in order: `blocks.N` for queries, keys and values of attention block N,
    `image_encoder.PATH` for the others."""
    blocks = {id(block.layer): (number, block) for number, block in enumerate(family_of(encoder).qkv(encoder))}
    for path, layer in encoder.named_modules():
        if id(layer) in blocks:
            number, block = blocks[id(layer)]
            yield f"blocks.{number}", layer, block.terms
        elif _is_linear(layer):
            yield f"image_encoder.{path}", layer, WHOLE


def decoder_places(decoder: MaskDecoder) -> Iterator[tuple[str, nn.Module, Mapping[str, Rows]]]:
    """Those of a mask decoder: all but the hypernetworks of masks that are not read."""
    for path, layer in decoder.named_modules():
        other = path.startswith("output_hypernetworks_mlps.") and not path.startswith("output_hypernetworks_mlps.0.")
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d) and not other:
            yield f"mask_decoder.{path}", layer, WHOLE


def _is_linear(layer: Any) -> bool:
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return pointwise or isinstance(layer, nn.Linear)


def lora_layers(encoder: nn.Module) -> Iterator[tuple[str, LoRA]]:
    """What the tensors of an encoder's LoRA are called, and the LoRA, in order."""
    for name, layer, _ in encoder_places(encoder):
        if (lora := lora_of(layer)) is not None:
            yield name, lora


def lora_state(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's part of an adapter, see `state_of`: `blocks.N.query_down`, `image_encoder.PATH.up` ..."""
    return state_of(encoder_places(encoder))


def load_lora(encoder: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors into the encoder, see `load_into`."""
    load_into(encoder_places(encoder), state)


def merge_lora(encoder: nn.Module) -> None:
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
    for _, layer, _ in list(places):
        merge_into(layer)
