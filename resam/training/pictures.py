"""Pictures of the loop's stages: masks, points and boxes drawn on a tile, a colour per instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
_STEEPEST = 8.0  # logits are cut to this before they are upsampled: what Refine takes away is far below


def instance_colours(count: int) -> list[Colour]:
    """`count` bright colours (RGB), neighbours far apart in hue (steps of the golden angle)."""
    hues = (np.arange(count) * 0.618034 % 1.0 * 179).astype(np.uint8)
    hsv = np.stack((hues, np.full_like(hues, 200), np.full_like(hues, 255)), axis=-1).reshape(1, -1, 3)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] if count else np.zeros((0, 3), np.uint8)
    return [(int(r), int(g), int(b)) for r, g, b in rgb]


def draw_logits(
    panel: NDArray[np.uint8], logits: NDArray[Any], threshold: float, colours: Sequence[Colour]
) -> NDArray[np.uint8]:
    """A copy of `panel` (h, w, 3) with each mask of `logits` (N, M, M), upsampled over it, above `threshold`."""
    height, width = panel.shape[:2]
    return draw_masks(panel, [upsampled(one, width, height) > threshold for one in logits], colours)


def upsampled(logits: NDArray[Any], width: int, height: int) -> NDArray[np.float32]:
    """Logits (M, M') over a picture of width x height, bilinear."""
    cut = np.clip(logits.astype(np.float32), -_STEEPEST, _STEEPEST)
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def draw_masks(
    panel: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], colours: Sequence[Colour]
) -> NDArray[np.uint8]:
    """A copy of `panel` (h, w, 3) with masks (h, w) tinted and outlined."""
    drawn = np.ascontiguousarray(panel.copy())
    for mask, colour in zip(masks, colours):
        drawn[mask] = (0.55 * drawn[mask] + 0.45 * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colour, 1, cv2.LINE_AA)
    return drawn


def draw_points(
    panel: NDArray[np.uint8], coords: NDArray[Any], labels: NDArray[Any], colours: Sequence[Colour], radius: int = 3
) -> None:
    """Dots on `panel`, in place: coords (N, P, 2) in its pixels; labels (N, P): 1 coloured, 0 black, -1 none."""
    for own, kinds, colour in zip(coords, labels, colours):
        for (x, y), kind in zip(own, kinds):
            if kind >= 0:
                centre = (round(float(x)), round(float(y)))
                cv2.circle(panel, centre, radius, (255, 255, 255), -1, cv2.LINE_AA)
                cv2.circle(panel, centre, radius - 1, colour if kind else (0, 0, 0), -1, cv2.LINE_AA)


def draw_boxes(panel: NDArray[np.uint8], boxes: NDArray[Any], colours: Sequence[Colour]) -> None:
    """Outlines of boxes (N, 4) in pixels of `panel`, in place; a box of no width is left out."""
    for box, colour in zip(boxes, colours):
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        if x1 > x0:
            cv2.rectangle(panel, (x0, y0), (x1, y1), colour, 1, cv2.LINE_AA)
