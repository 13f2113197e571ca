"""Peaks of the prompter's heat maps: where on a tile an instance is likely, of which class, and how large it is.

A peak is a cell that no neighbour of its class exceeds (CenterNet, arXiv 1904.07850, which needs no more). Of two peaks
whose boxes agree the higher one stays, whatever their classes: an object is of one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_OVERLAP = 0.6  # IoU of boxes beyond which two peaks are one object
MOST = 256  # peaks of a tile at most, the highest


@dataclass(frozen=True, eq=False)
class Peaks:
    """The peaks of one tile, the highest first.

    points: (N, 2) float32, the middle of each peak's cell. boxes: (N, 4) float32 x0, y0, x1, y1, inside the tile; both
    in tile pixels, pixel centres at integers. scores: (N,) float32 in 0..1. classes: (N,), numbers of the heat maps.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Peaks:
        return Peaks(self.points[rows], self.boxes[rows], self.scores[rows], self.classes[rows])


def find_peaks(
    heat: NDArray[np.float32],
    distances: NDArray[np.float32],
    image_size: int,
    extent: tuple[int, int],
    least: NDArray[np.floating] | float,
    most: int = MOST,
) -> Peaks:
    """The peaks of what the graph `prompter` says of one tile.

    heat: (K, H, W) logits; distances: (4, H, W) to left, top, right and bottom in tile pixels; image_size: S; extent:
    height and width of the tile that are not padding; least: the score that a peak must have, one for each class
    or (K,).
    """
    cell = image_size / heat.shape[-1]
    least = np.broadcast_to(np.asarray(least, np.float64), (len(heat),))
    rows, columns = (int(np.ceil(side / cell)) for side in extent)
    seen = heat[:, :rows, :columns]
    with np.errstate(divide="ignore"):
        limit = np.log(least) - np.log1p(-least)  # the logit of the least score
    number, row, column = np.nonzero((seen >= limit[:, None, None]) & (seen >= _around(seen)))
    scores = 1 / (1 + np.exp(-seen[number, row, column].astype(np.float64)))
    order = np.lexsort((column, row, number, -scores))[:most]
    number, row, column = number[order], row[order], column[order]
    points = (np.stack((column, row), axis=1) + 0.5) * cell - 0.5
    reach = distances[:, row, column].T
    high = np.array([extent[1], extent[0]], np.float64) - 0.5
    boxes = np.concatenate((points - reach[:, :2], points + reach[:, 2:]), axis=1)
    boxes = boxes.clip(-0.5, np.tile(high, 2))
    found = Peaks(
        np.minimum(points, high).astype(np.float32),
        boxes.astype(np.float32),
        scores[order].astype(np.float32),
        number.astype(np.intp),
    )
    return found[distinct(found.boxes, MAX_OVERLAP)]


def distinct(boxes: NDArray[np.floating], max_overlap: float) -> NDArray[np.intp]:
    """Greedily keep boxes (N, 4), in their order, whose IoU with one kept before is at most `max_overlap`: indices."""
    kept: list[int] = []
    for index, box in enumerate(boxes):
        if not kept or box_iou(box[None], boxes[kept]).max() <= max_overlap:
            kept.append(index)
    return np.array(kept, np.intp)


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of boxes (N, 4) and (M, 4), corners on the edges: (N, M); 0 where both are empty."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = sides.clip(0).prod(-1)
    either = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return np.asarray(both / np.maximum(either, 1e-9))


def _around(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of each cell's eight neighbours, (K, H, W)."""
    import cv2

    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    return np.stack([cv2.dilate(np.ascontiguousarray(one, np.float32), ring) for one in heat])
