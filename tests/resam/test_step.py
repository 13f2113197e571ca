"""The method's pieces against independent computation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.lora import add_lora
from resam.model.refine_requery import RefineRequery
from resam.training.losses import LOSSES, loss_weights
from resam.training.losses.alignment import alignment_loss, box_embeddings, push, ramp
from resam.training.losses.dice import dice_loss
from resam.training.losses.focal import focal_loss
from resam.training.losses.term import Decoded
from resam.training.options import TrainOptions
from resam.training.step import ChunkedDecoder, calibrated, pseudo_masks, reinforce
from resam.training.tile import Pseudo, TileTensors

from .conftest import TOY


def _tile(count: int = 5, points: int = 2, seed: int = 0) -> TileTensors:
    generator = torch.Generator().manual_seed(seed)
    weak, strong = torch.randint(0, 255, (2, 1, 64, 64, 3), dtype=torch.uint8, generator=generator)
    coords = torch.rand(count, points, 2, generator=generator) * 63
    return TileTensors(weak, strong, coords, torch.ones(count, points, dtype=torch.int32), (32, 24))


def _models(base: Base, chunk: int = 64, bias: float = 0.0) -> tuple[ImageEncoder, PromptDecoder, RefineRequery]:
    """Encoder with LoRA that does something, decoder, loop."""
    add_lora(base.sam.image_encoder, rank=2)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for parameter in base.sam.image_encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    decoder = PromptDecoder(base.sam).requires_grad_(False)
    return ImageEncoder(base.sam), decoder, RefineRequery(ChunkedDecoder(decoder, chunk))  # type: ignore[arg-type]


def _weights(beta: float) -> dict[str, float]:
    return loss_weights(TrainOptions(), 0.0) | {"alignment": beta}


def mask_losses(logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of masks, each (N,) and times its weight, as the method's page has it."""
    seen = Decoded(logits, target, scores)
    focal, dice, iou = (loss.value(seen) for loss in LOSSES if loss.of == "mask")
    return 20 * focal + dice + iou


def test_focal_and_dice_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (2, 4, 5)), (rng.random((2, 4, 5)) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-logits))
    right = np.where(target == 1, p, 1 - p)
    focal = (-((1 - right) ** 2) * np.log(right)).mean(axis=(1, 2))
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    a, b = torch.from_numpy(logits), torch.from_numpy(target)
    assert focal_loss(a, b).numpy() == pytest.approx(focal)
    assert dice_loss(a, b).numpy() == pytest.approx(dice)
    seen = Decoded(a, b, torch.tensor([0.5, 0.5]))
    found = {loss.name: loss.value(seen).numpy() for loss in LOSSES if loss.of == "mask"}
    both, either = ((logits > 0) & (target == 1)).sum((1, 2)), ((logits > 0) | (target == 1)).sum((1, 2))
    assert found["focal"] == pytest.approx(focal)
    assert found["dice"] == pytest.approx(dice)
    assert found["iou"] == pytest.approx((0.5 - both / either) ** 2, rel=1e-5)
    assert {loss.name: loss.weight for loss in LOSSES if loss.of == "mask"} == {"focal": 20, "dice": 1, "iou": 1}


def test_a_perfect_prediction_costs_nothing() -> None:
    target = (torch.rand(3, 8, 8) < 0.5).float()
    losses = mask_losses((target - 0.5) * 100, target, torch.ones(3))
    assert float(losses.max()) < 1e-4


def test_box_embeddings_are_area_means() -> None:
    embedding = torch.randn(1, 6, 4, 4)
    fine = embedding[0].repeat_interleave(16, 1).repeat_interleave(16, 2)  # each token 16 px wide
    boxes = torch.tensor([[3.0, 5.0, 40.0, 17.0], [20.0, 20.0, 22.0, 25.0], [0.0, 0.0, 63.0, 63.0]])
    for box, z in zip(boxes.long(), box_embeddings(embedding, boxes, 64)):
        x0, y0, x1, y1 = box.tolist()
        mean = fine[:, y0 : y1 + 1, x0 : x1 + 1].mean((1, 2))
        assert torch.allclose(z, mean / mean.norm(), atol=1e-5)


def test_alignment_reaches_the_strong_view_and_not_the_weak_one_or_the_queue() -> None:
    strong, weak, queue = (nn.functional.normalize(torch.randn(n, 8), dim=1).requires_grad_() for n in (3, 3, 5))
    loss = alignment_loss(strong, weak, queue)
    slow = [1 - float(s @ h) for h, own in zip(strong, weak) for s in (own, *queue)]
    assert float(loss.detach()) == pytest.approx(np.mean(slow), rel=1e-5)
    loss.backward()
    assert strong.grad is not None
    assert float(strong.grad.abs().sum()) > 0
    assert weak.grad is None
    assert queue.grad is None


def test_alignment_through_a_step_moves_lora_and_detached_does_not(toy: Base) -> None:
    encoder, decoder, loop = _models(toy)
    tile = _tile()
    pseudo = pseudo_masks(encoder, loop, tile)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 30.0]] * 5)
    with torch.no_grad():
        weak = box_embeddings(encoder(tile.weak), boxes, 64)
    pseudo = Pseudo(pseudo.target, torch.ones(5, dtype=torch.bool), boxes, weak, pseudo.output)
    gradients = []
    for beta, detach in ((0.0, False), (4.0, False), (4.0, True)):
        encoder.zero_grad(set_to_none=True)
        options = TrainOptions(ssa="detached" if detach else "gradient")
        losses = reinforce(encoder, decoder, tile, pseudo, _weights(beta), torch.zeros(0, 32), options)
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
        assert (losses.values["alignment"] > 0) == (beta > 0)
    without, attached, detached = gradients
    assert torch.equal(without, detached)
    assert float((attached - without).abs().max()) > 1e-6


def test_the_queue_keeps_the_newest() -> None:
    queue = torch.zeros(0, 1)
    for i in range(5):
        queue = push(queue, torch.tensor([[2.0 * i], [2.0 * i + 1]]), 3)
    assert queue.flatten().tolist() == [7, 8, 9]
    assert len(push(queue, torch.zeros(2, 1), 0)) == 0


def test_beta_rises_from_nothing_to_its_maximum() -> None:
    values = [ramp(t / 10, 4.0) for t in range(11)]
    assert values == sorted(values)
    assert values[0] < 0.05
    assert values[5] == pytest.approx(2)
    assert values[10] > 3.95


def test_decoding_in_chunks_changes_nothing_and_refine_still_sees_all(toy: Base) -> None:
    encoder, decoder, _ = _models(toy)
    tile = _tile(7)
    with torch.no_grad():
        embedding = encoder(tile.weak)
        whole = RefineRequery(decoder)(embedding, tile.coords, tile.labels)
        parts = RefineRequery(ChunkedDecoder(decoder, 2))(embedding, tile.coords, tile.labels)  # type: ignore[arg-type]
    for a, b in zip(whole, parts):
        assert torch.allclose(a, b, atol=1e-5)


def test_gradients_do_not_depend_on_the_chunk(toy: Base) -> None:
    encoder, decoder, loop = _models(toy)
    tile = _tile(6)
    pseudo = pseudo_masks(encoder, loop, tile)
    known = torch.tensor([True, True, False, True, True, True])
    target = (torch.rand(pseudo.target.shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    boxes = torch.tensor([[4.0, 4.0, 40.0, 30.0]] * 6)
    pseudo = Pseudo(target, known, boxes, pseudo.embeddings, pseudo.output)

    # the loss written down plainly, in one graph
    encoder.zero_grad(set_to_none=True)
    embedding = encoder(tile.strong)
    logits, scores = decoder(embedding, tile.coords[known], tile.labels[known])
    loss = mask_losses(logits[:, :32, :24], target[known, :32, :24], scores).mean()
    loss = loss + 2.0 * alignment_loss(
        box_embeddings(embedding, boxes[known], 64), pseudo.embeddings[known], torch.zeros(0, 32)
    )
    loss.backward()
    expected = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    assert len(expected) == 8
    for chunk in (64, 2):
        encoder.zero_grad(set_to_none=True)
        options = TrainOptions(chunk=chunk)
        losses = reinforce(encoder, decoder, tile, pseudo, _weights(2.0), torch.zeros(0, 32), options)
        assert losses.total == pytest.approx(float(loss.detach()), rel=1e-4)
        for gradient, p in zip(expected, (p for p in encoder.parameters() if p.grad is not None)):
            assert torch.allclose(p.grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["box", "box+points"])
def test_teaching_requery_is_the_mean_of_two_losses(toy: Base, kind: str) -> None:
    encoder, decoder, loop = _models(toy)
    loop = RefineRequery(loop.decoder, requery=kind)  # type: ignore[arg-type]
    tile = _tile(4)
    pseudo = pseudo_masks(encoder, loop, tile)
    target = (torch.rand(pseudo.target.shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    known, boxes = torch.tensor([True, False, True, True]), torch.tensor([[4.0, 4.0, 40.0, 30.0]] * 4)
    pseudo = Pseudo(target, known, boxes, pseudo.embeddings, pseudo.output)

    encoder.zero_grad(set_to_none=True)
    embedding, total = encoder(tile.strong), torch.zeros(())
    corners = torch.tensor([[[4.0, 4.0], [40.0, 30.0]]] * 3)
    asked = {
        "points": (tile.coords[known], torch.ones(3, 2)),
        "box": (corners, torch.tensor([[2, 3]] * 3)),
        "box+points": (torch.cat((tile.coords[known], corners), 1), torch.tensor([[1, 1, 2, 3]] * 3)),
    }
    for coords, labels in (asked["points"], asked[kind]):
        logits, scores = decoder(embedding, coords, labels)
        total = total + mask_losses(logits[:, :32, :24], target[known, :32, :24], scores).mean() / 2
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    encoder.zero_grad(set_to_none=True)
    options, queue = TrainOptions(chunk=2), torch.zeros(0, 32)
    losses = reinforce(encoder, decoder, tile, pseudo, _weights(0.0), queue, options, requery=loop)
    found = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    assert losses.total == pytest.approx(float(total.detach()), rel=1e-4)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


class _Drawn(nn.Module):
    """Stands for a decoder: logits as given, whatever the prompt; it remembers what it was asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.image_size, self.asked = logits, 64, []  # type: ignore[var-annotated]

    def forward(
        self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, ends_in_corner: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append((coords, labels))
        return self.logits, torch.ones(len(self.logits))


def test_an_instance_with_an_empty_refined_mask_keeps_its_pairing() -> None:
    logits = torch.full((4, 32, 32), -9.0)
    for i, at in enumerate((2, 10, 10, 20)):  # the second and third claim the same cells: both are refined away
        logits[i, at : at + 5, at : at + 5] = 9.0
    decoder = _Drawn(logits)
    tile = TileTensors(
        torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64, 3), torch.rand(4, 1, 2), torch.ones(4, 1), (32, 32)
    )
    pseudo = pseudo_masks(lambda image: torch.randn(1, 8, 8, 8), RefineRequery(decoder), tile)  # type: ignore[arg-type]
    assert pseudo.known.tolist() == [True, False, False, True]
    for i, at in ((0, 2), (3, 20)):
        assert torch.equal(pseudo.target[i] > 0, logits[i] > 0)
        assert pseudo.boxes[i].tolist() == pytest.approx(
            [2 * at - 0.5, 2 * at - 0.5, 2 * at + 9.5, 2 * at + 9.5], abs=1
        )
    assert pseudo.boxes[1].tolist() == [0, 0, 0, 0]
    requeried = decoder.asked[1][1]
    assert requeried[1].tolist() == [1, -1, -1]  # decoded from its points again
    assert requeried[3].tolist() == [1, 2, 3]


def test_true_masks_replace_pseudo_masks_only_where_given(toy: Base) -> None:
    encoder, _, loop = _models(toy)
    plain = _tile()
    truth = torch.zeros(5, 32, 32)
    truth[:4, 3:9, 5:20] = 1
    taught = pseudo_masks(encoder, loop, TileTensors(**{**vars(plain), "given": truth}))
    assert torch.equal(taught.target, truth)
    assert taught.known.tolist() == [True] * 4 + [False]
    assert taught.boxes[0].tolist() == pytest.approx([9.5, 5.5, 39.5, 17.5], abs=0.6)
    assert not torch.equal(pseudo_masks(encoder, loop, plain).target, truth)


def test_calibration_makes_overlapping_neighbours_negative() -> None:
    coarse = torch.full((3, 16, 16), -1.0)
    coarse[0, 2:8, 2:8] = coarse[1, 3:9, 2:8] = 1.0
    coarse[2, 12:, 12:] = 1.0
    coords, labels = torch.tensor([[[1.0, 2]], [[3, 4]], [[50, 60]]]), torch.ones(3, 1, dtype=torch.int32)
    more, marks = calibrated(coarse, coords, labels)
    assert more[0, marks[0] == 0].tolist() == [[3, 4]]
    assert more[1, marks[1] == 0].tolist() == [[1, 2]]
    assert (marks[2] == 0).sum() == 0
    assert torch.equal(more[:, :1], coords)
    assert torch.equal(marks[:, :1], labels)


def test_a_loss_that_is_not_finite_is_an_error(toy: Base) -> None:
    encoder, decoder, loop = _models(toy)
    tile = _tile()
    pseudo = pseudo_masks(encoder, loop, tile)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 30.0]] * 5)
    pseudo = Pseudo(pseudo.target * math.nan, torch.ones(5, dtype=torch.bool), boxes, pseudo.embeddings, pseudo.output)
    with pytest.raises(FloatingPointError, match="nan"):
        reinforce(encoder, decoder, tile, pseudo, _weights(0.0), torch.zeros(0, 32), TrainOptions())


def test_the_toy_is_what_the_tests_think() -> None:
    assert (TOY.mask_size, TOY.grid) == (32, 8)


def test_a_step_in_bfloat16_walks_the_way_of_one_in_float32(toy: Base) -> None:
    """The gradient of every LoRA factor has nearly the direction and length that it has in full precision."""
    encoder, decoder, loop = _models(toy)
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    tile = _tile()
    pseudo = pseudo_masks(encoder, loop, tile)
    pseudo = dataclasses.replace(pseudo, known=torch.ones_like(pseudo.known))
    losses, gradients = [], []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            queue = torch.zeros(0, TOY.embedding_dim)
            found = reinforce(encoder, decoder, tile, pseudo, _weights(1.0), queue, TrainOptions())
            losses.append(found.total)
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
        encoder.zero_grad()
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert len(gradients[0]) == len(gradients[1]) == len(parameters) > 0
    for full, rounded in zip(*gradients):
        assert float(nn.functional.cosine_similarity(full.flatten(), rounded.flatten(), dim=0)) > 0.99
        assert float(rounded.norm() / full.norm()) == pytest.approx(1, abs=0.1)
