"""How good a mask is: IoU, boundary F-score, COCO's size classes, recall of proposals.

Masks are crops: a bool array (h, w) and the scene pixel (x, y) of its corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resam.data.coco import SIZES
from resam_runtime.masks.crops import mask_bounds, mask_iou

BOUNDARY_TOLERANCE = 2.0  # pixels of the scene


class Crop(NamedTuple):
    """A mask inside a scene. mask: (h, w) bool, may be empty; origin: scene pixel (x, y) of mask[0, 0]."""

    mask: NDArray[np.bool_]
    origin: tuple[int, int]

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(np.count_nonzero(self.mask))


def crop_of(mask: NDArray[np.bool_]) -> Crop:
    """The crop around the True pixels of a scene-size mask (H, W); a 0 x 0 crop where there are none."""
    bounds = mask_bounds(mask)
    if bounds is None:
        return Crop(np.zeros((0, 0), bool), (0, 0))
    x0, y0, x1, y1 = bounds
    return Crop(np.ascontiguousarray(mask[y0:y1, x0:x1]), (x0, y0))


def size_class(area: int) -> str:
    """COCO's class of an instance by its true area in pixels: "small", "medium" or "large"."""
    return next(name for name, (low, high) in SIZES.items() if low <= area < high)


def iou(one: Crop, other: Crop) -> float:
    """Intersection over union, 0 to 1."""
    return mask_iou(one.mask, one.origin, other.mask, other.origin)


def boundary_f(found: Crop, truth: Crop, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """Boundary F-score, 0 to 1: 2 P R / (P + R).

    P: the share of boundary pixels of `found` within `tolerance` px (Euclidean) of one of `truth`; R: the reverse
    (Martin et al. 2004; Perazzi et al. 2016, with a fixed tolerance, since the objects here are small). A boundary
    pixel is one of the mask with one of its four neighbours outside. 0 where either mask is empty.
    """
    if not found.area or not truth.area:
        return 0.0
    margin = math.ceil(tolerance) + 1
    lows = np.minimum(found.origin, truth.origin) - margin
    ends = [(c.origin[0] + c.mask.shape[1], c.origin[1] + c.mask.shape[0]) for c in (found, truth)]
    width, height = np.max(ends, axis=0) + margin - lows
    edges = []
    for crop in (found, truth):
        canvas = np.zeros((height, width), bool)
        x, y = crop.origin - lows
        canvas[y : y + crop.mask.shape[0], x : x + crop.mask.shape[1]] = crop.mask
        edges.append(_boundary(canvas))
    precision = np.mean(_distance_to(edges[1])[edges[0]] <= tolerance + 1e-3)
    recall = np.mean(_distance_to(edges[0])[edges[1]] <= tolerance + 1e-3)
    total = float(precision + recall)
    return float(2 * precision * recall / total) if total else 0.0


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask (its rim is False everywhere) with one of their four neighbours outside."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inner


def _distance_to(edge: NDArray[np.bool_]) -> NDArray[np.float32]:
    """For each pixel its distance in px to the nearest True pixel of `edge`."""
    import cv2

    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)


def recall_at(proposals: Sequence[Crop], truths: Sequence[Crop], threshold: float = 0.5) -> list[bool]:
    """For each true mask whether a proposal of its own reaches `threshold` IoU.

    A proposal may answer for one true mask only; pairs are taken greedily from the highest IoU down.
    """
    pairs = [
        (overlap, t, p)
        for t, truth in enumerate(truths)
        for p, proposal in enumerate(proposals)
        if (overlap := iou(proposal, truth)) >= threshold
    ]
    found, used = [False] * len(truths), set()
    for _, t, p in sorted(pairs, reverse=True):
        if not found[t] and p not in used:
            found[t] = True
            used.add(p)
    return found
