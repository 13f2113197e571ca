"""Refine, Requery, the decoder and the attention they stand on, against slow or independent computation."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch.nn import functional as F

from resam.encoders import chunked_attention
from resam.encoders.vit_attention import FoldedAttention, fold_attention
from resam.model import refine_requery
from resam.model.bases import Base, random_base
from resam.model.decoder import PromptDecoder
from resam.model.refine_requery import HIDDEN, RefineRequery, refine, refine_logit, tight_boxes

from .conftest import TOY


@pytest.mark.parametrize("tau", [0.25, 0.3, 0.5, 0.9])
def test_the_entropy_filter_is_one_comparison_of_logits(tau: float) -> None:
    logits = np.random.default_rng(0).normal(0, 4, 200_000)
    p = 1 / (1 + np.exp(-logits))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nan_to_num(-p * np.log(p)) + np.nan_to_num(-(1 - p) * np.log(1 - p))
    kept = p * (1 - entropy) > tau
    assert np.array_equal(kept, logits > refine_logit(tau))
    assert 0.05 < kept.mean() < 0.6


def test_the_threshold_of_the_reference_is_where_the_design_says() -> None:
    assert 1 / (1 + math.exp(-refine_logit(0.3))) == pytest.approx(0.726, abs=5e-4)
    for tau in (0.0, 0.24, 1.0):
        with pytest.raises(ValueError, match="threshold"):
            refine_logit(tau)


def test_the_overlap_test_of_refine_equals_a_slow_loop() -> None:
    threshold = refine_logit(0.3)
    logits = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(0)) * 2
    refined = refine(logits, threshold)
    contested, crumbs = 0, 0
    for i in range(6):
        own = {(y, x) for y in range(9) for x in range(9) if float(logits[i, y, x]) > threshold}
        others = {(y, x) for y, x in own if any(float(logits[j, y, x]) > threshold for j in range(6) if j != i)}
        left = own - others
        if len(left) < 0.15 * len(own):
            crumbs, left = crumbs + 1, set()
        assert {(y, x) for y in range(9) for x in range(9) if float(refined[i, y, x]) > threshold} == left
        contested += len(others)
    assert contested > 50
    assert 0 < crumbs < 6


def test_two_prompts_on_one_object_leave_no_crumbs() -> None:
    y, x = np.mgrid[:64, :64]
    disc, shifted, far = (12 - np.hypot(x - cx, y - 20) for cx in (20, 20.4, 48))
    large = np.where(y < 40, 5.0, -5.0)  # covers the disc at 48 and more
    logits = torch.from_numpy(np.stack([disc, shifted, far])).float()
    _, found = tight_boxes(refine(logits, 1.0), 1.0, 4.0)
    assert found.tolist() == [False, False, True]
    boxes, found = tight_boxes(refine(torch.from_numpy(np.stack([far, large])).float(), 1.0), 1.0, 4.0)
    assert found.tolist() == [False, True]  # all of the disc is contested; what is left of the other is no crumb
    assert boxes[1].tolist() == pytest.approx([0, 0, 255, 159.5], abs=1)


def test_boxes_are_those_of_the_bilinearly_upsampled_mask() -> None:
    y, x = np.mgrid[:32, :32]
    shapes = ((9.3, 12.6, 1.2, 0.9), (20, 8, 0.7, 1.6))
    blobs = [4 - np.hypot((x - cx) / ax, (y - cy) / ay) for cx, cy, ax, ay in shapes]
    logits = torch.from_numpy(np.stack([*blobs, np.full((32, 32), -3.0)])).float()
    boxes, found = tight_boxes(logits, 1.0, 4.0)
    assert found.tolist() == [True, True, False]
    assert boxes[2].tolist() == [0, 0, 0, 0]
    large = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[0] > 1.0
    for box, mask in zip(boxes[:2], large):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        tight = torch.stack((xs.min(), ys.min(), xs.max(), ys.max()))
        assert float((box - tight).abs().max()) < 1.0  # px; a cell is 4


def test_a_box_does_not_reach_into_cells_that_refine_took_away() -> None:
    logits = torch.full((1, 8, 8), -9.0)
    logits[0, 2:5, 2:5] = 9.0
    logits[0, :, 5] = HIDDEN
    box = tight_boxes(logits, 1.0, 4.0)[0][0]
    assert float(box[2]) == pytest.approx(4 * 5 - 0.5)  # the edge between cells 4 and 5


@pytest.mark.parametrize("side", [3, 4, 8])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("relative", [True, False])
def test_folded_attention_equals_the_packages(side: int, heads: int, relative: bool) -> None:
    torch.manual_seed(side)
    package = Attention(16, heads, qkv_bias=True, use_rel_pos=relative, input_size=(side, side) if relative else None)
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.normal_(0, 0.5)
    package = package.double()
    x = torch.randn(3, side, side, 16, dtype=torch.float64)
    expected = package(x)
    folded = FoldedAttention(copy.deepcopy(package))(x)
    assert torch.allclose(expected, folded, atol=1e-10)
    if relative:
        with torch.no_grad():
            package.rel_pos_h.zero_()
        assert not torch.allclose(package(x), folded, atol=1e-3), "relative positions took no part"


@pytest.mark.parametrize("chunk", [1, 40, 300, 1 << 21])
def test_attention_in_chunks_has_the_packages_values_and_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU attention goes a part of the scores at a time: parts of a row block, and several matrices at once."""
    monkeypatch.setattr(chunked_attention, "CHUNK", chunk)
    torch.manual_seed(0)
    package = Attention(16, 4, qkv_bias=True, use_rel_pos=True, input_size=(4, 4))
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.normal_(0, 0.5)
    ours = FoldedAttention(copy.deepcopy(package))
    package = package.double()
    x = torch.randn(3, 4, 4, 16)
    above = torch.randn_like(x)
    values, gradients = [], []
    for module in (package, ours):
        given = x.to(module.qkv.weight.dtype).requires_grad_()
        out = module(given)
        grads = torch.autograd.grad(out, (given, *module.parameters()), above.to(out.dtype))
        values.append(out.detach().double())
        gradients.append({name: g.double() for (name, _), g in zip([("x", 0), *module.named_parameters()], grads)})
    assert torch.allclose(*values, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert torch.allclose(expected, gradients[1][name], atol=1e-4), name


@pytest.mark.parametrize("chunk", [300, 1 << 21])
def test_bfloat16_attention_on_a_cpu_is_as_near_as_the_packages_own(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast, values and gradients come within bfloat16's rounding of the package's in float64: about as near
    as the package itself, which rounds the same scores."""
    monkeypatch.setattr(chunked_attention, "CHUNK", chunk)
    torch.manual_seed(0)
    package = Attention(32, 4, qkv_bias=True, use_rel_pos=True, input_size=(8, 8))
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.normal_(0, 0.3)
    x, above = torch.randn(2, 3, 8, 8, 32)
    exact, rounded, ours = copy.deepcopy(package).double(), package, FoldedAttention(copy.deepcopy(package))
    found: list[dict[str, torch.Tensor]] = []
    for module in (exact, rounded, ours):
        given = x.to(module.qkv.weight.dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=module is not exact):
            out = module(given)
        grads = torch.autograd.grad(out, (given, *module.parameters()), above.to(out.dtype))
        names = ["values", "x", *dict(module.named_parameters())]
        found.append({name: value.detach().double() for name, value in zip(names, (out, *grads))})
    for name, expected in found[0].items():
        off, off_package = (float((some[name] - expected).norm() / expected.norm()) for some in found[:0:-1])
        assert off < max(0.02, 1.5 * off_package), (name, off, off_package)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_frozen_attention_keeps_queries_keys_values_and_places_and_no_more(precision: torch.dtype) -> None:
    """Neither scores nor a copy of the tables of relative positions for each head and row."""
    side, heads, channels = 12, 2, 16
    folded = FoldedAttention(Attention(channels, heads, use_rel_pos=True, input_size=(side, side)))
    x = torch.randn(1, side, side, channels, requires_grad=True)
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.numel()
        return value

    folded.requires_grad_(False)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        folded(x)
    weights, tables = 4 * channels**2, 2 * side**2 * channels // heads
    assert sum(kept.values()) <= 3 * side**2 * channels + 2 * heads * side**3 + weights + tables


def test_folded_attention_keeps_no_score_matrix_for_the_way_back() -> None:
    side, heads = 12, 2
    folded = FoldedAttention(Attention(16, heads, use_rel_pos=True, input_size=(side, side)))
    x = torch.randn(1, side, side, 16, requires_grad=True)
    kept: list[int] = []

    def note(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        out = folded(x)
    out.sum().backward()
    assert x.grad is not None
    assert max(kept) < heads * side**4


def test_every_block_of_a_folded_encoder_equals_the_packages(toy: Base) -> None:
    """Windowed blocks (which pad the grid) and global ones, in one network."""
    plain = copy.deepcopy(toy.sam.image_encoder)
    image = torch.randn(1, 3, 64, 64)
    outputs: list[list[torch.Tensor]] = []
    for encoder in (plain, fold_attention(toy.sam.image_encoder)):
        seen: list[torch.Tensor] = []
        for block in encoder.blocks:
            block.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
        with torch.no_grad():
            encoder(image)
        outputs.append(seen)
    assert len(outputs[0]) == 2
    for a, b in zip(*outputs):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def _prompts(count: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    coords = torch.rand(count, points, 2, generator=generator) * 63
    return coords, torch.randint(0, 2, (count, points), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("boxed", [False, True])
def test_the_decoder_computes_what_the_package_does(toy: Base, boxed: bool) -> None:
    coords, labels = _prompts(5, 2)
    box = torch.tensor([[4.0, 6, 30, 40]]).expand(5, 4).contiguous()
    embedding = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    sam = toy.sam
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder((coords, labels), box if boxed else None, None)
        expected, expected_scores = sam.mask_decoder(
            embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
        if boxed:
            coords = torch.cat((coords, box.reshape(5, 2, 2)), 1)
            labels = torch.cat((labels, torch.tensor([[2, 3]], dtype=torch.int32).expand(5, 2)), 1)
        masks, scores = PromptDecoder(sam)(embedding, coords, labels)
    assert torch.allclose(masks, expected[:, 0], atol=1e-4, rtol=1e-4)
    assert torch.allclose(scores, expected_scores[:, 0], atol=1e-4, rtol=1e-4)
    assert float(masks.std()) > 1e-3


def test_padding_a_prompt_changes_nothing(toy: Base) -> None:
    coords, labels = _prompts(3, 2)
    embedding = torch.randn(1, 32, 8, 8)
    padded = torch.cat((coords, torch.full((3, 4, 2), 17.0)), 1)
    marks = torch.cat((labels, torch.full((3, 4), -1, dtype=torch.int32)), 1)
    with torch.no_grad():
        a, b = PromptDecoder(toy.sam)(embedding, coords, labels), PromptDecoder(toy.sam)(embedding, padded, marks)
    for one, other in zip(a, b):
        assert torch.allclose(one, other, atol=1e-5)


def test_prompts_that_end_in_a_corner_give_the_same_with_a_token_less(toy: Base) -> None:
    """With a box, without one, with a box that does not come last, and padded throughout but for a point."""
    embedding = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(5))
    coords = torch.rand(4, 4, 2, generator=torch.Generator().manual_seed(6)) * 63
    labels = torch.tensor([[1, 0, 2, 3], [1, 0, -1, -1], [2, 3, -1, -1], [1, -1, -1, -1]], dtype=torch.int32)
    decoder = PromptDecoder(toy.sam)
    with torch.no_grad():
        fewer, plain = decoder(embedding, coords, labels, ends_in_corner=True), decoder(embedding, coords, labels)
        tokens = decoder._tokens(coords, labels, ends_in_corner=True)[0].shape[1]
        assert tokens == decoder._tokens(coords, labels)[0].shape[1] - 1
    for one, other in zip(fewer, plain):
        assert float(other.std(0).mean()) > 1e-4, "the prompts must differ for the test to say anything"
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("requery", ["box", "box+points"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_requery_decodes_the_box_on_the_same_embedding(
    toy: Base, requery: str, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop written down plainly: decode, refine, box, decode with the box (and the points)."""
    monkeypatch.setattr(refine_requery, "CRUMBS", 0)  # random weights give all prompts nearly the same mask
    with torch.no_grad():
        toy.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(300)
    coords, labels = _prompts(4, 1)
    labels = torch.ones_like(labels)
    embedding = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(4))
    decoder = PromptDecoder(toy.sam)
    loop = RefineRequery(decoder, 0.3, requery, rounds)  # type: ignore[arg-type]
    with torch.no_grad():
        output = loop(embedding, coords, labels)
        masks = decoder(embedding, coords, labels)[0]
        assert torch.equal(output.coarse_masks, masks)
        for _ in range(rounds):
            boxes, found = tight_boxes(refine(masks, loop.threshold), loop.threshold, 2.0)
            rows = []
            for i in range(4):
                corners, kinds = boxes[i].reshape(2, 2), torch.tensor([2, 3], dtype=torch.int32)
                if not found[i]:
                    rows.append((coords[i], labels[i]))
                elif requery == "box":
                    rows.append((corners, kinds))
                else:
                    rows.append((torch.cat((coords[i], corners)), torch.cat((labels[i], kinds))))
            masks = torch.cat([decoder(embedding, place[None], kind[None])[0] for place, kind in rows])
    assert bool(found.any())
    assert torch.allclose(output.masks, masks, atol=1e-3, rtol=1e-3)


def test_coordinates_keep_their_precision_where_the_rest_runs_in_bfloat16(toy: Base) -> None:
    decoder = PromptDecoder(toy.sam)
    coords = torch.tensor([[[31.25, 60.5]], [[30.75, 59.0]]])
    plain, _ = decoder._tokens(coords, torch.ones(2, 1, dtype=torch.long))
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(3)) * 3
    boxes, found = tight_boxes(logits, 0.1, 64.0)  # a tile of 1024 px
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = decoder._tokens(coords, torch.ones(2, 1, dtype=torch.long))
        positions = decoder.positions()
        cast_boxes, cast_found = tight_boxes(logits.bfloat16().float(), 0.1, 64.0)
    assert positions.dtype == torch.float32
    assert torch.equal(positions, decoder.positions())
    assert torch.allclose(cast.float(), plain, atol=1e-6)
    assert torch.equal(found, cast_found)
    assert cast_boxes.dtype == torch.float32
    assert (tight_boxes(logits.bfloat16(), 0.1, 64.0)[0] - cast_boxes).abs().max() == 0
    assert found.all()
    assert (cast_boxes - boxes).abs().max() < 4  # of 1024: what rounding the logits alone does


def test_a_sized_loop_takes_the_mask_nearest_in_size_asks_with_its_box_and_gives_it_its_area(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against masks counted cell by cell; prompts without a size, or with a box, are answered as by a loop that knows
    none."""
    monkeypatch.setattr(refine_requery, "CRUMBS", 0)
    toy = random_base(dataclasses.replace(TOY, multimask_outputs=3), "toy")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(9)
        for network in toy.sam.mask_decoder.output_hypernetworks_mlps:  # masks that differ in size
            network.layers[-1].bias.add_(20 * torch.randn(network.layers[-1].bias.shape, generator=generator))
    coords, labels = torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(2)) * 63, torch.ones(6, 1).int()
    embedding = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(4))
    decoder = PromptDecoder(toy.sam)
    loop = RefineRequery(decoder, 0.3, sized=True)
    with torch.no_grad():
        every, scores = decoder.every_mask(embedding, coords, labels)
        counts = [[max(0.5, int((mask > 0).sum())) for mask in own] for own in every.numpy()]
        sides = torch.tensor([0.0] + [2 * math.sqrt(max(own) * 1.1) for own in counts[1:3]] + [3.0, 30.0, 60.0])
        place = torch.stack((sides, torch.zeros(6)), dim=1)[:, None]
        marks = torch.tensor([[-1]] + [[4]] * 5, dtype=torch.int32)
        output = loop(embedding, torch.cat((coords, place), 1), torch.cat((labels, marks), 1))
        usual = RefineRequery(decoder, 0.3)(embedding, coords, labels)
    chosen = []
    for number, own in enumerate(counts):
        cells = float(sides[number] / 2) ** 2  # a cell is 2 px
        pick = 0
        if cells:
            wanted = _likely_cells(every[number, 0].numpy(), cells)
            pick = min(range(len(own)), key=lambda k: abs(math.log(own[k] / wanted)))
        chosen.append(pick)
        assert torch.allclose(output.coarse_masks[number], every[number, pick], atol=1e-5), number
        assert float(output.coarse_scores[number]) == pytest.approx(float(scores[number, pick]), abs=1e-6)
    assert len(set(chosen[1:])) > 1, "the sizes must choose different masks for the test to say anything"
    assert torch.allclose(output.coarse_masks[0], usual.coarse_masks[0], atol=1e-5)
    lifted = output.coarse_masks + loop.threshold * (sides > 0)[:, None, None]
    boxes, _ = tight_boxes(refine(lifted, loop.threshold), loop.threshold, 2.0)
    assert torch.allclose(output.boxes, boxes, atol=1e-4)
    with torch.no_grad():
        ask, labels_asked = loop.prompts(boxes, boxes.abs().sum(1) > 0, coords, labels)
        asked, _ = decoder(embedding, ask, labels_asked, ends_in_corner=True)
    moved = (asked - output.masks).numpy()
    assert np.abs(moved - moved[:, :1, :1]).max() < 1e-4, "a mask keeps the order of its cells"
    assert np.abs(moved[0]).max() < 1e-4
    for number in range(1, 6):
        wanted = _likely_cells(asked[number].numpy(), float(sides[number] / 2) ** 2)
        threshold = np.clip(np.sort(asked[number].numpy(), axis=None)[::-1][round(wanted)], -6, 6)
        assert moved[number].mean() == pytest.approx(threshold, abs=0.2), number
    boxed = torch.tensor([[[10.0, 12.0], [20.0, 20.0], [40.0, 44.0]]]), torch.tensor([[1, 2, 3]], dtype=torch.int32)
    with torch.no_grad():
        alone = RefineRequery(decoder, 0.3)(embedding, *boxed)
        also = loop(
            embedding,
            torch.cat((boxed[0], torch.tensor([[[30.0, 0.0]]])), 1),
            torch.cat((boxed[1], torch.tensor([[4]], dtype=torch.int32)), 1),
        )
    assert torch.allclose(also.masks, alone.masks, atol=1e-4)


def _likely_cells(logits: np.ndarray, known: float) -> float:
    """Of one mask, by the formulas of `resam.model.object_size`, in double precision."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    inside = p > 0.5
    doubt = (3 * (1 - p[inside].sum() / max(1e-9, inside.sum() + p[~inside].sum())) ** 1.5) ** 2
    trust = 0.75**2 / (0.75**2 + doubt)
    return float(2 ** (trust * np.log2(max(0.5, inside.sum())) + (1 - trust) * np.log2(known)))
