"""Masks in COCO's words: run lengths over the pixels of a scene, column by column, and polygons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.masks.crops import BoolMask, Origin

RLE_LIMIT = 1 << 32  # pixels; COCO's RLE counts them in 32 bits


def encode_rle(mask: BoolMask, origin: Origin, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed RLE of a crop inside a scene of size (H, W): {"size": [H, W], "counts": str}.

    The runs are computed from the crop (column by column, as COCO counts), so memory and time follow the
    crop, not the scene. Raises `ValueError` when the crop leaves the scene.
    """
    from pycocotools import mask as coco

    height, width = size
    if height * width >= RLE_LIMIT:
        raise ValueError(f"COCO's RLE counts pixels in 32 bits; a scene of {width} x {height} has too many")
    runs = rle_counts(mask, origin, size)
    rle = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def rle_counts(mask: BoolMask, origin: Origin, size: tuple[int, int]) -> NDArray[np.int64]:
    """The lengths of alternating runs (off first) over the scene's pixels in column order: int64 (R,)."""
    (x0, y0), (height, width) = origin, size
    rows, columns = mask.shape
    if x0 < 0 or y0 < 0 or x0 + columns > width or y0 + rows > height:
        raise ValueError(f"a crop of {columns} x {rows} px at ({x0}, {y0}) leaves the scene of {width} x {height} px")
    edges = np.zeros((columns, rows + 2), np.int8)
    edges[:, 1:-1] = mask.T
    steps = np.diff(edges, axis=1)
    starts, ends = (
        (x0 + column) * np.int64(height) + y0 + row for column, row in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    )
    # A run that ends at a column's foot continues at the next column's head: one run to COCO.
    joined = ends[:-1] == starts[1:]
    starts, ends = starts[np.append(True, ~joined)[: len(starts)]], ends[np.append(~joined, True)[: len(ends)]]
    borders = np.column_stack([starts, ends]).reshape(-1)
    total = height * width
    if not len(borders) or borders[-1] != total:
        borders = np.append(borders, total)
    return np.diff(borders, prepend=0)


def decode_rle(rle: Mapping[str, Any]) -> tuple[BoolMask, Origin]:
    """What `encode_rle` encoded, cropped to its pixels: a mask (h, w) and its origin; (0, 0) of an empty one.

    Memory follows the crop, not the scene. Raises `ResamError` for runs that do not fill the scene.
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if not _fills(runs, height * width):
        raise ResamError(f"RLE whose runs do not fill its {width} x {height} px")
    ends = np.cumsum(np.array(runs, np.int64))
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs of pixels that are in
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not len(starts):
        return np.zeros((0, 0), bool), (0, 0)
    first, last = starts // height, (ends - 1) // height
    columns_of = last - first + 1
    run = np.repeat(np.arange(len(starts)), columns_of)  # one entry for each column that a run reaches
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(columns_of) - columns_of, columns_of)
    top = np.where(column == first[run], starts[run] % height, 0)
    bottom = np.where(column == last[run], (ends[run] - 1) % height + 1, height)
    x, y = int(column.min()), int(top.min())
    steps = np.zeros((int(column.max()) - x + 1, int(bottom.max()) - y + 1), np.int8)
    np.add.at(steps, (column - x, top - y), 1)
    np.add.at(steps, (column - x, bottom - y), -1)
    return np.ascontiguousarray(np.cumsum(steps, axis=1)[:, :-1].T > 0), (x, y)


def decode_segmentation(annotation: Mapping[str, Any], height: int, width: int) -> BoolMask:
    """The mask (height, width) of a COCO annotation: polygons, compressed RLE or uncompressed RLE.

    `annotation` holds `segmentation`. Polygons are filled as pycocotools does. Raises `ResamError` naming the
    annotation when it holds none of the three, one of another size, or runs that do not fill it.
    """
    from pycocotools import mask as coco

    name = f"annotation {annotation.get('id', '?')}"
    if height * width >= RLE_LIMIT:
        raise ResamError(f"{name}: a mask of {width} x {height} px is beyond what COCO's RLE can count")
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping) and "counts" in segmentation:
        size = segmentation.get("size")
        if not isinstance(size, Sequence) or list(size) != [height, width]:
            raise ResamError(f"{name}: its RLE has size {size}, its image {[height, width]} (height, width)")
        rle: Any = {"size": [height, width], "counts": segmentation["counts"]}
        compressed = isinstance(rle["counts"], str | bytes)
        # pycocotools leaves what the runs do not fill as it finds it in memory
        if not _fills(_runs(rle["counts"]) if compressed else rle["counts"], height * width):
            raise ResamError(f"{name}: its RLE's runs do not fill its {width} x {height} px")
        if not compressed:
            rle = coco.frPyObjects({**rle, "counts": list(rle["counts"])}, height, width)
    elif isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes) and len(segmentation):
        polygons = [list(part) for part in segmentation if isinstance(part, Sequence) and len(part) >= 6]
        numbers = all(isinstance(v, int | float) and v == v and abs(v) < 1e9 for part in polygons for v in part)
        if not numbers:
            raise ResamError(f"{name}: its polygons hold something that is not a pixel coordinate")
        if not polygons or any(len(part) % 2 for part in polygons):
            raise ResamError(f"{name}: its polygons need at least three x, y pairs each")
        rle = coco.merge(coco.frPyObjects([_near(part, height, width) for part in polygons], height, width))
    else:
        raise ResamError(f"{name}: no segmentation (expected polygons or RLE)")
    try:
        return np.asarray(coco.decode(rle), bool)
    except (TypeError, ValueError) as error:
        raise ResamError(f"{name}: its RLE cannot be decoded ({one_line(error)})") from None


def _near(polygon: list[float], height: int, width: int) -> list[float]:
    """The polygon x, y, x, y ... as it is, or cut off beyond the image's own width and height on each side of it: it
    covers the same pixels, and pycocotools, which walks along its lines in 32 bits, survives it.

    Cut along one side of the box after the other (Sutherland and Hodgman, 1974).
    """
    points = np.array(polygon, np.float64).reshape(-1, 2)
    for axis, size in ((0, width), (1, height)):
        for sign, limit in ((1, 2 * size), (-1, size)):
            inside = sign * points[:, axis] <= limit
            if inside.all():
                continue
            following = np.roll(points, -1, axis=0)
            with np.errstate(all="ignore"):  # edges that do not cross are dropped below
                share = (sign * limit - points[:, axis]) / (following[:, axis] - points[:, axis])
                crossing = points + share[:, None] * (following - points)
            crossing[:, axis] = sign * limit
            crosses = inside != np.roll(inside, -1)
            both = np.stack([points, crossing], axis=1).reshape(-1, 2)
            points = both[np.stack([inside, crosses], axis=1).reshape(-1)]
    if len(points) < 3:
        return [-1.0] * 6  # nothing of it is near
    return [float(value) for value in points.reshape(-1)]


def _fills(counts: Any, pixels: int) -> bool:
    """Whether run lengths are whole numbers that sum up to so many pixels."""
    if not isinstance(counts, Sequence):
        return False
    return all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == pixels


def _runs(counts: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed text; none where it is not such text.

    Each number is groups of five bits, the lowest first, 48 added to make a letter; 32 says that more follow, 16 in the
    last that it is negative. From the fourth on a number is the difference to the one before the last.
    """
    try:
        letters = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return []
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        group = letter - 48
        if not 0 <= group < 64:
            return []
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs if shift == 0 else []
