"""Evaluation: every instance's masks at the scene's own resolution against the true ones.

Scenes are tiled, prompts placed and masks upsampled by the runtime's own functions, after Coarse and after Requery.
For an instance with true positive, false positive and false negative pixels:

    IoU = TP / (TP + FP + FN)   precision = TP / (TP + FP)   recall = TP / (TP + FN)   F1 = 2 TP / (2 TP + FP + FN)

`miou` is the mean over all instances; `miou_images` the mean over images of each image's mean, which is what the
method's reference code reports (it also thresholds logits at 0.5; here a pixel is in where its logit exceeds 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resam.data.coco import SIZES, CocoData
from resam.data.prompts import pointed
from resam.data.spread import spread
from resam.data.tiles import plan_samples, tile_arrays
from resam.model.refine_requery import RefineRequery
from resam_runtime.masks.crops import BoolMask, Origin, crop_overlap, mask_bounds
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.points import Prompt
from resam_runtime.tiles.tiling import Framing, Tile

STAGES = ("coarse", "final")


@dataclass(frozen=True)
class Measured:
    """One instance. counts: (2, 3) TP, FP, FN pixels after Coarse, after Requery; scores: predicted IoU likewise."""

    scene: str
    instance: str | int | None
    area: int
    counts: NDArray[np.int64]
    scores: tuple[float, float]

    @property
    def ious(self) -> tuple[float, float]:
        """IoU after Coarse and after Requery."""
        coarse, final = (float(row[0] / max(1, row.sum())) for row in self.counts)
        return coarse, final


@torch.no_grad()
def evaluate(
    encoder: nn.Module,
    loop: RefineRequery,
    data: CocoData,
    prompts: Sequence[Sequence[Prompt]],
    framing: Framing,
    *,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Measure every prompt of a data set that has a true mask (`Prompt.id` names its annotation).

    encoder: `ImageEncoder` (with LoRA or not); its parameters' device is used. prompts: as `scene_prompts` gives them.
    limit: scenes with prompts to look at, evenly spread. advance: called after each scene with prompts.
    """
    device = next(encoder.parameters()).device
    size = loop.decoder.image_size
    numbers = pointed(prompts)
    measured = []
    for place in spread(len(numbers), len(numbers) if limit is None else limit):
        number = numbers[place]
        scene, own = data.scenes[number], prompts[number]
        truths = {instance.id: instance for instance in scene.instances if not instance.box_only}
        for sample in plan_samples([(scene.width, scene.height)], [own], size, framing):
            members = [own[i] for i in sample.prompts]
            arrays = tile_arrays(scene.read(sample.tile), sample.tile, members, size)
            output = loop(
                encoder(torch.from_numpy(arrays.image)[None].to(device)),
                torch.from_numpy(arrays.coords).to(device),
                torch.from_numpy(arrays.labels).to(device),
            )
            stages = [(output.coarse_masks, output.coarse_scores), (output.masks, output.scores)]
            logits = [masks.float().cpu().numpy() for masks, _ in stages]
            cells = [grid_boxes(stage) for stage in logits]
            for row, prompt in enumerate(members):
                if prompt.id not in truths:
                    continue
                truth = scene.mask(truths[prompt.id])
                counts = [
                    pixel_counts(truth, *_placed(stage[row], boxes[row], sample.tile, size))
                    for stage, boxes in zip(logits, cells)
                ]
                scores = tuple(float(score[row]) for _, score in stages)
                area = int(truth.sum())
                measured.append(Measured(scene.name, prompt.id, area, np.array(counts), scores))  # type: ignore[arg-type]
        advance()
    return measured


def pixel_counts(truth: BoolMask, mask: BoolMask, origin: Origin) -> tuple[int, int, int]:
    """TP, FP, FN of a mask crop at `origin` against a true mask (H, W) of the whole scene."""
    total, area = int(mask.sum()), int(truth.sum())
    bounds = mask_bounds(truth)
    both = 0
    if bounds is not None and total:
        x0, y0, x1, y1 = bounds
        crop = truth[y0:y1, x0:x1]
        overlap = crop_overlap(mask.shape, origin, crop.shape, (x0, y0))
        if overlap is not None:
            both = int(np.count_nonzero(mask[overlap[0]] & crop[overlap[1]]))
    return both, total - both, area - both


def summarise(measured: Sequence[Measured]) -> dict[str, Any]:
    """Means of `evaluate`'s rows: instances, images, and for `coarse` and `final` each `miou`, `miou_images`,
    `precision`, `recall`, `f1` (means over instances) and mIoU by true size, None where there is none of a size."""
    result: dict[str, Any] = {"instances": len(measured), "images": len({row.scene for row in measured})}
    scenes = np.array([row.scene for row in measured])
    areas = np.array([row.area for row in measured])
    for stage, name in enumerate(STAGES):
        counts = np.array([row.counts[stage] for row in measured], np.float64).reshape(-1, 3)
        true, extra, missed = counts.T
        iou = true / np.maximum(1, counts.sum(axis=1))
        images = [iou[scenes == scene].mean() for scene in np.unique(scenes)]
        values = {
            "miou": iou,
            "miou_images": np.array(images),
            "precision": true / np.maximum(1, true + extra),
            "recall": true / np.maximum(1, true + missed),
            "f1": 2 * true / np.maximum(1, 2 * true + extra + missed),
            **{f"miou_{size}": iou[(areas >= low) & (areas < high)] for size, (low, high) in SIZES.items()},
        }
        result[name] = {key: float(value.mean()) if len(value) else None for key, value in values.items()}
    return result


def _placed(logits: NDArray[np.float32], cells: NDArray[np.intp], tile: Tile, size: int) -> tuple[BoolMask, Origin]:
    mask, origin, _ = scene_mask(logits, cells, tile, size)
    return mask, origin
