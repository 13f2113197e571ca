"""Pixels of an image that OpenCV decodes at once: JPEG, PNG and the like, and TIFF where rasterio is not installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import has_rasterio
from resam_runtime.common.files import read_regular
from resam_runtime.scenes.georeference import Georeference, georeferenced_beside
from resam_runtime.scenes.headers import ImageHeader, read_header, without_orientation
from resam_runtime.scenes.raster import open_raster, read_georeference
from resam_runtime.scenes.source import Array, OpenedFile, choose_bands


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


def open_image(path: Path, bands: Sequence[int] | None, alpha: bool = True) -> OpenedFile:
    """Decode a file; one too large for that is read by windows, where rasterio is there. alpha: whether that of a PNG
    says where it is empty. Raises `ResamError`."""
    import cv2

    try:
        data = read_regular(path)
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    header = read_header(data)
    if header is None:
        raise ResamError(f"{path}: not a readable image, or damaged")
    if not header.whole:
        raise ResamError(f"{path}: truncated {header.kind.upper()} file")
    if header.zeroed:
        raise ResamError(f"{path}: damaged JPEG file, part of it is zeros")
    if header.too_large and has_rasterio():  # GDAL reads some of these kinds too, line by line
        return open_raster(path, bands, alpha)
    header.check_decodable(path)
    if header.orientation != 1:  # of all kinds OpenCV turns TIFF alone, maps too
        data = without_orientation(data)
    georeference: Georeference | None = None
    notes: list[str] = []
    if header.georeferenced or georeferenced_beside(path):
        if has_rasterio():
            georeference, notes = read_georeference(path)
        else:
            notes = ["georeference not read: pip install 'resam[geo]'"]
    try:
        # UNCHANGED keeps depth and bands, and ignores EXIF orientation
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ResamError(f"{path}: cannot be decoded ({error.err})") from None
    if pixels is None:
        raise ResamError(f"{path}: not a readable image, or damaged")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    count = pixels.shape[2]
    order = [2, 1, 0, *range(3, count)] if count >= 3 else list(range(count))  # OpenCV: blue first
    chosen = choose_bands(path, count, bands, (1, 2, 3) if count >= 3 else (1,))
    picked = np.ascontiguousarray(pixels[..., [order[band - 1] for band in chosen]])
    opaque = _opaque(pixels, header, chosen) if alpha else None
    return OpenedFile(_ArraySource(picked, opaque), georeference, notes, header)


def _opaque(pixels: Array, header: ImageHeader, chosen: Sequence[int]) -> Array | None:
    """(h, w) bool: where a decoded PNG is not fully transparent; None if it is so nowhere.

    OpenCV gives alpha as a fourth band, also to gray and to a palette, but not to gray of which one level is
    transparent. In a TIFF such a band may be infrared.
    """
    if header.kind != "png":
        return None
    opaque: Array
    if pixels.shape[2] == 1 and header.transparent is not None:
        opaque = pixels[..., 0] != header.transparent
    elif pixels.shape[2] == 4 and 4 not in chosen:
        opaque = pixels[..., 3] > 0
    else:
        return None
    return None if opaque.all() else opaque
