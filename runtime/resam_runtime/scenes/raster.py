"""Pixels of a raster that rasterio reads window by window: GeoTIFF, JPEG 2000 and what else GDAL knows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.scenes.georeference import Affine, georeference_of
from resam_runtime.scenes.headers import file_header
from resam_runtime.scenes.source import Array, OpenedFile, choose_bands

_CACHE_BYTES = 64 << 20


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


def read_georeference(path: Path) -> tuple[Affine | None, str | None, tuple[str, ...]]:
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


def open_raster(path: Path, bands: Sequence[int] | None) -> OpenedFile:
    """Open a file with rasterio; its pixels are read when they are asked for. Raises `ResamError`."""
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
        chosen = choose_bands(path, dataset.count, bands, default)
        palette = None
        if len(chosen) == 1 and colours[chosen[0] - 1] == ColorInterp.palette:
            entries = dataset.colormap(chosen[0])
            palette = np.zeros((max(entries) + 1, 3), np.uint8)
            for value, colour in entries.items():
                palette[value] = colour[:3]
        return OpenedFile(_RasterSource(dataset, chosen, palette), *georeference_of(dataset), file_header(path))
    except BaseException:
        dataset.close()
        raise


def _cause(error: BaseException) -> str:
    # "Read failed. See previous exception for details.": so let us
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
