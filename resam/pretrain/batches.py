"""What pretraining sees in a step: procedural images, turned and recoloured, with prompts drawn from exact masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from resam.pretrain.procedural import ProceduralImage


@dataclass
class Batch:
    """Images, and of each image's instances, one image after the other: masks, points and boxes."""

    images: torch.Tensor  # (B, S, S, 3) uint8
    masks: torch.Tensor  # (B * n, S, S) bool
    coords: torch.Tensor  # (B * n, 3, 2) float
    labels: torch.Tensor  # (B * n, 3) int
    boxes: torch.Tensor  # (B * n, 4) float, jittered


def augment(image: ProceduralImage, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A turned, mirrored and recoloured copy: (S, S, 3) uint8 and labels (S, S)."""
    pixels, labels = image.image, image.labels
    turns = int(rng.integers(0, 4))
    pixels, labels = np.rot90(pixels, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    pixels = pixels[..., rng.permutation(3)].astype(np.float32)
    if rng.random() < 0.2:
        pixels = 255 - pixels
    pixels = 255 * (pixels / 255) ** np.exp(rng.normal(0, 0.3))
    return pixels.astype(np.uint8), labels


def sample_batch(pool: list[ProceduralImage], count: int, instances: int, rng: np.random.Generator) -> Batch:
    """Draw `count` images with as many `instances` of each, some twice where it has fewer, and a prompt for each."""
    images, masks, coords, labels, boxes = [], [], [], [], []
    for index in rng.integers(0, len(pool), count):
        pixels, owner = augment(pool[index], rng)
        images.append(pixels)
        owners = pool[index].count
        for label in rng.permutation(owners)[np.arange(instances) % owners] + 1:
            mask = owner == label
            points, kinds = sample_points(mask, int(rng.choice(3, p=[0.6, 0.25, 0.15])) + 1, rng)
            masks.append(mask)
            coords.append(points)
            labels.append(kinds)
            boxes.append(jittered_box(mask, rng))
    return Batch(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(coords)),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(boxes)),
    )


def sample_points(mask: np.ndarray, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`number` (1..3) points of a mask (S, S) bool: coords (3, 2) float32, labels (3,), the first positive.

    Later points are negative, near the mask, one time in four. Unused places hold label -1.
    """
    coords, labels = np.zeros((3, 2), np.float32), np.full(3, -1, np.int64)
    ys, xs = np.nonzero(mask)
    for place in range(number):
        if place and rng.random() < 0.25:
            reach = 4 + int(math.sqrt(len(xs)))
            at = rng.integers(len(xs))
            x, y = xs[at] + rng.integers(-reach, reach + 1), ys[at] + rng.integers(-reach, reach + 1)
            if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and not mask[y, x]:
                coords[place], labels[place] = (x, y), 0
            continue
        at = rng.integers(len(xs))
        coords[place], labels[place] = (xs[at], ys[at]), 1
    return coords, labels


def jittered_box(mask: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """The tight box of a mask, (4,) float32, each side moved by up to about `share` of its length."""
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float32)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    return np.clip(box + rng.normal(0, share / 2, 4) * sides, 0, mask.shape[0] - 1).astype(np.float32)
