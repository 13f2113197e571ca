"""SAM's ViT (Kirillov et al., arXiv 2304.02643): the official sizes, the shipped tiny base, and any other of the
package's own `ImageEncoderViT`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from resam.encoders.family import PREFIX, Architecture, EncoderFamily, State, decoder_numbers
from resam.encoders.qkv import Qkv
from resam.encoders.vit_attention import fold_attention
from resam.encoders.vit_graph import VitGraph


@dataclass(frozen=True, kw_only=True)
class VitArchitecture(Architecture):
    """A SAM with a ViT."""

    family = "vit"

    patch_size: int
    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    global_blocks: tuple[int, ...]  # blocks with global attention, the others attend within windows
    window_size: int

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def width(self) -> int:
        return self.encoder_dim


_OFFICIAL = VitArchitecture(
    image_size=1024, patch_size=16, encoder_dim=768, encoder_depth=12, encoder_heads=12, global_blocks=(2, 5, 8, 11),
    window_size=14,
)  # fmt: skip


_TINY = VitArchitecture(
    image_size=256, patch_size=8, encoder_dim=160, encoder_depth=6, encoder_heads=5, global_blocks=(2, 5),
    window_size=8, embedding_dim=128, decoder_heads=4, decoder_mlp_dim=512, iou_hidden_dim=128,
)  # fmt: skip


class Vit(EncoderFamily):
    """See `EncoderFamily`."""

    name = "vit"
    files = ("sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth")
    known = {  # noqa: RUF012
        "tiny": _TINY,
        "tiny_half": replace(_TINY, encoder_dim=80, encoder_depth=3, encoder_heads=2, global_blocks=(2,)),
        "vit_b": _OFFICIAL,
        "vit_l": replace(
            _OFFICIAL, encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)
        ),
        "vit_h": replace(
            _OFFICIAL, encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)
        ),
    }  # fmt: skip

    def recognises(self, state: State) -> bool:
        return PREFIX + "pos_embed" in state

    def architecture(self, state: State, image_size: int | None = None) -> VitArchitecture:
        position = state[PREFIX + "pos_embed"]  # (1, G, G, dim)
        patch = state[PREFIX + "patch_embed.proj.weight"]  # (dim, 3, patch, patch)
        grid, dim, patch_size = int(position.shape[1]), int(position.shape[3]), int(patch.shape[-1])
        depth = 0
        while f"{PREFIX}blocks.{depth}.norm1.weight" in state:
            depth += 1
        if depth == 0:
            raise KeyError(PREFIX + "blocks.0.norm1.weight")
        relative = [state[f"{PREFIX}blocks.{block}.attn.rel_pos_h"] for block in range(depth)]  # (2 * side - 1, d)
        sides = [(len(table) + 1) // 2 for table in relative]
        windows = {side for side in sides if side != grid} or {grid}
        if len(windows) > 1:
            raise ValueError(f"one window size for all blocks (got {sorted(windows)})")
        return VitArchitecture(
            image_size=grid * patch_size,
            patch_size=patch_size,
            encoder_dim=dim,
            encoder_depth=depth,
            encoder_heads=dim // int(relative[0].shape[1]),
            global_blocks=tuple(block for block, side in enumerate(sides) if side == grid),
            window_size=windows.pop(),
            **decoder_numbers(state, int(state[PREFIX + "neck.0.weight"].shape[0])),
        )

    def build(self, architecture: VitArchitecture) -> ImageEncoderViT:
        a = architecture
        return ImageEncoderViT(
            img_size=a.image_size,
            patch_size=a.patch_size,
            embed_dim=a.encoder_dim,
            depth=a.encoder_depth,
            num_heads=a.encoder_heads,
            mlp_ratio=4.0,
            out_chans=a.embedding_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=a.window_size,
            global_attn_indexes=a.global_blocks,
        )

    def owns(self, encoder: nn.Module) -> bool:
        return isinstance(encoder, ImageEncoderViT)

    def prepare(self, encoder: Any) -> nn.Module:
        return fold_attention(encoder)

    def qkv(self, encoder: Any) -> list[Qkv]:
        return [Qkv(block.attn.qkv) for block in encoder.blocks]

    def graph(self, encoder: Any, mean: torch.Tensor, std: torch.Tensor, fold: bool) -> nn.Module:
        return VitGraph(encoder, mean, std, fold)


def encode_placed(encoder: ImageEncoderViT, pixels: torch.Tensor, offset: Sequence[int]) -> torch.Tensor:
    """Normalised pixels (B, 3, s, s) of an image smaller than the tile -> (B, C, g, g), with the position embeddings of
    the tokens from `offset` (x, y) on."""
    x = encoder.patch_embed(pixels)  # (B, g, g, dim)
    (dx, dy), side = offset, x.shape[1]
    x = x + encoder.pos_embed[:, dy : dy + side, dx : dx + side]
    for block in encoder.blocks:
        x = block(x)
    out: torch.Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return out
