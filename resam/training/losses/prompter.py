"""The prompter's loss while the adapter is trained, so that the embedding learns to tell what was clicked.

    L = centres + boxes                        (`resam.training.prompter.losses`)

on the strong view. Centres and boxes are those of the pseudo-masks that the step teaches, each weighed as its mask is.
Of the tile only the part counts whose instances all belong to it: beyond lie those of its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from resam.model.prompter import box_corners, prompter_of
from resam.training.losses.term import Loss, TileSeen
from resam.training.prompter.losses import box_loss, centre_loss
from resam.training.prompter.targets import TileInstances, make_targets

if TYPE_CHECKING:
    from resam.training.options import TrainOptions


def _value(seen: TileSeen) -> torch.Tensor:
    head, wanted = None if seen.sam is None else prompter_of(seen.sam), seen.tile.wanted
    if head is None or wanted is None:
        return seen.embedding.new_zeros(())
    size, grid = head.image_size, round(head.image_size / head.cell)
    targets = make_targets(tile_instances(seen, wanted.classes, size, grid), head.classes, size, grid)
    x0, y0, x1, y1 = wanted.owned
    middles = (np.arange(grid) + 0.5) * head.cell - 0.5
    own = ((y0 <= middles) & (middles < y1))[:, None] & (x0 <= middles) & (middles < x1)
    heat, counted, boxes, weight = (
        torch.from_numpy(np.asarray(values, np.float32))[None].to(seen.embedding.device)
        for values in (targets.heat, targets.counted & (own | (targets.heat > 0)), targets.boxes, targets.weight)
    )
    logits, distances = head(seen.embedding)
    centres = centre_loss(logits, heat, counted, seen.options.clicked)
    return centres + box_loss(box_corners(distances.float(), head.cell), boxes, weight)


def tile_instances(seen: TileSeen, classes: torch.Tensor, size: int, grid: int) -> TileInstances:
    """What a step knows of the instances of its tile. size: S; grid: cells along a side of the heat maps. The centre of
    one is that of its box as far as that is to be trusted, else its click."""
    tile, pseudo = seen.tile, seen.pseudo
    first = (tile.labels == 1).to(torch.int).argmax(1)
    clicks = tile.coords[torch.arange(len(first), device=first.device), first]
    weights = pseudo.known.float() if tile.weight is None else pseudo.known * tile.weight
    boxes = torch.where(pseudo.known[:, None], pseudo.boxes.float(), clicks.repeat(1, 2))
    centres = weights[:, None] * (boxes[:, :2] + boxes[:, 2:]) / 2 + (1 - weights[:, None]) * clicks
    inside = F.adaptive_max_pool2d((pseudo.target > 0.5).float()[:, None], grid)[:, 0] > 0
    cell = size / pseudo.target.shape[-1]
    height, width = tile.extent
    found = (centres, boxes.clamp(-0.5, size - 0.5), classes, weights, inside & pseudo.known[:, None, None])
    middle, corners, numbers, trusted, cells = (array.detach().cpu().numpy() for array in found)
    extent = (round(height * cell), round(width * cell))
    return TileInstances(middle, corners, numbers, trusted, cells, extent)


def _weight(options: TrainOptions, progress: float) -> float:
    return options.prompter_joint if options.joint else 0.0


PROMPTER = Loss("prompter", "tile", _value, _weight)
