"""Pseudo-masks that the base agrees on with itself: the mean of its final masks over the views of each tile.

The views are those of `resam_runtime.tiles.averaged_views`. Only the base is asked, never the student: one that
teaches itself drifts. So the masks are the same in every epoch, and are made once, before the first. They stay soft:
`resam.training.labels` makes of them what is taught.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from resam.data.taught import SoftMask, SoftMasks
from resam.data.tiles import Sample, tile_arrays
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery
from resam.training.options import TrainOptions
from resam.training.step import ChunkedDecoder
from resam_runtime.points import Prompt
from resam_runtime.tiles.averaged_views import Decoded, Window, decode_views


@torch.no_grad()
def consensus_masks(
    base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric, advance: Callable[[], None] = lambda: None
) -> SoftMasks:
    """The masks of every instance of `samples`; of one with a box that was drawn around it, asked with that too.

    base: without LoRA. advance: called after each of the samples that this process looks at; several processes share
    them, and all get the masks of all.
    """
    encoder = ImageEncoder(base.sam).to(fabric.device)
    decoder = ChunkedDecoder(PromptDecoder(base.sam).to(fabric.device), options.chunk)
    loop = RefineRequery(decoder, options.tau, options.requery, options.rounds)  # type: ignore[arg-type]
    found: dict[tuple[int, int], SoftMask] = {}
    for sample in samples.samples[fabric.global_rank :: fabric.world_size]:
        prompts = [samples.with_box(sample.scene, i) for i in sample.prompts]
        with fabric.autocast():
            masks = view_masks(encoder, loop, samples, sample, prompts)
        found |= {(sample.scene, prompt): SoftMask.of(mask) for prompt, mask in zip(sample.prompts, masks)}
        advance()
    if fabric.world_size > 1:
        parts: list[dict[tuple[int, int], SoftMask]] = [{} for _ in range(fabric.world_size)]
        torch.distributed.all_gather_object(parts, found)
        found = {key: mask for part in parts for key, mask in part.items()}
    return found


def view_masks(
    encoder: ImageEncoder, loop: RefineRequery, samples: TrainingSet, sample: Sample, prompts: list[Prompt]
) -> NDArray[np.float32]:
    """The mean over the views of what the loop makes of prompts in one sample's tile: (N, M, M) in 0..1."""
    scene, size, device = samples.data.scenes[sample.scene], loop.decoder.image_size, encoder.pixel_mean.device
    arrays = tile_arrays(scene.read(sample.tile), sample.tile, prompts, size)

    def decode(window: Window, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
        embedding = encoder(torch.from_numpy(window.image(arrays.image))[None].to(device))
        out = loop(embedding, torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device))
        masks, scores, coarse = (value.float().cpu().numpy() for value in (out.masks, out.scores, out.coarse_scores))
        return masks, scores, coarse

    height, width = arrays.extent
    logits = decode_views(decode, arrays.coords, arrays.labels, (width, height), size)[0]
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)
