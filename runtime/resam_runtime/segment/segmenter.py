"""The segmenter: an engine file, an image and points in; instances out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends import Backend, load_backend
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.masks.instance import Instance, in_order
from resam_runtime.segment.automatic import AutomaticOptions, GridSearch
from resam_runtime.segment.batch import measured_batch
from resam_runtime.segment.encoded_tile import EncodedTile, Image
from resam_runtime.segment.finder import PrompterSearch
from resam_runtime.segment.search import Search
from resam_runtime.tiles.averaged_views import VIEWS
from resam_runtime.tiles.letterbox import scale_to_tile
from resam_runtime.tiles.placement import compact, owners
from resam_runtime.tiles.prompt_batch import PADDING, PromptBatch, prompt_batch
from resam_runtime.tiles.tiling import Tile, plan_tiles

DEFAULT_MAX_POINTS = 32
"""Instances in one call of a graph. Memory grows with it (ViT-B: about 60 MB each), time per instance does not fall
beyond a few; Refine compares the instances of one call, so it is no smaller than need be."""


class Segmenter:
    """Runs one engine file.

        segmenter = Segmenter("model.resam")
        instances = segmenter(image, [(120, 80), (300, 212)])

    It holds the loaded engine and nothing about the images it has seen, so one segmenter may be called from
    several threads: with ONNX Runtime they run side by side, with TensorRT one after the other.

    Each instance is segmented on one tile, a window of image_size / scale pixels a side (see the manifest) in all but
    small images: a mask ends at its edge, and points beyond are not used.

    The parts of a call are public, for pipelines that read and write while this computes:
    `prompts` -> `plan` -> per tile `prepare_tile` and `segment_tile`; without points `plan_automatic` ->
    `prepare_tile` and `propose_tile` -> `merge_proposals`. `backend` is what runs the graphs.
    """

    def __init__(
        self,
        engine_file: str | os.PathLike[str] | EngineFile,
        device: str | None = None,
        threads: int | None = None,
        *,
        max_points: int = DEFAULT_MAX_POINTS,
        automatic: AutomaticOptions | None = None,
        min_score: float | None = None,
        views: int = 1,
        batch: int | None = None,
    ) -> None:
        """Load an engine file (a path or an open `EngineFile`).

        device: None picks the best there is; else "cpu", "cuda", "cuda:1", "tensorrt-ep" for ONNX graphs,
        "cuda" or "cuda:1" for plans. threads: CPU threads (None: all physical cores).
        max_points: instances decoded together at most; the engine's own limit counts too. automatic: how instances
        are proposed where no points are given: by a grid, also where the engine has a prompter; None: by the prompter,
        else by a grid. min_score: least score of what the prompter finds, 0 to 1; None: the engine's own, class by
        class. views: of each tile, 1 to 7 (`resam_runtime.tiles.averaged_views.VIEWS`): with more, masks and scores
        are means over mirrored and rescaled images, slower and better. batch: tiles that share a call of the encoder in
        runs over many; None: as many as a GPU gains from, measured now, and 1 on a CPU. Raises `ResamError` for a file,
        a device or another argument that will not do.
        """
        engine = engine_file if isinstance(engine_file, EngineFile) else EngineFile.open(engine_file)
        max_points, views = _whole("max_points", max_points), _whole("views", views, len(VIEWS))
        if device is not None and not isinstance(device, str):
            raise ResamError(f'device: expected a text such as "cpu" or "cuda:1", got {device!r}')
        if automatic is not None and not isinstance(automatic, AutomaticOptions):
            raise ResamError(f"automatic: expected AutomaticOptions or None, got {type(automatic).__name__}")
        self.manifest: Manifest = engine.manifest
        if min_score is not None and (not isinstance(min_score, int | float | np.number) or not 0 <= min_score <= 1):
            raise ResamError(f"min_score: expected 0 to 1, got {min_score!r}")
        spec = engine.manifest.prompter
        self.search: Search = (
            PrompterSearch(spec, min_score)
            if spec is not None and automatic is None
            else GridSearch(automatic or AutomaticOptions(), engine.manifest.image_size)
        )
        self._views = VIEWS[:views]
        self._path = engine.path
        self._max_points = min(max_points, engine.manifest.max_points or max_points)
        self.backend: Backend = load_backend(engine, device, None if threads is None else _whole("threads", threads))
        most = engine.manifest.max_batch
        self.batch = (
            measured_batch(self.backend, engine.manifest)
            if batch is None
            else min(_whole("batch", batch), most or batch)
        )

    def describe(self) -> str:
        """One line: engine file, backend, what executes it in fact, precision."""
        together = f", {self.batch} tiles a call" if self.batch > 1 else ""
        return f"{self._path.name}: {self.backend.describe()}{together}"

    def __call__(
        self, image: Image, points: Any = None, labels: Any = None, exclusive: bool = False, *, sizes: Any = None
    ) -> list[Instance]:
        """Segment the instances of an image that points mark, or, without points, those it finds itself.

        image: (H, W, 3) uint8 RGB, any size. points: (N, 2) one per instance, (N, P, 2), or a list with one
        (P_i, 2) entry per instance, in pixels (x, y), pixel centres at integers. labels: the points' shape,
        1 positive, 0 negative, -1 padding; None: all positive. exclusive: give each pixel to one instance. sizes: how
        large the objects are, for an engine exported with sizes: a number or (N,), the side in pixels of a square of
        the object's area, 0 where it is not known.
        Returns one `Instance` per prompt, in order, also where a mask is empty. Raises `ResamError` naming the
        instance for points that are not finite or not inside the image, or of which none is positive.
        """
        height, width = _check_image(image)
        if points is None:
            if labels is not None:
                raise ResamError("prompt: labels without points; give the points they belong to")
            return self._find(image, exclusive)
        prompts = self.prompts(points, labels, None, width, height, sizes)
        found: list[Instance] = []
        for tile, indices in self.plan(prompts, width, height):
            tile_image = self.prepare_tile(tile.cut(image), tile)
            found += self.segment_tile(tile_image, tile, prompts, indices, (height, width), keep_logits=exclusive)
        return in_order(found, exclusive)

    def embed(self, image: Image) -> Embedding:
        """Encode an image once, to be prompted many times.

        image: (H, W, 3) uint8 RGB. An image of one tile is encoded now; of a larger one each tile when a prompt
        first needs it (the image is kept until then: do not change it).
        """
        _check_image(image)
        return Embedding(self, image)

    def prompts(self, points: Any, labels: Any, boxes: Any, width: int, height: int, sizes: Any = None) -> PromptBatch:
        """Check prompts against an image of width x height pixels and this engine's limits; see `prompt_batch`."""
        if sizes is not None and self.manifest.sizes is None:
            raise ResamError(f"{self._path}: chooses no mask by its size; export it with --size, or leave sizes out")
        batch = prompt_batch(points, labels, boxes, width, height, sizes)
        limit = self.points_per_instance
        if limit is not None and batch.coords.shape[1] > limit:
            counts = (batch.labels != PADDING).sum(1)
            if len(counts) and counts.max() > limit:
                raise ResamError(
                    f"instance {int(counts.argmax())}: {counts.max()} points (a box counts as 2), but the engine takes "
                    f"{limit} per instance; give fewer or export with a higher limit"
                )
            batch = compact(batch, limit)
        return batch

    @property
    def points_per_instance(self) -> int | None:
        """Most points of one instance, a box counting as two; None: no limit."""
        limit = self.manifest.max_points_per_instance
        return limit if limit is None or self.manifest.sizes is None else limit - 1  # a size takes a place

    def tiles(self, width: int, height: int) -> list[Tile]:
        """The tiles of a scene of width x height pixels."""
        return plan_tiles(width, height, self.manifest.image_size, self.manifest.framing)

    def plan(self, prompts: PromptBatch, width: int, height: int) -> list[tuple[Tile, NDArray[np.intp]]]:
        """The tiles that own prompts, each with the indices of its own; together every index once."""
        if not len(prompts):
            return []
        tiles = self.tiles(width, height)
        owner = owners(tiles, prompts)
        order = np.argsort(owner, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
        return [(tiles[owner[part[0]]], part) for part in parts]

    def plan_automatic(self, width: int, height: int) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """All tiles of a scene without points, each with where on it to look, see `Search.plan`."""
        return self.search.plan(self.tiles(width, height))

    def prepare_tile(self, window: Image, tile: Tile) -> Image:
        """The window's pixels (tile.height, tile.width, 3) uint8, as the engine sees them: (S, S, 3)."""
        if window.shape[:2] != (tile.height, tile.width):
            raise ResamError(f"tile: expected {tile.width} x {tile.height} px, got an array of shape {window.shape}")
        return scale_to_tile(window, self.manifest.image_size, tile.scale)

    def encode_tile(self, tile_image: Image) -> EncodedTile:
        """Encode one tile (S, S, 3) uint8. Raises `ResamError` for pixels that are not as `prepare_tile` gives them."""
        return self.encode_tiles([tile_image])[0]

    def encode_tiles(self, tile_images: Sequence[Image]) -> list[EncodedTile]:
        """Encode tiles (S, S, 3) uint8 in one call, no more of them than `batch`. Raises `ResamError` as `encode_tile`
        does."""
        for tile_image in tile_images:
            self._check_tile(tile_image)
        image = np.stack(tile_images)
        kept = self.backend.run("encoder", {"image": image}, ["embedding"], keep=True)[0]
        embeddings = [kept] if len(image) == 1 else self.backend.split(kept)
        return [
            EncodedTile(self.backend, self.manifest, tile_image, self._views, self._max_points, embedding)
            for tile_image, embedding in zip(tile_images, embeddings, strict=True)
        ]

    def segment_tile(
        self,
        tile_image: Image | EncodedTile,
        tile: Tile,
        prompts: PromptBatch,
        indices: Sequence[int] | NDArray[np.intp],
        scene_hw: tuple[int, int],
        *,
        keep_logits: bool = False,
    ) -> list[Instance]:
        """Encode one prepared tile (S, S, 3), if it is not encoded yet, and run Refine and Requery for the prompts
        `indices` on it.

        prompts: those of the whole scene, in scene pixels; scene_hw: (H, W) of the scene. Returns their instances in
        the order of `indices`, in scene pixels, `Instance.index` as in `prompts`. keep_logits keeps what
        `make_exclusive` compares.
        """
        encoded = self._encoded(tile_image)
        return encoded.instances("loop", tile, prompts, indices, scene_hw, keep_logits)

    def propose_tile(
        self,
        tile_image: Image | EncodedTile,
        tile: Tile,
        where: NDArray[np.float32],
        scene_hw: tuple[int, int],
        *,
        valid: NDArray[np.bool_] | None = None,
        keep_logits: bool = False,
    ) -> list[Instance]:
        """Find instances on one tile, prepared (S, S, 3) or encoded, without points: by the prompter, or from a grid of
        points.

        tile, where: as `plan_automatic` gives them. scene_hw: (H, W).
        valid: which of the window's pixels have data, (tile.height, tile.width) bool, None: all; no instance is looked
        for, nor kept, where there are none. Follow with `merge_proposals` once all tiles are done: neighbours see the
        same instances.
        """
        return self.search.on_tile(self._encoded(tile_image), tile, where, scene_hw, valid, keep_logits)

    def merge_proposals(self, instances: Sequence[Instance], scene_hw: tuple[int, int]) -> list[Instance]:
        """Drop empty, weak and repeated proposals of all tiles; the best first, numbered anew."""
        return self.search.merge(instances, self.tiles(scene_hw[1], scene_hw[0]))

    def _check_tile(self, tile_image: Image) -> None:
        size = self.manifest.image_size
        if tile_image.shape != (size, size, 3) or tile_image.dtype != np.uint8:
            what = f"{tile_image.shape} {tile_image.dtype}"
            raise ResamError(f"tile: expected ({size}, {size}, 3) uint8 from prepare_tile, got {what}")

    def _encoded(self, tile: Image | EncodedTile) -> EncodedTile:
        return tile if isinstance(tile, EncodedTile) else self.encode_tile(tile)

    def _find(self, image: Image, exclusive: bool) -> list[Instance]:
        height, width = image.shape[:2]
        proposals: list[Instance] = []
        for tile, where in self.plan_automatic(width, height):
            tile_image = self.prepare_tile(tile.cut(image), tile)
            proposals += self.propose_tile(tile_image, tile, where, (height, width), keep_logits=exclusive)
        merged = self.merge_proposals(proposals, (height, width))
        return in_order(merged, exclusive)


class Embedding:
    """One encoded image: answers many prompts without encoding again. Made by `Segmenter.embed`.

    May be prompted from several threads. Its memory is freed with the last reference to it.
    """

    def __init__(self, segmenter: Segmenter, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        self._segmenter = segmenter
        self._image = image
        self._lock = threading.Lock()
        self._encoded: dict[Tile, EncodedTile] = {}
        tiles = segmenter.tiles(self.width, self.height)
        if len(tiles) == 1:
            self._encoding(tiles[0])

    def prompt(
        self,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        refine: bool = True,
        exclusive: bool = False,
        *,
        sizes: Any = None,
    ) -> list[Instance]:
        """Segment the instances that points, boxes or both mark.

        points, labels and sizes as in `Segmenter.__call__`; boxes: (N, 4) x0, y0, x1, y1 in pixels, outer pixels
        included. refine=False answers with the coarse mask: one pass of the decoder, no Refine and Requery.
        Returns one `Instance` per prompt, in order. Raises `ResamError` as `Segmenter.__call__` does.
        """
        segmenter, scene_hw = self._segmenter, (self.height, self.width)
        prompts = segmenter.prompts(points, labels, boxes, self.width, self.height, sizes)
        graph = "loop" if refine else "decoder"
        found: list[Instance] = []
        for tile, indices in segmenter.plan(prompts, self.width, self.height):
            encoded = self._encoding(tile)
            found += encoded.instances(graph, tile, prompts, indices, scene_hw, exclusive)
        return in_order(found, exclusive)

    def _encoding(self, tile: Tile) -> EncodedTile:
        with self._lock:
            if tile not in self._encoded:
                tile_image = self._segmenter.prepare_tile(tile.cut(self._image), tile)
                self._encoded[tile] = self._segmenter.encode_tile(tile_image)
            return self._encoded[tile]


def _check_image(image: Any) -> tuple[int, int]:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = type(image).__name__ if shape is None else f"{dtype} of shape {shape}"
        raise ResamError(f"image: expected a uint8 RGB array of shape (H, W, 3), got {what}")
    if 0 in image.shape:
        raise ResamError(f"image: expected at least one pixel, got shape {shape}")
    return image.shape[0], image.shape[1]


def _whole(name: str, value: Any, most: int | None = None) -> int:
    """A number of things, numpy's too. bool is an int to Python, and none here."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if number < 1 or (most is not None and number > most):
        limits = f"1 to {most}" if most else "at least 1"
        raise ResamError(f"{name}: expected a whole number, {limits}, got {value!r}")
    return number
