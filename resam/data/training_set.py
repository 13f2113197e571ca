"""What training walks through: the tiles of a data set, their views and prompts, drawn alike however often asked.

Everything random about sample number i in epoch e follows from (seed, e, i), so neither the order of loading nor a
restart nor the number of processes changes what a step sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resam.data.coco import CocoData, CocoInstance
from resam.data.prompts import Note, PointOptions, pointed, scene_prompts
from resam.data.spread import spread
from resam.data.taught import SoftMask, SoftMasks
from resam.data.tiles import Sample, TileArrays, plan_samples, tile_arrays, tile_masks
from resam.data.views import draw_mirror, strong_view
from resam.encoders import Architecture
from resam_runtime.common.errors import ResamError
from resam_runtime.points import Prompt
from resam_runtime.tiles.averaged_views import View, Window
from resam_runtime.tiles.prompt_batch import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING
from resam_runtime.tiles.tiling import Framing, Tile

UNNAMED = "object"
ENOUGH = 10  # scenes from which on some can be spared
BOX_LABELS = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32)


@dataclass(frozen=True)
class TileViews:
    """A sample in both views; `weak` also holds the prompts. given: (N, M, M) in 0..1, masks to teach, where there are
    any but those of the loop; weight: (N,) what each counts, None: all alike. asked: (N, P) the labels of the points
    that the student sees, None: all. coins: (N,) in 0..1, for what is decided instance by instance. mirror: whether the
    views show the window mirrored in x and in y."""

    weak: TileArrays
    strong: NDArray[np.uint8]
    given: NDArray[np.float32] | None
    name: str
    weight: NDArray[np.float32] | None
    asked: NDArray[np.int32] | None
    coins: NDArray[np.float64]
    mirror: tuple[bool, bool] = (False, False)


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
        asked: int = 0,
        aside: float = 0.0,
        note: Note = lambda text: None,
    ) -> None:
        """strength: probability of each operation of the strong view. asked: how many of an instance's positive points
        the student sees at a time, 0: all. aside: share of the scenes with prompts that are not walked through, where
        there are at least `ENOUGH`: their tiles are `set_aside`. note: told of points that are not used. Raises
        `ResamError` as `scene_prompts` does, and, `supervised`, for points of an instance that has no mask."""
        self._note, self.asked, self._aside = note, asked, aside
        self.data, self.points, self.seed, self.strength = data, points, seed, strength
        self.architecture, self.framing, self.supervised = architecture, framing, supervised
        self._taught: SoftMasks | None = None
        self._weights: Mapping[tuple[int, int], float] = {}
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
            numbered = ((s, i, one.box) for s, own in enumerate(self.prompts) for i, one in enumerate(own))
            self.boxes: Mapping[tuple[int, int], NDArray[np.float32]] = {
                (scene, i): box for scene, i, box in numbered if box is not None
            }
            self.frame(self.framing)
        self._epoch = epoch

    def frame(self, framing: Framing) -> None:
        """Cut the scenes in another way; the points stay."""
        self.framing = framing
        sizes = [(scene.width, scene.height) for scene in self.data.scenes]
        planned = plan_samples(sizes, self.prompts, self.architecture.image_size, framing)
        numbers = pointed(self.prompts)
        count = round(self._aside * len(numbers)) if len(numbers) >= ENOUGH else 0
        aside = {numbers[i] for i in spread(len(numbers), count)}
        self.samples: list[Sample] = [sample for sample in planned if sample.scene not in aside]
        self.set_aside: list[Sample] = [sample for sample in planned if sample.scene in aside]

    def teach(self, masks: SoftMasks, weights: Mapping[tuple[int, int], float] | None = None) -> None:
        """Give every sample masks to teach, by numbers of scene and prompt, on the grid of its tile. weights: what each
        counts, 1 where it is not said."""
        self._taught, self._weights = masks, weights or {}

    def label(self, scene: int, prompt: int) -> SoftMask | None:
        """The mask that is taught of an instance, on the grid of its tile; None where it is made at each step."""
        return None if self._taught is None else self._taught.get((scene, prompt))

    def with_box(self, scene: int, prompt: int) -> Prompt:
        """A prompt with the corners of the box that was drawn around its object, (x0, y0, x1, y1) in `boxes`, if one
        was."""
        own, box = self.prompts[scene][prompt], self.boxes.get((scene, prompt))
        if box is None or BOX_TOP_LEFT in own.labels:
            return own
        coords = np.concatenate((own.coords, np.reshape(box, (2, 2)).astype(np.float32)))
        return replace(own, coords=coords, labels=np.concatenate((own.labels, BOX_LABELS)))

    def class_of(self, scene: int, prompt: int) -> str:
        """What an instance's class is called; `UNNAMED` where nothing says."""
        category = self.prompts[scene][prompt].category
        if category is None:
            return UNNAMED
        number, name = category
        return name or (UNNAMED if number is None else self.data.categories.get(number, str(number)))

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
            given = view.back(np.stack([self._taught[sample.scene, i].full() for i in sample.prompts]))[0]
        weight = None
        if self._weights and not self.supervised:
            weight = np.array([self._weights.get((sample.scene, i), 1.0) for i in sample.prompts], np.float32)
        strong = strong_view(weak.image, rng, weak.extent, self.strength)
        asked, coins = _asked(weak.labels, self.asked, rng), rng.random(len(prompts))
        return TileViews(weak, strong, given, scene.name, weight, asked, coins, mirror)

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


def _asked(labels: NDArray[np.int32], count: int, rng: np.random.Generator) -> NDArray[np.int32] | None:
    """The labels (N, P) with `count` of each instance's positive points, at random, and the others hidden; None where
    that hides none."""
    if not count or (labels == 1).sum(axis=1).max(initial=0) <= count:
        return None
    order = np.where(labels == 1, rng.random(labels.shape), 2.0).argsort(axis=1).argsort(axis=1)
    return np.where((labels == 1) & (order >= count), PADDING, labels).astype(np.int32)
