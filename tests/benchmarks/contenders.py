"""Contenders for tests: they answer at once, with masks that are known in advance."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from resam_benchmarks.measure.metrics import Crop
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.prompt_batch import PromptBatch


class Squares:
    """Answers each prompt with a square of `side` px around its first point, and sleeps `seconds` in the loop.

    Memory: `ballast_mb` as long as it lives, `loading_mb` while it is made, `prompt_mb` for each prompt while it
    answers, `coarse_mb` while its coarse masks are asked for.
    """

    def __init__(
        self,
        side: int = 9,
        seconds: float = 0.0,
        ballast_mb: int = 0,
        loading_mb: int = 0,
        prompt_mb: int = 0,
        coarse_mb: int = 0,
    ) -> None:
        self.side, self.seconds, self.prompt_mb, self.coarse_mb = side, seconds, prompt_mb, coarse_mb
        self.ballast = np.ones(ballast_mb << 17)
        np.ones(loading_mb << 17)

    def one_pass(self, image: Any) -> bool:
        return True

    def encode(self, image: Any) -> Any:
        return image.shape

    def loop(self, embedding: Any, points: PromptBatch) -> list[tuple[Crop, float]]:
        np.ones((self.prompt_mb * len(points)) << 17)
        time.sleep(self.seconds)
        return [(self._square(coords[0], self.side), 0.5) for coords in points.coords]

    def segment(self, image: Any, points: PromptBatch) -> Any:
        return self.loop(self.encode(image), points)

    def masks(self, result: Any) -> Any:
        return result

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        np.ones(self.coarse_mb << 17)
        return [self._square(coords[0], self.side + 2) for coords in points.coords]

    def automatic(self, image: Any) -> list[Crop]:
        return [self._square(np.array([20, 20]), self.side)]

    def graph_seconds(self) -> dict[str, float] | None:
        return {}

    def synchronize(self) -> None:
        pass

    def describe(self) -> str:
        return f"squares of {self.side} px in process {os.getpid()}"

    @staticmethod
    def _square(centre: Any, side: int) -> Crop:
        return Crop(np.ones((side, side), bool), (int(centre[0]) - side // 2, int(centre[1]) - side // 2))


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ResamError("model.resam: not an engine; export it again")


def add(held: Any, number: int) -> int:
    return number + 1


def fail(held: Any) -> None:
    raise KeyError("a defect")


def die(held: Any) -> None:
    os._exit(3)


def chatter(held: Any) -> str:
    print("a library prints this")
    os.system("echo and its children that")
    return "heard"


def threads(held: Any) -> int:
    import cv2

    return cv2.getNumThreads()


def touch(held: Any, megabytes: int) -> int:
    return int(np.ones(megabytes << 17).sum() > 0)
