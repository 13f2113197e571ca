"""The loss of a step of pretraining: every instance decoded from its points, then from a box.

Prompts are as SAM's: 1 to 3 points, some negative; a box, jittered, mostly without the points; a box drawn around the
mask decoded from the points, with these, as Requery asks. Of the masks for ambiguous prompts the best one is taught, as
SAM does it, where there is one point.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from resam.model.refine_requery import refine_logit, tight_boxes
from resam.pretrain.batches import Batch
from resam.pretrain.placed import PlacedSam
from resam.training.losses.dice import dice_loss
from resam.training.losses.score import overlap

SINGLE, AMBIGUOUS = 2.0, 0.5  # weights of the losses of the single mask from points and of the best of the others
OWN_BOX = 0.5  # of the boxes are drawn around the model's own masks, where these meet the instance
WITH_POINTS = 0.3  # of the other boxes, which people draw, go with the points


def instance_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and dice of logits (N, M, M) against soft targets (N, M, M) in 0..1: (N,)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return 4 * entropy.flatten(1).mean(1) + dice_loss(logits, target)


def step_loss(sam: PlacedSam, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """The weighted sum of the mean losses of decoding every instance from its points, and from a box."""
    size, grid = batch.images.shape[1], sam.decoder.prompt_encoder.image_embedding_size[0]
    patch = sam.decoder.image_size // grid
    free = grid - size // patch
    dx, dy = rng.integers(0, free + 1, 2).tolist()
    embedding = sam.encode(batch.images, (dx, dy))
    shift = torch.tensor([dx, dy], device=embedding.device) * float(patch)
    coords = batch.coords + shift
    logits, scores = sam.decoder.every_mask(embedding, coords, batch.labels)
    logits, scores = logits.float(), scores.float()  # sums over cells want more than bfloat16
    cell = size // logits.shape[-1]
    target = F.avg_pool2d(batch.masks.unsqueeze(1).float(), cell).squeeze(1)
    single = logits[:, 0]
    loss = SINGLE * instance_loss(single, target).mean() + _score_loss(single, target, scores[:, 0])
    if logits.shape[1] > 1:
        loss = loss + AMBIGUOUS * _ambiguous_loss(logits[:, 1:], target, scores[:, 1:], (batch.labels >= 0).sum(1) == 1)
    own, found = tight_boxes(single.detach(), refine_logit(0.3), cell)
    meets = overlap(single.detach() > 0, target > 0.5) > 0.3  # a box of something else teaches nothing
    coin = torch.from_numpy(rng.random((len(own), 2))).to(own.device)
    requeried = (found & meets & (coin[:, 0] < OWN_BOX)).unsqueeze(1)
    boxes = torch.where(requeried, own, batch.boxes)
    # a box of its own comes with the points it was made from, so a box that comes alone can be trusted
    kept = torch.where(requeried | (coin[:, 1:] < WITH_POINTS), batch.labels, -1)
    corners = torch.tensor([[2, 3]], device=kept.device).expand(len(kept), 2)
    coords = torch.cat((coords, boxes.reshape(-1, 2, 2) + shift), 1)
    boxed, box_scores = sam.decoder(embedding, coords, torch.cat((kept, corners), 1))
    boxed = boxed.float()
    return loss + instance_loss(boxed, target).mean() + _score_loss(boxed, target, box_scores.float())


def _score_loss(logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(scores, overlap(logits.detach() > 0, target > 0.5))


def _ambiguous_loss(
    logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor, ambiguous: torch.Tensor
) -> torch.Tensor:
    """Of K masks (N, K, M, M) the best one's loss, and the error of all scores (N, K); of the `ambiguous` alone."""
    logits, target, scores = logits[ambiguous], target[ambiguous], scores[ambiguous]
    if not len(logits):
        return scores.sum()
    count, masks = logits.shape[:2]
    flat, repeated = logits.flatten(0, 1), target.repeat_interleave(masks, 0)
    losses = instance_loss(flat, repeated).reshape(count, masks)
    return losses.amin(1).mean() + _score_loss(flat, repeated, scores.flatten())
