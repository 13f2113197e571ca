"""What gives a scene its pixels: a decoded image (`decoded`), or a raster read by windows (`raster`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.headers import ImageHeader
from resam_runtime.scenes.remote import RemoteFile

Array = npt.NDArray[Any]


class PixelSource(Protocol):
    """Pixels of chosen bands. `window` gives (h, w, bands) in the file's own type and (h, w) bool: has data."""

    width: int
    height: int
    dtype: np.dtype[Any]

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        """Window at (x, y), resampled to `out` = (height, width) by averaging where smaller."""
        ...

    def sample(self, longest: int) -> tuple[Array, Array | None]:
        """Single pixels from all over the scene, about `longest` of them along its longer side: (n, bands), (n,)."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class OpenedFile:
    """Pixels and what else the file, or one beside it, says: where it lies, notes (more may come as it is read), its
    header where it is of a kind that `headers` reads, and when it was taken (see `SceneInfo`)."""

    source: PixelSource
    georeference: Georeference | None = None
    notes: list[str] = field(default_factory=list)
    header: ImageHeader | None = None
    date: str | None = None


def choose_bands(path: Path | RemoteFile, count: int, bands: Sequence[int] | None, default: Sequence[int]) -> list[int]:
    """The bands asked for, else the default; `ResamError` for one that a file of `count` bands lacks."""
    chosen = list(bands or default)
    if max(chosen) > count:
        raise ResamError(f"{path}: has {count} band{'s' * (count > 1)}, band {max(chosen)} was requested; see --bands")
    return chosen
