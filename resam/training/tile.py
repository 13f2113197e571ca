"""A tile as a step sees it, and what its weak view teaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from resam.data.training_set import TileViews
from resam.model.refine_requery import LoopOutput


@dataclass(frozen=True)
class TileTensors:
    """A sample on the device.

    weak, strong: (1, S, S, 3) uint8. coords: (N, P, 2), labels: (N, P): the prompts as the teacher sees them. extent:
    height and width of the mask grid that are not padding. given: (N, M, M) in 0..1, masks to teach in place of the
    loop's: the true ones in supervised training, or a consensus. weight: (N,) what each of those counts; all alike
    without it. asked: (N, P) the labels that the student sees, -1 where a point is kept from it; the teacher's without
    it. own: (N,) bool, instances whose taught Requery asks with the student's own box. wanted: what the prompter is
    taught of the tile, where it is taught with the adapter.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    coords: torch.Tensor
    labels: torch.Tensor
    extent: tuple[int, int]
    given: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    asked: torch.Tensor | None = None
    own: torch.Tensor | None = None
    wanted: Wanted | None = None


class Wanted(NamedTuple):
    """The instances of a tile as the prompter is to find them. classes: (N,) int64, numbers of the heat maps. owned:
    x0, y0, x1, y1 in tile pixels: the part whose instances are all among these N; the rest is a neighbour's."""

    classes: torch.Tensor
    owned: tuple[float, float, float, float]


@dataclass(frozen=True)
class Pseudo:
    """What the weak view teaches: target (N, M, M) in 0..1, known (N,) bool: has a pseudo-label; boxes (N, 4);
    embeddings (N, C) of length 1, meaningful where known; output: the loop's. Where the weak view was not looked at the
    embeddings are (N, 0) and there is no output."""

    target: torch.Tensor
    known: torch.Tensor
    boxes: torch.Tensor
    embeddings: torch.Tensor
    output: LoopOutput | None


def to_device(view: TileViews, device: torch.device, grid: int, own_boxes: float = 0.0) -> TileTensors:
    """A sample's arrays as tensors; grid: M, side of the mask grid. own_boxes: the share of the instances whose taught
    Requery asks with the student's own box."""
    size = view.weak.image.shape[0]
    height, width = (math.ceil(side * grid / size) for side in view.weak.extent)
    given, weight, asked = (
        None if array is None else torch.from_numpy(array).to(device) for array in (view.given, view.weight, view.asked)
    )
    return TileTensors(
        weak=torch.from_numpy(view.weak.image)[None].to(device),
        strong=torch.from_numpy(view.strong)[None].to(device),
        coords=torch.from_numpy(view.weak.coords).to(device),
        labels=torch.from_numpy(view.weak.labels).to(device),
        extent=(height, width),
        given=given,
        weight=weight,
        asked=asked,
        own=torch.from_numpy(view.coins < own_boxes).to(device),
    )
