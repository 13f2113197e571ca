"""Masks made in full near their edges alone, against those made in full everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resam.model.bases import Base, load_base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.near_edges import MARGIN, OUTSIDE, EdgeDecoder, EdgeLoop
from resam.model.refine_requery import RefineRequery, refine_logit


def test_edges_are_looked_for_where_the_logits_around_leave_room(toy: Base) -> None:
    decoder = EdgeDecoder(toy.sam, 0.975)
    grid, side = 12, decoder.image_size / 12
    y, x = np.mgrid[:grid, :grid]
    discs = [3 * (radius - np.hypot(x - cx, y - cy)) for cx, cy, radius in ((4, 5, 3.5), (8, 8, 2.0), (0, 0, -5.0))]
    sample = torch.from_numpy(np.stack(discs)).float()
    coords = torch.tensor([[[4.0, 5.0], [10.9, 0.2]], [[8.0, 8.0], [0.0, 11.0]], [[5.3, 5.0], [1.0, 1.0]]]) * side
    labels = torch.tensor([[1, -1], [1, 0], [1, 2]])
    found = decoder._near_edges(sample.flatten(1), coords, labels).reshape(3, grid, grid)
    for n in range(3):
        for row in range(grid):
            for column in range(grid):
                around = sample[n, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                room = float(around.max() - around.min()) + 0.5
                wanted = float(around.max()) + room > 0 and float(around.min()) - room < 0.975
                for (px, py), label in zip(coords[n].tolist(), labels[n].tolist(), strict=True):
                    away = max(abs(px + 0.5 - (column + 0.5) * side), abs(py + 0.5 - (row + 0.5) * side))
                    wanted = wanted or (label == 1 and away < 1.5 * side)
                assert bool(found[n, row, column]) == wanted, (n, row, column)
    assert found.flatten(1).sum(1).tolist()[2] == 9
    assert 20 < int(found[:2].sum()) < 240


def test_masks_made_at_their_edges_alone_are_whole_there(toy: Base) -> None:
    whole, at_edges = PromptDecoder(toy.sam).eval(), EdgeDecoder(toy.sam, 0.975).eval()
    generator = torch.Generator().manual_seed(3)
    grid = toy.sam.prompt_encoder.image_embedding_size[0]
    embedding = torch.randn(1, toy.sam.prompt_encoder.embed_dim, grid, grid, generator=generator)
    coords = torch.rand(5, 2, 2, generator=generator) * whole.image_size
    labels = torch.tensor([[1, 0], [1, 1], [1, -1], [2, 3], [1, 0]])
    network, norm = toy.sam.mask_decoder.output_hypernetworks_mlps[0], toy.sam.mask_decoder.output_upscaling[1]
    with torch.no_grad():  # random masks are flat, an edge could be anywhere: now most logits are far from 0
        network.layers[-1].weight.mul_(60)
        network.layers[-1].bias.mul_(60)
        norm.bias.add_(8)
        (full, scores), (mixed, same) = whole(embedding, coords, labels), at_edges(embedding, coords, labels)
        sample = full[:, 1::4, 1::4]
        made = at_edges._near_edges(sample.flatten(1), coords, labels).reshape(5, grid, grid)
    assert torch.equal(scores, same)
    cells = made.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert 20 < int(made.sum()) < made.numel() - 20, "nothing was left out, or everything"
    tolerance = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(mixed[cells], full[cells], **tolerance)
    rough = sample.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(mixed[~cells], rough[~cells], **tolerance)


@pytest.mark.parametrize("boxes", ["some", "none"])
def test_final_masks_are_made_around_the_coarse_ones_and_of_prompts_with_a_box_alone(boxes: str) -> None:
    """Far from the coarse mask and the box nothing is made; a prompt that lost its box keeps its coarse mask, which the
    whole loop decodes a second time."""
    base = load_base("tiny")
    image = np.full((1, 256, 256, 3), 60, np.uint8)
    places = [(50, 40), (130, 60), (60, 150), (200, 180)]
    for x, y in places:
        image[:, y - 11 : y + 12, x - 8 : x + 9] = (230, 220, 210)
    clicked = [places[0]] * 5 if boxes == "none" else [*places, places[3]]  # one thing twice, which neither keeps
    coords = torch.tensor(clicked, dtype=torch.float32).unsqueeze(1)
    labels = torch.ones(5, 1, dtype=torch.int32)
    with torch.no_grad():
        embedding = ImageEncoder(base.sam)(torch.from_numpy(image))
        wanted = RefineRequery(PromptDecoder(base.sam))(embedding, coords, labels)
        found = EdgeLoop(EdgeDecoder(base.sam, refine_logit(0.3)))(embedding, coords, labels)
    alone = (wanted.boxes == 0).all(dim=1)
    assert alone.tolist() == ([True] * 5 if boxes == "none" else [False, False, False, True, True])
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-3, atol=1e-2)
    assert torch.equal(found.masks[1:][alone[1:]], found.coarse_masks[1:][alone[1:]])
    assert torch.equal(found.masks[0] > 0, found.coarse_masks[0] > 0) == bool(alone[0])
    torch.testing.assert_close(wanted.masks[alone], wanted.coarse_masks[alone], rtol=1e-4, atol=1e-4)
    for n in torch.nonzero(~alone)[:, 0].tolist():
        y, x = np.nonzero(wanted.coarse_masks[n].numpy() > 0)
        x0, y0, x1, y1 = (wanted.boxes[n].numpy() + 0.5) / 2 - 0.5  # in cells of two pixels
        left, right = min(x.min(), x0) // 4 - MARGIN, max(x.max(), x1) // 4 + MARGIN
        top, bottom = min(y.min(), y0) // 4 - MARGIN, max(y.max(), y1) // 4 + MARGIN
        row, column = np.mgrid[:128, :128] // 4
        far = (column < left - 2) | (column > right + 2) | (row < top - 2) | (row > bottom + 2)
        assert far.any()
        assert (found.masks[n].numpy()[far] == OUTSIDE).all()
        near = (column >= left + 1) & (column <= right - 1) & (row >= top + 1) & (row <= bottom - 1)
        mine, theirs = (masks[n].numpy()[near] > 0 for masks in (found.masks, wanted.masks))
        assert (mine & theirs).sum() >= 0.99 * (mine | theirs).sum()
