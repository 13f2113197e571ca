"""Bases: the SAM models that `resam` adapts, all of segment-anything's own classes.

An `Architecture` holds plain numbers; `build_sam` makes a `Sam` from them. To add an encoder, add an entry to
`ARCHITECTURES` (and, where it is not a ViT, a branch in `build_sam`): nothing else knows how a base is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from resam_runtime.tiles.letterbox import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class Architecture:
    """The numbers that fix a SAM: everything `build_sam` needs, all sizes in pixels, tokens or channels."""

    image_size: int  # S, side of the tile
    patch_size: int
    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    global_blocks: tuple[int, ...]  # blocks with global attention, the others attend within windows
    window_size: int
    embedding_dim: int = 256  # C
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    multimask_outputs: int = 3
    iou_hidden_dim: int = 256

    @property
    def grid(self) -> int:
        """G, tokens along one side of the tile."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """M, side of the mask grid: four cells a token."""
        return 4 * self.grid


_OFFICIAL = Architecture(1024, 16, 768, 12, 12, (2, 5, 8, 11), 14)

ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(
        256, 8, 160, 6, 5, (2, 5), 8, embedding_dim=128, decoder_heads=4, decoder_mlp_dim=512, iou_hidden_dim=128,
    ),
    "vit_b": _OFFICIAL,
    "vit_l": replace(
        _OFFICIAL, encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)
    ),
    "vit_h": replace(
        _OFFICIAL, encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)
    ),
}  # fmt: skip


def build_sam(architecture: Architecture) -> Sam:
    """A `Sam` with fresh random weights, in evaluation mode (as segment-anything's `build_sam.py` does it)."""
    a = architecture
    return Sam(
        image_encoder=ImageEncoderViT(
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
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=a.embedding_dim,
            image_embedding_size=(a.grid, a.grid),
            input_image_size=(a.image_size, a.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=a.multimask_outputs,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=a.embedding_dim, mlp_dim=a.decoder_mlp_dim, num_heads=a.decoder_heads
            ),
            transformer_dim=a.embedding_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=a.iou_hidden_dim,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    ).eval()
