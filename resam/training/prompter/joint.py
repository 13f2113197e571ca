"""What the prompter is told of the trainer's tiles where both are taught together."""

from __future__ import annotations

import numpy as np
import torch

from resam.data.training_set import TrainingSet
from resam.model.prompter import Prompter
from resam.training.prompter.classes import ClickedClasses
from resam.training.prompter.embeddings import own_tiles
from resam.training.prompter.examples import Mirror
from resam.training.tile import Wanted
from resam_runtime.tiles.tiling import owned_windows


class JointTiles:
    """The tiles of a training set, by the numbers of its samples."""

    def __init__(self, samples: TrainingSet) -> None:
        self._samples, self._classes = samples, ClickedClasses(samples)

    def head(self) -> Prompter:
        """A prompter that knows nothing yet; as torch's generator draws it."""
        architecture = self._samples.architecture
        return Prompter(architecture.embedding_dim, len(self._classes), architecture.image_size, architecture.grid)

    def wanted(self, number: int, mirror: Mirror, device: torch.device) -> Wanted:
        """What the tile of sample `number`, mirrored or not, holds."""
        samples, sample = self._samples, self._samples.samples[number]
        classes = [self._classes.place(samples.prompts[sample.scene][i]) for i in sample.prompts]
        tile, size = sample.tile, samples.architecture.image_size
        tiles = own_tiles(samples.data.scenes[sample.scene], size, samples.framing)
        x0, y0, x1, y1 = owned_windows(tiles)[tiles.index(tile)].astype(float)
        across = _along(x0, x1, tile.x, tile.width, tile.scale, mirror[0])
        down = _along(y0, y1, tile.y, tile.height, tile.scale, mirror[1])
        return Wanted(torch.tensor(classes, device=device), (across[0], down[0], across[1], down[1]))


def _along(low: float, high: float, start: int, length: int, scale: float, flipped: bool) -> tuple[float, float]:
    """A stretch of the scene along one axis, in pixels of a tile; ends beyond it are cut off."""
    ends = np.clip([low - start, high - start], -1, length)
    a, b = ((ends + 0.5) * scale - 0.5).tolist()
    last = length * scale - 1
    return (last - b, last - a) if flipped else (a, b)
