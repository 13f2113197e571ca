"""A tile that was encoded: its embeddings, and the instances that a graph decodes from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends import Backend
from resam_runtime.engine.manifest import Manifest
from resam_runtime.masks.instance import Instance
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.tiles.averaged_views import Decoded, View, Window, decode_views
from resam_runtime.tiles.placement import into_tile
from resam_runtime.tiles.prompt_batch import PADDING, PromptBatch, with_sides
from resam_runtime.tiles.tiling import Tile, neighbour_batches

Image = NDArray[np.uint8]


class EncodedTile:
    """The embedding of a tile, and those of its views' windows, made when they are first asked for."""

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        tile_image: Image,
        views: tuple[View, ...],
        max_points: int,
        embedding: Any,
    ) -> None:
        """backend: of the engine that `manifest` describes. tile_image: (S, S, 3) uint8. views: itself first.
        max_points: prompts in one run of a graph at most. embedding: of the tile."""
        self._backend, self.manifest, self._image, self._views = backend, manifest, tile_image, views
        self.max_points = max_points
        self._windows: dict[Window, Any] = {}
        self._whole = embedding

    def decode(self, graph: str, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
        """What a graph, "decoder" or "loop", makes of prompts on the tile as it is.

        coords: (N, P, 2) in tile pixels, labels: (N, P). Returns masks (N, M, M) logits, scores (N,), coarse_scores
        (N,).
        """
        return self._run(graph, self._whole, coords, labels)

    def instances(
        self,
        graph: str,
        tile: Tile,
        prompts: PromptBatch,
        indices: Sequence[int] | NDArray[np.intp],
        scene_hw: tuple[int, int],
        keep_logits: bool = False,
    ) -> list[Instance]:
        """The instances of the prompts `indices` of a scene, in that order, in scene pixels; means over the views.

        tile: where in the scene this is. scene_hw: (H, W). keep_logits: for `make_exclusive`.
        """
        indices = np.asarray(indices, np.intp)
        coords, labels = into_tile(prompts, indices, tile)
        if prompts.sides is not None and graph == "loop":
            coords, labels = with_sides(coords, labels, prompts.sides[indices] * np.float32(tile.scale))
        size = self.manifest.image_size
        height, width = tile.filled_hw(size)
        found: dict[int, Instance] = {}

        def decode(window: Window, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
            return self._run(graph, self._seen_in(window), coords, labels)

        for batch in neighbour_batches(prompts.centroids[indices], self.max_points):
            # Columns that hold nothing but padding in this batch would only cost time.
            used = (labels[batch] != PADDING).any(0)
            batch_coords = np.ascontiguousarray(coords[batch][:, used])
            batch_labels = np.ascontiguousarray(labels[batch][:, used])
            masks, scores, coarse_scores = decode_views(
                decode, batch_coords, batch_labels, (width, height), size, self._views
            )
            cells = grid_boxes(masks)
            for row, place in enumerate(batch):
                mask, origin, logits = scene_mask(masks[row], cells[row], tile, size, keep_logits)
                points, point_labels = prompts.prompt(int(indices[place]))
                found[int(place)] = Instance(
                    index=int(indices[place]),
                    score=_unit(scores[row]),
                    coarse_score=_unit(coarse_scores[row]),
                    mask=mask,
                    origin=origin,
                    points=points,
                    labels=point_labels,
                    scene_hw=scene_hw,
                    logits=logits,
                )
        return [found[place] for place in range(len(indices))]

    def prompter(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the graph of that name says of the tile as it is: heat (K, 2G, 2G) logits, boxes (4, 2G, 2G)."""
        heat, boxes = self._backend.run("prompter", {"embedding": self._whole}, ["heat", "boxes"])
        return heat[0], boxes[0]

    def _run(self, graph: str, embedding: Any, coords: NDArray[np.float32], labels: NDArray[np.int32]) -> Decoded:
        """The decoder's scores are its coarse scores."""
        inputs = {"embedding": embedding, "point_coords": coords, "point_labels": labels}
        names = ["masks", "scores"] if graph == "decoder" else ["masks", "scores", "coarse_scores"]
        outputs = self._backend.run(graph, inputs, names)
        for name, values in zip(names, outputs):
            # a mask of NaN would be an empty one; the extremes, since they take no memory and NaN is both
            if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
                raise ResamError(
                    f"graph {graph}: gave {name} that are not finite (NaN or infinity); "
                    "export the engine again, or in a higher precision"
                )
        return outputs[0], outputs[1], outputs[-1]

    def _seen_in(self, window: Window) -> Any:
        """The embedding of a window."""
        if window.is_whole:
            return self._whole
        if window not in self._windows:  # two threads may both encode: the same, and no harm
            self._windows[window] = self._encode(window.image(self._image))
        return self._windows[window]

    def _encode(self, image: Image) -> Any:
        return self._backend.run("encoder", {"image": image[None]}, ["embedding"], keep=True)[0]


def _unit(value: float) -> float:
    """A predicted IoU as a score: the head is a regression and may leave 0..1 a little."""
    return float(min(max(value, 0.0), 1.0))
