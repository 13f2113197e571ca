"""What pretraining sees in a step: tiles of photographs and procedural images, and prompts drawn from exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resam.pretrain.photographs import LabelledTile, Source, photograph_tile
from resam.pretrain.procedural import generate
from resam.pretrain.recolour import recoloured, turned

PLACES = 3  # points of a prompt, at most
NUMBERS = (0.6, 0.25, 0.15)  # how often one, two and three of them are drawn
RECOLOURED = 0.6  # of the tiles
CENTRAL = 0.35  # of the positive points: people click the middle
NEGATIVE = 0.35  # of the points after the first


@dataclass
class Batch:
    """Images, and of each image's instances, one image after the other: masks, points and boxes."""

    images: torch.Tensor  # (B, S, S, 3) uint8
    masks: torch.Tensor  # (B * n, S, S) bool
    coords: torch.Tensor  # (B * n, 3, 2) float
    labels: torch.Tensor  # (B * n, 3) int
    boxes: torch.Tensor  # (B * n, 4) float, jittered


@dataclass(frozen=True)
class Shape:
    """Of a step: images of `side` pixels, so many of them, and so many instances of each."""

    side: int
    images: int
    instances: int


@dataclass(frozen=True)
class Mixture:
    """Where tiles come from. procedural: the share of procedural images, 1 where there are no sources."""

    sources: Sequence[Source]
    procedural: float

    def tile(self, side: int, rng: np.random.Generator) -> LabelledTile:
        """A tile, turned and mostly recoloured."""
        if rng.random() < self.procedural:
            drawn = generate(int(rng.integers(1 << 40, 1 << 62)), side)  # far from those held out
            tile = LabelledTile(drawn.image, drawn.masks)
        else:
            tile = photograph_tile(self.sources, side, rng)
        tile = turned(tile, rng)
        return LabelledTile(recoloured(tile.image, rng), tile.masks) if rng.random() < RECOLOURED else tile


class Batches(Dataset[Batch]):
    """The batch of every step, each drawn from the seed and its number alone: a run that goes on sees what it would
    have seen.

    shapes: of steps, with how often (weights) each is drawn.
    """

    def __init__(self, mixture: Mixture, shapes: Sequence[tuple[Shape, float]], seed: int) -> None:
        self._mixture, self._shapes, self._seed = mixture, shapes, seed

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self._seed, step))
        weights = np.array([weight for _, weight in self._shapes])
        shape = self._shapes[int(rng.choice(len(weights), p=weights / weights.sum()))][0]
        return make_batch([self._mixture.tile(shape.side, rng) for _ in range(shape.images)], shape.instances, rng)


def make_batch(tiles: Sequence[LabelledTile], instances: int, rng: np.random.Generator) -> Batch:
    """So many `instances` of each tile, the first mask always and some twice where there are fewer, and prompts."""
    masks, coords, labels, boxes = [], [], [], []
    for tile in tiles:
        count = len(tile.masks)
        order = np.concatenate(([0], 1 + rng.permutation(count - 1)))[np.arange(instances) % count]
        for index in order:
            mask = tile.masks[index]
            others = np.delete(tile.masks, index, axis=0)
            number = int(rng.choice(PLACES, p=NUMBERS)) + 1
            points, kinds = sample_points(mask, number, rng, others)
            masks.append(mask)
            coords.append(points)
            labels.append(kinds)
            boxes.append(jittered_box(mask, rng))
    return Batch(
        torch.from_numpy(np.stack([tile.image for tile in tiles])),
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(coords)),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(boxes)),
    )


def sample_points(
    mask: NDArray[np.bool_], number: int, rng: np.random.Generator, others: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`number` (1..3) points of a mask (S, S): coords (3, 2), labels (3,), the first positive; unused places hold -1.

    Some positive points lie in the middle of the mask. Some later points are negative: near the mask, anywhere, or on
    one of the `others` (N, S, S).
    """
    coords, labels = np.zeros((PLACES, 2), np.float32), np.full(PLACES, -1, np.int64)
    ys, xs = np.nonzero(mask)
    for place in range(number):
        if place and rng.random() < NEGATIVE:
            point = _negative(mask, ys, xs, rng, others)
            if point is not None:
                coords[place], labels[place] = point, 0
            continue
        within_y, within_x = _middle(mask) if rng.random() < CENTRAL else (ys, xs)
        at = rng.integers(len(within_x))
        coords[place], labels[place] = (within_x[at], within_y[at]), 1
    return coords, labels


def _middle(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels that are farthest from the mask's edge."""
    padded = np.pad(mask.view(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(distance >= 0.6 * distance.max())
    return rows, columns


def _negative(
    mask: NDArray[np.bool_],
    ys: NDArray[np.intp],
    xs: NDArray[np.intp],
    rng: np.random.Generator,
    others: NDArray[np.bool_] | None,
) -> tuple[int, int] | None:
    """A point (x, y) outside the mask, whose pixels are (ys, xs); None where the draw failed."""
    kind = rng.integers(0, 3)
    if kind == 0 and others is not None and len(others):
        rows, columns = np.nonzero(others[int(rng.integers(len(others)))] & ~mask)
        if not len(rows):
            return None
        at = rng.integers(len(rows))
        return int(columns[at]), int(rows[at])
    if kind == 1:
        x, y = rng.integers(mask.shape[1]), rng.integers(mask.shape[0])
    else:
        reach, at = 4 + int(len(xs) ** 0.5), rng.integers(len(xs))
        x, y = xs[at] + rng.integers(-reach, reach + 1), ys[at] + rng.integers(-reach, reach + 1)
    inside = 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]
    return (int(x), int(y)) if inside and not mask[y, x] else None


def jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator, share: float = 0.1) -> NDArray[np.float32]:
    """The tight box of a mask, (4,) float32, each side moved by up to about `share` of its length."""
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float32)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    return np.clip(box + rng.normal(0, share / 2, 4) * sides, 0, mask.shape[0] - 1).astype(np.float32)
