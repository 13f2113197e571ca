"""One segmented instance, and what several of them do to each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resam_runtime.masks.crops import (
    BoolMask,
    Origin,
    Ring,
    crop_overlap,
    mask_bounds,
    mask_polygons,
    meeting_pairs,
)
from resam_runtime.masks.rle import encode_rle

FoundBy = Literal["points", "box", "prompter", "grid"]
"""What marked an instance: a person's or a file's points, a box, the engine's prompter, or the grid of --automatic."""


class Category(NamedTuple):
    """The class of an instance: COCO's number, its name, or both."""

    id: int | None = None
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Instance:
    """An instance of a scene, in scene pixels (pixel centres at integers).

    index: its place among the prompts (or among the proposals). score: predicted IoU of the final mask, 0 to 1;
    coarse_score: that of the coarse mask. mask: bool (h, w), cropped to its box; origin: the scene pixel (x, y)
    of mask[0, 0]. points: float32 (P, 2), labels: int32 (P,), the prompt without padding (a box prompt appears as
    two points labelled 2 and 3). scene_hw: (H, W). logits: float16 (h, w) mask logits where they were asked
    for (`exclusive`), else None. id, category: what the prompt says of it, None where it says nothing. found_by: what
    marked it.
    """

    index: int
    score: float
    coarse_score: float
    mask: BoolMask
    origin: Origin
    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    scene_hw: tuple[int, int]
    logits: NDArray[np.float16] | None = None
    id: str | int | None = None
    category: Category | None = None
    found_by: FoundBy = "points"

    @property
    def called(self) -> str | int:
        """Its id, else its number from 1."""
        return self.index + 1 if self.id is None else self.id

    @property
    def empty(self) -> bool:
        """Whether no pixel is in the mask. Such an instance keeps its place, so that results match prompts."""
        return self.mask.size == 0

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,) float32 x0, y0, x1, y1 of the mask, outer pixels included; zeros where it is empty."""
        if self.empty:
            return np.zeros(4, np.float32)
        (x, y), (height, width) = self.origin, self.mask.shape
        return np.array([x, y, x + width - 1, y + height - 1], np.float32)

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def polygons(self) -> list[list[Ring]]:
        """Every part of the mask, the largest first, as [outer ring, hole, ...]; see `masks.mask_polygons`."""
        return mask_polygons(self.mask, self.origin)

    @property
    def polygon(self) -> Ring:
        """The outer ring (K, 2) float64 of the mask's largest part; (0, 2) where it is empty."""
        polygons = self.polygons
        return polygons[0][0] if polygons else np.empty((0, 2))

    @property
    def rle(self) -> dict[str, Any]:
        """COCO's compressed RLE over the whole scene: {"size": [H, W], "counts": str}."""
        return encode_rle(self.mask, self.origin, self.scene_hw)

    def with_mask(self, mask: BoolMask) -> Instance:
        """The same instance with other pixels of the same crop in; the crop is tightened around them."""
        bounds = mask_bounds(mask)
        if bounds is None:
            blank = None if self.logits is None else np.zeros((0, 0), np.float16)
            return dataclasses.replace(self, mask=np.zeros((0, 0), bool), origin=(0, 0), logits=blank)
        x0, y0, x1, y1 = bounds
        return dataclasses.replace(
            self,
            mask=np.ascontiguousarray(mask[y0:y1, x0:x1]),
            origin=(self.origin[0] + x0, self.origin[1] + y0),
            logits=None if self.logits is None else np.ascontiguousarray(self.logits[y0:y1, x0:x1]),
        )


def make_exclusive(instances: Sequence[Instance]) -> list[Instance]:
    """Give each pixel to one instance: the one of the highest logit there, or of the highest score.

    Logits of one network at one scale are comparable, also between tiles; where any instance comes without, the
    scores decide for all (mixing both could leave a pixel to nobody). Ties go to the higher score, then to the
    earlier instance. Returns as many instances in the same order; one that loses every pixel is `empty`. Works on
    crops: two instances meet only where their boxes do.
    """
    kept = [instance.mask.copy() for instance in instances]
    comparable = all(instance.empty or instance.logits is not None for instance in instances)
    # The better instance of a pair first: on a tie the first keeps the pixel.
    order = sorted(range(len(instances)), key=lambda i: (-instances[i].score, i))
    rank = {index: place for place, index in enumerate(order)}
    filled = [i for i in order if not instances[i].empty]
    boxes = np.array([instances[i].box for i in filled]).reshape(-1, 4)
    for pair in meeting_pairs(boxes).tolist():
        a, b = sorted((filled[pair[0]], filled[pair[1]]), key=rank.__getitem__)
        first, second = instances[a], instances[b]
        overlap = crop_overlap(first.mask.shape, first.origin, second.mask.shape, second.origin)
        if overlap is None:
            continue
        contested = first.mask[overlap[0]] & second.mask[overlap[1]]
        if not contested.any():
            continue
        loses = np.zeros_like(contested)
        if comparable and first.logits is not None and second.logits is not None:
            loses = first.logits[overlap[0]] < second.logits[overlap[1]]
        kept[a][overlap[0]] &= ~(contested & loses)
        kept[b][overlap[1]] &= ~(contested & ~loses)
    return [
        instance if instance.empty or np.array_equal(mask, instance.mask) else instance.with_mask(mask)
        for instance, mask in zip(instances, kept)
    ]


def in_order(instances: Sequence[Instance], exclusive: bool) -> list[Instance]:
    """The instances by `index`; exclusive: after `make_exclusive`, without the logits that it compared."""
    ordered = sorted(instances, key=lambda instance: instance.index)
    if not exclusive:
        return ordered
    return [dataclasses.replace(instance, logits=None) for instance in make_exclusive(ordered)]
