"""What a writer is: one kind of output, of each scene or of a whole run. `resam_runtime.writers.WRITERS` lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from resam_runtime.common.extras import check_installed
from resam_runtime.masks.instance import Instance
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers.record import Record

CrsChoice = Literal["wgs84", "source"]


@dataclass(frozen=True)
class OutputOptions:
    """What writers may be told; each names those it heeds in `Writer.options`.

    crs: coordinates of georeferenced scenes: WGS 84, or their own. simplify: tolerance of outlines, px; 0 keeps pixel
    edges. budget: bytes that `instances.json` may take, None: as many as it needs.
    """

    crs: CrsChoice = "wgs84"
    simplify: float = 0.5
    budget: int | None = None


@dataclass(frozen=True)
class RunInfo:
    """What files of a whole run say of it: nothing about when and where, so that runs can be compared byte by byte.

    info: COCO's `info`, with the engine's digest. categories: COCO's, from the points file.
    """

    info: Mapping[str, Any]
    categories: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class SceneResult:
    """A segmented scene.

    instances: those with a mask, in prompt order. overview: (h, w, 3) uint8 RGB, the scene no larger than an overlay
    is, None where no writer asked for it.
    """

    scene: SceneInfo
    instances: Sequence[Instance]
    overview: npt.NDArray[np.uint8] | None = field(default=None, repr=False)


class Writer(ABC):
    """One kind of output.

    name: its word in --format. files: what it writes, for help and errors. default: whether it is written when
    --format is not given. options: the names of the `OutputOptions` it heeds. extra, packages: what it needs besides
    the base install.
    """

    name: ClassVar[str]
    files: ClassVar[str]
    default: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def check(self, run: RunInfo, options: OutputOptions) -> None:
        """ResamError, before anything is written, for a package that is not installed or options that cannot be met."""
        check_installed(f"--format {self.name}", self.extra, *self.packages)


class SceneWriter(Writer):
    """A file of each scene. suffixes: those it may have behind the scene's stem."""

    suffixes: ClassVar[tuple[str, ...]]
    needs_overview: ClassVar[bool] = False

    def suffix(self, scene: SceneInfo) -> str:
        """That of one scene's file."""
        return self.suffixes[0]

    @abstractmethod
    def write(self, path: Path, result: SceneResult, options: OutputOptions) -> Sequence[str]:
        """Write the file, whole or not at all; returns notes on what of the scene is not in it.

        Raises OSError, and ResamError where the format cannot hold the scene.
        """


class RunWriter(Writer):
    """One file of a whole run, named `files`, written at its end and fed record by record."""

    @abstractmethod
    def write(self, path: Path, records: Iterable[Record], run: RunInfo, options: OutputOptions) -> int:
        """Write the file, whole or not at all; returns how many instances it had to leave out.

        records: of the scenes that are done, by name; may be iterated over again, and memory holds one at a time.
        Raises OSError.
        """
