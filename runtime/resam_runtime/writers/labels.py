"""`NAME.labels.tif` or `.png`: a raster in which each pixel holds the number of its instance.

Value = `index` + 1 as in instances.json, 0 for no instance. Where instances overlap the higher score is on top. A scene
that is a raster file gives a GeoTIFF with its CRS, written in strips; any other a 16-bit PNG.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.masks.instance import Instance
from resam_runtime.writers.scene import SceneResult

_STRIP = 512  # px, two rows of GeoTIFF blocks


def write_labels(path: Path, scene: SceneResult) -> None:
    """Write the label raster; the suffix of `path` (.tif, .png) decides the kind.

    Raises OSError when the file cannot be written, ResamError for more instances than a PNG can number.
    """
    top = max((instance.index + 1 for instance in scene.instances), default=0)
    if path.suffix.lower() == ".png":
        if top > np.iinfo(np.uint16).max:
            raise ResamError(f"{path}: {top} instances do not fit 16 bits; leave labels out of --format")
        data = _png(scene)
    else:
        data = _geotiff(scene, np.dtype(np.uint16 if top <= np.iinfo(np.uint16).max else np.uint32))
    # The encoders work in memory (labels compress well): so a full disk is an error here, not a truncated file.
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _strips(scene: SceneResult, dtype: np.dtype[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(first row, labels (rows, width)) from top to bottom."""
    lowest_first: list[Instance] = sorted(scene.instances, key=lambda one: (one.score, -one.index))
    for top in range(0, scene.height, _STRIP):
        rows = min(_STRIP, scene.height - top)
        labels = np.zeros((rows, scene.width), dtype)
        for instance in lowest_first:
            (x, y), (height, width) = instance.origin, instance.mask.shape
            first, last = max(y, top), min(y + height, top + rows)
            if first < last:
                target = labels[first - top : last - top, x : x + width]
                target[instance.mask[first - y : last - y]] = instance.index + 1
        yield top, labels


def _png(scene: SceneResult) -> bytes:
    import cv2

    whole = np.concatenate([labels for _, labels in _strips(scene, np.dtype(np.uint16))])
    done, data = cv2.imencode(".png", whole)
    if not done:
        raise ResamError(f"{scene.name}: its labels cannot be encoded as PNG")
    return data.tobytes()


def _geotiff(scene: SceneResult, dtype: np.dtype[Any]) -> bytes:
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.windows import Window

    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": scene.width,
        "height": scene.height,
        "count": 1,
        "dtype": dtype.name,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    if min(scene.width, scene.height) >= 256:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if scene.crs is not None and scene.transform is not None:
        profile |= {"crs": scene.crs, "transform": rasterio.Affine(*scene.transform)}
    with MemoryFile() as memory:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=64 << 20):
            warnings.simplefilter("ignore")  # "no geotransform" for a plain TIFF
            with memory.open(**profile) as out:
                for top, labels in _strips(scene, dtype):
                    out.write(labels, 1, window=Window(0, top, scene.width, len(labels)))
        return bytes(memory.getbuffer())
