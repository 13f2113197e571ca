"""Instances without points by what the engine was taught: the prompter's peaks become prompts, a box and a point each,
and go through the loop as if a person had drawn them.

    embedding -> prompter -> peaks -> box and point prompts -> loop -> instances -> one for each object
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from resam_runtime.engine.prompter_spec import PrompterSpec
from resam_runtime.masks.instance import Category, FoundBy, Instance
from resam_runtime.segment.automatic import is_cut, on_data, unique
from resam_runtime.segment.encoded_tile import EncodedTile
from resam_runtime.segment.peaks import MAX_OVERLAP, Peaks, find_peaks
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, POSITIVE, PromptBatch
from resam_runtime.tiles.tiling import Tile, assign_points, owned_windows


@dataclass(frozen=True)
class PrompterSearch:
    """The search (`Search`) of engines with a prompter.

    min_score: the score, 0 to 1, that a peak must have; None: what the engine says, class by class. An instance's score
    is that of its peak: how sure the prompter is that there is an instance of that class, not how good its mask is.
    """

    spec: PrompterSpec
    min_score: float | None = None
    found_by: ClassVar[FoundBy] = "prompter"

    def plan(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """Each tile with the window of the scene (4,) x0, y0, x1, y1 whose points lie most centrally in it."""
        return zip(tiles, owned_windows(tiles))

    def peaks(
        self, encoded: EncodedTile, tile: Tile, where: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
    ) -> Peaks:
        """The peaks of a tile that lie in `where` and on data; arguments as of `on_tile`."""
        heat, boxes = encoded.prompter()
        size = encoded.manifest.image_size
        peaks = own_peaks(find_peaks(heat, boxes, size, tile.filled_hw(size), self.least), tile, where)
        return peaks if valid is None else peaks[on_data(peaks.points, tile, valid)]

    @property
    def least(self) -> NDArray[np.float64]:
        """The score that a peak of each class must have, (K,)."""
        return np.array([one.threshold if self.min_score is None else self.min_score for one in self.spec.classes])

    def on_tile(
        self,
        encoded: EncodedTile,
        tile: Tile,
        where: NDArray[np.float32],
        scene_hw: tuple[int, int],
        valid: NDArray[np.bool_] | None = None,
        keep_logits: bool = False,
    ) -> list[Instance]:
        """The instances of a tile's peaks."""
        peaks = self.peaks(encoded, tile, where, valid)
        if not len(peaks):
            return []
        prompts = as_prompts(peaks, tile)
        found = encoded.instances("loop", tile, prompts, np.arange(len(peaks)), scene_hw, keep_logits)
        categories = [Category(one.id, one.name) for one in self.spec.classes]
        return [
            dataclasses.replace(one, score=float(score), category=categories[number], found_by=self.found_by)
            for one, score, number in zip(found, peaks.scores, peaks.classes, strict=True)
        ]

    def merge(self, instances: Sequence[Instance], tiles: Sequence[Tile]) -> list[Instance]:
        """See `merge_found`."""
        return merge_found(instances, tiles)


def own_peaks(peaks: Peaks, tile: Tile, where: NDArray[np.float32]) -> Peaks:
    """Those of a tile that lie in a window of the scene (4,): of two tiles that see an object one finds it."""
    x, y = tile_to_scene(peaks.points, tile.scale, tile.origin).T
    x0, y0, x1, y1 = where
    return peaks[(x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)]


def as_prompts(peaks: Peaks, tile: Tile) -> PromptBatch:
    """A point and a box for each peak, in scene pixels."""
    corners = peaks.boxes.reshape(-1, 2, 2)
    coords = tile_to_scene(np.concatenate((peaks.points[:, None], corners), axis=1), tile.scale, tile.origin)
    labels = np.tile(np.array([POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32), (len(peaks), 1))
    return PromptBatch(coords, labels)


def merge_found(
    instances: Sequence[Instance], tiles: Sequence[Tile], max_overlap: float = MAX_OVERLAP
) -> list[Instance]:
    """The instances of all tiles without the empty and the repeated, whatever their classes: best score first, numbered
    anew. What its tile's edge cuts gives way to what is whole, and goes where most of it lies in another one."""
    good = [instance for instance in instances if not instance.empty]
    if not good:
        return []
    owner = assign_points(tiles, np.stack([instance.points[0] for instance in good]))
    scene = max(tile.x + tile.width for tile in tiles), max(tile.y + tile.height for tile in tiles)
    cut = [is_cut(instance, tiles[number], scene) for instance, number in zip(good, owner)]
    order = sorted(range(len(good)), key=lambda i: (cut[i], -good[i].score, good[i].index))
    kept = unique([(one.mask, one.origin) for one in good], order, max_overlap, parts=cut)
    ranked = sorted((good[i] for i in kept), key=lambda one: (-one.score, one.index))
    return [dataclasses.replace(one, index=i) for i, one in enumerate(ranked)]


def uncertainty(instance: Instance, spec: PrompterSpec) -> float:
    """How unsure the prompter is of an instance that it found, 0 to 1: 1 where its score is its class's threshold, 0 at
    a score of 0 and of 1."""
    number = None if instance.category is None else instance.category.id
    threshold = next((one.threshold for one in spec.classes if one.id == number), 0.5)
    if instance.score > threshold:
        return (1 - instance.score) / (1 - threshold)
    return instance.score / threshold if threshold else 1.0


def scene_uncertainty(instances: Sequence[Instance], spec: PrompterSpec, most: int = 5) -> float:
    """How much there is to learn from a scene, 0 to 1: the mean uncertainty of its `most` least certain instances,
    those that are not there counted as certain."""
    ranked = sorted((uncertainty(one, spec) for one in instances), reverse=True)[:most]
    return sum(ranked) / most
