"""What training walks through: the tiles of a data set, their views and prompts, drawn alike however often asked.

Everything random about sample number i in epoch e follows from (seed, e, i), so neither the order of loading nor a
restart nor the number of processes changes what a step sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resam.data.coco import CocoData, CocoInstance
from resam.data.prompts import Note, PointOptions, scene_prompts
from resam.data.tiles import Sample, TileArrays, plan_samples, tile_arrays, tile_masks
from resam.data.views import draw_mirror, strong_view
from resam.model.sam import Architecture
from resam_runtime.common.errors import ResamError
from resam_runtime.points import Prompt
from resam_runtime.tiles.averaged_views import View, Window
from resam_runtime.tiles.tiling import Framing, Tile


@dataclass(frozen=True)
class TileViews:
    """A sample in both views; `weak` also holds the prompts. given: (N, M, M) in 0..1, masks to teach, where there are
    any but those of the loop."""

    weak: TileArrays
    strong: NDArray[np.uint8]
    given: NDArray[np.float32] | None
    name: str


class TrainingSet:
    """The samples of a data set. Unless `supervised`, no true mask is kept or read once the points are drawn."""

    def __init__(
        self,
        data: CocoData,
        points: PointOptions,
        architecture: Architecture,
        framing: Framing,
        *,
        seed: int = 0,
        supervised: bool = False,
        strength: float = 0.5,
        note: Note = lambda text: None,
    ) -> None:
        """strength: probability of each operation of the strong view. note: told of points that are not used. Raises
        `ResamError` as `scene_prompts` does, and, `supervised`, for points of an instance that has no mask."""
        self._note = note
        self.data, self.points, self.seed, self.strength = data, points, seed, strength
        self.architecture, self.framing, self.supervised = architecture, framing, supervised
        self._taught: Mapping[tuple[int, int], NDArray[np.bool_]] | None = None
        self._epoch = -1
        self.start_epoch(0)
        if supervised and (points.file is not None or points.keypoints):
            self._check_annotated()

    def seeded(self, seed: int) -> TrainingSet:
        """The same set, drawn by another seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def start_epoch(self, epoch: int) -> None:
        """Draw new points where the options say so; else nothing changes after the first time."""
        if self._epoch < 0 or (self.points.redrawn and epoch != self._epoch):
            self.prompts: list[list[Prompt]] = scene_prompts(self.data, self.points, epoch, self._note)
            self.frame(self.framing)
        self._epoch = epoch

    def frame(self, framing: Framing) -> None:
        """Cut the scenes in another way; the points stay."""
        self.framing = framing
        sizes = [(scene.width, scene.height) for scene in self.data.scenes]
        self.samples: list[Sample] = plan_samples(sizes, self.prompts, self.architecture.image_size, framing)

    def teach(self, masks: Mapping[tuple[int, int], NDArray[np.bool_]]) -> None:
        """Give every sample masks to teach: (M, M) each by numbers of scene and prompt, on the grid of its tile."""
        self._taught = masks

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def instances(self) -> int:
        """Prompts in all samples."""
        return sum(len(sample.prompts) for sample in self.samples)

    def order(self, epoch: int) -> list[int]:
        """The samples' numbers as epoch `epoch` (from 0) visits them."""
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.samples)).tolist()

    def load(self, number: int, epoch: int) -> TileViews:
        """Sample `number` as epoch `epoch` sees it. Raises `ResamError` for an image that cannot be read."""
        sample = self.samples[number]
        scene = self.data.scenes[sample.scene]
        prompts = [self.prompts[sample.scene][i] for i in sample.prompts]
        rng = np.random.default_rng((self.seed, epoch, number))
        mirror, size = draw_mirror(rng), self.architecture.image_size
        weak = tile_arrays(scene.read(sample.tile), sample.tile, prompts, size, mirror)
        given = None
        if self.supervised:
            known = {instance.id: instance for instance in scene.instances}
            masks = [scene.mask(self._instance(known, prompt, scene.name)) for prompt in prompts]
            given = tile_masks(masks, sample.tile, self.architecture.mask_size, size, mirror)
        elif self._taught is not None:
            view = Window(View(1.0, *mirror), Tile(0, 0, weak.extent[1], weak.extent[0]), size)
            taught = np.stack([self._taught[sample.scene, i] for i in sample.prompts])
            given = view.back(taught.astype(np.float32))[0].round()
        return TileViews(weak, strong_view(weak.image, rng, weak.extent, self.strength), given, scene.name)

    def _check_annotated(self) -> None:
        """`ResamError` for a prompt without a true mask, now, not at its turn in training. Points that were drawn from
        masks have one."""
        for scene, prompts in zip(self.data.scenes, self.prompts):
            known = {instance.id: instance for instance in scene.instances}
            for prompt in prompts:
                instance = self._instance(known, prompt, scene.name)
                try:
                    scene.mask(instance)
                except ResamError as error:
                    raise ResamError(f"{self.data.path}: {error}") from None

    def _instance(self, known: dict[str | int, CocoInstance], prompt: Prompt, scene: str) -> CocoInstance:
        if prompt.id not in known:
            raise ResamError(f"{self.data.path}: {scene}: no annotation {prompt.id!r}, which supervised training needs")
        return known[prompt.id]
