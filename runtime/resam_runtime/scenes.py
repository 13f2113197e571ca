"""Scenes: one input image of any size and type, read window by window as uint8 RGB.

A scene is what lies in the file: EXIF orientation is ignored, since points and annotations count stored pixels.
TIFF and other rasters are read by rasterio where it is installed (windows, nodata, georeference), everything else and
TIFF without rasterio by OpenCV, which decodes the whole image at once.

Bands become RGB as follows: `bands` picks them (1-based, one for gray or three); without it the bands that call
themselves red, green, blue, else the first three, else the first as gray. Alpha is dropped. Types other than uint8 are
stretched per band, percentiles 2 to 98 -> 0 to 255, computed once from a decimated read of the whole scene, so that
all its tiles share them. Nodata (and NaN, and pixels that a raster's mask or alpha marks as empty) become the mean
pixel, as padding does.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resam_runtime.errors import ResamError
from resam_runtime.image_files import read_header
from resam_runtime.letterbox import PAD_VALUE

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".vrt", ".img", ".ntf", ".nitf"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
SCENE_SUFFIXES = RASTER_SUFFIXES | IMAGE_SUFFIXES
DECODE_LIMIT = 200_000_000
"""Pixels that OpenCV may decode at once; a larger scene needs rasterio, which reads windows."""
EMPTY_PIXEL = PAD_VALUE
"""What a pixel without data becomes: the same that pads tiles."""
_SAMPLE = 1024
_CACHE_BYTES = 64 << 20

Affine = tuple[float, float, float, float, float, float]
Array = npt.NDArray[Any]


class _Source(Protocol):
    """Pixels of chosen bands. `window` gives (h, w, bands) in the file's own type and (h, w) bool: has data."""

    width: int
    height: int
    dtype: np.dtype[Any]

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        """Window at (x, y), resampled to `out` = (height, width) by averaging where smaller."""
        ...

    def close(self) -> None: ...


class Scene:
    """One open image. Not thread-safe: open, read and close it in one thread.

    name: how points files and outputs call it. width, height: px. crs: "EPSG:n" or WKT, None if not georeferenced.
    transform: (a, b, c, d, e, f), map x = a*u + b*v + c, map y = d*u + e*v + f, where (u, v) = (x + 0.5, y + 0.5) for
    pixel coordinates (x, y), whose integers are pixel centres. notes: what a user should know, one line each.
    """

    def __init__(
        self,
        source: _Source,
        *,
        path: Path,
        name: str,
        stretch: tuple[float, float] | None,
        transform: Affine | None = None,
        crs: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.path, self.name = path, name
        self.width, self.height = source.width, source.height
        self.transform = transform if crs is not None else None
        self.crs = crs if transform is not None else None
        self.notes = tuple(notes)
        self._source = source
        self._limits = None if source.dtype == np.uint8 or stretch is None else self._percentiles(stretch)

    @property
    def georeferenced(self) -> bool:
        """Whether pixel coordinates can be turned into map coordinates."""
        return self.crs is not None and self.transform is not None

    def read(self, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Window (height, width, 3) uint8 RGB whose first pixel is (x, y).

        Raises ValueError for a window that leaves the scene, ResamError when the file cannot be read.
        """
        if min(x, y) < 0 or min(width, height) < 1 or x + width > self.width or y + height > self.height:
            raise ValueError(f"window {x},{y} {width} x {height} leaves the scene of {self.width} x {self.height} px")
        return self._render(*self._source.window(x, y, width, height, (height, width)))

    def overview(self, longest: int) -> npt.NDArray[np.uint8]:
        """The whole scene, shrunk so that its longer side is at most `longest` px: (h, w, 3) uint8 RGB."""
        return self._render(*self._source.window(0, 0, self.width, self.height, self._decimated(longest)))

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

    def _percentiles(self, stretch: tuple[float, float]) -> list[tuple[float, float]]:
        pixels, valid = self._source.window(0, 0, self.width, self.height, self._decimated(_SAMPLE))
        limits = []
        for band in range(pixels.shape[2]):
            values = pixels[..., band].astype(np.float64)
            keep = np.isfinite(values) if valid is None else np.isfinite(values) & valid
            low, high = np.percentile(values[keep], stretch) if keep.any() else (0.0, 1.0)
            limits.append((float(low), float(high)))
        return limits

    def _render(self, pixels: Array, valid: Array | None) -> npt.NDArray[np.uint8]:
        if pixels.dtype.kind == "f":
            finite: Array = np.asarray(np.isfinite(pixels).all(axis=2))
            if not finite.all():
                valid = finite if valid is None else finite & valid
                pixels = np.where(finite[..., None], pixels, 0)
        if self._limits is not None:
            wide = np.float64 if pixels.dtype.itemsize > 4 else np.float32
            levels = np.empty(pixels.shape, np.uint8)
            for band, (low, high) in enumerate(self._limits):
                span = (high - low) or 1.0
                scaled = (pixels[..., band].astype(wide) - wide(low)) * wide(255.0 / span)
                levels[..., band] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
            pixels = levels
        elif pixels.dtype != np.uint8:
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        image = np.ascontiguousarray(pixels)
        if valid is not None and not valid.all():
            image = image if image.flags.writeable and image.base is None else image.copy()
            image[~valid] = EMPTY_PIXEL
        return image


def open_scene(
    path: str | os.PathLike[str],
    bands: Sequence[int] | None = None,
    stretch: tuple[float, float] | None = (2.0, 98.0),
    name: str | None = None,
) -> Scene:
    """Open an image file as a scene.

    bands: one (gray) or three (red, green, blue) 1-based band numbers. stretch: percentiles that become 0 and 255 where
    the type is not uint8; None clips values to 0..255. name: defaults to the file's name.

    Raises ResamError, one line with file and cause, for a missing, truncated or unknown file, bands that it lacks, and
    an image too large to be decoded at once.
    """
    path = Path(path)
    if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
        raise ResamError(f"bands {','.join(map(str, bands))}: give one or three band numbers, counted from 1")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    if not path.is_file():
        raise ResamError(f"{path}: not a file")
    if size == 0:
        raise ResamError(f"{path}: empty file")
    named = {"path": path, "name": name or path.name, "stretch": stretch}
    if path.suffix.lower() not in IMAGE_SUFFIXES and has_rasterio():
        return _open_raster(path, bands, named)
    return _open_image(path, bands, named)


def has_rasterio() -> bool:
    """Whether georeferenced scenes can be read here (`pip install resam[geo]`)."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def _choose(path: Path, count: int, bands: Sequence[int] | None, default: Sequence[int]) -> list[int]:
    chosen = list(bands or default)
    if max(chosen) > count:
        raise ResamError(f"{path}: has {count} band{'s' * (count > 1)}, band {max(chosen)} was asked for; see --bands")
    return chosen


# --- OpenCV ------------------------------------------------------------------------------------------------------


class _ArraySource:
    def __init__(self, pixels: Array) -> None:
        self.height, self.width = pixels.shape[:2]
        self.dtype = pixels.dtype
        self._pixels: Array | None = pixels

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        if self._pixels is None:
            raise ValueError("the scene is closed")
        view = self._pixels[y : y + height, x : x + width]
        if out == (height, width):
            return view, None
        import cv2

        known = (np.uint8, np.uint16, np.int16, np.float32, np.float64)  # what cv2.resize takes
        wide = view if view.dtype in known else view.astype(np.float64)
        small = cv2.resize(wide, (out[1], out[0]), interpolation=cv2.INTER_AREA)
        return small.reshape(*out, -1), None

    def close(self) -> None:
        self._pixels = None


def _open_image(path: Path, bands: Sequence[int] | None, named: dict[str, Any]) -> Scene:
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    header, notes = read_header(data), []
    if header is not None:
        if header.width * header.height > DECODE_LIMIT:
            if has_rasterio():  # GDAL reads these kinds too, line by line
                return _open_raster(path, bands, named)
            raise ResamError(
                f"{path}: {header.width} x {header.height} px is too large to decode at once; "
                "pip install 'resam[geo]' and convert it to a tiled GeoTIFF"
            )
        if not header.whole:
            raise ResamError(f"{path}: truncated {header.kind.upper()} file")
        if header.georeferenced:
            notes.append("georeference not read: pip install 'resam[geo]'")
    try:
        # UNCHANGED keeps depth and bands, and ignores EXIF orientation
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ResamError(f"{path}: cannot be decoded ({error.err})") from None
    if pixels is None:
        raise ResamError(f"{path}: not an image that can be read, or damaged")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    count = pixels.shape[2]
    order = [2, 1, 0, *range(3, count)] if count >= 3 else list(range(count))  # OpenCV: blue first
    chosen = _choose(path, count, bands, (1, 2, 3) if count >= 3 else (1,))
    picked = np.ascontiguousarray(pixels[..., [order[band - 1] for band in chosen]])
    return Scene(_ArraySource(picked), notes=notes, **named)


# --- rasterio ----------------------------------------------------------------------------------------------------


class _RasterSource:
    def __init__(self, dataset: Any, bands: list[int], palette: Array | None) -> None:
        self.width, self.height = dataset.width, dataset.height
        self._dataset, self._bands, self._palette = dataset, bands, palette
        kind = np.dtype(dataset.dtypes[bands[0] - 1])
        self._complex = kind.kind == "c"
        self.dtype = np.dtype(np.float32) if self._complex else np.dtype(np.uint8) if palette is not None else kind
        flags = [flag for band in bands for flag in dataset.mask_flag_enums[band - 1]]
        self._masked = any(flag.name != "all_valid" for flag in flags)

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        smooth = self._palette is None and not self._complex
        how = {
            "window": Window(x, y, width, height),
            "out_shape": out,
            "resampling": Resampling.average if smooth and out != (height, width) else Resampling.nearest,
        }
        try:
            with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
                pixels = self._dataset.read(self._bands, **_stack(how, len(self._bands)))
                # no data where no chosen band has any: zero in one band alone is a colour
                valid = None
                if self._masked:
                    how["resampling"] = Resampling.nearest
                    masks = self._dataset.read_masks(self._bands, **_stack(how, len(self._bands)))
                    valid = (masks > 0).any(axis=0)
        except rasterio.errors.RasterioError as error:
            raise ResamError(f"{self._dataset.name}: cannot be read ({_one_line(error)})") from None
        if self._complex:
            pixels = np.abs(pixels)
        if self._palette is not None:
            return self._palette[np.minimum(pixels[0], len(self._palette) - 1)], valid
        return np.moveaxis(pixels, 0, 2), valid

    def close(self) -> None:
        self._dataset.close()


def _stack(how: dict[str, Any], count: int) -> dict[str, Any]:
    return {**how, "out_shape": (count, *how["out_shape"])}


def _open_raster(path: Path, bands: Sequence[int] | None, named: dict[str, Any]) -> Scene:
    import rasterio
    from rasterio.enums import ColorInterp

    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
            warnings.simplefilter("ignore")  # "no geotransform": a picture is a fine scene
            dataset = rasterio.open(path)
            transform: Affine = tuple(float(value) for value in dataset.transform[:6])  # type: ignore[assignment]
    except (rasterio.errors.RasterioError, OSError) as error:
        raise ResamError(f"{path}: cannot be read ({_one_line(error)})") from None
    try:
        if dataset.count == 0:
            raise ResamError(f"{path}: holds no bands, only sub-datasets; export the one you mean")
        colours = dataset.colorinterp
        named_bands = [
            colours.index(colour) + 1
            for colour in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            if colour in colours
        ]
        plain = [index for index, colour in enumerate(colours, 1) if colour != ColorInterp.alpha] or [1]
        default = named_bands if len(named_bands) == 3 else plain[:3] if len(plain) >= 3 else plain[:1]
        chosen = _choose(path, dataset.count, bands, default)
        palette = None
        if len(chosen) == 1 and colours[chosen[0] - 1] == ColorInterp.palette:
            entries = dataset.colormap(chosen[0])
            palette = np.zeros((max(entries) + 1, 3), np.uint8)
            for value, colour in entries.items():
                palette[value] = colour[:3]
        crs, notes = None, []
        if dataset.crs:
            code = dataset.crs.to_epsg()
            crs = f"EPSG:{code}" if code else dataset.crs.to_wkt()
            if math.isclose(transform[0] * transform[4] - transform[1] * transform[3], 0.0, abs_tol=0.0) or (
                dataset.transform.is_identity
            ):
                crs = None
                notes.append("has a CRS but no usable geotransform: treated as not georeferenced")
        elif dataset.gcps[0]:
            notes.append("georeferenced by ground control points only: treated as not georeferenced; warp it first")
        return Scene(_RasterSource(dataset, chosen, palette), transform=transform, crs=crs, notes=notes, **named)
    except BaseException:
        dataset.close()
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
