"""At which score a peak is taken for an instance: chosen on images set aside, by their clicks alone.

A peak finds a click of its class that lies in its box; each click is found once, by the highest peak, and a second peak
on it is as wrong as one on nothing. So precision and recall need no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # scores at which a table says precision and recall
ENOUGH = 8  # clicks of a class on the images set aside, below which the threshold of all classes together is taken


@dataclass(frozen=True, eq=False)
class Clicked:
    """A scene set aside. Peaks, the highest first: scores (N,), boxes (N, 4), classes (N,). Clicks: (M, 2) and their
    classes (M,). In pixels of the scene."""

    scores: NDArray[np.floating]
    boxes: NDArray[np.floating]
    classes: NDArray[np.intp]
    clicks: NDArray[np.floating]
    click_classes: NDArray[np.intp]

    def found(self) -> NDArray[np.bool_]:
        """Which peaks find a click, (N,)."""
        free = np.ones(len(self.clicks), bool)
        hits = np.zeros(len(self.scores), bool)
        x, y = self.clicks.reshape(-1, 2).T
        for number, (x0, y0, x1, y1) in enumerate(self.boxes):
            own = free & (self.click_classes == self.classes[number]) & (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
            candidates = np.flatnonzero(own)
            if len(candidates):
                away = (x[candidates] - (x0 + x1) / 2) ** 2 + (y[candidates] - (y0 + y1) / 2) ** 2
                free[candidates[away.argmin()]] = False
                hits[number] = True
        return hits


@dataclass(frozen=True)
class Choice:
    """A class's threshold, and what it was chosen from: clicks set aside, and rows [score, precision, recall]."""

    threshold: float
    clicks: int
    table: tuple[tuple[float, ...], ...]


def choose_thresholds(scenes: Sequence[Clicked], classes: int, clicked: float = 1.0) -> list[Choice]:
    """For each class the score of the best F1 of clicks found. clicked: the share of instances that have a click; with
    fewer than all, so many more of the peaks are right than find a click."""
    hits = [scene.found() for scene in scenes]
    rows = np.array(
        [
            (score, number, hit)
            for scene, own in zip(scenes, hits)
            for score, number, hit in zip(scene.scores, scene.classes, own)
        ],
        float,
    ).reshape(-1, 3)
    wanted = np.concatenate([scene.click_classes for scene in scenes] or [np.empty(0, np.intp)])
    together = _best(rows[:, 0], rows[:, 2] > 0, len(wanted), clicked)
    choices = []
    for number in range(classes):
        own, count = rows[rows[:, 1] == number], int((wanted == number).sum())
        scores, found = own[:, 0], own[:, 2] > 0
        threshold = _best(scores, found, count, clicked) if count >= ENOUGH else together
        table = tuple((step, *_rates(scores, found, count, clicked, step)) for step in STEPS)
        choices.append(Choice(round(threshold, 4), count, table))
    return choices


def _rates(
    scores: NDArray[np.floating], found: NDArray[np.bool_], count: int, clicked: float, least: float
) -> tuple[float, float]:
    """Precision and recall of the peaks from a score on."""
    taken = scores >= least
    right = int((found & taken).sum())
    precision = min(1.0, right / max(1, int(taken.sum())) / clicked)
    return round(precision, 4), round(right / max(1, count), 4)


def _best(scores: NDArray[np.floating], found: NDArray[np.bool_], count: int, clicked: float) -> float:
    """The threshold of the best F1, half-way down to the next peak; 0.5 where no peak finds anything."""
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(found[order])
    if not len(scores) or not right[-1] or not count:
        return 0.5
    precision = np.minimum(1.0, right / np.arange(1, len(right) + 1) / clicked)
    recall = right / count
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax())
    lower = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float((scores[best] + lower) / 2)
