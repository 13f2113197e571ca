"""A stand-in for an adapted MobileSAM, whose loop can be measured on masks that mean something.

    python -m resam_benchmarks.wide wide.safetensors

Weights of SAM's size are not shipped, and masks of random weights have no edges. This is the tiny base with every
channel of its embedding and its mask decoder twice, so that they have SAM's size and compute the same: an embedding of
64 x 64 x 256, eight heads. Its encoder sees a tile of 1024 px as the tiny one would see the same at 512 px.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch
from torch.nn import functional as F

from resam.encoders.vit import VitArchitecture
from resam.model.bases import Base, load_base
from resam.model.sam import build_sam
from resam.training.checkpoints import describe_base, write_base
from resam_runtime.common.commands import HELP
from resam_runtime.common.errors import command_errors

MLP = 4  # as many times the hidden units between attentions, for SAM's 2048


def widened(base: Base) -> Base:
    """A base that answers prompts as `base`, a ViT's, does.

    Its embedding has the base's channels twice: channel i is the base's `twice(C)[i]`.
    """
    tiny = base.architecture
    assert isinstance(tiny, VitArchitecture)
    wide = replace(
        tiny, image_size=4 * tiny.image_size, patch_size=2 * tiny.patch_size, embedding_dim=2 * tiny.embedding_dim,
        decoder_heads=2 * tiny.decoder_heads, decoder_mlp_dim=MLP * tiny.decoder_mlp_dim,
        iou_hidden_dim=2 * tiny.iou_hidden_dim,
    )  # fmt: skip
    sam = build_sam(wide)
    wanted, state = sam.state_dict(), base.sam.state_dict().items()
    sam.load_state_dict({name: _widened(name, value, wanted[name].shape, tiny.embedding_dim) for name, value in state})
    return Base(sam, wide, "wide", base.sha256)


def twice(channels: int) -> torch.Tensor:
    """The base's channel for each of a doubled embedding: sines stay before cosines, as in position encodings."""
    first, second = torch.arange(channels).chunk(2)
    return torch.cat((first, first, second, second))


def _widened(name: str, value: torch.Tensor, shape: torch.Size, channels: int) -> torch.Tensor:
    if name.endswith("pos_embed"):  # as of four tiles beside one another
        return value.repeat(1, 2, 2, 1)
    if ".rel_pos_" in name:  # segment-anything would interpolate it in the same way (image_encoder.py, get_rel_pos)
        return (
            value if value.shape == shape else F.interpolate(value.T[None], shape[0], mode="linear")[0].T.contiguous()
        )
    if "patch_embed" in name and value.shape != shape:  # each pixel of a patch is the mean of four
        return value.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    table = name.endswith(("embed.weight", "token.weight", "tokens.weight")) or ".point_embeddings." in name
    spread = "gaussian_matrix" in name
    inputs = 0 if "output_upscaling" in name else 1  # transposed convolutions have their inputs first
    for axis, (old, new) in enumerate(zip(value.shape, shape)):
        if old == new:
            continue
        embedding = (old, new) == (channels, 2 * channels) and not spread
        places = twice(old) if embedding else torch.arange(old).repeat(new // old)
        value = value.index_select(axis, places)
        if value.ndim > 1 and axis == inputs and not table and not spread:
            value = value * (old / new)  # each of its summands comes twice
    # masks are products of two vectors that are both twice as long
    return value / 2 if "output_hypernetworks_mlps" in name and ".layers.2." in name else value


@click.command(context_settings=HELP, epilog="Example: python -m resam_benchmarks.wide wide.safetensors")
@click.argument("output", type=click.Path(path_type=Path))
@command_errors
def main(output: Path) -> None:
    """Write a base with the loop of MobileSAM's size, made of the tiny base, to OUTPUT (.safetensors)."""
    base = load_base("tiny")
    write_base(output, widened(base), {"made_of": describe_base(base)})


if __name__ == "__main__":
    main(prog_name="python -m resam_benchmarks.wide")
