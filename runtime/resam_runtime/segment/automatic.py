"""Instances without points: a grid of points through the decoder, filtered and made unique; the survivors go
through the loop as if a person had drawn them. After SAM's automatic mask generator, on one mask per point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.manifest import Manifest
from resam_runtime.masks.crops import BoolMask, Origin, crop_overlap, meeting_pairs
from resam_runtime.masks.instance import FoundBy, Instance
from resam_runtime.masks.upsample import grid_boxes
from resam_runtime.segment.encoded_tile import EncodedTile
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.prompt_batch import POSITIVE, PromptBatch
from resam_runtime.tiles.tiling import Tile, assign_points, most_central


@dataclass(frozen=True)
class AutomaticOptions:
    """How instances are proposed.

    points_per_side: grid points along a tile's side (also of a padded tile: the spacing stays the same).
    min_score: least predicted IoU, of the coarse mask and of the final one. min_stability: least stability score of the
    coarse mask, the IoU of its thresholds at +stability_offset and -stability_offset (logits). max_overlap: two masks
    of a higher IoU are one instance; one that lies by more of its own area in a better one is a part of it and goes.
    max_area: most of its tile that an instance may cover, 0 to 1; min_area: least pixels of the scene. Raises
    `ResamError` for a value out of range.
    """

    points_per_side: int = 32
    min_score: float = 0.6
    min_stability: float = 0.7
    stability_offset: float = 1.0
    max_overlap: float = 0.6
    max_area: float = 0.8
    min_area: int = 9

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("min_score", "min_stability", "max_overlap", "max_area"), (0.0, 1.0))
        limits |= dict.fromkeys(("stability_offset", "min_area"), (0.0, np.inf))
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not low <= value <= high:
                raise ResamError(f"{name}: expected {'at least 0' if high > 1 else '0 to 1'}, got {value!r}")
        if not isinstance(self.points_per_side, Integral) or self.points_per_side < 1:
            raise ResamError(f"points_per_side: expected a whole number, at least 1, got {self.points_per_side!r}")


@dataclass(frozen=True)
class GridSearch:
    """The search (`Search`) of engines that were not taught what to find. tile_size: S."""

    options: AutomaticOptions
    tile_size: int
    found_by: ClassVar[FoundBy] = "grid"

    def plan(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """See `grid_points`: the points (K, 2), in tile pixels, that each tile looks from."""
        return grid_points(tiles, self.tile_size, self.options.points_per_side)

    def on_tile(
        self,
        encoded: EncodedTile,
        tile: Tile,
        where: NDArray[np.float32],
        scene_hw: tuple[int, int],
        valid: BoolMask | None = None,
        keep_logits: bool = False,
    ) -> list[Instance]:
        """See `find_on_tile`."""
        return find_on_tile(encoded, tile, where, scene_hw, self.options, valid, keep_logits)

    def merge(self, instances: Sequence[Instance], tiles: Sequence[Tile]) -> list[Instance]:
        """See `merge_proposals`."""
        return merge_proposals(instances, tiles, self.options)


@dataclass(frozen=True, eq=False)
class DecodedMasks:
    """Coarse masks: logits (N, M, M) and predicted IoU (N,)."""

    masks: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A coarse mask worth keeping, cropped on the mask grid, and the tile point that made it."""

    mask: BoolMask
    origin: Origin
    value: float
    point: NDArray[np.float32]


def grid_points(
    tiles: Sequence[Tile], tile_size: int, points_per_side: int
) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    """Each tile of a scene with the grid points (K, 2), in tile pixels, that it proposes from: those it owns.

    Where tiles overlap the most central one proposes, so that a scene's grid is dense once, not up to four times. Tiles
    are a grid themselves, so ownership is settled once for its columns and once for its rows.
    """
    spacing = tile_size / points_per_side
    columns = _owned({(tile.x, tile.width) for tile in tiles}, tiles[0].scale, spacing)
    rows = _owned({(tile.y, tile.height) for tile in tiles}, tiles[0].scale, spacing)
    for tile in tiles:
        own = np.meshgrid(columns[tile.x, tile.width], rows[tile.y, tile.height])
        yield tile, np.stack(own, -1).reshape(-1, 2)


def _owned(
    spans: Collection[tuple[int, int]], scale: float, spacing: float
) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Span of a tile's side (start, length in scene pixels) -> the grid's coordinates along it, in tile pixels, that
    lie more centrally in it than in any other."""
    ordered = sorted(spans)
    owned = {}
    for number, (start, length) in enumerate(ordered):
        count = max(1, round(length * scale / spacing))
        places = ((np.arange(count) + 0.5) * (length * scale / count) - 0.5).astype(np.float32)
        in_scene = tile_to_scene(places, scale, start).astype(np.float64)
        owned[start, length] = places[most_central(ordered, in_scene) == number]
    return owned


def on_data(points: NDArray[np.float32], tile: Tile, valid: BoolMask) -> NDArray[np.bool_]:
    """Which points (K, 2), in tile pixels, lie on pixels that have data: (K,). valid: (tile.height, tile.width)."""
    x, y = np.rint(tile_to_scene(points, tile.scale)).astype(np.intp).T
    here: NDArray[np.bool_] = valid[np.clip(y, 0, tile.height - 1), np.clip(x, 0, tile.width - 1)]
    return here


def lies_on_data(instance: Instance, tile: Tile, valid: BoolMask) -> bool:
    """Whether at least half of an instance of a tile lies on pixels that have data. valid: as for `on_data`."""
    (x, y), (height, width) = instance.origin, instance.mask.shape
    seen = valid[y - tile.y : y - tile.y + height, x - tile.x : x - tile.x + width]
    return bool(2 * np.count_nonzero(instance.mask & seen) >= instance.area)


def propose(
    decode: Callable[[NDArray[np.float32]], DecodedMasks],
    points: NDArray[np.float32],
    tile: Tile,
    manifest: Manifest,
    options: AutomaticOptions,
    max_points: int,
) -> NDArray[np.float32]:
    """The grid points of a tile, in tile pixels, whose coarse masks are good, whole and unlike each other: (K, 2).

    decode: from points (n, 2), n <= max_points, to their coarse masks; points: see `grid_points`.
    """
    cell = tile.scale * manifest.mask_size / manifest.image_size
    seen_cells = max(1.0, tile.width * cell) * max(1.0, tile.height * cell)
    candidates: list[_Candidate] = []
    for begin in range(0, len(points), max_points):
        batch = points[begin : begin + max_points]
        decoded = decode(batch)
        good = np.flatnonzero(decoded.scores >= options.min_score)
        logits = decoded.masks[good]
        stability = stability_score(logits, options.stability_offset)
        area = (logits > 0).sum((1, 2))
        fits = (stability >= options.min_stability) & (area > 0) & (area <= options.max_area * seen_cells)
        for row, (x0, y0, x1, y1) in zip(np.flatnonzero(fits), grid_boxes(logits[fits])):
            mask, value = logits[row, y0:y1, x0:x1] > 0, float(decoded.scores[good[row]] * stability[row])
            candidates.append(_Candidate(mask, (int(x0), int(y0)), value, batch[good[row]]))
    order = sorted(range(len(candidates)), key=lambda i: -candidates[i].value)
    kept = unique([(c.mask, c.origin) for c in candidates], order, options.max_overlap)
    return np.array([candidates[i].point for i in kept], np.float32).reshape(-1, 2)


def find_on_tile(
    encoded: EncodedTile,
    tile: Tile,
    grid: NDArray[np.float32],
    scene_hw: tuple[int, int],
    options: AutomaticOptions,
    valid: BoolMask | None = None,
    keep_logits: bool = False,
) -> list[Instance]:
    """What a tile's grid points (K, 2) find on it, through the loop; see `Segmenter.propose_tile`."""

    def decode(coords: NDArray[np.float32]) -> DecodedMasks:
        masks, scores, _ = encoded.decode("decoder", coords[:, None], _positive(len(coords)))
        return DecodedMasks(masks, scores)

    if valid is not None:
        grid = grid[on_data(grid, tile, valid)]
    points = propose(decode, grid, tile, encoded.manifest, options, encoded.max_points)
    if not len(points):
        return []
    in_scene = tile_to_scene(points, tile.scale, tile.origin)
    prompts = PromptBatch(in_scene[:, None], _positive(len(points)))
    found = encoded.instances("loop", tile, prompts, np.arange(len(points)), scene_hw, keep_logits)
    found = [dataclasses.replace(one, found_by=GridSearch.found_by) for one in found]
    return found if valid is None else [one for one in found if lies_on_data(one, tile, valid)]


def merge_proposals(instances: Sequence[Instance], tiles: Sequence[Tile], options: AutomaticOptions) -> list[Instance]:
    """The instances of all tiles without the empty, the weak, the repeated and the parts of better ones; best score
    first, numbered anew. An instance cut by its tile's edge gives way to a neighbour's that is whole.
    """
    good = [
        instance for instance in instances if instance.score >= options.min_score and instance.area >= options.min_area
    ]
    if not good:
        return []
    owner = assign_points(tiles, np.stack([instance.points[0] for instance in good]))
    scene = max(t.x + t.width for t in tiles), max(t.y + t.height for t in tiles)
    cut = [is_cut(instance, tiles[number], scene) for instance, number in zip(good, owner)]
    kept_whole = [
        i
        for i, (instance, number) in enumerate(zip(good, owner))
        if instance.area <= options.max_area * tiles[number].width * tiles[number].height
    ]
    order = sorted(kept_whole, key=lambda i: (cut[i], -good[i].score, good[i].index))
    kept = unique([(g.mask, g.origin) for g in good], order, options.max_overlap, parts=True)
    ranked = sorted((good[i] for i in kept), key=lambda instance: -instance.score)
    return [dataclasses.replace(instance, index=i) for i, instance in enumerate(ranked)]


def stability_score(logits: NDArray[np.float32], offset: float) -> NDArray[np.float64]:
    """IoU of the masks at thresholds +offset and -offset, for (N, M, M) logits: (N,), 0 where both are empty."""
    inner, outer = (logits > offset).sum((1, 2)), (logits > -offset).sum((1, 2))
    return inner / np.maximum(outer, 1)


def unique(
    crops: Sequence[tuple[BoolMask, Origin]],
    order: Sequence[int],
    max_overlap: float,
    parts: bool | Sequence[bool] = False,
) -> list[int]:
    """Greedily keep crops in `order` unless their IoU with one kept before exceeds `max_overlap`.

    parts: a crop (each, or of each whether) also goes when more than `max_overlap` of itself lies in a kept one.
    Returns the kept indices in order. Masks are compared only where their boxes meet and their areas would allow the
    overlap.
    """
    boxes = np.array([(x, y, x + m.shape[1] - 1, y + m.shape[0] - 1) for m, (x, y) in crops]).reshape(-1, 4)
    areas = [int(np.count_nonzero(mask)) for mask, _ in crops]
    neighbours: dict[int, list[int]] = {}
    for a, b in meeting_pairs(boxes).tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    kept: dict[int, None] = {}
    as_part = [parts] * len(crops) if isinstance(parts, bool) else parts

    def repeats(i: int, j: int) -> bool:
        small, large = sorted((areas[i], areas[j]))
        if not as_part[i] and small <= max_overlap * large:
            return False
        (mask, origin), (other, other_origin) = crops[i], crops[j]
        where = crop_overlap(mask.shape, origin, other.shape, other_origin)
        if where is None:
            return False
        both = int(np.count_nonzero(mask[where[0]] & other[where[1]]))
        return both > max_overlap * (areas[i] + areas[j] - both) or (as_part[i] and both > max_overlap * areas[i])

    for i in order:
        if not any(j in kept and repeats(i, j) for j in neighbours.get(i, ())):
            kept[i] = None
    return list(kept)


def is_cut(instance: Instance, tile: Tile, scene: tuple[int, int]) -> bool:
    """Whether the mask touches an edge of its tile that is not the scene's edge."""
    x0, y0, x1, y1 = instance.box
    right, bottom = tile.x + tile.width, tile.y + tile.height
    return bool(
        (x0 <= tile.x and tile.x > 0)
        or (y0 <= tile.y and tile.y > 0)
        or (x1 >= right - 1 and right < scene[0])
        or (y1 >= bottom - 1 and bottom < scene[1])
    )


def _positive(count: int) -> NDArray[np.int32]:
    return np.full((count, 1), POSITIVE, np.int32)
