"""TinyViT as MobileSAM has it (Wu et al., arXiv 2207.10666; Zhang et al., arXiv 2306.14289).

timm's blocks, put together as MobileSAM does: the last merge of patches keeps the resolution, so that the embedding has
a token for 16 pixels as SAM's has, and SAM's own neck follows. Batch norm keeps the statistics that it was trained
with, whatever the mode.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

from resam.encoders.convolutions import keep_statistics
from resam.encoders.family import PREFIX, Architecture, EncoderFamily, State, decoder_numbers
from resam.encoders.qkv import Qkv
from resam.encoders.tiny_vit_graph import TinyVitGraph
from resam_runtime.common.extras import needs_extra

STAGE_COUNT = 4  # the first of convolutions, the others of attention
_PUBLISHED = (  # in place of timm's names
    (r"^patch_embed\.conv1\.", "patch_embed.seq.0."),
    (r"^patch_embed\.conv2\.", "patch_embed.seq.2."),
    (r"^stages\.", "layers."),
    (r"\.conv\.weight$", ".c.weight"),
)


@dataclass(frozen=True, kw_only=True)
class TinyVitArchitecture(Architecture):
    """A SAM with a TinyViT; one number for each of its four stages, or for each of the three with attention."""

    family = "tiny_vit"

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]

    @property
    def stride(self) -> int:
        return 16

    @property
    def width(self) -> int:
        return self.embed_dims[-1]


class TinyVit(EncoderFamily):
    """See `EncoderFamily`."""

    name = "tiny_vit"
    files = ("mobile_sam.pt",)
    known = {  # noqa: RUF012
        "mobile_sam": TinyVitArchitecture(
            image_size=1024, embed_dims=(64, 128, 160, 320), depths=(2, 2, 6, 2), heads=(4, 5, 10),
            windows=(7, 14, 7),
        )
    }  # fmt: skip
    # the classifier that TinyViT was trained with first
    ignored = frozenset(f"{PREFIX}{layer}.{kind}" for layer in ("norm_head", "head") for kind in ("weight", "bias"))

    def recognises(self, state: State) -> bool:
        return PREFIX + "patch_embed.seq.0.c.weight" in state

    def architecture(self, state: State, image_size: int | None = None) -> TinyVitArchitecture:
        published = self.known["mobile_sam"]
        dims = [int(state[PREFIX + "patch_embed.seq.2.c.weight"].shape[0])]
        depths, heads, windows = [], [], []
        for stage in range(STAGE_COUNT):
            layer = f"{PREFIX}layers.{stage}."
            depths.append(len({key[len(layer) :].split(".")[1] for key in state if key.startswith(f"{layer}blocks.")}))
            if stage:
                dims.append(int(state[f"{PREFIX}layers.{stage - 1}.downsample.conv1.c.weight"].shape[0]))
                biases = state[f"{layer}blocks.0.attn.attention_biases"]  # (heads, window * window)
                heads.append(int(biases.shape[0]))
                windows.append(math.isqrt(int(biases.shape[1])))
        return TinyVitArchitecture(
            image_size=image_size or published.image_size,
            embed_dims=tuple(dims),
            depths=tuple(depths),
            heads=tuple(heads),
            windows=tuple(windows),
            **decoder_numbers(state, int(state[PREFIX + "neck.0.weight"].shape[0])),
        )

    def build(self, architecture: TinyVitArchitecture) -> TinyVitEncoder:
        return TinyVitEncoder(architecture)

    def owns(self, encoder: nn.Module) -> bool:
        return isinstance(encoder, TinyVitEncoder)

    def published(self, key: str) -> str:
        # timm merges patches at the start of a stage, MobileSAM at the end of the one before
        key = re.sub(r"^stages\.(\d+)\.downsample", lambda found: f"stages.{int(found[1]) - 1}.downsample", key)
        for pattern, name in _PUBLISHED:
            key = re.sub(pattern, name, key)
        return key

    def qkv(self, encoder: Any) -> list[Qkv]:
        blocks = [block for stage in list(encoder.stages)[1:] for block in stage.blocks]
        return [Qkv(block.attn.qkv, groups=block.attn.num_heads) for block in blocks]

    def graph(self, encoder: Any, mean: torch.Tensor, std: torch.Tensor, fold: bool) -> nn.Module:
        return TinyVitGraph(encoder, mean, std)


class TinyVitEncoder(nn.Module):
    """(B, 3, S, S) normalised pixels -> (B, C, S / 16, S / 16)."""

    def __init__(self, architecture: TinyVitArchitecture) -> None:
        with needs_extra("MobileSAM's encoder", "train"):
            # imported here: it takes as long as torch
            from timm.models import tiny_vit

        super().__init__()
        a = architecture
        self.img_size = a.image_size
        backbone: Any = tiny_vit.TinyVit(
            num_classes=0,
            embed_dims=a.embed_dims,
            depths=a.depths,
            num_heads=(1, *a.heads),
            window_sizes=(1, *a.windows),
            drop_path_rate=0.0,
        )
        backbone.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.patch_embed, self.stages = backbone.patch_embed, backbone.stages
        channels = a.embedding_dim
        self.neck = nn.Sequential(
            nn.Conv2d(a.embed_dims[-1], channels, kernel_size=1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.neck(self.stages(self.patch_embed(x)))
        return out

    def train(self, mode: bool = True) -> TinyVitEncoder:
        """As ever, except that batch norm stays in evaluation mode."""
        return keep_statistics(super().train(mode))
