"""`NAME.labels.tif` or `.png`: a raster in which each pixel holds the number of its instance.

Value = `index` + 1 as in instances.json, 0 for no instance. Where instances overlap the higher score is on top. A scene
that is a raster file gives a GeoTIFF with its CRS, written in strips; any other a 16-bit PNG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError, counted
from resam_runtime.common.files import atomic_write
from resam_runtime.masks.instance import Instance
from resam_runtime.scenes.quiet_gdal import quiet_gdal
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers.writer import OutputOptions, SceneResult, SceneWriter

_STRIP = 512  # px, two rows of GeoTIFF blocks
_TOLD = 10


class LabelsWriter(SceneWriter):
    """Writes the label raster. Raises ResamError for more instances than a PNG can number."""

    name, files = "labels", "NAME.labels.tif or .png"
    suffixes = (".labels.tif", ".labels.png")

    def suffix(self, scene: SceneInfo) -> str:
        return self.suffixes[not scene.raster]

    def write(self, path: Path, result: SceneResult, options: OutputOptions) -> Sequence[str]:
        top = max((instance.index + 1 for instance in result.instances), default=0)
        seen = np.zeros(top + 1, bool)
        if path.suffix.lower() == ".png":
            if top > np.iinfo(np.uint16).max:
                raise ResamError(f"{path}: {top} instances do not fit 16 bits; leave labels out of --format")
            data = _png(result, seen)
        else:
            data = _geotiff(result, np.dtype(np.uint16 if top <= np.iinfo(np.uint16).max else np.uint32), seen)
        # The encoders work in memory (labels compress well): so a full disk is an error here, not a truncated file.
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        hidden = [str(one.called) for one in result.instances if not seen[one.index + 1]]
        if not hidden:
            return ()
        shown = ", ".join(hidden[:_TOLD]) + (", ..." if len(hidden) > _TOLD else "")
        return [f"labels: {counted(len(hidden), 'instance')} hidden by better ones: {shown}"]


def _strips(
    result: SceneResult, dtype: np.dtype[Any], seen: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(first row, labels (rows, width)) from top to bottom. seen: where labels that some pixel has are marked."""
    lowest_first: list[Instance] = sorted(result.instances, key=lambda one: (one.score, -one.index))
    scene = result.scene
    for top in range(0, scene.height, _STRIP):
        rows = min(_STRIP, scene.height - top)
        labels = np.zeros((rows, scene.width), dtype)
        for instance in lowest_first:
            (x, y), (height, width) = instance.origin, instance.mask.shape
            first, last = max(y, top), min(y + height, top + rows)
            if first < last:
                target = labels[first - top : last - top, x : x + width]
                target[instance.mask[first - y : last - y]] = instance.index + 1
        seen[labels] = True
        yield top, labels


def _png(result: SceneResult, seen: npt.NDArray[np.bool_]) -> bytes:
    import cv2

    whole = np.concatenate([labels for _, labels in _strips(result, np.dtype(np.uint16), seen)])
    done, data = cv2.imencode(".png", whole)
    if not done:
        raise ResamError(f"{result.scene.name}: its labels cannot be encoded as PNG")
    return data.tobytes()


def _geotiff(result: SceneResult, dtype: np.dtype[Any], seen: npt.NDArray[np.bool_]) -> bytes:
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.windows import Window

    scene, place = result.scene, result.scene.georeference
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
    if place is not None:
        profile |= {"crs": place.crs, "transform": rasterio.Affine(*place.transform)}
    with MemoryFile() as memory:
        with quiet_gdal(), memory.open(**profile) as out:
            for top, labels in _strips(result, dtype, seen):
                out.write(labels, 1, window=Window(0, top, scene.width, len(labels)))
        return bytes(memory.getbuffer())
