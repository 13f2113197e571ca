"""The published forward passes of MobileSAM's and EfficientViT-SAM's image encoders, restated on their checkpoints' own
tensors with plain functions, and what those checkpoints hold. Nothing here uses resam or timm.

Sources: github.com/ChaoningZhang/MobileSAM (`mobile_sam/modeling/tiny_vit_sam.py`, `build_sam.py`) and
github.com/mit-han-lab/efficientvit (`efficientvit/models/efficientvit/{backbone,sam}.py`, `models/nn/ops.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

State = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


class _Named:
    """Tensors of a state dict below a prefix."""

    def __init__(self, state: State, prefix: str) -> None:
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.state[self.prefix + name]

    def get(self, name: str) -> torch.Tensor | None:
        return self.state.get(self.prefix + name)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state

    def at(self, name: Any) -> _Named:
        return _Named(self.state, f"{self.prefix}{name}.")

    def count(self) -> int:
        """How many numbers follow the prefix."""
        size = len(self.prefix)
        return len({key[size:].split(".")[0] for key in self.state if key.startswith(self.prefix)})


def _normed(x: torch.Tensor, p: _Named, eps: float) -> torch.Tensor:
    shape = (1, -1, 1, 1)
    scaled = (x - p["running_mean"].reshape(shape)) / torch.sqrt(p["running_var"].reshape(shape) + eps)
    return scaled * p["weight"].reshape(shape) + p["bias"].reshape(shape)


def _channel_norm(x: torch.Tensor, p: _Named, eps: float = 1e-6) -> torch.Tensor:
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + eps)
    return scaled * p["weight"].reshape(1, -1, 1, 1) + p["bias"].reshape(1, -1, 1, 1)


# MobileSAM


def mobile_sam_embedding(state: State, pixels: torch.Tensor) -> torch.Tensor:
    """Normalised pixels (1, 3, S, S) -> (1, C, S / 16, S / 16)."""
    p = _Named(state, "image_encoder.")

    def conv(x: torch.Tensor, p: _Named, stride: int = 1) -> torch.Tensor:
        weight = p["c.weight"]
        groups = x.shape[1] // weight.shape[1]
        return _normed(F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups), p.at("bn"), 1e-5)

    x = conv(F.gelu(conv(pixels, p.at("patch_embed.seq.0"), 2)), p.at("patch_embed.seq.2"), 2)
    for stage in range(4):
        layer = p.at(f"layers.{stage}")
        blocks = layer.at("blocks")
        for number in range(blocks.count()):
            block = blocks.at(number)
            if stage == 0:
                inner = F.gelu(conv(F.gelu(conv(x, block.at("conv1"))), block.at("conv2")))
                x = F.gelu(x + conv(inner, block.at("conv3")))
                continue
            x = conv(x + _window_attention(x, block.at("attn")), block.at("local_conv"))
            x = x + _mlp(x.permute(0, 2, 3, 1), block.at("mlp")).permute(0, 3, 1, 2)
        if stage < 3:
            merge = layer.at("downsample")
            x = F.gelu(conv(x, merge.at("conv1")))
            x = conv(F.gelu(conv(x, merge.at("conv2"), 1 if stage == 2 else 2)), merge.at("conv3"))
    neck = p.at("neck")
    x = _channel_norm(F.conv2d(x, neck["0.weight"]), neck.at(1))
    return _channel_norm(F.conv2d(x, neck["2.weight"], padding=1), neck.at(3))


def _mlp(x: torch.Tensor, p: _Named) -> torch.Tensor:
    x = F.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"])
    return F.linear(F.gelu(F.linear(x, p["fc1.weight"], p["fc1.bias"])), p["fc2.weight"], p["fc2.bias"])


def _window_attention(x: torch.Tensor, p: _Named) -> torch.Tensor:
    """One window after another, one head after another; the map is padded with zeros at its end."""
    biases = p["attention_biases"]  # (heads, distances), numbered as they are met from the first place on
    side, (_, channels, height, width) = round(biases.shape[1] ** 0.5), x.shape
    places = [(row, column) for row in range(side) for column in range(side)]
    numbers: dict[tuple[int, int], int] = {}
    table = torch.tensor(
        [[numbers.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(numbers)) for b in places] for a in places]
    )
    heads = len(biases)
    size = channels // heads
    tall, wide = -(-height // side) * side, -(-width // side) * side
    padded = F.pad(x, (0, wide - width, 0, tall - height))
    out = torch.zeros_like(padded)
    for top in range(0, tall, side):
        for left in range(0, wide, side):
            window = padded[0, :, top : top + side, left : left + side].reshape(channels, -1).t()
            normed = F.layer_norm(window, (channels,), p["norm.weight"], p["norm.bias"])
            qkv = F.linear(normed, p["qkv.weight"], p["qkv.bias"])
            mixed = []
            for head in range(heads):
                q, k, v = qkv[:, 3 * head * size : 3 * (head + 1) * size].split(size, dim=1)
                mixed.append((q @ k.t() * size**-0.5 + biases[head][table]).softmax(-1) @ v)
            done = F.linear(torch.cat(mixed, dim=1), p["proj.weight"], p["proj.bias"])
            out[0, :, top : top + side, left : left + side] = done.t().reshape(channels, side, side)
    return out[:, :, :height, :width]


def mobile_sam_shapes() -> Shapes:
    """Every tensor of the image encoder in `mobile_sam.pt`, less the classifier's: name -> shape."""
    found: Shapes = {}

    def conv(name: str, into: int, out: int, size: int) -> None:
        found[f"{name}.c.weight"] = (out, into, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (out,)
        found[f"{name}.bn.num_batches_tracked"] = ()

    def linear(name: str, into: int, out: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, size: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (size,)

    conv("patch_embed.seq.0", 3, 32, 3)
    conv("patch_embed.seq.2", 32, 64, 3)
    for block in range(2):
        conv(f"layers.0.blocks.{block}.conv1", 64, 256, 1)
        conv(f"layers.0.blocks.{block}.conv2", 1, 256, 3)
        conv(f"layers.0.blocks.{block}.conv3", 256, 64, 1)
    for layer, (into, out) in enumerate(((64, 128), (128, 160), (160, 320))):
        conv(f"layers.{layer}.downsample.conv1", into, out, 1)
        conv(f"layers.{layer}.downsample.conv2", 1, out, 3)
        conv(f"layers.{layer}.downsample.conv3", out, out, 1)
    for layer, dim, depth, heads, window in ((1, 128, 2, 4, 7), (2, 160, 6, 5, 14), (3, 320, 2, 10, 7)):
        for block in range(depth):
            name = f"layers.{layer}.blocks.{block}"
            norm(f"{name}.attn.norm", dim)
            linear(f"{name}.attn.qkv", dim, 3 * dim)
            linear(f"{name}.attn.proj", dim, dim)
            found[f"{name}.attn.attention_biases"] = (heads, window * window)
            norm(f"{name}.mlp.norm", dim)
            linear(f"{name}.mlp.fc1", dim, 4 * dim)
            linear(f"{name}.mlp.fc2", 4 * dim, dim)
            conv(f"{name}.local_conv", 1, dim, 3)
    found["neck.0.weight"], found["neck.2.weight"] = (256, 320, 1, 1), (256, 256, 3, 3)
    norm("neck.1", 256)
    norm("neck.3", 256)
    return {f"image_encoder.{name}": shape for name, shape in found.items()}


# EfficientViT-SAM


def efficientvit_embedding(state: State, pixels: torch.Tensor) -> torch.Tensor:
    """Normalised pixels (1, 3, S, S) -> (1, C, S / 8, S / 8)."""
    p = _Named(state, "image_encoder.")

    def layer(x: torch.Tensor, p: _Named, stride: int = 1, act: bool = False) -> torch.Tensor:
        weight, bias = p["conv.weight"], p.get("conv.bias")
        x = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1])
        x = _normed(x, p.at("norm"), 1e-6) if "norm.weight" in p else x
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) if act else x

    def main(x: torch.Tensor, p: _Named, stride: int) -> torch.Tensor:
        """A residual, a fused or an inverted block, whichever the tensors are of."""
        if "conv1.conv.weight" in p:
            return layer(layer(x, p.at("conv1"), act=True), p.at("conv2"))
        if "spatial_conv.conv.weight" in p:
            return layer(layer(x, p.at("spatial_conv"), stride, act=True), p.at("point_conv"))
        x = layer(layer(x, p.at("inverted_conv"), act=True), p.at("depth_conv"), stride, act=True)
        return layer(x, p.at("point_conv"))

    def attention(x: torch.Tensor, p: _Named) -> torch.Tensor:
        qkv = layer(x, p.at("qkv"))
        wide, mixed = p["aggreg.0.0.weight"], p["aggreg.0.1.weight"]  # by channel, then within a third of a head
        size = mixed.shape[1]
        near = F.conv2d(F.conv2d(qkv, wide, padding=2, groups=len(wide)), mixed, groups=len(mixed) // size)
        out = []
        for scale in (qkv, near):
            for head in scale[0].flatten(1).split(3 * size):
                q, k, v = head.split(size)
                weights = q.relu().t() @ k.relu()  # (HW, HW): the attention that is never written down
                out.append(v @ (weights / (weights.sum(1, keepdim=True) + 1e-15)).t())
        return layer(torch.cat(out).reshape(1, -1, *x.shape[2:]), p.at("proj"))

    maps, x = [], pixels
    for stage in range(5):
        blocks = p.at(f"backbone.stages.{stage}.op_list")
        for number in range(blocks.count()):
            block = blocks.at(number)
            if stage == 0 and number == 0:
                x = layer(x, block, 2, act=True)
            elif number == 0:
                x = main(x, block.at("main"), 2)
            elif "context_module.main.qkv.conv.weight" in block:
                x = x + attention(x, block.at("context_module.main"))
                x = x + main(x, block.at("local_module.main"), 1)
            else:
                x = x + main(x, block.at("main"), 1)
        maps.append(x)
    grid = maps[2].shape[-2:]
    x = torch.zeros(1)
    for number, map_ in enumerate((maps[4], maps[3], maps[2])):
        reduced = layer(map_, p.at(f"neck.input_ops.{number}.op_list.0"))
        x = x + F.interpolate(reduced, size=grid, mode="bicubic", align_corners=False)
    middle = p.at("neck.middle.op_list")
    for number in range(middle.count()):
        x = x + main(x, middle.at(f"{number}.main"), 1)
    return _channel_norm(layer(x, p.at("neck.output_ops.0.op_list.0")), p.at("norm"))


def efficientvit_shapes(depths: tuple[int, int, int, int, int], neck: int) -> Shapes:
    """Every tensor of the image encoder in `efficientvit_sam_l0.pt` (depths 1, 1, 1, 4, 4, neck 4) and its like."""
    found: Shapes = {}
    stages = "backbone.stages."

    def layer(name: str, into: int, out: int, size: int, norm: bool = True, bias: bool = False) -> None:
        found[f"{name}.conv.weight"] = (out, into, size, size)
        if bias:
            found[f"{name}.conv.bias"] = (out,)
        if norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                found[f"{name}.norm.{part}"] = (out,)
            found[f"{name}.norm.num_batches_tracked"] = ()

    def fused(name: str, into: int, inner: int, out: int) -> None:
        layer(f"{name}.main.spatial_conv", into, inner, 3)
        layer(f"{name}.main.point_conv", inner, out, 1)

    def inverted(name: str, into: int, inner: int, out: int) -> None:
        layer(f"{name}.main.inverted_conv", into, inner, 1, norm=False, bias=True)
        layer(f"{name}.main.depth_conv", 1, inner, 3, norm=False, bias=True)
        layer(f"{name}.main.point_conv", inner, out, 1)

    layer(stages + "0.op_list.0", 3, 32, 3)
    for block in range(1, depths[0] + 1):
        layer(f"{stages}0.op_list.{block}.main.conv1", 32, 32, 3)
        layer(f"{stages}0.op_list.{block}.main.conv2", 32, 32, 3)
    for stage, width in ((1, 64), (2, 128)):
        fused(f"{stages}{stage}.op_list.0", width // 2, 16 * width // 2, width)
        for block in range(1, depths[stage] + 1):
            fused(f"{stages}{stage}.op_list.{block}", width, 4 * width, width)
    inverted(stages + "3.op_list.0", 128, 2048, 256)
    for block in range(1, depths[3] + 1):
        inverted(f"{stages}3.op_list.{block}", 256, 1024, 256)
    inverted(stages + "4.op_list.0", 256, 6144, 512)
    for block in range(1, depths[4] + 1):
        name = f"{stages}4.op_list.{block}"
        layer(f"{name}.context_module.main.qkv", 512, 1536, 1, norm=False)
        found[f"{name}.context_module.main.aggreg.0.0.weight"] = (1536, 1, 5, 5)
        found[f"{name}.context_module.main.aggreg.0.1.weight"] = (1536, 32, 1, 1)
        layer(f"{name}.context_module.main.proj", 1024, 512, 1)
        inverted(f"{name}.local_module", 512, 3072, 512)
    for number, width in enumerate((512, 256, 128)):
        layer(f"neck.input_ops.{number}.op_list.0", width, 256, 1)
    for block in range(neck):
        fused(f"neck.middle.op_list.{block}", 256, 256, 256)
    layer("neck.output_ops.0.op_list.0", 256, 256, 1, norm=False, bias=True)
    found["norm.weight"] = found["norm.bias"] = (256,)
    return {f"image_encoder.{name}": shape for name, shape in found.items()}
