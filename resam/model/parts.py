"""What is trained, and so what an adapter holds: the parts of `PARTS`, each with names of tensors of its own.

A further part is one class and one line in `PARTS`: trainer, average, checkpoint, adapter file and merge go through it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from segment_anything.modeling import Sam
from torch import nn

from resam.encoders.low_rank import put_lora
from resam.model.lora import add_lora, check_lora, decoder_places, encoder_places, load_into, merge_places, state_of
from resam.model.prompter import load_prompter, prompter_of

if TYPE_CHECKING:
    from resam.training.options import TrainOptions

Tensors = dict[str, torch.Tensor]


class Trained(NamedTuple):
    """Parameters that are trained at `rate` times the learning rate."""

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0


class Part(abc.ABC):
    """A part of the model. prefix: what the names of its tensors in an adapter begin with, one of these."""

    prefix: str | tuple[str, ...]

    def check(self, sam: Sam, options: TrainOptions) -> None:  # noqa: B027 (most parts can do whatever they are told)
        """`ValueError`, beginning with the name of the option, where `add` cannot do what the options say."""

    @abc.abstractmethod
    def add(self, sam: Sam, options: TrainOptions) -> list[Trained]:
        """Make the part ready to be trained, in place; nothing where the options leave it alone."""

    @abc.abstractmethod
    def state(self, sam: Sam) -> Tensors:
        """Its tensors, detached and shared with the model; none where the part is not there."""

    @abc.abstractmethod
    def load(self, sam: Sam, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors as of `state`, making the part where it is not there. `ValueError` naming what does not fit."""

    @abc.abstractmethod
    def merge(self, sam: Sam) -> None:
        """Leave plain weights behind, as export wants them."""


class EncoderLora(Part):
    """LoRA in the encoder."""

    prefix = ("blocks.", "image_encoder.")

    def check(self, sam: Sam, options: TrainOptions) -> None:
        check_lora(sam.image_encoder, options.rank, options.start)

    def add(self, sam: Sam, options: TrainOptions) -> list[Trained]:
        return [Trained(add_lora(sam.image_encoder, options.rank, options.start, options.layers))]

    def state(self, sam: Sam) -> Tensors:
        return state_of(encoder_places(sam.image_encoder))

    def load(self, sam: Sam, tensors: Mapping[str, torch.Tensor]) -> None:
        load_into(encoder_places(sam.image_encoder), tensors)

    def merge(self, sam: Sam) -> None:
        merge_places(encoder_places(sam.image_encoder))


class DecoderLora(Part):
    """LoRA in the mask decoder, at a learning rate of its own."""

    prefix = "mask_decoder."

    def add(self, sam: Sam, options: TrainOptions) -> list[Trained]:
        if not options.decoder_rank:
            return []
        places = list(decoder_places(sam.mask_decoder))
        factors = [factor for _, layer, _ in places for factor in put_lora(layer, options.decoder_rank).factors]
        return [Trained(factors, options.decoder_rate)]

    def state(self, sam: Sam) -> Tensors:
        return state_of(decoder_places(sam.mask_decoder))

    def load(self, sam: Sam, tensors: Mapping[str, torch.Tensor]) -> None:
        load_into(decoder_places(sam.mask_decoder), tensors)

    def merge(self, sam: Sam) -> None:
        merge_places(decoder_places(sam.mask_decoder))


class PrompterHead(Part):
    """The prompter. It is taught once the others are (`resam.training.prompter`), with one that learns beside them to
    begin with where the options say so: the trainer makes that, since it knows the classes."""

    prefix = "prompter."

    def add(self, sam: Sam, options: TrainOptions) -> list[Trained]:
        head = prompter_of(sam)
        if head is None or not options.joint:
            return []
        return [Trained(list(head.requires_grad_().parameters()), options.prompter_rate / options.learning_rate)]

    def state(self, sam: Sam) -> Tensors:
        head = prompter_of(sam)
        tensors = {} if head is None else head.state_dict()
        return {f"{self.prefix}{name}": value.detach() for name, value in tensors.items()}

    def load(self, sam: Sam, tensors: Mapping[str, torch.Tensor]) -> None:
        state = {name.removeprefix(self.prefix): value for name, value in tensors.items()}
        size, grid = sam.prompt_encoder.input_image_size[0], sam.prompt_encoder.image_embedding_size[0]
        head, own = load_prompter(state, size, grid).eval(), prompter_of(sam)
        if own is None or own.classes != head.classes:
            sam.add_module("prompter", head)
        else:
            own.load_state_dict(head.state_dict())  # the very parameters that an optimiser knows

    def merge(self, sam: Sam) -> None:
        """It is plain already."""


PARTS: tuple[Part, ...] = (EncoderLora(), DecoderLora(), PrompterHead())


def check_parts(sam: Sam, options: TrainOptions) -> None:
    """`ValueError` for options that a part cannot do; it begins with the option's name."""
    for part in PARTS:
        part.check(sam, options)


def add_parts(sam: Sam, options: TrainOptions) -> list[Trained]:
    """Make all parts ready that the options ask for; what is to be trained."""
    return [trained for part in PARTS for trained in part.add(sam, options)]


def adapter_state(sam: Sam) -> Tensors:
    """The adapter: the tensors of all parts, shared with the model."""
    return {name: value for part in PARTS for name, value in part.state(sam).items()}


def load_adapter(sam: Sam, state: Mapping[str, torch.Tensor]) -> None:
    """Copy an adapter's tensors to where they belong. `ValueError` naming one that is of no part or does not fit."""
    left = dict(state)
    for part in PARTS:
        own = {name: left.pop(name) for name in state if name.startswith(part.prefix)}
        if own:
            part.load(sam, own)
    if left or not state:
        raise ValueError(f"holds tensors of no part ({', '.join(sorted(left)[:3])})" if left else "holds no tensors")


def merge_adapter(sam: Sam) -> None:
    """Leave the adapted model behind as plain weights."""
    for part in PARTS:
        part.merge(sam)
