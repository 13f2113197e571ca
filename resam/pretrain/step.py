"""A step of pretraining: every instance decoded from its points, then from a box; and how good that has become.

Prompts are as SAM's: 1 to 3 points, some negative; a box, jittered; a box drawn around the mask decoded from the
points; with or without the points.
"""

from __future__ import annotations

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import refine_logit, tight_boxes
from resam.pretrain.batches import Batch, jittered_box, sample_points
from resam.pretrain.placed import PlacedSam
from resam.pretrain.procedural import ProceduralImage
from resam.training.losses.dice import dice_loss
from resam.training.losses.score import overlap


def mask_loss(logits: torch.Tensor, target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, dice and IoU-head error of logits (N, M, M) against soft targets (N, M, M) in 0..1."""
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    iou = overlap(logits.detach() > 0, target > 0.5)
    return 4 * entropy + dice_loss(logits, target).mean() + F.mse_loss(scores, iou)


def step_loss(sam: PlacedSam, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """Decode every instance from its points, then from a box; the mean loss of both."""
    size, grid = batch.images.shape[1], sam.decoder.prompt_encoder.image_embedding_size[0]
    patch = sam.decoder.image_size // grid
    free = grid - size // patch
    dx, dy = rng.integers(0, free + 1, 2).tolist()
    embedding = sam.encode(batch.images, (dx, dy))
    shift = torch.tensor([dx, dy], device=embedding.device) * float(patch)
    coords = batch.coords + shift
    logits, scores = sam.decoder(embedding, coords, batch.labels)
    cell = size // logits.shape[-1]
    target = F.avg_pool2d(batch.masks.unsqueeze(1).float(), cell).squeeze(1)
    loss = mask_loss(logits, target, scores)
    own, found = tight_boxes(logits.detach(), refine_logit(0.3), cell)
    meets = overlap(logits.detach() > 0, target > 0.5) > 0.3  # a box of something else teaches nothing
    coin = torch.from_numpy(rng.random((len(own), 2))).to(own.device)
    boxes = torch.where((found & meets & (coin[:, 0] < 0.5)).unsqueeze(1), own, batch.boxes)
    kept = torch.where(coin[:, 1:] < 0.5, batch.labels, -1)
    corners = torch.tensor([[2, 3]], device=kept.device).expand(len(kept), 2)
    coords = torch.cat((coords, boxes.reshape(-1, 2, 2) + shift), 1)
    box_logits, box_scores = sam.decoder(embedding, coords, torch.cat((kept, corners), 1))
    return loss + mask_loss(box_logits, target, box_scores)


@torch.no_grad()
def evaluate(sam: Sam, images: list[ProceduralImage], seed: int = 0) -> dict[str, float]:
    """mIoU at full resolution over all instances: from one random point each, and from the tight box."""
    encoder, decoder = ImageEncoder(sam), PromptDecoder(sam)
    device = next(sam.parameters()).device
    rng = np.random.default_rng(seed)
    ious: dict[str, list[float]] = {"point": [], "box": []}
    for image in images:
        masks = image.masks
        embedding = encoder(torch.from_numpy(image.image)[None].to(device))
        points = np.stack([sample_points(mask, 1, rng)[0][:1] for mask in masks])
        boxes = np.stack([jittered_box(mask, rng, 0.0) for mask in masks]).reshape(-1, 2, 2)
        for name, coords, label in (("point", points, [1]), ("box", boxes, [2, 3])):
            labels = torch.tensor([label] * len(masks), device=device)
            logits, _ = decoder(embedding, torch.from_numpy(coords).to(device), labels)
            full = F.interpolate(logits[:, None], image.image.shape[:2], mode="bilinear", align_corners=False)
            truth = torch.from_numpy(masks).to(device)
            ious[name] += overlap(full[:, 0] > 0, truth).tolist()
    return {name: float(np.mean(values)) for name, values in ious.items()} | {"instances": len(ious["point"])}
