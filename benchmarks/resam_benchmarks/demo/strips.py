"""What the loop makes of a few scenes, step by step, by the base and by the adapted engine, and what the adapted one
finds there without points, as pictures.

The graphs of the engine files compute everything but the refined masks, which are no output of theirs: those come
from the coarse masks by the library's own `refine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from resam.data.coco import CocoData, CocoScene
from resam.data.prompts import PointOptions, scene_prompts
from resam.data.spread import spread
from resam.data.tiles import Sample, TileArrays, plan_samples, tile_arrays
from resam.model.refine_requery import refine, refine_logit
from resam.training.pictures import draw_boxes, draw_masks, draw_points, instance_colours, upsampled
from resam_runtime.engine.backends import Backend, load_backend
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.masks.instance import Instance
from resam_runtime.points import Prompt
from resam_runtime.segment.segmenter import Segmenter

SIDE = 384  # px of the longer side of a picture
LOOP_MASKS = ("coarse", "refined", "final")
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ShownScene:
    """A scene's pictures, RGB, all of one size. stages: per engine name one picture per stage. found: what an engine
    with a prompter finds without points, and `found_count` how many these are; None where no engine has one.
    """

    name: str
    instances: int
    points: Picture
    truth: Picture
    stages: Mapping[str, Mapping[str, Picture]]
    found: Picture | None = None
    found_count: int = 0


def draw_scenes(engines: Mapping[str, Path], annotations: Path, limit: int, count: int) -> list[ShownScene]:
    """Pictures of up to `count` of the `limit` scenes that are measured: the first of each kind, none chosen for its
    result.
    """
    data = CocoData.open(annotations)
    measured = [scene for scene in data.scenes if scene.instances]
    measured = [measured[i] for i in spread(len(measured), limit)]
    prompts = dict(zip((scene.name for scene in data.scenes), scene_prompts(data, PointOptions())))
    opened = {name: EngineFile.open(path) for name, path in engines.items()}
    backends = {name: load_backend(engine) for name, engine in opened.items()}
    finders = [Segmenter(engine) for engine in opened.values() if engine.manifest.prompter is not None]
    shown = []
    for place in _first_of_each_kind([scene.name for scene in measured], count):
        scene = measured[place]
        own = prompts[scene.name]
        drawings = {
            name: _Drawing(scene, own, opened[name].manifest, backend) for name, backend in backends.items()
        }  # fmt: skip
        first = next(iter(drawings.values()))
        found = finders[0](scene.read()) if finders else []
        shown.append(
            ShownScene(
                scene.name,
                len(own),
                first.points(),
                first.truth(),
                {name: drawing.stages() for name, drawing in drawings.items()},
                first.found(found) if finders else None,
                len(found),
            )
        )
    return shown


def _first_of_each_kind(names: list[str], count: int) -> list[int]:
    """Places of scenes named SPLIT_NUMBER_KIND.png, one of each kind while there are, then the next ones."""
    kinds = [name.rsplit(".", 1)[0].split("_", 2)[-1] for name in names]
    firsts = [place for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    others = [place for place in range(len(names)) if place not in firsts]
    return sorted([*firsts, *others][:count])


class _Drawing:
    """One engine on one scene: every tile that owns prompts, put together on a picture of the scene."""

    def __init__(self, scene: CocoScene, prompts: list[Prompt], manifest: Manifest, backend: Backend) -> None:
        self._scene, self._prompts = scene, prompts
        window = scene.read()
        self._zoom = SIDE / max(window.shape[:2])
        how = cv2.INTER_AREA if self._zoom < 1 else cv2.INTER_CUBIC
        larger = cv2.resize(window, None, fx=self._zoom, fy=self._zoom, interpolation=how)
        self._picture: Picture = np.asarray(larger, np.uint8)
        self._colours = instance_colours(len(prompts))
        self._threshold = refine_logit(manifest.refine_threshold)
        self._boxes = np.zeros((len(prompts), 4))
        self._masks = {stage: [np.zeros(self._picture.shape[:2], bool) for _ in prompts] for stage in LOOP_MASKS}
        size = manifest.image_size
        for sample in plan_samples([(scene.width, scene.height)], [prompts], size, manifest.framing):
            self._add_tile(sample, tile_arrays(scene.read(sample.tile), sample.tile, self._own(sample), size), backend)

    def points(self) -> Picture:
        """The scene with the points that are all the model is told."""
        panel = self._picture.copy()
        for prompt, colour in zip(self._prompts, self._colours):
            draw_points(panel, prompt.coords[None] * self._zoom, prompt.labels[None], [colour], radius=4)
        return panel

    def truth(self) -> Picture:
        """The true masks of the same instances, in the same colours."""
        truths = {instance.id: instance for instance in self._scene.instances}
        height, width = self._picture.shape[:2]
        masks = []
        for prompt in self._prompts:
            assert prompt.id is not None
            mask = self._scene.mask(truths[prompt.id]).astype(np.float32)
            masks.append(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 0.5)
        return draw_masks(self._picture, masks, self._colours)

    def found(self, instances: Sequence[Instance]) -> Picture:
        """Masks of instances of the scene, a colour for each class."""
        height, width = self._picture.shape[:2]
        masks, classes = [], []
        for instance in instances:
            whole = np.zeros(instance.scene_hw, np.float32)
            (x, y), (high, wide) = instance.origin, instance.mask.shape
            whole[y : y + high, x : x + wide] = instance.mask
            masks.append(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA) > 0.5)
            classes.append(instance.category.id if instance.category is not None else 0)
        known = sorted(set(classes), key=str)
        colours = instance_colours(len(known))
        return draw_masks(self._picture, masks, [colours[known.index(one)] for one in classes])

    def stages(self) -> dict[str, Picture]:
        """Coarse, refined (with the boxes that Requery asks with) and final masks."""
        drawn = {stage: draw_masks(self._picture, masks, self._colours) for stage, masks in self._masks.items()}
        draw_boxes(drawn["refined"], self._boxes, self._colours)
        return drawn

    def _own(self, sample: Sample) -> list[Prompt]:
        return [self._prompts[i] for i in sample.prompts]

    def _add_tile(self, sample: Sample, arrays: TileArrays, backend: Backend) -> None:
        embedding = backend.run("encoder", {"image": arrays.image[None]}, ["embedding"], keep=True)[0]
        inputs = {"embedding": embedding, "point_coords": arrays.coords, "point_labels": arrays.labels}
        outputs = backend.run("loop", inputs, ["coarse_masks", "boxes", "masks"])
        coarse, boxes, final = (np.asarray(output, np.float32) for output in outputs)
        refined = refine(torch.from_numpy(coarse), self._threshold).numpy()
        tile, size = sample.tile, arrays.image.shape[0]
        x0, y0, x1, y1 = (
            round(v * self._zoom) for v in (tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
        )  # fmt: skip
        high, wide = self._picture.shape[:2]
        rows, columns = (max(1, round(side / size * coarse.shape[-1])) for side in arrays.extent)
        for stage, logits, least in (
            ("coarse", coarse, 0.0), ("refined", refined, self._threshold), ("final", final, 0.0)
        ):  # fmt: skip
            for place, own in zip(sample.prompts, logits):
                inside: Any = upsampled(own[:rows, :columns], x1 - x0, y1 - y0) > least
                self._masks[stage][place][y0:y1, x0:x1] = inside[: high - y0, : wide - x0]
        corner = np.array([tile.x, tile.y] * 2)
        self._boxes[list(sample.prompts)] = (boxes / tile.scale + corner) * self._zoom * (boxes[:, 2:3] > 0)
