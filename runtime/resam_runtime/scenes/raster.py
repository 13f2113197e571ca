"""Pixels of a raster that rasterio reads window by window: GeoTIFF, JPEG 2000 and the other kinds that `gdal` opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.dates import date_of
from resam_runtime.scenes.gdal import GdalFile, open_dataset, open_remote
from resam_runtime.scenes.georeference import Georeference, georeference_of
from resam_runtime.scenes.headers import file_header
from resam_runtime.scenes.remote import RemoteFile
from resam_runtime.scenes.source import Array, OpenedFile, choose_bands

_LOOK, _LOOKS = 64, 4  # px, and windows along a side, of what is looked at of an alpha band


class _RasterSource:
    """bands: those read, from 1. colours: makes (bands, h, w) as they are read the (h, w, 3) uint8 RGB that they mean;
    None where bands are the pixels. alpha: the band that says what is empty, None if none does."""

    def __init__(
        self,
        path: Path | RemoteFile,
        file: GdalFile,
        bands: list[int],
        colours: Callable[[Array], Array] | None,
        alpha: int | None,
    ) -> None:
        dataset = file.dataset
        self.width, self.height = dataset.width, dataset.height
        self._path, self._file, self._bands, self._colours, self._alpha = path, file, bands, colours, alpha
        kind = dataset.dtypes[bands[0] - 1]
        # shown by its magnitude; numpy has no type for complex_int16 and complex_int32, which are read as complex64
        self._complex = kind.startswith("complex")
        self.dtype = np.dtype(np.float32 if self._complex else np.uint8 if colours is not None else kind)
        flags = {flag.name for band in bands for flag in dataset.mask_flag_enums[band - 1]}
        self._masked = bool(flags - {"all_valid", "alpha", "per_dataset"}) or (
            "per_dataset" in flags and "alpha" not in flags
        )

    def window(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> tuple[Array, Array | None]:
        return self._read((x, y, width, height), out, smooth=self._colours is None and not self._complex)

    def sample(self, longest: int) -> tuple[Array, Array | None]:
        factor = min(1.0, longest / max(self.width, self.height))
        height, width = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        places = [((0, 0, self.width, self.height), (height, width))]
        dataset = self._file.dataset
        with self._file.calls(self._file.notes):
            reduced = dataset.overviews(self._bands[0])
        # GDAL would take them from an overview, whose pixels may be means of many. Small windows are read from the
        # image itself, and few blocks with them. JPEG 2000 is all overviews, and too slow to read without.
        if factor < 1 and reduced and not dataset.driver.startswith("JP2"):
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
        dataset = self._file.dataset
        try:
            with self._file.calls(self._file.notes):
                pixels = dataset.read(self._bands, **_stack(how, len(self._bands)))
                # no data where no chosen band has any (zero in one band alone is a colour), or where alpha says so
                valid = None
                how["resampling"] = Resampling.nearest
                if self._masked:
                    masks = dataset.read_masks(self._bands, **_stack(how, len(self._bands)))
                    valid = (masks > 0).any(axis=0)
                if self._alpha is not None:
                    opaque = dataset.read(self._alpha, **how) > 0
                    valid = opaque if valid is None else opaque & valid
        except rasterio.errors.RasterioError as error:
            raise ResamError(f"{self._path}: cannot be read ({self._file.cause(error)})") from None
        if self._complex:
            pixels = np.abs(pixels)
        return np.moveaxis(pixels, 0, 2) if self._colours is None else self._colours(pixels), valid

    def note_measured_alpha(self) -> None:
        """Note where the alpha band looks like a measured one: many a program calls an infrared band so."""
        if self._alpha is None:
            return
        values = []
        for y, height in _looks(self.height):
            for x, width in _looks(self.width):
                values.append(self._alpha_at((x, y, width, height)).reshape(-1))
        seen = np.concatenate(values)
        seen = seen[seen != 0]
        if len(seen) and np.unique(seen, return_counts=True)[1].max() < len(seen) / 2:
            self._file.notes.append(
                f"band {self._alpha} is called alpha but varies like data; pixels where it is 0 count as no data "
                "(--no-alpha turns this off)"
            )

    def _alpha_at(self, place: tuple[int, int, int, int]) -> Array:
        import rasterio
        from rasterio.windows import Window

        try:
            with self._file.calls():
                return np.asarray(self._file.dataset.read(self._alpha, window=Window(*place)))
        except rasterio.errors.RasterioError:  # said where the pixels are read
            return np.empty(0, np.uint8)

    def close(self) -> None:
        self._file.close()


def _spread(length: int, count: int, size: int = 32) -> list[tuple[int, int]]:
    """Short spans (start, length), evenly over 0..length, that hold about `count` places together."""
    size = min(size, length)
    number = max(1, count // size)
    return [(round(i * (length - size) / max(1, number - 1)), size) for i in range(number)]


def _looks(length: int) -> list[tuple[int, int]]:
    return [(0, length)] if length <= _LOOK * _LOOKS else _spread(length, _LOOK * _LOOKS, _LOOK)


def read_georeference(path: Path) -> tuple[Georeference | None, list[str]]:
    """That of an image whose pixels OpenCV decodes: where it lies makes no difference to them."""
    try:
        file = open_dataset(path)
    except ResamError as error:
        return None, [f"georeference not read ({str(error).removeprefix(f'{path}: ')})"]
    try:
        with file.calls(file.notes):
            georeference, notes = georeference_of(file.dataset)
        return georeference, [*file.notes, *notes]
    finally:
        file.close()


def _stack(how: dict[str, Any], count: int) -> dict[str, Any]:
    return {**how, "out_shape": (count, *how["out_shape"])}


def open_raster(path: Path | RemoteFile, bands: Sequence[int] | None, alpha: bool = True) -> OpenedFile:
    """Open a file with rasterio; its pixels are read when they are asked for. alpha: whether a band that calls itself
    so is one, unless it is among `bands`. Raises `ResamError`."""
    from rasterio.enums import ColorInterp

    file = open_remote(path) if isinstance(path, RemoteFile) else open_dataset(path)
    try:
        with file.calls(file.notes):
            dataset = file.dataset
            if dataset.count == 0:
                raise ResamError(f"{path}: has no bands, only subdatasets; export the one you want")
            kinds = list(dataset.colorinterp)
            named = [_bands_called(kinds, names) for names in (_RGB, _CMYK)]
            plain = [index for index, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha or not alpha] or [1]
            rgb = named[0] or (plain[:3] if len(plain) >= 3 else plain[:1])
            inks = named[1] if bands is None and dataset.dtypes[0] in _INK_LEVELS else None
            chosen = choose_bands(path, dataset.count, bands, inks or rgb)
            colours: Callable[[Array], Array] | None = None
            if inks:
                colours = _inks_to_rgb
            elif len(chosen) == 1 and kinds[chosen[0] - 1] == ColorInterp.palette:
                colours = _palette(dataset, chosen[0])
            opaque = [index for index, kind in enumerate(kinds, 1) if kind == ColorInterp.alpha and index not in chosen]
            source = _RasterSource(path, file, chosen, colours, opaque[0] if alpha and opaque else None)
            georeference, notes = georeference_of(dataset)
            date = date_of(dataset)
        source.note_measured_alpha()
        file.notes += notes
        header = None if isinstance(path, RemoteFile) else file_header(path)
        return OpenedFile(source, georeference, file.notes, header, date)
    except BaseException:
        file.close()
        raise


_RGB, _CMYK = ("red", "green", "blue"), ("cyan", "magenta", "yellow", "black")
_INK_LEVELS = {"uint8": 255, "uint16": 65535}


def _bands_called(kinds: Sequence[Any], names: Sequence[str]) -> list[int] | None:
    found = [kind.name for kind in kinds]
    return [found.index(name) + 1 for name in names] if set(names) <= set(found) else None


def _inks_to_rgb(inks: Array) -> Array:
    """Cyan, magenta, yellow and black, (4, h, w), as the light that they leave."""
    left = 1 - inks.astype(np.float32) / _INK_LEVELS[inks.dtype.name]
    return np.moveaxis(np.rint(left[:3] * left[3] * 255).astype(np.uint8), 0, 2)


def _palette(dataset: Any, band: int) -> Callable[[Array], Array] | None:
    try:
        entries = dataset.colormap(band)
    except ValueError:  # the band calls itself one and comes without colours: gray
        return None
    table = np.zeros((max(entries, default=0) + 1, 3), np.uint8)
    for value, colour in entries.items():
        table[value] = colour[:3]
    return lambda pixels: table[np.minimum(pixels[0], len(table) - 1)]
