"""A training step the way the reference code of ReSAM takes it, written anew and plainly, as the rival of ours.

The weak view goes through the encoder twice, once for the coarse masks and once for the pseudo-masks; attention is the
package's; the instances of an image are decoded through the package's prompt encoder and mask decoder; every mask is
brought to the full size of the tile, where entropy, overlaps, boxes and losses are computed; the features are
detached before the alignment loss.
"""

from __future__ import annotations

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.steps.train_steps import StepInput, StepSettings

TAU = 0.3
QUEUE = 32


class AddedLoRA(nn.Module):
    """LoRA on queries and values as a sum of outputs, around the package's `qkv` layer."""

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        channels = qkv.in_features
        self.qkv, self.channels = qkv, channels
        self.query_down, self.value_down = (nn.Linear(channels, rank, bias=False) for _ in range(2))
        self.query_up, self.value_up = (nn.Linear(rank, channels, bias=False) for _ in range(2))
        for layer in (self.query_up, self.value_up):
            nn.init.zeros_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, 3C)."""
        out = self.qkv(x).clone()
        out[..., : self.channels] += self.query_up(self.query_down(x))
        out[..., -self.channels :] += self.value_up(self.value_down(x))
        return out


class ReferenceStep:
    """See `train_steps.TrainingStep`."""

    def __init__(self, weights: Weights, settings: StepSettings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        sam = weights.load().sam
        self.settings = settings
        parameters: list[nn.Parameter] = []
        for block in sam.image_encoder.blocks:
            block.attn.qkv = AddedLoRA(block.attn.qkv, settings.rank)
            parameters += [p for name, p in block.attn.qkv.named_parameters() if "down" in name or "up" in name]
        self._sam: Sam = sam.to(settings.device)
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        self._queue: list[torch.Tensor] = []

    def step(self, data: StepInput) -> float:
        """See `train_steps.TrainingStep`."""
        device = self.settings.device
        weak, strong = (torch.from_numpy(v).to(device).permute(2, 0, 1).float() for v in (data.weak, data.strong))
        coords = torch.from_numpy(data.coords).to(device)
        truth = torch.from_numpy(data.truth).to(device).float()
        points = (coords, torch.ones(len(coords), 1, dtype=torch.int, device=device))
        with self.settings.autocast():
            with torch.no_grad():
                _, coarse, _ = self._predict(weak, points, None)
                boxes = refined_boxes(coarse, truth)
                features_weak, _, _ = self._predict(weak, None, boxes)
            features, logits, scores = self._predict(strong, points, None)
            # the pseudo-masks give way to the targets that both steps learn from; see `train_steps`
            focal, dice, iou = [], [], []
            for instance in range(len(truth)):
                one, target = logits[instance], truth[instance]
                focal.append(_focal(one, target))
                dice.append(_dice(one, target))
                iou.append(F.mse_loss(scores[instance], _iou(one, target)))
            alignment = self._alignment(features.detach(), features_weak.detach(), boxes)
            loss = 20 * torch.stack(focal).mean() + torch.stack(dice).mean() + torch.stack(iou).mean() + alignment
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def _predict(
        self, image: torch.Tensor, points: tuple[torch.Tensor, torch.Tensor] | None, boxes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embedding (1, C, G, G), logits (N, S, S) and scores (N,), all through the package's modules."""
        sam = self._sam
        size = int(sam.image_encoder.img_size)
        embedding = sam.image_encoder(sam.preprocess(image)[None])
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
        low, scores = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        full = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)
        return embedding, full[:, 0].float(), scores[:, 0].float()

    def _alignment(self, strong: torch.Tensor, weak: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        size = float(self._sam.image_encoder.img_size)
        losses = []
        for box in boxes / size * strong.shape[-1]:
            x0, y0, x1, y1 = (int(value) for value in box)
            window = (..., slice(y0, max(y1, y0) + 1), slice(x0, max(x1, x0) + 1))
            own, other = (F.normalize(f[window].mean(dim=(2, 3)).float(), dim=1) for f in (strong, weak))
            pool = torch.cat([other, *self._queue]) if self._queue else other
            losses.append((1 - own @ pool.T).mean())
            self._queue = [*self._queue, other][-QUEUE:]
        return torch.stack(losses).mean()


def refined_boxes(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Refine at full size: entropy filter, overlaps, then the tight box of each instance, (N, 4).

    An instance with nothing left gets the box of its target, so that the second pass decodes as many.
    """
    p = torch.sigmoid(logits)
    entropy = -p * torch.log(p + 1e-8) - (1 - p) * torch.log(1 - p + 1e-8)
    kept = p * (1 - entropy) > TAU
    kept = kept & (kept.sum(0) == 1)
    boxes = []
    for own, target in zip(kept, truth):
        rows, columns = torch.where(own if own.any() else target > 0.5)
        boxes.append(torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]))
    return torch.stack(boxes).float()


def _focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    weight = 0.25 * target + 0.75 * (1 - target)
    return (weight * (1 - right) ** 2 * entropy).mean()


def _dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(logits)
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def _iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    found = (logits > 0).float()
    both = (found * target).sum()
    return (both / (found.sum() + target.sum() - both + np.float32(1e-6))).detach()
