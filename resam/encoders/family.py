"""What an encoder family is: everything that the rest of resam asks of an image encoder, and nothing of its inside.

A family stands in `resam.encoders.ENCODERS`. A further one is one file and one line there.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from resam.encoders.qkv import Qkv
from resam_runtime.tiles.letterbox import PIXEL_MEAN, PIXEL_STD

PREFIX = "image_encoder."  # of an encoder's tensors in the state dict of a SAM
HEAD_CHANNELS = 32  # channels per head in SAM's mask decoder, of every size
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Architecture(abc.ABC):
    """The numbers that fix a SAM, all sizes in pixels, tokens or channels: what every family has. The families add
    their encoder's."""

    family: ClassVar[str]  # its name in `ENCODERS`

    image_size: int  # S, side of the tile
    embedding_dim: int = 256  # C
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    multimask_outputs: int = 3
    iou_hidden_dim: int = 256

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Pixels of the tile along one side of a token of the embedding."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Channels of the encoder where it is widest."""

    @property
    def fit_within(self) -> int:
        """Longest side, in pixels, of a scene that becomes one tile: twice the tile where that has 1024 pixels."""
        return 2 * self.image_size if self.image_size >= 1024 else self.image_size

    @property
    def grid(self) -> int:
        """G, tokens along one side of the tile."""
        return self.image_size // self.stride

    @property
    def mask_size(self) -> int:
        """M, side of the mask grid: four cells a token."""
        return 4 * self.grid


class EncoderFamily(abc.ABC):
    """One kind of image encoder. `known`: its architectures with a name, which a checkpoint may turn out to be.

    `files`: names under which its checkpoints are published. `pixel_mean`, `pixel_std`: of RGB in 0..255. A tile is
    padded with the mean pixel, which is zero after normalisation; the runtime pads with SAM's, so a family with another
    mean would have to put its own into the manifest.
    """

    name: ClassVar[str]
    known: ClassVar[Mapping[str, Any]]  # of the family's own `Architecture`
    files: ClassVar[tuple[str, ...]] = ()
    pixel_mean: ClassVar[tuple[float, float, float]] = PIXEL_MEAN
    pixel_std: ClassVar[tuple[float, float, float]] = PIXEL_STD
    decoder_norm_eps: ClassVar[float] = 1e-5  # of the layer norms of SAM's mask decoder
    ignored: ClassVar[frozenset[str]] = frozenset()  # keys of published checkpoints that nothing reads

    @abc.abstractmethod
    def recognises(self, state: State) -> bool:
        """Whether a state dict, under its published keys, holds a SAM of this family."""

    @abc.abstractmethod
    def architecture(self, state: State, image_size: int | None = None) -> Any:
        """The numbers of a SAM from the shapes in its state dict.

        image_size: side of the tile, where the file says so; else the shapes tell, or the published size is taken.
        `KeyError` names a tensor that ought to be there, `ValueError` one that does not fit.
        """

    @abc.abstractmethod
    def build(self, architecture: Any) -> nn.Module:
        """The encoder with fresh weights: (B, 3, S, S) normalised pixels -> (B, C, G, G). It has `img_size`, S."""

    @abc.abstractmethod
    def owns(self, encoder: nn.Module) -> bool:
        """Whether `build` made this module."""

    def published(self, key: str) -> str:
        """The published name of a tensor from its name in the module that `build` makes (both without `PREFIX`)."""
        return key

    def prepare(self, encoder: nn.Module) -> nn.Module:
        """The encoder in the form that training runs: the same parameters and numbers. May change it in place."""
        return encoder

    @abc.abstractmethod
    def qkv(self, encoder: nn.Module) -> list[Qkv]:
        """Where LoRA goes: the projection to queries, keys and values of each attention block, in order."""

    @abc.abstractmethod
    def graph(self, encoder: nn.Module, mean: torch.Tensor, std: torch.Tensor, fold: bool) -> nn.Module:
        """The encoder as it is exported: (B, S, S, 3) uint8 -> (B, C, G, G); LoRA must be merged.

        mean, std: of the pixels, (1, 3, 1, 1). fold: prefer the form for GPUs where there are two.
        """


def describe_architecture(architecture: Architecture) -> dict[str, Any]:
    """The numbers of a SAM and its family as plain data, for the record of an adapter, a base or an engine."""
    return {"family": architecture.family, **asdict(architecture)}


Kind = TypeVar("Kind", bound=Architecture)


def with_decoder_of(architecture: Kind, other: Architecture) -> Kind:
    """The same encoder and tile with the mask decoder of another SAM, and so with as many channels as its embedding."""
    own = {field.name: getattr(other, field.name) for field in fields(Architecture) if field.name != "image_size"}
    return replace(architecture, **own)


def decoder_numbers(state: State, channels: int) -> dict[str, int]:
    """The numbers of SAM's mask decoder, by their names in `Architecture`. `KeyError` names an absent tensor."""
    decoder = "mask_decoder."
    return {
        "embedding_dim": channels,
        "decoder_heads": channels // HEAD_CHANNELS,
        "decoder_mlp_dim": int(state[decoder + "transformer.layers.0.mlp.lin1.weight"].shape[0]),
        "multimask_outputs": int(state[decoder + "mask_tokens.weight"].shape[0]) - 1,
        "iou_hidden_dim": int(state[decoder + "iou_prediction_head.layers.0.weight"].shape[0]),
    }
