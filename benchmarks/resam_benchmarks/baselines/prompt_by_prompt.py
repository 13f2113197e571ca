"""Refine and Requery around a predictor that answers one prompt at a time with a full-size mask.

So would a program on top of SAM's predictor, or of SAM's ONNX decoder, do it: logits of every instance at scene
resolution, overlaps and boxes there, a second call with the box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.measure.contender import Image
from resam_benchmarks.measure.metrics import Crop, crop_of
from resam_runtime.tiles.prompt_batch import PromptBatch


@dataclass(frozen=True)
class LoopSettings:
    """What a manifest says about Refine and Requery; every rival follows it. threshold: `refine_logit(tau)`."""

    tau: float
    threshold: float
    requery: str = "box+points"
    rounds: int = 1


@dataclass(frozen=True, eq=False)
class OnePrompt:
    """Points (P, 2) and labels (P,) of one instance, or None, and its box (4,), or None; scene pixels."""

    coords: NDArray[np.float32] | None
    labels: NDArray[np.int32] | None
    box: NDArray[np.float32] | None = None


class PromptByPrompt(ABC):
    """See `Contender`; a subclass says how to encode and how to answer one prompt."""

    settings: LoopSettings

    @abstractmethod
    def encode(self, image: Image) -> Any:
        """See `Contender`."""

    @abstractmethod
    def predict(self, embedding: Any, prompt: OnePrompt) -> tuple[NDArray[np.float32], float]:
        """Logits (H, W) at scene resolution and the score of one instance."""

    def one_pass(self, image: Image) -> bool:
        """Always: an image of any size is scaled into one tile, as SAM's predictor does it."""
        return True

    def loop(self, embedding: Any, points: PromptBatch) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Full-size masks (N, H, W) bool and scores (N,)."""
        prompts = _prompts(points)
        logits, scores = self._predict_all(embedding, prompts)
        for _ in range(0 if self.settings.requery == "none" else self.settings.rounds):
            boxes, found = refined_boxes(logits, self.settings.threshold)
            again = [
                prompt
                if not has_box
                else OnePrompt(None, None, box)
                if self.settings.requery == "box"
                else OnePrompt(prompt.coords, prompt.labels, box)
                for prompt, box, has_box in zip(prompts, boxes, found)
            ]
            logits, scores = self._predict_all(embedding, again)
        return logits > 0, scores

    def segment(self, image: Image, points: PromptBatch) -> Any:
        """See `Contender`."""
        return self.loop(self.encode(image), points)

    def masks(self, result: Any) -> list[tuple[Crop, float]]:
        """See `Contender`."""
        return [(crop_of(mask), float(score)) for mask, score in zip(*result)]

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        """See `Contender`."""
        return [crop_of(mask) for mask in self._predict_all(embedding, _prompts(points))[0] > 0]

    def graph_seconds(self) -> dict[str, float] | None:
        """Not told apart: the work around the network lies between its parts, or inside the graph."""
        return None

    def _predict_all(self, embedding: Any, prompts: list[OnePrompt]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        answers = [self.predict(embedding, prompt) for prompt in prompts]
        return np.stack([logits for logits, _ in answers]), np.array([score for _, score in answers], np.float32)


CRUMBS = 0.15  # as in `resam.model.refine_requery`, which a worker would import torch for


def refined_boxes(logits: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Tight boxes of the pixels that one instance alone keeps.

    logits: (N, H, W) at scene resolution. Returns (N, 4) x0, y0, x1, y1, outer pixels included (zeros where nothing, or
    nothing but crumbs, is left), and (N,) whether anything is.
    """
    kept = np.asarray(logits > threshold, np.bool_)
    before = kept.sum(axis=(1, 2))
    kept &= kept.sum(axis=0) == 1
    columns, rows = (np.asarray(kept.any(axis=axis), np.bool_) for axis in (1, 2))
    found = columns.any(axis=1) & (kept.sum(axis=(1, 2)) >= CRUMBS * before)
    lows = [columns.argmax(axis=1), rows.argmax(axis=1)]
    highs = [profile.shape[1] - 1 - profile[:, ::-1].argmax(axis=1) for profile in (columns, rows)]
    return (np.stack([*lows, *highs], axis=1) * found[:, None]).astype(np.float32), found


def _prompts(points: PromptBatch) -> list[OnePrompt]:
    return [OnePrompt(c[marks >= 0], marks[marks >= 0]) for c, marks in zip(points.coords, points.labels)]
