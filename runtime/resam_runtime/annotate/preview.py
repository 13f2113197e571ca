"""What an engine makes of a scene while it is annotated: masks of its points, tile by tile, as `resam-run` would, and
what its prompter finds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resam_runtime.annotate.images import SceneImages
from resam_runtime.annotate.operations import SceneData
from resam_runtime.masks.crops import mask_polygons
from resam_runtime.masks.instance import Instance
from resam_runtime.points import Prompt, check_prompts
from resam_runtime.segment.encoded_tile import EncodedTile
from resam_runtime.segment.finder import PrompterSearch, scene_uncertainty, uncertainty
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.tiles.prompt_batch import POSITIVE, padded
from resam_runtime.tiles.tiling import Tile

NEIGHBOURS = 15
"""Instances decoded along with those asked for: Refine compares neighbours, and a preview should not take seconds."""
LEAST = 0.5
"""Proposals reach down to this share of the score from which the engine takes a peak for an instance: what it is unsure
of is worth a look."""
_ENCODED = 24
_SMOOTH = 0.4  # px by which an outline may be simplified


class _Seen(NamedTuple):
    encoded: EncodedTile
    valid: NDArray[np.bool_] | None


class MaskPreview:
    """Answers one at a time; the last tiles stay encoded. Safe to call from several threads."""

    def __init__(self, segmenter: Segmenter, images: SceneImages) -> None:
        self._segmenter, self._images = segmenter, images
        self._encoded: OrderedDict[tuple[int, Tile], _Seen] = OrderedDict()
        self._found: dict[int, dict[Tile, list[Instance]]] = {}
        self._lock = threading.Lock()

    def describe(self) -> str:
        """One line: the engine file and what executes it."""
        return self._segmenter.describe()

    @property
    def proposes(self) -> bool:
        """Whether the engine has a prompter."""
        return isinstance(self._segmenter.search, PrompterSearch)

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
            for prompt in [p for p in kept if limit is not None and len(p.tokens[1]) > limit]:
                what = "points" if prompt.box is None else "points with the corners of its box"
                problems[prompt.id] = f"has {len(prompt.tokens[1])} {what}, the engine takes {limit}"
                kept.remove(prompt)
            answers: list[dict[str, Any]] = [
                {"id": name, "problem": why} for name, why in problems.items() if name in wanted
            ]
            if not any(prompt.id in wanted for prompt in kept):
                return answers
            tokens = [prompt.tokens for prompt in kept]
            batch = padded([coords for coords, _ in tokens], [labels for _, labels in tokens])
            for tile, indices in self._segmenter.plan(batch, width, height):
                asked = np.array([kept[i].id in wanted for i in indices])
                if asked.any():
                    near = indices[_nearest(batch.centroids[indices], asked)]
                    found = self._encode(index, tile).encoded.instances("loop", tile, batch, near, (height, width))
                    answers += [
                        {"id": kept[one.index].id, "score": round(one.score, 3), "polygons": _outline(one)}
                        for one in found
                        if kept[one.index].id in wanted
                    ]
            return answers

    def proposals(self, index: int, view: Sequence[float]) -> dict[str, Any]:
        """What the prompter finds in a scene, of the tiles looked at so far and of one more that a view (x0, y0, x1,
        y1) shows, the one nearest to its middle.

        Returns {"left": tiles of the view yet to be looked at, "found": [{"class": {"id", "name"}, "score",
        "uncertainty", "point", "box", "polygons"}]}, the best first. Raises `ResamError` for an unreadable image.
        """
        with self._lock:
            width, height = self._images.size(index)
            known, plan = self._found.setdefault(index, {}), dict(self._segmenter.plan_automatic(width, height))
            x0, y0, x1, y1 = view
            seen = [
                tile
                for tile in plan
                if tile not in known
                and max(x0, tile.x) < min(x1, tile.x + tile.width)
                and max(y0, tile.y) < min(y1, tile.y + tile.height)
            ]
            seen.sort(key=lambda tile: abs(2 * tile.x + tile.width - x0 - x1) + abs(2 * tile.y + tile.height - y0 - y1))
            for tile in seen[:1]:
                self._look(index, tile, plan[tile])
            return {"left": len(seen[1:]), "found": [self._proposal(one) for one in self._merged(index)]}

    def uncertainty(self, index: int) -> float:
        """How much there is to learn from a scene, 0 to 1 (`segment.finder.scene_uncertainty`); looks at all of it.

        Raises `ResamError` for an unreadable image.
        """
        search = self._prompter
        for tile, where in self._segmenter.plan_automatic(*self._images.size(index)):
            with self._lock:  # let go between tiles: a click waits for one, not for a scene
                if tile not in self._found.setdefault(index, {}):
                    self._look(index, tile, where)
        with self._lock:
            return scene_uncertainty(self._merged(index), search.spec)

    @property
    def _prompter(self) -> PrompterSearch:
        search = self._segmenter.search
        assert isinstance(search, PrompterSearch)
        return search

    def _look(self, index: int, tile: Tile, where: NDArray[np.float32]) -> None:
        width, height = self._images.size(index)
        seen, spec = self._encode(index, tile), self._prompter.spec
        lower = PrompterSearch(spec, LEAST * min(one.threshold for one in spec.classes))
        self._found[index][tile] = lower.on_tile(seen.encoded, tile, where, (height, width), seen.valid)

    def _merged(self, index: int) -> list[Instance]:
        width, height = self._images.size(index)
        every = [one for found in self._found.get(index, {}).values() for one in found]
        least = {one.id: LEAST * one.threshold for one in self._prompter.spec.classes}
        merged = self._segmenter.merge_proposals(every, (height, width))
        return [one for one in merged if one.category is None or one.score >= least.get(one.category.id or 0, 0.0)]

    def _proposal(self, instance: Instance) -> dict[str, Any]:
        point = instance.points[instance.labels == POSITIVE][0]
        corners = instance.points[instance.labels > POSITIVE].reshape(-1)
        category = instance.category
        height, width = instance.scene_hw
        box = np.clip(corners if len(corners) == 4 else instance.box, 0, [width - 1, height - 1] * 2)
        return {
            "class": None if category is None else {"id": category.id, "name": category.name},
            "score": round(instance.score, 3),
            "uncertainty": round(uncertainty(instance, self._prompter.spec), 3),
            "point": [round(float(value), 2) for value in point],
            "box": [round(float(value), 2) for value in box],
            "polygons": _outline(instance),
        }

    def _encode(self, index: int, tile: Tile) -> _Seen:
        key = (index, tile)
        if key not in self._encoded:
            window, valid = self._images.window_with_data(index, tile.x, tile.y, tile.width, tile.height)
            encoded = self._segmenter.encode_tile(self._segmenter.prepare_tile(window, tile))
            self._encoded[key] = _Seen(encoded, valid)
        self._encoded.move_to_end(key)
        while len(self._encoded) > _ENCODED:
            self._encoded.popitem(last=False)
        return self._encoded[key]


def _outline(instance: Instance) -> list[list[list[float]]]:
    polygons = mask_polygons(instance.mask, instance.origin, _SMOOTH)
    return [[ring.round(1).reshape(-1).tolist() for ring in polygon] for polygon in polygons]


def _prompt(instance: dict[str, Any]) -> Prompt:
    coords = np.array(instance["points"], np.float32).reshape(-1, 2)
    box = None if instance.get("box") is None else np.array(instance["box"], np.float32)
    return Prompt(coords, np.array(instance["labels"], np.int32), instance["id"], box=box)


def _nearest(centroids: np.ndarray[Any, Any], asked: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Indices of those asked for and of their nearest neighbours."""
    distance = np.full(len(centroids), np.inf)
    for centre in centroids[asked]:
        distance = np.minimum(distance, ((centroids - centre) ** 2).sum(1))
    return np.argsort(distance, kind="stable")[: int(asked.sum()) + NEIGHBOURS]
