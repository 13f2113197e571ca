"""What is measured: a rival that turns an image and points into masks, and the function that measures one scene.

A contender never looks at a clock; `measure_scene`, which runs beside it in its worker, does.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.measure import machine
from resam_benchmarks.measure.metrics import Crop
from resam_runtime.scenes.scene import open_scene
from resam_runtime.tiles.prompt_batch import PromptBatch

Image = NDArray[np.uint8]


class Contender(Protocol):
    """One rival, loaded. Image: (H, W, 3) uint8 RGB; points: the prompts of one scene, in its pixels."""

    def one_pass(self, image: Image) -> bool:
        """Whether the image is encoded in one go, so that encoder and loop can be told apart."""
        ...

    def encode(self, image: Image) -> Any:
        """From an image in memory to its embedding."""
        ...

    def loop(self, embedding: Any, points: PromptBatch) -> Any:
        """From embedding and points to the final masks at scene resolution, in the contender's own form."""
        ...

    def segment(self, image: Image, points: PromptBatch) -> Any:
        """Both, for an image that needs several tiles."""
        ...

    def masks(self, result: Any) -> list[tuple[Crop, float]]:
        """What `loop` or `segment` returned, as crops with scores; not measured."""
        ...

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        """The coarse masks; not measured."""
        ...

    def graph_seconds(self) -> dict[str, float] | None:
        """Seconds spent inside each network since the last call of this; None where that cannot be told."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what was asked."""
        ...

    def describe(self) -> str:
        """One line: library, device, threads, precision."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds of one scene. encoder + loop = whole; host: what of it is spent outside the graphs.

    Of a scene of several tiles (`tiled`), encoder counts the graph alone, since its host work is spread between the
    others. peak_bytes: most resident memory of the process meanwhile; where the kernel cannot forget older peaks, since
    its start.
    """

    whole: float
    encoder: float | None = None
    loop: float | None = None
    host: float | None = None
    tiled: bool = False
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Answer:
    """Masks of one scene, in the order of its prompts."""

    final: list[tuple[Crop, float]] = field(default_factory=list)
    coarse: list[Crop] = field(default_factory=list)


@functools.lru_cache(maxsize=1)  # the cases of one scene follow each other
def read_image(path: str) -> Image:
    """A whole scene as uint8 RGB, (H, W, 3)."""
    with open_scene(path) as scene:
        return scene.read(0, 0, scene.width, scene.height)


def measure_scene(
    contender: Contender, path: str, points: PromptBatch, want_masks: bool
) -> tuple[Timing, Answer | None]:
    """Time one scene, read beforehand; the masks are collected after clock and memory have been read."""
    image = read_image(path)
    machine.reset_peak_memory()
    embedding: Any = None
    encoder: float | None = None
    contender.graph_seconds()
    contender.synchronize()
    start = time.perf_counter()
    tiled = not contender.one_pass(image)
    if not tiled:
        embedding = contender.encode(image)
        contender.synchronize()
        encoder = time.perf_counter() - start
        result = contender.loop(embedding, points)
    else:
        result = contender.segment(image, points)
    contender.synchronize()
    whole = time.perf_counter() - start
    peak = machine.process_memory()["peak"]
    inside = contender.graph_seconds()
    if encoder is None and inside is not None:
        encoder = inside.get("encoder", 0.0)
    timing = Timing(
        whole,
        encoder,
        None if encoder is None else whole - encoder,
        None if inside is None else whole - sum(inside.values()),
        tiled,
        peak,
    )
    if not want_masks:
        return timing, None
    if embedding is None:
        embedding = contender.encode(image)
    return timing, Answer(contender.masks(result), contender.coarse(embedding, points))


def prepare_scene(contender: Contender, path: str) -> None:
    """Read a scene, so that no file is read on the clock or on the energy's bill."""
    read_image(path)


def find_masks(contender: Any, path: str) -> list[Crop]:
    """The instances that an engine proposes without points."""
    return list(contender.automatic(read_image(path)))


def describe_contender(contender: Contender) -> str:
    """The contender's own line about itself."""
    return contender.describe()
