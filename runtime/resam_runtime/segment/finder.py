"""Instances without points by what the engine was taught: the prompter's peaks become prompts, a box and a point each,
and go through the loop as if a person had drawn them.

    embedding -> prompter -> peaks -> box and point prompts -> loop -> instances -> one for each object
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resam_runtime.engine.prompter_spec import PrompterSpec
from resam_runtime.masks.instance import Category, Instance
from resam_runtime.segment.automatic import is_cut, on_data, unique
from resam_runtime.segment.peaks import MAX_OVERLAP, Peaks
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, POSITIVE, PromptBatch
from resam_runtime.tiles.tiling import Tile, assign_points

PROMPTER = "prompter"
"""What `Instance.found_by` says of an instance that was found here."""


def least_scores(spec: PrompterSpec, min_score: float | None) -> NDArray[np.float64]:
    """The score that a peak of each class must have, (K,): `min_score` if given, else what the engine says."""
    return np.array([one.threshold if min_score is None else min_score for one in spec.classes], np.float64)


def own_peaks(peaks: Peaks, tiles: Sequence[Tile], number: int, valid: NDArray[np.bool_] | None = None) -> Peaks:
    """Those of tile `number` that lie most centrally in it, of all tiles of the scene, and on data: so that neighbours
    do not find the same instance. valid: (tile.height, tile.width), None: data everywhere."""
    tile = tiles[number]
    own = assign_points(tiles, tile_to_scene(peaks.points, tile.scale, tile.origin)) == number
    if valid is not None:
        own &= on_data(peaks.points, tile, valid)
    return peaks[own]


def as_prompts(peaks: Peaks, tile: Tile) -> PromptBatch:
    """A point and a box for each peak, in scene pixels."""
    corners = peaks.boxes.reshape(-1, 2, 2)
    coords = tile_to_scene(np.concatenate((peaks.points[:, None], corners), axis=1), tile.scale, tile.origin)
    labels = np.tile(np.array([POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32), (len(peaks), 1))
    return PromptBatch(coords, labels)


def as_found(instances: Sequence[Instance], peaks: Peaks, spec: PrompterSpec) -> list[Instance]:
    """The instances of `peaks`, in their order, with class and score. An instance's score is its peak's: how sure the
    prompter is that such an instance is there."""
    categories = [Category(one.id, one.name) for one in spec.classes]
    return [
        dataclasses.replace(one, score=float(score), category=categories[number], found_by=PROMPTER)
        for one, score, number in zip(instances, peaks.scores, peaks.classes, strict=True)
    ]


def merge_found(
    instances: Sequence[Instance], tiles: Sequence[Tile], max_overlap: float = MAX_OVERLAP
) -> list[Instance]:
    """The instances of all tiles without the empty and the repeated, whatever their classes: best score first, numbered
    anew. What its tile's edge cuts also goes where most of it lies in another one."""
    good = [instance for instance in instances if not instance.empty]
    if not good:
        return []
    owner = assign_points(tiles, np.stack([instance.points[0] for instance in good]))
    scene = max(tile.x + tile.width for tile in tiles), max(tile.y + tile.height for tile in tiles)
    cut = [is_cut(instance, tiles[number], scene) for instance, number in zip(good, owner)]
    order = sorted(range(len(good)), key=lambda i: (-good[i].score, good[i].index))
    whole_first = sorted(order, key=lambda i: cut[i])
    kept = unique([(one.mask, one.origin) for one in good], whole_first, max_overlap, parts=cut)
    ranked = sorted((good[i] for i in kept), key=lambda one: (-one.score, one.index))
    return [dataclasses.replace(one, index=i) for i, one in enumerate(ranked)]
