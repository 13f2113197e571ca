"""Scenes, true masks and simulated points of a COCO data set; and the synthetic scene for latency alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resam_benchmarks.measure.cases import BenchScene
from resam_benchmarks.measure.metrics import crop_of
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.masks.instance import Category
from resam_runtime.points import Prompt
from resam_runtime.tiles.prompt_batch import PromptBatch, padded

LATENCY_SIDE = 1024
"""Side in px of the synthetic scene for latency."""


@dataclass(frozen=True, eq=False)
class BenchData:
    """Scenes with their truths, and for each number of points the prompts of every scene, in the scenes' order."""

    scenes: Sequence[BenchScene]
    points: Mapping[int, Sequence[PromptBatch]]
    about: Mapping[str, Any]


def load(
    folder: Path, split: str, points: Sequence[int], limit: int | None = None, negatives: bool = False
) -> BenchData:
    """Scenes of a split (`FOLDER/SPLIT.json`) that have instances, at most `limit` of them, evenly chosen.

    points: for which numbers of points per instance prompts are drawn: once per instance and number, seeded by data set
    and instance. negatives: with as many negative points outside the true mask, the paper's protocol; else all are
    positive. Raises `ResamError` for a data set that cannot be read or has no instances.
    """
    from resam.data.coco import CocoData
    from resam.data.prompts import PointOptions, scene_prompts
    from resam.data.spread import spread

    path = annotation_file(folder, split)
    data = CocoData.open(path)
    chosen = [number for number, scene in enumerate(data.scenes) if scene.instances]
    if not chosen:
        raise ResamError(f"{path}: no instances in {len(data.scenes)} images; give a split with annotations")
    if limit is not None and limit < len(chosen):
        chosen = [chosen[i] for i in spread(len(chosen), limit)]
    part = CocoData(data.path, data.digest, tuple(data.scenes[number] for number in chosen), data.categories)
    skipped: dict[str, None] = {}
    options = {number: PointOptions(number, number if negatives else 0) for number in points}
    drawn = {number: scene_prompts(part, how, note=skipped.setdefault) for number, how in options.items()}
    scenes, kept = [], []
    for place, scene in enumerate(part.scenes):
        scene.check()  # a file that cannot be read is better found now than in the middle of a measurement
        # an instance without pixels got no prompt
        prompted = [prompt.id for prompt in drawn[points[0]][place] if prompt.id is not None]
        if not prompted:
            continue
        own = {instance.id: instance for instance in scene.instances}
        truths = [crop_of(scene.mask(own[name])) for name in prompted]
        numbers = [own[name].category for name in prompted]
        classes = [None if number is None else Category(number, data.categories.get(number)) for number in numbers]
        image = str(scene.path)
        scenes.append(BenchScene(scene.name, image, scene.width, scene.height, truths, prompted, classes))
        kept.append(place)
    return BenchData(
        scenes,
        {number: [_batch(per_scene[place]) for place in kept] for number, per_scene in drawn.items()},
        {
            "name": folder.resolve().name + (f", {split} split" if folder.is_dir() else ""),
            "digest": data.digest,
            "split": split if folder.is_dir() else None,
            "points": list(points),
            "negatives": negatives,
            "notes": list(skipped),
        },
    )


def annotation_file(folder: Path, split: str) -> Path:
    if folder.is_file():
        return folder
    for place in (folder / f"{split}.json", folder / "annotations" / f"{split}.json"):
        if place.is_file():
            return place
    raise ResamError(f"{folder}: holds no {split}.json; expected a COCO data set (see --split)")


def _batch(prompts: Sequence[Prompt]) -> PromptBatch:
    return padded([prompt.coords for prompt in prompts], [prompt.labels for prompt in prompts])


def latency_scene(folder: Path, counts: Sequence[int], seed: int = 0) -> tuple[BenchScene, Mapping[int, PromptBatch]]:
    """A synthetic scene of 1024 px, written to `folder`, and for each count so many prompts of one point in it.

    The first points are instances' own; where there are more prompts than instances the rest lie on a jittered grid.
    """
    import cv2

    from resam.synthetic.scenes import generate_scene

    scene = generate_scene(seed, LATENCY_SIDE)
    path = folder / f"synthetic-{seed}-{LATENCY_SIDE}.png"
    with atomic_write(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    rng = np.random.default_rng(seed)
    own = []
    for x, y, mask in scene.masks:
        rows, columns = np.nonzero(mask)
        pick = int(rng.integers(len(rows)))
        own.append((x + columns[pick], y + rows[pick]))
    side = int(np.ceil(np.sqrt(max(counts))))
    step = LATENCY_SIDE / side
    grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) * step
    grid = rng.permutation(grid + rng.uniform(-0.3, 0.3, grid.shape) * step)
    everything = np.concatenate([np.array(own, np.float32).reshape(-1, 2), grid]).astype(np.float32)
    prompts = {n: PromptBatch(everything[:n, None], np.ones((n, 1), np.int32)) for n in counts}
    return BenchScene(path.name, str(path), LATENCY_SIDE, LATENCY_SIDE), prompts
