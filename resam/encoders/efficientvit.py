"""EfficientViT as EfficientViT-SAM L0 to L2 have it (Cai et al., arXiv 2205.14756; Zhang et al., arXiv 2402.05008).

timm's blocks, and the published neck: the maps of the last three stages, brought to one size and added. The encoder
sees tiles of 512 px and gives the 64 x 64 tokens that SAM's gives for 1024 px. Prompts are published in a frame of 1024
px; here they are in pixels of the tile, and SAM's position encoding, a function of the place relative to the tile, is
the same. Batch norm keeps the statistics that it was trained with, whatever the mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import nn
from torch.nn import functional as F

from resam.encoders.convolutions import keep_statistics
from resam.encoders.efficientvit_graph import EfficientVitGraph
from resam.encoders.family import PREFIX, Architecture, EncoderFamily, State, decoder_numbers
from resam.encoders.qkv import Qkv
from resam_runtime.common.extras import needs_extra

NORM_EPS, ATTENTION_EPS = 1e-6, 1e-15
STAGES_PREFIX = PREFIX + "backbone.stages."
NECK = PREFIX + "neck."


@dataclass(frozen=True, kw_only=True)
class EfficientVitArchitecture(Architecture):
    """A SAM with an EfficientViT of the "large" kind; widths and depths of its stem and four stages."""

    family = "efficientvit"

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    head_dim: int = 32
    neck_dim: int = 256
    neck_depth: int

    @property
    def stride(self) -> int:
        return 8

    @property
    def width(self) -> int:
        return self.widths[-1]

    @property
    def fit_within(self) -> int:
        return 2 * self.image_size  # the published frame of prompts, which becomes one tile


_L0 = EfficientVitArchitecture(
    image_size=512, widths=(32, 64, 128, 256, 512), depths=(1, 1, 1, 4, 4), neck_depth=4
)  # fmt: skip


class EfficientVit(EncoderFamily):
    """See `EncoderFamily`."""

    name = "efficientvit"
    files = ("efficientvit_sam_l0.pt", "efficientvit_sam_l1.pt", "efficientvit_sam_l2.pt")
    known = {  # noqa: RUF012
        "efficientvit_sam_l0": _L0,
        "efficientvit_sam_l1": replace(_L0, depths=(1, 1, 1, 6, 6), neck_depth=8),
        "efficientvit_sam_l2": replace(_L0, depths=(1, 2, 2, 8, 8), neck_depth=12),
    }
    decoder_norm_eps = NORM_EPS

    def recognises(self, state: State) -> bool:
        return STAGES_PREFIX + "0.op_list.0.conv.weight" in state

    def architecture(self, state: State, image_size: int | None = None) -> EfficientVitArchitecture:
        if STAGES_PREFIX + "5.op_list.0.main.point_conv.conv.weight" in state:
            raise ValueError("an encoder of five stages, L0 to L2 (XL0 and XL1 have six, and cannot be adapted)")
        last = [f"{STAGES_PREFIX}{stage}.op_list.0.main.point_conv.conv.weight" for stage in range(1, 5)]
        blocks = [_count(state, f"{STAGES_PREFIX}{stage}.op_list.") for stage in range(5)]
        depth = blocks[-1] - 1
        return EfficientVitArchitecture(
            image_size=image_size or _L0.image_size,
            widths=tuple(int(state[key].shape[0]) for key in (STAGES_PREFIX + "0.op_list.0.conv.weight", *last)),
            depths=tuple(count - 1 for count in blocks),
            head_dim=int(state[f"{STAGES_PREFIX}4.op_list.{depth}.context_module.main.aggreg.0.1.weight"].shape[1]),
            neck_dim=int(state[NECK + "input_ops.0.op_list.0.conv.weight"].shape[0]),
            neck_depth=_count(state, NECK + "middle.op_list."),
            **decoder_numbers(state, int(state[NECK + "output_ops.0.op_list.0.conv.weight"].shape[0])),
        )

    def build(self, architecture: EfficientVitArchitecture) -> EfficientVitEncoder:
        return EfficientVitEncoder(architecture)

    def owns(self, encoder: nn.Module) -> bool:
        return isinstance(encoder, EfficientVitEncoder)

    def published(self, key: str) -> str:
        key = re.sub(r"^stem\.in_conv\.", "backbone.stages.0.op_list.0.", key)
        key = re.sub(r"^stem\.res(\d+)\.", lambda found: f"backbone.stages.0.op_list.{int(found[1]) + 1}.", key)
        key = re.sub(
            r"^stages\.(\d+)\.blocks\.(\d+)\.",
            lambda found: f"backbone.stages.{int(found[1]) + 1}.op_list.{found[2]}.",
            key,
        )
        key = re.sub(r"^inputs\.(\d+)\.", r"neck.input_ops.\1.op_list.0.", key)
        key = re.sub(r"^middle\.", "neck.middle.op_list.", key)
        return re.sub(r"^output\.", "neck.output_ops.0.op_list.0.conv.", key)

    def qkv(self, encoder: Any) -> list[Qkv]:
        attentions = [block.context_module.main for block in list(encoder.stages[-1].blocks)[1:]]
        return [Qkv(each.qkv.conv, groups=each.qkv.conv.out_channels // (3 * each.dim)) for each in attentions]

    def graph(self, encoder: Any, mean: torch.Tensor, std: torch.Tensor, fold: bool) -> nn.Module:
        return EfficientVitGraph(encoder, mean, std)


class EfficientVitEncoder(nn.Module):
    """(B, 3, S, S) normalised pixels -> (B, C, S / 8, S / 8)."""

    def __init__(self, architecture: EfficientVitArchitecture) -> None:
        with needs_extra("EfficientViT-SAM's encoder", "train"):
            # imported here: it takes as long as torch
            from timm.models import efficientvit_mit as timm

        super().__init__()
        a = architecture
        self.img_size, self.grid = a.image_size, a.grid
        backbone: Any = timm.EfficientVitLarge(
            widths=a.widths, depths=a.depths, head_dim=a.head_dim, head_widths=(1, 1), num_classes=0, norm_eps=NORM_EPS
        )
        self.stem, self.stages = backbone.stem, backbone.stages
        norm: Any = partial(nn.BatchNorm2d, eps=NORM_EPS)
        self.inputs = nn.ModuleList(
            timm.ConvNormAct(width, a.neck_dim, 1, norm_layer=norm, act_layer=None) for width in a.widths[:1:-1]
        )
        self.middle = nn.Sequential(
            *(
                timm.ResidualBlock(
                    timm.FusedMBConv(
                        a.neck_dim, a.neck_dim, expand_ratio=1, norm_layer=norm, act_layer=(timm.GELUTanh, None)
                    ),
                    nn.Identity(),
                )
                for _ in range(a.neck_depth)
            )
        )
        self.output = nn.Conv2d(a.neck_dim, a.embedding_dim, kernel_size=1)
        self.norm = LayerNorm2d(a.embedding_dim, eps=NORM_EPS)
        for part in self.modules():
            if isinstance(part, timm.LiteMLA):
                part.eps = ATTENTION_EPS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        size = (self.grid, self.grid)
        added = sum(
            F.interpolate(reduce(map_), size=size, mode="bicubic", align_corners=False)
            for reduce, map_ in zip(self.inputs, maps[:1:-1], strict=True)
        )
        return self.norm(self.output(self.middle(added)))

    def train(self, mode: bool = True) -> EfficientVitEncoder:
        """As ever, except that batch norm stays in evaluation mode."""
        return keep_statistics(super().train(mode))


def _count(state: State, prefix: str) -> int:
    """How many numbers follow `prefix` in the keys."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})
