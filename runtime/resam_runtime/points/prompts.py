"""A prompt: the points of one instance, its box, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resam_runtime.masks.instance import Category, FoundBy
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, POSITIVE


@dataclass(frozen=True, eq=False)
class Prompt:
    """What marks one instance of a scene: points, a box, or both.

    coords: (P, 2) float32 scene pixels, x first, pixel centres at integers. labels: (P,) int32, 1 on the instance,
    0 off it. id: what the points file calls the instance. category: its class, where the file gave one. by_place:
    whether it names no scene, and belongs to this one by its place on the map. box: (4,) float32 x0, y0, x1, y1, outer
    pixels included, or None.
    """

    coords: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.ones(1, np.int32))
    id: str | int | None = None
    category: Category | None = None
    by_place: bool = False
    box: npt.NDArray[np.float32] | None = None

    @property
    def found_by(self) -> FoundBy:
        return "points" if self.box is None else "box"

    @property
    def tokens(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """As the graphs take it: (K, 2) coordinates and (K,) labels, the corners of its box behind its points."""
        if self.box is None:
            return self.coords, self.labels
        corners = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32)
        return np.concatenate([self.coords, self.box.reshape(2, 2)]), np.concatenate([self.labels, corners])


ScenePoints = list[Prompt]


class Skipped(NamedTuple):
    """An instance that gets no mask: what the points file calls it, and why in a few words."""

    instance: str | int | None
    reason: str


def check_prompts(prompts: Sequence[Prompt], width: int, height: int) -> tuple[ScenePoints, list[Skipped]]:
    """Split prompts into those that can be decoded in a scene of width x height px, and the rest with its reasons.

    A prompt is left out that has neither points nor a box, no positive point and no box, or one outside the image
    (whose pixels reach from -0.5 to width - 0.5): half a prompt would give a mask that nobody asked for.
    """
    kept: ScenePoints = []
    skipped: list[Skipped] = []
    for prompt in prompts:
        coords, labels = prompt.tokens
        inside = inside_image(coords, width, height)
        if not len(coords):
            reason = "has no points"
        elif np.isnan(coords).any():
            reason = "a point has no position in the scene's coordinate reference system"
        elif not inside.all():
            at = int(np.argmin(inside))
            x, y = coords[at]
            what = "point" if labels[at] < BOX_TOP_LEFT else "box corner"
            reason = f"{what} {x:g}, {y:g} lies outside the image of {width} x {height} px"
        elif not (labels >= POSITIVE).any():
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
