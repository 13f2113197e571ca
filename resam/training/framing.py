"""The scale of the tiles, chosen from points alone: the one whose masks the other scales agree with most.

A SAM is at its best for instances of some sizes in pixels of the tile, and imagery comes at any ground sampling
distance. Too close, it segments parts; too far, blobs; and neither outlives a change of scale, while an object does.
So the base decodes a sample of the training points at each of a few scales, and a scale's merit is the mean IoU of its
coarse masks with those of all others. No true mask is needed.

The predicted IoU would be the obvious measure. It is not comparable between scales: on real images it favours parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resam.data.coco import CocoScene
from resam.data.prompts import pointed
from resam.data.spread import spread
from resam.data.tiles import Sample, plan_samples, tile_arrays
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam_runtime.masks.crops import BoolMask, Origin, mask_iou
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.points import Prompt
from resam_runtime.tiles.tiling import Framing

SCALES = (0.25, 0.354, 0.5, 0.707, 1.0, 1.414, 2.0)
SCENES, PER_SCENE = 16, 6  # looked at, evenly spread

_Masks = Mapping[tuple[int, int], tuple[BoolMask, Origin]]  # by scene and prompt: a crop, and where it lies


@dataclass(frozen=True)
class Candidate:
    """A framing, and for each sampled instance the mean IoU, (N,) in 0..1, of its mask with those of the others."""

    framing: Framing
    agreement: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.agreement.mean())


def compare_framings(
    base: Base,
    scenes: Sequence[CocoScene],
    prompts: Sequence[Sequence[Prompt]],
    default: Framing,
    device: torch.device | str = "cpu",
    advance: Callable[[], None] = lambda: None,
) -> list[Candidate]:
    """The default first, then those of `SCALES` that cut the sampled scenes in another way.

    base: without LoRA. prompts: those of each scene. advance: called 1 + len(SCALES) times.
    """
    size = base.architecture.image_size
    encoder, decoder = ImageEncoder(base.sam).to(device), PromptDecoder(base.sam).to(device)
    numbers = pointed(prompts)
    used = [numbers[i] for i in spread(len(numbers), SCENES)]
    chosen_scenes = [scenes[number] for number in used]
    chosen = [[prompts[number][i] for i in spread(len(prompts[number]), PER_SCENE)] for number in used]
    plans: list[list[Sample]] = []
    masks: list[tuple[Framing, _Masks]] = []
    for framing in (default, *(Framing(round(size / scale), scale) for scale in SCALES)):
        samples = plan_samples([(scene.width, scene.height) for scene in chosen_scenes], chosen, size, framing)
        if samples not in plans:
            plans.append(samples)
            found: dict[tuple[int, int], tuple[BoolMask, Origin]] = {}
            for sample in samples:
                found |= _coarse_masks(encoder, decoder, chosen_scenes[sample.scene], chosen[sample.scene], sample)
            masks.append((framing, found))
        advance()
    instances = sorted(masks[0][1])
    return [
        Candidate(
            framing, np.array([_agreement(own[key], [m[key] for _, m in masks if m is not own]) for key in instances])
        )
        for framing, own in masks
    ]


def best_framing(candidates: Sequence[Candidate]) -> Framing:
    """That of the best candidate; among equals the first, which is the default."""
    return max(candidates, key=lambda one: one.mean).framing


@torch.no_grad()
def _coarse_masks(
    encoder: ImageEncoder, decoder: PromptDecoder, scene: CocoScene, prompts: Sequence[Prompt], sample: Sample
) -> dict[tuple[int, int], tuple[BoolMask, Origin]]:
    """The coarse masks of one sample's prompts, in scene pixels."""
    device, size = encoder.pixel_mean.device, decoder.image_size
    members = [prompts[i] for i in sample.prompts]
    arrays = tile_arrays(scene.read(sample.tile), sample.tile, members, size)
    embedding = encoder(torch.from_numpy(arrays.image)[None].to(device))
    coords, labels = (torch.from_numpy(values).to(device) for values in (arrays.coords, arrays.labels))
    logits = decoder(embedding, coords, labels)[0].float().cpu().numpy()
    placed = (scene_mask(row, cells, sample.tile, size) for row, cells in zip(logits, grid_boxes(logits)))
    return {(sample.scene, i): (mask, origin) for i, (mask, origin, _) in zip(sample.prompts, placed)}


def _agreement(own: tuple[BoolMask, Origin], others: Sequence[tuple[BoolMask, Origin]]) -> float:
    return float(np.mean([mask_iou(*own, *other) for other in others])) if others else 0.0
