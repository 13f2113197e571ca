"""Scenes: one input image of any size and type, read window by window as uint8 RGB.

A scene is what lies in the file: EXIF orientation is ignored, since points and annotations count stored pixels. A TIFF
without a place on the map is the exception, since every other program turns it too.
TIFF and other rasters are read by rasterio where it is installed (windows, nodata, georeference), everything else and
TIFF without rasterio by OpenCV, which decodes the whole image at once. Where it lies, if a world file or an .aux.xml
says so, rasterio tells of those too.

Bands become RGB as follows: `bands` picks them (1-based, one for gray or three); without it the bands that call
themselves red, green, blue, else the first three, else the first as gray. Alpha is no band of those. Complex values
count by their magnitude. Types other than uint8 are stretched per band, percentiles 2 to 98 -> 0 to 255, computed once
from up to a million single pixels of the whole scene, so that all its tiles share them. Nodata (and NaN, and pixels
that a raster's mask or the alpha of a raster or PNG marks as empty) become the mean pixel, as padding does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import has_rasterio
from resam_runtime.scenes.decoded import open_image
from resam_runtime.scenes.georeference import georeferenced_beside
from resam_runtime.scenes.raster import open_raster
from resam_runtime.scenes.remote import RemoteFile
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.scenes.source import Array, OpenedFile, PixelSource
from resam_runtime.scenes.upright import UprightSource
from resam_runtime.tiles.letterbox import PAD_VALUE

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".vrt", ".img", ".ntf", ".nitf"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
SCENE_SUFFIXES = RASTER_SUFFIXES | IMAGE_SUFFIXES
EMPTY_PIXEL = PAD_VALUE
"""What a pixel without data becomes: the same that pads tiles."""
_SAMPLE = 1024
_STRETCH = (2.0, 98.0)  # percentiles
_NO_DATA = (-9999.0, -99999.0, -32767.0, -32768.0, float(np.finfo(np.float32).min))
"""Numbers by which many a raster without a nodata tag means that there is none."""


class Scene:
    """One open image. Not thread-safe: open, read and close it in one thread.

    info: its name, size and place on the map; also as `name`, `width`, `height`.
    """

    def __init__(self, source: PixelSource, info: SceneInfo, path: Path | RemoteFile, notes: list[str]) -> None:
        self.path, self.info = path, info
        self.name, self.width, self.height = info.name, info.width, info.height
        self._source, self._notes = source, notes
        self._limits = None if source.dtype == np.uint8 else self._percentiles()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, one line each; more may come as the scene is read."""
        return tuple(self._notes)

    def read(self, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Window (height, width, 3) uint8 RGB whose first pixel is (x, y).

        Raises ValueError for a window that leaves the scene, ResamError when the file cannot be read.
        """
        return self.read_with_data(x, y, width, height)[0]

    def read_with_data(
        self, x: int, y: int, width: int, height: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
        """As `read`, and which of the window's pixels have data: (height, width) bool, None where all have."""
        if min(x, y) < 0 or min(width, height) < 1 or x + width > self.width or y + height > self.height:
            raise ValueError(f"window {x},{y} {width} x {height} leaves the scene of {self.width} x {self.height} px")
        return self._render(*self._source.window(x, y, width, height, (height, width)))

    def overview(self, longest: int) -> npt.NDArray[np.uint8]:
        """The whole scene, shrunk so that its longer side is at most `longest` px: (h, w, 3) uint8 RGB."""
        return self._render(*self._source.window(0, 0, self.width, self.height, self._decimated(longest)))[0]

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decimated(self, longest: int) -> tuple[int, int]:
        factor = min(1.0, longest / max(self.width, self.height))
        return max(1, round(self.height * factor)), max(1, round(self.width * factor))

    def _percentiles(self) -> list[tuple[float, float]]:
        # single pixels: in means of several the speckle is gone that the limits are to hold
        pixels, valid = self._source.sample(_SAMPLE)
        limits, note = [], ""
        for band in range(pixels.shape[1]):
            values = pixels[:, band].astype(np.float64)
            values = values[np.isfinite(values) if valid is None else np.isfinite(values) & valid]
            low, high = np.percentile(values, _STRETCH) if len(values) else (0.0, 1.0)
            limits.append((float(low), float(high)))
            note = note or _unsaid_no_data(values)
        self._notes += [note] if note else []
        return limits

    def _render(self, pixels: Array, valid: Array | None) -> tuple[npt.NDArray[np.uint8], Array | None]:
        if pixels.dtype.kind == "f":
            finite: Array = np.asarray(np.isfinite(pixels).all(axis=2))
            if not finite.all():
                valid = finite if valid is None else finite & valid
                pixels = np.where(finite[..., None], pixels, 0)
        if self._limits is not None:
            # float32 holds every value of a float32 file and of 16-bit integers, not those of wider integers
            wide = np.float32 if pixels.dtype == np.float32 or pixels.dtype.itemsize < 4 else np.float64
            levels = np.empty(pixels.shape, np.uint8)
            with np.errstate(over="ignore"):  # far beyond the percentiles is 0 or 255 all the same
                for band, (low, high) in enumerate(self._limits):
                    span = (high - low) or 1.0
                    scaled = (pixels[..., band].astype(wide) - wide(low)) * wide(255.0 / span)
                    levels[..., band] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
            pixels = levels
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        image = np.ascontiguousarray(pixels)
        if valid is None or valid.all():
            return image, None
        image = image if image.flags.writeable and image.base is None else image.copy()
        image[~valid] = EMPTY_PIXEL
        return image, valid


def _unsaid_no_data(values: npt.NDArray[np.float64]) -> str:
    """A note on a band's least value, where it is one that usually means no data and lies far below the others."""
    least = float(values.min(initial=0.0))
    share = np.count_nonzero(values == least) / max(1, len(values))
    if least not in _NO_DATA or share < 0.001 or (values[values > least] < least / 2).any():
        return ""
    return (
        f"{least:.10g} in {share:.0%} of its pixels counts as data, since the file does not mark it as no data; "
        f"gdal_edit.py -a_nodata {least:.10g} marks it"
    )


def open_scene(
    path: str | os.PathLike[str] | RemoteFile,
    bands: Sequence[int] | None = None,
    name: str | None = None,
    alpha: bool = True,
) -> Scene:
    """Open an image file, here or at a URL, as a scene.

    bands: one (gray) or three (red, green, blue) 1-based band numbers. name: defaults to the file's name. alpha:
    whether a band that calls itself alpha, and is none of `bands`, says where there is no data.

    Raises ResamError, one line with file and cause, for a missing, truncated or unknown file, bands that it lacks, and
    an image too large to be decoded at once.
    """
    path = path if isinstance(path, RemoteFile) else Path(path)
    if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
        raise ResamError(f"bands {','.join(map(str, bands))}: give one or three band numbers, counted from 1")
    if isinstance(path, RemoteFile):
        if not has_rasterio():
            raise ResamError(f"{path}: needs rasterio, which is not installed; pip install 'resam[geo]'")
        return _scene(open_raster(path, bands, alpha), path, name or Path(path.place).name, True)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    if not path.is_file():
        raise ResamError(f"{path}: not a file")
    if size == 0:
        raise ResamError(f"{path}: empty file")
    raster = path.suffix.lower() in RASTER_SUFFIXES and has_rasterio()
    return _scene(_open_pixels(path, bands, alpha), path, name or path.name, raster)


def _scene(opened: OpenedFile, path: Path | RemoteFile, name: str, raster: bool) -> Scene:
    source, place = opened.source, opened.georeference
    info = SceneInfo(name, source.width, source.height, place, raster or place is not None, opened.date)
    return Scene(source, info, path, opened.notes)


def _open_pixels(path: Path, bands: Sequence[int] | None, alpha: bool) -> OpenedFile:
    by_windows = path.suffix.lower() not in IMAGE_SUFFIXES and has_rasterio()
    opened = open_raster(path, bands, alpha) if by_windows else open_image(path, bands, alpha)
    header = opened.header
    if header is None:
        return opened
    if header.pages > 1:
        opened.notes.append(f"has {header.pages} pages; only the first is read")
    # a map's pixels are placed, and drawn, as they are stored
    if header.orientation != 1 and not (header.georeferenced or georeferenced_beside(path)):
        opened = replace(opened, source=UprightSource(opened.source, header.orientation))
    return opened
