"""Where the points come from: drawn once from masks, read from a points file, or COCO keypoints.

Honest points: an instance's draw depends on the data set, the instance and how many points were asked for, on nothing
else. So it never shows a second point, however many epochs, views or runs look at it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resam.data.coco import CocoData, CocoInstance
from resam_runtime.common.errors import ResamError, counted
from resam_runtime.masks.instance import Category
from resam_runtime.points import PointsFile, Prompt, check_prompts, shared_names
from resam_runtime.points.prompts import inside_image

Note = Callable[[str], None]
TOLD = 5  # of the instances that are left out, those named one by one


@dataclass(frozen=True)
class PointOptions:
    """points: positive ones per instance. negatives: drawn outside the true mask, the reference's looser protocol.

    resample: fresh points each epoch, likewise. file: a points file instead of masks. keypoints: COCO's instead.
    """

    points: int = 1
    negatives: int = 0
    resample: bool = False
    file: Path | None = None
    keypoints: bool = False

    @property
    def redrawn(self) -> bool:
        """Whether an epoch has other points than the one before; those that are read stay as they are."""
        return self.resample and self.file is None and not self.keypoints


def scene_prompts(
    data: CocoData, options: PointOptions, epoch: int = 0, note: Note = lambda text: None
) -> list[list[Prompt]]:
    """The prompts of every scene of a data set, in the scenes' order; `Prompt.id` names the instance.

    Drawn points: one prompt per instance whose mask is not empty. `epoch` matters with `resample` alone. note: told in
    one line each of what is not used: points that are read, instances without a mask or a pixel. Raises `ResamError`
    for a point outside its image, for points that do not say which scene they belong to, or where the whole data set
    gives no point.
    """
    if options.file is not None or options.keypoints:
        prompts = _read(data, options.file or data.path, note)
    else:
        boxes = sum(instance.box_only for scene in data.scenes for instance in scene.instances)
        prompts = _draw_all(data, options, epoch, skip_boxes=boxes < data.count)
        if epoch == 0 and boxes:
            note(f"skipped: {counted(boxes, 'instance')} of {data.path} with a box and no mask")
        if epoch == 0 and (empty := data.count - boxes - sum(map(len, prompts))):
            note(f"skipped: {counted(empty, 'instance')} of {data.path} whose masks have no pixel in their image")
    if not any(prompts):
        raise ResamError(f"{options.file or data.path}: no instance with a point in {len(data.scenes)} images")
    return prompts


def pointed(prompts: Sequence[Sequence[Prompt]]) -> list[int]:
    """The numbers of the scenes that have a prompt; prompts: those of each scene."""
    return [number for number, own in enumerate(prompts) if own]


def draw_points(
    mask: NDArray[np.bool_], points: int, negatives: int, seed: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Pixels drawn evenly from a mask (H, W), and from outside it: coords (P, 2) float32 x, y; labels (P,) int32.

    No pixel twice; fewer than asked for where there are not enough. The same seed gives the same points.
    """
    rng = np.random.default_rng(list(seed))
    width = mask.shape[1]
    flat = mask.ravel()
    chosen = []
    for label, number in ((1, points), (0, negatives)):
        pixels = np.flatnonzero(flat == bool(label)) if number else np.empty(0, np.intp)
        picked = rng.choice(pixels, min(number, len(pixels)), replace=False) if len(pixels) else pixels
        chosen.append((picked, np.full(len(picked), label, np.int32)))
    index = np.concatenate([picked for picked, _ in chosen])
    coords = np.stack((index % width, index // width), axis=1).astype(np.float32)
    return coords, np.concatenate([labels for _, labels in chosen])


def point_seed(digest: str, instance: str | int, number: int, epoch: int | None = None) -> list[int]:
    """The seed of an instance's draw: data set, instance, number of points; the epoch only where points are redrawn."""
    name = zlib.crc32(str(instance).encode())
    return [int(digest[:15], 16), name, number, *([] if epoch is None else [epoch + 1])]


def _draw_all(data: CocoData, options: PointOptions, epoch: int, skip_boxes: bool) -> list[list[Prompt]]:
    drawn = []
    for scene in data.scenes:
        prompts = []
        for instance in scene.instances:
            if skip_boxes and instance.box_only:
                continue
            number = options.points + 1000 * options.negatives
            seed = point_seed(data.digest, instance.id, number, epoch if options.resample else None)
            try:
                mask = scene.mask(instance)
            except ResamError as error:
                instead = "; --keypoints takes the points" if instance.annotation.get("keypoints") else ""
                raise ResamError(f"{data.path}: {error}{instead}") from None
            if mask.any():
                drawn_points = draw_points(mask, options.points, options.negatives, seed)
                prompts.append(Prompt(*drawn_points, instance.id, _category(data, instance)))
        drawn.append(prompts)
    return drawn


def _category(data: CocoData, instance: CocoInstance) -> Category | None:
    """The class of an instance, with its name."""
    number = instance.category
    return None if number is None else Category(number, data.categories.get(number))


def _with_points(prompt: Prompt) -> Prompt:
    """A box without points is what the student is asked with: its corners are the points."""
    if len(prompt.coords):
        return prompt
    coords, labels = prompt.tokens
    return replace(prompt, coords=coords, labels=labels)


def _read(data: CocoData, path: Path, note: Note) -> list[list[Prompt]]:
    points = PointsFile.open(path)
    points.check_named(len(data.scenes))
    shared = shared_names(scene.full_path for scene in data.scenes)
    # a COCO file as its own points file: the crowds that `data` left out are no prompts either
    own_file = path == data.path and data.count > 0
    prompts, skipped, elsewhere = [], [], len(points)
    for scene in data.scenes:
        found = scene.points(points, shared)
        elsewhere -= len(found)
        if own_file:
            annotated = {instance.id for instance in scene.instances}
            found = [prompt for prompt in found if prompt.id in annotated]
        kept = []
        for prompt in found:
            fit, unfit = check_prompts([prompt], scene.width, scene.height)
            kept += [_with_points(one) for one in fit]
            for _, reason in unfit:
                line = f"{scene.name}: instance {prompt.id}: {reason}"
                # a point that has no pixel is a mistake in the file, or a file of other scenes
                placed = not np.isnan(prompt.coords).any()
                # by its place one that straddles two scenes is found in both
                if placed and not points.by_place and not inside_image(prompt.coords, scene.width, scene.height).all():
                    raise ResamError(f"{path}: {line}")
                skipped.append(line)
        prompts.append(kept)
    for line in skipped[:TOLD]:
        note(f"skipped: {line}")
    if len(skipped) > TOLD:
        note(f"skipped: {len(skipped) - TOLD} more instances of {path}")
    if elsewhere > 0 and not points.by_place:  # by its place an instance may be in several scenes
        note(f"skipped: {elsewhere} instances of {path} that are in none of the {len(data.scenes)} scenes")
    return prompts
