"""What travels through the pipeline: a scene with all that is known of it, and its tiles."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError, one_line, system_error
from resam_runtime.masks.instance import Instance
from resam_runtime.points import Prompt, Skipped
from resam_runtime.scenes.georeference import Affine
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.tiles.prompt_batch import PromptBatch
from resam_runtime.tiles.tiling import Tile
from resam_runtime.writers.summary import STAGES


@dataclass(eq=False)
class Job:
    """One scene on its way. Each stage owns it in turn; the channels hand it over."""

    file: SceneFile
    width: int = 0
    height: int = 0
    transform: Affine | None = None
    crs: str | None = None
    raster: bool = False
    overview: npt.NDArray[np.uint8] | None = None
    prompts: list[Prompt] = field(default_factory=list)
    batch: PromptBatch | None = None
    automatic: bool = False
    by_place: list[str | int | None] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_points: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    failure: str | None = None
    trace: str | None = None
    dropped: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def lack_points(self, note: str) -> None:
        """Note that the scene came without points, and was not searched for instances either."""
        self.notes.append(note)
        self.without_points = note

    def fail(self, error: Exception) -> None:
        """Remember the first failure. Errors that are no one's fault but ours keep their traceback."""
        if self.failure is not None:
            return
        if isinstance(error, ResamError):
            self.failure = str(error)
        elif isinstance(error, OSError):
            self.failure = system_error(error, self.file.path)
        elif isinstance(error, MemoryError):
            self.failure = f"{self.file.path}: not enough memory"
        else:
            self.failure = f"{self.file.path}: unexpected {type(error).__name__}: {one_line(error)}"
            self.trace = "".join(traceback.format_exception(error))
        self.instances, self.overview = [], None


@dataclass(eq=False)
class Work:
    """A tile to be segmented.

    image: prepared. indices: the tile's prompts, None to look for instances. valid: where the tile's window has data,
    None where everywhere.
    """

    job: Job
    tile: Tile
    image: npt.NDArray[np.uint8]
    indices: npt.NDArray[np.intp] | None
    valid: npt.NDArray[np.bool_] | None
