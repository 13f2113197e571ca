"""Whether a run made things better or worse, without a mask: the agreement of views on clicks that were set aside.

A mask that depends on how the image is held, or on its scale, is mostly wrong; one that does not may still be. So a
fall of the agreement is a warning, and a rise is no proof. Coarse and final masks are judged alike: where the final
ones agree less, Requery makes masks worse.

agreement = mean over instances of w(p), p the mean over `VIEWS` of an instance's masks, w as in `resam.training.labels`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resam.data.tiles import Sample, tile_arrays
from resam.data.training_set import TrainingSet
from resam.training.labels import certainty
from resam.training.trainer import Trainer
from resam_runtime.tiles import averaged_views
from resam_runtime.tiles.averaged_views import Decoded, Window, decode_views

VIEWS = averaged_views.VIEWS[:4]
TILES = 8  # looked at, of the scenes set aside
FALL = 0.01  # of the agreement that is worth a warning


@dataclass(frozen=True)
class Agreement:
    """Means over `instances`, of the coarse and of the final masks."""

    coarse: float
    final: float
    instances: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by name."""
        return {"coarse": self.coarse, "final": self.final, "instances": self.instances}


def measure_aside(trainer: Trainer) -> Agreement | None:
    """The agreement of a trainer's averaged weights; None where nothing was set aside."""
    samples = trainer.samples
    chosen = samples.set_aside[:: -(-len(samples.set_aside) // TILES)] if samples.set_aside else []
    found: list[tuple[float, float]] = []
    with torch.no_grad(), trainer.averaged():
        for sample in chosen:
            coarse, final = (_probability(logits) for logits in _averaged(trainer, samples, sample))
            found += [(certainty(one), certainty(other)) for one, other in zip(coarse, final)]
    if not found:
        return None
    means = np.mean(found, axis=0)
    return Agreement(float(means[0]), float(means[1]), len(found))


def judge(before: Agreement | None, after: Agreement | None) -> list[str]:
    """What to tell of a run; nothing where it did no harm that shows."""
    if before is None or after is None:
        return []
    told = []
    clicks = f"on {after.instances} clicks set aside"
    if after.final < before.final - FALL:
        told.append(
            f"probably worse than the base: {clicks} its views agree to {after.final:.3f}, the base's to "
            f"{before.final:.3f}; give more clicks per object, or boxes as examples of its size"
        )
    if after.final < after.coarse - FALL:
        told.append(
            f"Requery probably makes masks worse: {clicks} views agree to {after.final:.3f} after it and to "
            f"{after.coarse:.3f} before; --set requery=none leaves it out, at half the time"
        )
    return told


def _averaged(
    trainer: Trainer, samples: TrainingSet, sample: Sample
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (N, M, M) of the mean of the views, of the coarse and of the final masks."""
    scene, size, device = samples.data.scenes[sample.scene], trainer.loop.decoder.image_size, trainer.fabric.device
    prompts = [samples.prompts[sample.scene][i] for i in sample.prompts]
    arrays = tile_arrays(scene.read(sample.tile), sample.tile, prompts, size)
    coarse: list[Decoded] = []

    def loop(window: Window, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
        embedding = trainer.encoder(torch.from_numpy(window.image(arrays.image))[None].to(device))
        out = trainer.loop(embedding, torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device))
        first, masks, *scores = (
            value.float().cpu().numpy() for value in (out.coarse_masks, out.masks, out.scores, out.coarse_scores)
        )
        coarse.append((first, scores[1], scores[1]))
        return masks, scores[0], scores[1]

    height, width = arrays.extent
    places = (arrays.coords, arrays.labels, (width, height), size, VIEWS)
    final = decode_views(loop, *places)[0]
    before = iter(coarse)  # asked for in the same order
    return decode_views(lambda *_: next(before), *places)[0], final


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)
