"""An engine file as a contender: the runtime as a user calls it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from resam_benchmarks.measure.contender import Image
from resam_benchmarks.measure.metrics import Crop
from resam_runtime import AutomaticOptions, Instance, Segmenter
from resam_runtime.tiles.prompt_batch import PromptBatch


class EngineContender:
    """`Segmenter` on one engine file, with a clock around the backend's `run`."""

    def __init__(self, path: str, device: str | None = None, threads: int | None = None, views: int = 1) -> None:
        # the grid, also of an engine with a prompter: `resam-bench find` measures that
        self._segmenter = Segmenter(path, device, threads, automatic=AutomaticOptions(), views=views)
        self._views = views
        # host time is what is left outside the graphs, and only the backend's boundary tells the two apart
        self._segmenter.backend = self._clock = _Clocked(self._segmenter.backend)

    def one_pass(self, image: Image) -> bool:
        """See `Contender`. Several views of a tile are encoded when its prompts need them."""
        return self._views == 1 and len(self._segmenter.tiles(image.shape[1], image.shape[0])) == 1

    def encode(self, image: Image) -> Any:
        """See `Contender`."""
        return self._segmenter.embed(image)

    def loop(self, embedding: Any, points: PromptBatch) -> list[Instance]:
        """See `Contender`."""
        return embedding.prompt(points.coords, points.labels, sizes=points.sides)

    def segment(self, image: Image, points: PromptBatch) -> list[Instance]:
        """See `Contender`."""
        return self._segmenter(image, points.coords, points.labels, sizes=points.sides)

    def masks(self, result: list[Instance]) -> list[tuple[Crop, float]]:
        """See `Contender`."""
        return [(_crop(instance), instance.score) for instance in result]

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        """See `Contender`."""
        return [_crop(instance) for instance in embedding.prompt(points.coords, points.labels, refine=False)]

    def automatic(self, image: Image) -> list[Crop]:
        """The instances that the engine proposes itself, best first."""
        return [_crop(instance) for instance in self._segmenter(image)]

    def graph_seconds(self) -> dict[str, float] | None:
        """See `Contender`."""
        spent, self._clock.seconds = dict(self._clock.seconds), defaultdict(float)
        return spent

    def synchronize(self) -> None:
        """Nothing to wait for: masks and scores arrive on the host, and so does the end of an encoding."""

    def describe(self) -> str:
        """See `Contender`."""
        return self._segmenter.describe()


class _Clocked:
    """A backend that adds up the time spent in it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        start = time.perf_counter()
        try:
            return self._backend.run(graph, inputs, outputs, keep)
        finally:
            self.seconds[graph] += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _crop(instance: Instance) -> Crop:
    return Crop(instance.mask, instance.origin)
