"""A benchmark as data: who is measured, on what, how often, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resam_benchmarks.measure.metrics import Crop
from resam_runtime.masks.instance import Category
from resam_runtime.tiles.prompt_batch import PromptBatch


@dataclass(frozen=True)
class Rival:
    """A contender to be: its name in tables, the class that makes it ("package.module:Name") and what that is given.

    size_bytes: of its file(s) on disk; about: plain facts for the report (precision, base, adapter).
    """

    name: str
    factory: str
    options: Mapping[str, Any]
    size_bytes: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BenchScene:
    """A scene and the truth about it. truths, ids and categories run along the prompts; all empty where only time
    matters."""

    name: str
    path: str
    width: int
    height: int
    truths: Sequence[Crop] = ()
    ids: Sequence[int | str] = ()
    categories: Sequence[Category | None] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """One rival with one kind of prompt on a list of scenes.

    points: per scene its prompts; label: what the tables call them ("1 point", "64 prompts"); repeats: how often each
    scene is measured; graded: whether its masks are compared with the truth, in the first repeat.
    """

    rival: Rival
    label: str
    scenes: Sequence[BenchScene]
    points: Sequence[PromptBatch]
    repeats: int
    graded: bool

    @property
    def name(self) -> str:
        """Unique within a benchmark, and the same from run to run: what `compare` matches."""
        return f"{self.rival.name} · {self.label}"


class Turn(NamedTuple):
    """One measurement: which repeat, which scene, which case."""

    repeat: int
    scene: int
    case: int


def schedule(cases: Sequence[Case]) -> Iterator[Turn]:
    """The order of all measurements: repeat by repeat, scene by scene, all cases in turn.

    Every case meets each scene before any meets the next, and the one that goes first changes from scene to scene, so
    that a machine which warms up, throttles or is shared hurts all alike. Once each has been the first, they go round
    the other way, so that none always finds the caches and the heat that the same other one leaves.
    """
    most_repeats = max((case.repeats for case in cases), default=0)
    most_scenes = max((len(case.scenes) for case in cases), default=0)
    for repeat in range(most_repeats):
        for scene in range(most_scenes):
            rounds, first = divmod(repeat * most_scenes + scene, len(cases))
            for place in range(len(cases)):
                index = (first + (place if rounds % 2 == 0 else -place)) % len(cases)
                if repeat < cases[index].repeats and scene < len(cases[index].scenes):
                    yield Turn(repeat, scene, index)
