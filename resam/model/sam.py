"""A `Sam` of segment-anything around the encoder of any family."""

from __future__ import annotations

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from resam.encoders import ENCODERS, Architecture


def build_sam(architecture: Architecture) -> Sam:
    """A `Sam` with fresh random weights, in evaluation mode (as segment-anything's `build_sam.py` does it)."""
    a, family = architecture, ENCODERS[architecture.family]
    sam = Sam(
        image_encoder=family.build(a),
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
        pixel_mean=list(family.pixel_mean),
        pixel_std=list(family.pixel_std),
    )
    for part in sam.mask_decoder.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = family.decoder_norm_eps
    return sam.eval()
