"""Mask previews: what the engine makes of a scene's points, tile by tile, as `resam-run` would."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import numpy as np

from resam_runtime.annotate.images import SceneImages
from resam_runtime.annotate.operations import SceneData
from resam_runtime.masks.crops import mask_polygons
from resam_runtime.points import Prompt, check_prompts
from resam_runtime.segment.segmenter import Embedding, Segmenter
from resam_runtime.tiles.tiling import Tile

NEIGHBOURS = 15
"""Instances decoded along with those asked for: Refine compares neighbours, and a preview should not take seconds."""
_EMBEDDINGS = 24
_SMOOTH = 0.4  # px by which an outline may be simplified


class MaskPreview:
    """Answers previews one at a time; embeddings of the last tiles are kept. Safe to call from several threads."""

    def __init__(self, segmenter: Segmenter, images: SceneImages) -> None:
        self._segmenter, self._images = segmenter, images
        self._embeddings: OrderedDict[tuple[int, Tile], Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def describe(self) -> str:
        """One line: the engine file and what executes it."""
        return self._segmenter.describe()

    def masks(self, index: int, scene: SceneData, wanted: Collection[Any]) -> list[dict[str, Any]]:
        """Masks of the instances whose ids are `wanted`, those that are there.

        Returns [{"id", "score", "polygons": [[ring, hole, ...], ...]}] with rings as flat [x, y, x, y, ...] lists in
        scene pixels, or {"id", "problem": text} for one that gets no mask. Raises `ResamError` for an unreadable image.
        """
        with self._lock:
            width, height = self._images.size(index)
            prompts = [_prompt(instance) for instance in scene["instances"]]
            kept, skipped = check_prompts(prompts, width, height)
            problems = dict(skipped)
            limit = self._segmenter.manifest.max_points_per_instance
            for prompt in [p for p in kept if limit is not None and len(p.coords) > limit]:
                problems[prompt.id] = f"has {len(prompt.coords)} points, the engine takes {limit}"
                kept.remove(prompt)
            answers = [{"id": name, "problem": why} for name, why in problems.items() if name in wanted]
            if not any(prompt.id in wanted for prompt in kept):
                return answers
            coords, labels = [p.coords for p in kept], [p.labels for p in kept]
            batch = self._segmenter.prompts(coords, labels, None, width, height)
            for tile, indices in self._segmenter.plan(batch, width, height):
                asked = np.array([kept[i].id in wanted for i in indices])
                if asked.any():
                    centroids = batch.centroids[indices]
                    near = _nearest(centroids, asked)
                    answers += self._decode(index, tile, [kept[i] for i in indices[near]], wanted)
            return answers

    def _decode(self, index: int, tile: Tile, prompts: list[Prompt], wanted: Collection[Any]) -> list[dict[str, Any]]:
        embedding = self._embedding(index, tile)
        shift = np.array(tile.origin, np.float32)
        coords, labels = [], []
        for prompt in prompts:
            # as when a whole scene is run: points of an instance that lie in another tile do not count
            here = tile.holds(prompt.coords)
            coords.append(prompt.coords[here] - shift)
            labels.append(prompt.labels[here])
        answers = []
        for prompt, instance in zip(prompts, embedding.prompt(coords, labels)):
            if prompt.id in wanted:
                origin = (instance.origin[0] + tile.x, instance.origin[1] + tile.y)
                polygons = mask_polygons(instance.mask, origin, _SMOOTH)
                flat = [[ring.round(1).reshape(-1).tolist() for ring in polygon] for polygon in polygons]
                answers.append({"id": prompt.id, "score": round(instance.score, 3), "polygons": flat})
        return answers

    def _embedding(self, index: int, tile: Tile) -> Embedding:
        key = (index, tile)
        if key not in self._embeddings:
            window = self._images.window(index, tile.x, tile.y, tile.width, tile.height)
            embedding = self._segmenter.embed(window)
            self._embeddings[key] = embedding
        self._embeddings.move_to_end(key)
        while len(self._embeddings) > _EMBEDDINGS:
            self._embeddings.popitem(last=False)
        return self._embeddings[key]


def _prompt(instance: dict[str, Any]) -> Prompt:
    coords = np.array(instance["points"], np.float32).reshape(-1, 2)
    return Prompt(coords, np.array(instance["labels"], np.int32), instance["id"])


def _nearest(centroids: np.ndarray[Any, Any], asked: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Indices of those asked for and of their nearest neighbours."""
    distance = np.full(len(centroids), np.inf)
    for centre in centroids[asked]:
        distance = np.minimum(distance, ((centroids - centre) ** 2).sum(1))
    return np.argsort(distance, kind="stable")[: int(asked.sum()) + NEIGHBOURS]
