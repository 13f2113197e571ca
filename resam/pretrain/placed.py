"""A SAM on images smaller than its tile, so that most of pretraining costs a quarter.

An image lies somewhere in the tile, and its tokens get the position embeddings of that place: over many images every
position is trained.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam

from resam.encoders.vit import encode_placed
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder


class PlacedSam:
    """A SAM seen on an image smaller than its tile, placed `offset` tokens right of and below the tile's corner."""

    def __init__(self, sam: Sam) -> None:
        self.encoder, self.decoder = ImageEncoder(sam), PlacedDecoder(sam)

    def encode(self, images: torch.Tensor, offset: tuple[int, int]) -> torch.Tensor:
        """(B, s, s, 3) uint8 -> (B, C, g, g), with the position embeddings of tokens offset ... offset + g."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.encoder.pixel_mean) / self.encoder.pixel_std
        embedding = encode_placed(self.encoder.network, pixels, offset)
        (dx, dy), side = offset, embedding.shape[-1]
        self.decoder.window = (slice(dy, dy + side), slice(dx, dx + side))
        return embedding


class PlacedDecoder(PromptDecoder):
    """A `PromptDecoder` for a window of the tile; its prompts are in pixels of the whole tile."""

    window: tuple[slice, slice] = (slice(None), slice(None))

    def positions(self) -> torch.Tensor:
        """Position encoding of the window's tokens, (1, C, g, g)."""
        return super().positions()[:, :, self.window[0], self.window[1]]
