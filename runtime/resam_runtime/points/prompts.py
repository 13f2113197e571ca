"""A prompt: the points of one instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points of one instance of a scene.

    coords: (P, 2) float32 scene pixels, x first, pixel centres at integers. labels: (P,) int32, 1 on the instance,
    0 off it. id: what the points file calls the instance. category: COCO's number, where the file gave one. by_place:
    whether it names no scene, and belongs to this one by its place on the map.
    """

    coords: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.ones(1, np.int32))
    id: str | int | None = None
    category: int | None = None
    by_place: bool = False


ScenePoints = list[Prompt]


class Skipped(NamedTuple):
    """An instance that gets no mask: what the points file calls it, and why in a few words."""

    instance: str | int | None
    reason: str


def check_prompts(prompts: Sequence[Prompt], width: int, height: int) -> tuple[ScenePoints, list[Skipped]]:
    """Split prompts into those that can be decoded in a scene of width x height px, and the rest with its reasons.

    A prompt is left out that has no points, no positive one, or one outside the image (whose pixels reach from -0.5
    to width - 0.5): half a prompt would give a mask that nobody asked for.
    """
    kept: ScenePoints = []
    skipped: list[Skipped] = []
    for prompt in prompts:
        inside = inside_image(prompt.coords, width, height)
        if not len(prompt.coords):
            reason = "has no points"
        elif np.isnan(prompt.coords).any():
            reason = "a point has no place in the scene's coordinate reference system"
        elif not inside.all():
            x, y = prompt.coords[int(np.argmin(inside))]
            reason = f"point {x:g}, {y:g} lies outside the image of {width} x {height} px"
        elif not (prompt.labels == 1).any():
            reason = "has no positive point"
        else:
            kept.append(prompt)
            continue
        skipped.append(Skipped(prompt.id, reason))
    return kept, skipped


def inside_image(coords: npt.ArrayLike, width: int, height: int) -> npt.NDArray[np.bool_]:
    """(P,) bool: which of the coordinates (P, 2) lie on a pixel of an image of width x height px."""
    x, y = np.asarray(coords, np.float64).reshape(-1, 2).T
    return np.asarray((x >= -0.5) & (y >= -0.5) & (x < width - 0.5) & (y < height - 0.5))
