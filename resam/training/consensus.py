"""Pseudo-masks that the base agrees on with itself: the mean of its final masks over the views of each tile.

The views are those of `resam_runtime.tiles.averaged_views`. Only the base is asked, never the student: one that
teaches itself drifts. So the masks are the same in every epoch, and are made once, before the first.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from resam.data.tiles import Sample, tile_arrays
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery
from resam.training.options import TrainOptions
from resam.training.step import ChunkedDecoder
from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import atomic_write
from resam_runtime.tiles.averaged_views import Decoded, Window, decode_views

Masks = Mapping[tuple[int, int], NDArray[np.bool_]]
"""(M, M) each, by numbers of scene and prompt, on the grid of the sample's tile"""


@torch.no_grad()
def consensus_masks(
    base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric, advance: Callable[[], None] = lambda: None
) -> Masks:
    """The masks of every instance of `samples`.

    base: without LoRA. advance: called after each of the samples that this process looks at; several processes share
    them, and all get the masks of all.
    """
    encoder = ImageEncoder(base.sam).to(fabric.device)
    decoder = ChunkedDecoder(PromptDecoder(base.sam).to(fabric.device), options.chunk)
    loop = RefineRequery(decoder, options.tau, options.requery, options.rounds)  # type: ignore[arg-type]
    found: dict[tuple[int, int], NDArray[np.bool_]] = {}
    for sample in samples.samples[fabric.global_rank :: fabric.world_size]:
        with fabric.autocast():
            masks = _masks(encoder, loop, samples, sample)
        found |= {(sample.scene, prompt): mask for prompt, mask in zip(sample.prompts, masks)}
        advance()
    if fabric.world_size > 1:
        parts: list[dict[tuple[int, int], NDArray[np.bool_]]] = [{} for _ in range(fabric.world_size)]
        torch.distributed.all_gather_object(parts, found)
        found = {key: mask for part in parts for key, mask in part.items()}
    return found


def _masks(encoder: ImageEncoder, loop: RefineRequery, samples: TrainingSet, sample: Sample) -> NDArray[np.bool_]:
    """Those of one sample, (N, M, M)."""
    scene, size, device = samples.data.scenes[sample.scene], loop.decoder.image_size, encoder.pixel_mean.device
    prompts = [samples.prompts[sample.scene][i] for i in sample.prompts]
    arrays = tile_arrays(scene.read(sample.tile), sample.tile, prompts, size)

    def decode(window: Window, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
        embedding = encoder(torch.from_numpy(window.image(arrays.image))[None].to(device))
        out = loop(embedding, torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device))
        masks, scores, coarse = (value.float().cpu().numpy() for value in (out.masks, out.scores, out.coarse_scores))
        return masks, scores, coarse

    height, width = arrays.extent
    return decode_views(decode, arrays.coords, arrays.labels, (width, height), size)[0] > 0


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks, one bit a cell; `load_masks` reads them back."""
    keys = np.array(list(masks), np.int64).reshape(-1, 2)
    bits = np.stack([np.packbits(mask) for mask in masks.values()])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, keys=keys, bits=bits)


def load_masks(path: Path, grid: int) -> Masks:
    """Masks (grid, grid) that `save_masks` wrote. Raises `ResamError` for a file that is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys, bits = stored["keys"].tolist(), stored["bits"]
        masks = np.unpackbits(bits, axis=1, count=grid * grid).reshape(-1, grid, grid).astype(bool)
        return dict(zip(((scene, prompt) for scene, prompt in keys), masks, strict=True))
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ResamError(f"{path}: cannot be read ({one_line(error)}); start a new run") from None
