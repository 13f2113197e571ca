"""Encoders with convolutions are exported, to float16 and to INT8 too, and stay what they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from resam.encoders.efficientvit import EfficientVitArchitecture
from resam.encoders.tiny_vit import TinyVitArchitecture
from resam.model.bases import Base, random_base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam_export.graphs import Graph, build_graphs
from resam_export.int8 import quantise
from resam_export.models import open_session, run_session, to_bytes
from resam_export.onnx_export import export_graph
from resam_export.precision import to_fp16
from resam_export.ranges import measure_ranges, too_large
from resam_export.rounding import rounded
from resam_export.verify import mask_iou, random_inputs

from ..resam.families import SMALL_DECODER, TOYS, a_tile, relative_error, shaken

pytestmark = pytest.mark.slow

WIDE = {  # enough channels for INT8
    "tiny_vit": TinyVitArchitecture(
        image_size=64, embed_dims=(32, 32, 64, 64), depths=(1, 1, 1, 1), heads=(2, 2, 2), windows=(3, 4, 3),
        **SMALL_DECODER,
    ),
    "efficientvit": EfficientVitArchitecture(
        image_size=64, widths=(8, 16, 16, 32, 64), depths=(1, 1, 1, 1, 1), head_dim=16, neck_dim=32, neck_depth=1,
        **SMALL_DECODER,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """A base, its encoder's graph in torch and in ONNX, fp32."""

    base: Base
    graph: Graph
    model: ir.Model

    @classmethod
    def of(cls, base: Base) -> Encoder:
        graph = build_graphs(base.sam)["encoder"]
        return cls(base, graph, export_graph(graph))

    def embedding(self, model: ir.Model, tile: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run_session(open_session(model), {"image": tile.numpy()})["embedding"])

    def masks(self, embedding: torch.Tensor) -> Any:
        """Masks of 16 points, (16, M, M) bool."""
        places = torch.cartesian_prod(*[torch.linspace(4, 60, 4)] * 2).reshape(16, 1, 2)
        with torch.no_grad():
            logits, _ = PromptDecoder(self.base.sam)(embedding, places, torch.ones(16, 1, dtype=torch.int))
        return (logits > 0).numpy()

    def reference(self, tile: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self.graph.reference(tile)
        return found


@pytest.fixture(scope="module", params=TOYS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder.of(shaken(TOYS[request.param]))


def test_the_exported_encoder_equals_that_of_training(encoder: Encoder) -> None:
    feeds = random_inputs(encoder.graph)  # two tiles
    found = run_session(open_session(encoder.model), feeds)["embedding"]
    wanted = encoder.reference(torch.from_numpy(feeds["image"])).numpy()
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert not [node for node in encoder.model.graph if node.op_type == "BatchNormalization"]


def large_activations(base: Base) -> None:
    """A neck's input that float16 cannot hold; the layer norm after it takes the factor out again: the same SAM."""
    encoder = base.sam.image_encoder
    last = encoder.neck[0] if base.architecture.family == "tiny_vit" else encoder.output
    seen: list[torch.Tensor] = []
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        ImageEncoder(base.sam)(a_tile(64))
    handle.remove()
    factor = 3e5 / float(seen[0].abs().max())
    scaled: list[torch.Tensor] = []
    shrunk: list[torch.Tensor] = []
    if base.architecture.family == "tiny_vit":
        stage = encoder.stages[-1]
        scaled += [stage.downsample.conv3.bn.weight, stage.downsample.conv3.bn.bias]
        for block in stage.blocks:
            scaled += [block.attn.proj.weight, block.attn.proj.bias, block.mlp.fc2.weight, block.mlp.fc2.bias]
            scaled += [block.local_conv.bn.running_mean, block.local_conv.bn.bias]
    else:
        for reduce in encoder.inputs:
            scaled += [reduce.norm.weight, reduce.norm.bias]
        for block in encoder.middle:
            shrunk += [block.main.spatial_conv.conv.weight]
            scaled += [block.main.point_conv.norm.weight, block.main.point_conv.norm.bias]
        scaled += [encoder.output.bias]
    with torch.no_grad():
        for value in scaled:
            value.mul_(factor)
        for value in shrunk:
            value.div_(factor)


def test_large_activations_become_islands_of_float32(encoder: Encoder) -> None:
    base = shaken(encoder.base.architecture)
    with torch.no_grad():
        base.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(30)
    plain = Encoder(base, build_graphs(base.sam)["encoder"], encoder.model).reference(a_tile(64))
    large_activations(base)
    it, tile = Encoder.of(base), a_tile(64)
    wanted = it.reference(tile)
    assert relative_error(wanted, plain) < 1e-2  # the same SAM, but for the epsilon of a norm
    hot = too_large(measure_ranges(it.model, [{"image": tile.numpy()}]))
    assert hot
    without = it.embedding(rounded(to_fp16(it.model)), tile)
    assert not torch.isfinite(without).all() or relative_error(without, wanted) > 0.1
    found = it.embedding(rounded(to_fp16(it.model, hot)), tile)
    assert relative_error(found, wanted) < 1e-2
    assert mask_iou(it.masks(found), it.masks(wanted)).mean() >= 0.99


def test_linear_attention_without_any_key_stays_finite_in_float16() -> None:
    """All queries below zero: numerator and denominator are 0, and fp16 has no 1e-15 to keep them apart."""
    base = shaken(TOYS["efficientvit"])
    with torch.no_grad():
        for block in list(base.sam.image_encoder.stages[-1].blocks)[1:]:
            block.context_module.main.qkv.conv.weight.zero_()
    it, tile = Encoder.of(base), a_tile(64)
    wanted = it.reference(tile)
    assert torch.isfinite(wanted).all()
    everything_half = rounded(to_fp16(it.model, islands=frozenset()))
    assert not torch.isfinite(it.embedding(everything_half, tile)).all()
    assert relative_error(it.embedding(rounded(to_fp16(it.model)), tile), wanted) < 1e-2


@pytest.mark.parametrize("family", WIDE)
def test_convolutions_become_integer_products(family: str, tmp_path: Any) -> None:
    it, tile = Encoder.of(random_base(WIDE[family], "wide")), a_tile(64)
    quantised = quantise(it.model, [{"image": tile.numpy()}])
    wanted = it.reference(tile)
    assert 0 < relative_error(it.embedding(quantised.model, tile), wanted) < 0.1
    kinds = {node.name: node for node in it.model.graph if node.op_type == "Conv"}
    whole = [node for node in quantised.model.graph if node.name in kinds and node.inputs[1].producer() is not None]
    assert whole
    for node in whole:
        back = node.inputs[1].producer()
        codes, scale = (value.const_value.numpy() for value in back.inputs[:2])
        weight = kinds[node.name].inputs[1].const_value.numpy()
        assert codes.dtype == np.int8
        assert np.abs(codes * scale[:, None, None, None] - weight).max() <= 0.51 * scale.max()
    onnx.checker.check_model(ir.to_proto(quantised.model), full_check=True)
    half = to_fp16(quantised.model, too_large(measure_ranges(it.model, [{"image": tile.numpy()}])))
    assert relative_error(it.embedding(rounded(half), tile), wanted) < 0.1
    assert _integer_convolutions(quantised.model, tmp_path) == len(whole)  # none is left to be made of codes in fp32


def _integer_convolutions(model: ir.Model, folder: Any) -> int:
    """How many convolutions ONNX Runtime makes in integers."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return sum(node.op_type == "QLinearConv" for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_batch_norm_is_folded_exactly() -> None:
    from resam.encoders.convolutions import Folded

    convolution, norm = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.1, 2)  # type: ignore[union-attr]
        norm.weight.normal_()
        norm.bias.normal_()
        x = torch.randn(2, 4, 5, 5)
        assert torch.allclose(Folded(convolution, norm)(x), norm.eval()(convolution(x)), atol=1e-5)
