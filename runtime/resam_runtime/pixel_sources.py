"""Where a scene's pixels come from: OpenCV, which decodes an image at once, or rasterio, which reads windows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resam_runtime.errors import ResamError, one_line
from resam_runtime.georeference import Affine, georeference_of, georeferenced_beside
from resam_runtime.image_files import ImageHeader, file_header, read_header, without_orientation
from resam_runtime.upright import UprightSource

DECODE_LIMIT = 200_000_000
"""Pixels that OpenCV may decode at once; a larger scene needs rasterio, which reads windows."""
_CACHE_BYTES = 64 << 20

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
    """Pixels and what else the file, or one beside it, says: the transform, the CRS ("EPSG:n" or WKT), notes."""

    source: PixelSource
    transform: Affine | None = None
    crs: str | None = None
    notes: tuple[str, ...] = ()


def open_pixels(path: Path, bands: Sequence[int] | None, by_windows: bool) -> OpenedFile:
    """Open a file for its pixels; by_windows: with rasterio, if it is there. Raises ResamError, see `open_scene`."""
    opened = _open_raster(path, bands) if by_windows and has_rasterio() else _open_image(path, bands)
    header = file_header(path)
    if header is None:
        return opened
    if header.pages > 1:
        opened = replace(opened, notes=(*opened.notes, f"holds {header.pages} pages; only the first is read"))
    # a map's pixels are placed, and drawn, as they are stored
    if header.orientation != 1 and not (header.georeferenced or georeferenced_beside(path)):
        opened = replace(opened, source=UprightSource(opened.source, header.orientation))
    return opened


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
    def __init__(self, pixels: Array, valid: Array | None = None) -> None:
        self.height, self.width = pixels.shape[:2]
        self.dtype = pixels.dtype
        self._pixels: Array | None = pixels
        self._valid = valid

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        if self._pixels is None:
            raise ValueError("the scene is closed")
        view = self._pixels[y : y + height, x : x + width]
        valid = None if self._valid is None else self._valid[y : y + height, x : x + width]
        if out == (height, width):
            return view, valid
        import cv2

        if valid is not None:
            shrunk = cv2.resize(valid.view(np.uint8), (out[1], out[0]), interpolation=cv2.INTER_NEAREST)
            valid = shrunk.astype(bool)

        known = (np.uint8, np.uint16, np.int16, np.float32, np.float64)  # what cv2.resize takes
        wide = view if view.dtype in known else view.astype(np.float64)
        small = cv2.resize(wide, (out[1], out[0]), interpolation=cv2.INTER_AREA)
        return small.reshape(*out, -1), valid

    def sample(self, longest: int) -> tuple[Array, Array | None]:
        pixels, valid = self.window(0, 0, self.width, self.height, (self.height, self.width))
        step = math.ceil(max(self.width, self.height) / longest)
        return (
            pixels[::step, ::step].reshape(-1, pixels.shape[2]),
            None if valid is None else valid[::step, ::step].reshape(-1),
        )

    def close(self) -> None:
        self._pixels = self._valid = None


def _open_image(path: Path, bands: Sequence[int] | None) -> OpenedFile:
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    header = read_header(data)
    if header is not None:
        if not header.whole:
            raise ResamError(f"{path}: truncated {header.kind.upper()} file")
        if header.zeroed:
            raise ResamError(f"{path}: damaged JPEG file, part of it is zeros")
        if header.width * header.height > DECODE_LIMIT:
            if has_rasterio():  # GDAL reads these kinds too, line by line
                return _open_raster(path, bands)
            raise ResamError(
                f"{path}: {header.width} x {header.height} px is too large to decode at once; "
                "pip install 'resam[geo]' and convert it to a tiled GeoTIFF"
            )
        if header.orientation != 1:  # of all kinds OpenCV turns TIFF alone, maps too
            data = without_orientation(data)
    transform: Affine | None = None
    crs: str | None = None
    notes: tuple[str, ...] = ()
    if (header is not None and header.georeferenced) or georeferenced_beside(path):
        if has_rasterio():
            transform, crs, notes = _georeference(path)
        else:
            notes = ("georeference not read: pip install 'resam[geo]'",)
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
    return OpenedFile(_ArraySource(picked, _opaque(pixels, header, chosen)), transform, crs, notes)


def _opaque(pixels: Array, header: ImageHeader | None, chosen: Sequence[int]) -> Array | None:
    """(h, w) bool: where a decoded PNG is not fully transparent; None if it is so nowhere.

    OpenCV gives alpha as a fourth band, also to gray and to a palette, but not to gray of which one level is
    transparent. In a TIFF such a band may be infrared.
    """
    if header is None or header.kind != "png":
        return None
    opaque: Array
    if pixels.shape[2] == 1 and header.transparent is not None:
        opaque = pixels[..., 0] != header.transparent
    elif pixels.shape[2] == 4 and 4 not in chosen:
        opaque = pixels[..., 3] > 0
    else:
        return None
    return None if opaque.all() else opaque


# --- rasterio ----------------------------------------------------------------------------------------------------


class _RasterSource:
    def __init__(self, dataset: Any, bands: list[int], palette: Array | None) -> None:
        self.width, self.height = dataset.width, dataset.height
        self._dataset, self._bands, self._palette = dataset, bands, palette
        kind = dataset.dtypes[bands[0] - 1]
        # shown by its magnitude; numpy has no type for complex_int16 and complex_int32, which are read as complex64
        self._complex = kind.startswith("complex")
        self.dtype = np.dtype(np.float32 if self._complex else np.uint8 if palette is not None else kind)
        flags = [flag for band in bands for flag in dataset.mask_flag_enums[band - 1]]
        self._masked = any(flag.name != "all_valid" for flag in flags)

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        return self._read((x, y, width, height), out, smooth=self._palette is None and not self._complex)

    def sample(self, longest: int) -> tuple[Array, Array | None]:
        factor = min(1.0, longest / max(self.width, self.height))
        height, width = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        places = [((0, 0, self.width, self.height), (height, width))]
        # GDAL would take them from an overview, whose pixels may be means of many. Small windows are read from the
        # image itself, and few blocks with them. JPEG 2000 is all overviews, and too slow to read without.
        if factor < 1 and self._dataset.overviews(self._bands[0]) and not self._dataset.driver.startswith("JP2"):
            rows, columns = _spread(self.height, height), _spread(self.width, width)
            places = [((x, y, w, h), (h, w)) for y, h in rows for x, w in columns]
        parts = [self._read(place, out, smooth=False) for place, out in places]
        masks = [valid.reshape(-1) for _, valid in parts if valid is not None]  # of all parts or of none
        pixels = np.concatenate([part.reshape(-1, part.shape[2]) for part, _ in parts])
        return pixels, np.concatenate(masks) if masks else None

    def _read(self, place: tuple[int, int, int, int], out: tuple[int, int], smooth: bool) -> tuple[Array, Array | None]:
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        how = {
            "window": Window(*place),
            "out_shape": out,
            "resampling": Resampling.average if smooth and out != (place[3], place[2]) else Resampling.nearest,
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
            raise ResamError(f"{self._dataset.name}: cannot be read ({_cause(error)})") from None
        if self._complex:
            pixels = np.abs(pixels)
        if self._palette is not None:
            return self._palette[np.minimum(pixels[0], len(self._palette) - 1)], valid
        return np.moveaxis(pixels, 0, 2), valid

    def close(self) -> None:
        self._dataset.close()


def _spread(length: int, count: int) -> list[tuple[int, int]]:
    """Short spans (start, length), evenly over 0..length, that hold about `count` places together."""
    size = min(32, length)
    number = max(1, count // size)
    return [(round(i * (length - size) / max(1, number - 1)), size) for i in range(number)]


def _georeference(path: Path) -> tuple[Affine | None, str | None, tuple[str, ...]]:
    """That of an image whose pixels OpenCV decodes: where it lies makes no difference to them."""
    import rasterio

    try:
        with warnings.catch_warnings(), rasterio.Env():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as dataset:
                return georeference_of(dataset)
    except (rasterio.errors.RasterioError, OSError, UnicodeEncodeError) as error:
        return None, None, (f"georeference not read ({_cause(error)})",)


def _stack(how: dict[str, Any], count: int) -> dict[str, Any]:
    return {**how, "out_shape": (count, *how["out_shape"])}


def _open_raster(path: Path, bands: Sequence[int] | None) -> OpenedFile:
    import rasterio
    from rasterio.enums import ColorInterp

    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
            warnings.simplefilter("ignore")  # "no geotransform": a picture is a fine scene
            dataset = rasterio.open(path)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise ResamError(f"{path}: cannot be read ({_cause(error)})") from None
    except UnicodeEncodeError:
        raise ResamError(f"{path}: GDAL reads no file whose name is not UTF-8; rename it") from None
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
        return OpenedFile(_RasterSource(dataset, chosen, palette), *georeference_of(dataset))
    except BaseException:
        dataset.close()
        raise


def _cause(error: BaseException) -> str:
    # "Read failed. See previous exception for details.": so let us
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
