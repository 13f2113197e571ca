"""The encoder as training, export and the engine see it: bytes in, embedding out."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import nn

from resam.encoders import family_of


class ImageEncoder(nn.Module):
    """A SAM's image encoder with normalisation inside, in the form its family prepares for training.

    Takes ownership of `sam.image_encoder`, which may be changed in place (same parameters).
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.network = family_of(sam.image_encoder).prepare(sam.image_encoder)
        self.register_buffer("pixel_mean", sam.pixel_mean.reshape(1, 3, 1, 1).clone(), persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.reshape(1, 3, 1, 1).clone(), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: (B, S, S, 3) uint8 or float, RGB 0..255, padded bottom-right with the mean pixel.

        Returns the embedding, (B, C, G, G) float.
        """
        x = image.permute(0, 3, 1, 2).to(self.pixel_mean.dtype)
        return self.network((x - self.pixel_mean) / self.pixel_std)

    def graph(self, fold: bool) -> nn.Module:
        """The encoder as it is exported, see `EncoderFamily.graph`."""
        return family_of(self.network).graph(self.network, self.pixel_mean, self.pixel_std, fold)
