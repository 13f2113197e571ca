"""COCO's evaluation (pycocotools) of masks that were found without points.

AP over IoU 0.5 to 0.95, with classes; the same at 0.5, with classes and without; recall at 100 masks a scene, without
classes, over IoU 0.5 to 0.95 and at 0.5; by size, as COCO has it. Precision and recall at the engine's own thresholds:
a mask is right that has an IoU of 0.5 with an instance of its class (of any, where classes are not told apart) which
no mask of a higher score has taken.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_IOU = 0.5
MOST = 100  # masks of a scene that are looked at, the best
RESAMPLED = 200  # bootstrap samples of the scenes, for intervals


@dataclass(frozen=True)
class FoundMask:
    """A mask that was found: COCO's RLE, score, the data set's number of its class (None: of none), and whether it is
    one at the engine's own threshold."""

    rle: Mapping[str, Any]
    score: float
    category: int | None
    taken: bool


@dataclass
class Scenes:
    """The truth: COCO's objects, crowds left out."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    categories: Mapping[int, str] = field(default_factory=dict)

    def add(self, width: int, height: int, truths: Sequence[tuple[Mapping[str, Any], int | None]]) -> int:
        """One more scene, with its true masks as COCO's RLE and their classes; returns its number."""
        from pycocotools import mask

        number = len(self.images) + 1
        self.images.append({"id": number, "width": width, "height": height})
        for rle, category in truths:
            box = [float(side) for side in mask.toBbox(dict(rle))]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": 0 if category is None else category,
                    "segmentation": dict(rle),
                    "area": float(mask.area(dict(rle))),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
        return number


def evaluate(truth: Scenes, found: Mapping[int, Sequence[FoundMask]], with_classes: bool) -> dict[str, Any]:
    """The figures of one rival, each 0 to 1 or None. found: by the numbers that `Scenes.add` gave. with_classes:
    whether its masks have classes."""
    free = _coco(truth, found, classes=False)
    figures: dict[str, Any] = {"ap": None, "ap50": None}
    if with_classes:
        stats = _coco(truth, found, classes=True).stats
        figures |= {"ap": _share(stats[0]), "ap50": _share(stats[1])}
    per_scene = _matches(free)
    figures["ap50_free"] = _share(free.stats[1])
    figures["ap50_free_interval"] = _interval(per_scene)
    figures |= {"ar100_free": _share(free.stats[8]), "recall50_free": _share(free.eval["recall"][0, 0, 0, 2])}
    figures |= {f"ar100_{name}": _share(free.stats[at]) for name, at in (("small", 9), ("medium", 10), ("large", 11))}
    figures["proposals"] = sum(map(len, found.values())) / max(1, len(truth.images))
    taken = {number: [one for one in masks if one.taken] for number, masks in found.items()}
    right = _right(_coco(truth, taken, classes=with_classes))
    count = sum(map(len, taken.values()))
    figures["precision"] = right / count if count else None
    figures["recall"] = right / len(truth.annotations) if truth.annotations else None
    return figures


def average_precision(scores: NDArray[np.floating], right: NDArray[np.bool_], count: int) -> float:
    """COCO's AP at one IoU: the mean over 101 recalls of the best precision from there on. scores, right: (N,) of all
    masks; count: true instances."""
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(right[order])
    recall = hits / max(1, count)
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(at < len(best), np.append(best, 0.0)[np.minimum(at, len(best))], 0.0).mean())


def _coco(truth: Scenes, found: Mapping[int, Sequence[FoundMask]], classes: bool) -> Any:
    """A COCOeval that has accumulated, whatever there is."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = sorted({annotation["category_id"] for annotation in truth.annotations} | set(truth.categories))
    detections = [
        {
            "image_id": number,
            "category_id": numbers[0] if not classes or one.category is None else one.category,
            "segmentation": dict(one.rle),
            "score": one.score,
        }
        for number, masks in found.items()
        for one in masks
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": truth.images,
            "annotations": [dict(annotation) for annotation in truth.annotations],
            "categories": [{"id": number, "name": truth.categories.get(number, str(number))} for number in numbers],
        }
        coco.createIndex()
        results = coco.loadRes(detections) if detections else _nothing(coco)
        evaluation = COCOeval(coco, results, "segm")
        evaluation.params.useCats = int(classes)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _nothing(coco: Any) -> Any:
    """Results without any mask, which `loadRes` does not take."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {"images": coco.dataset["images"], "annotations": [], "categories": coco.dataset["categories"]}
    empty.createIndex()
    return empty


def _matches(evaluation: Any) -> list[tuple[NDArray[np.floating], NDArray[np.bool_], int]]:
    """Per scene, without classes and of all sizes, at IoU 0.5: scores, whether right, true instances."""
    images = len(evaluation.params.imgIds)
    found: list[tuple[NDArray[np.floating], NDArray[np.bool_], int]] = []
    for one in evaluation.evalImgs[:images]:
        if one is None:
            found.append((np.empty(0), np.empty(0, bool), 0))
        else:
            right = np.asarray(one["dtMatches"][0]) > 0
            found.append((np.asarray(one["dtScores"], float), right, len(one["gtIds"])))
    return found


def _right(evaluation: Any) -> int:
    """Masks that match an instance at IoU 0.5, over all classes and scenes."""
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    all_sizes = [one for at, one in enumerate(evaluation.evalImgs) if (at // images) % areas == 0 and one is not None]
    return sum(int((np.asarray(one["dtMatches"][0]) > 0).sum()) for one in all_sizes)


def _interval(scenes: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_], int]]) -> list[float] | None:
    """95 % of the AP at IoU 0.5 without classes, over scenes drawn with replacement."""
    if len(scenes) < 2:
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLED):
        drawn = [scenes[i] for i in rng.integers(0, len(scenes), len(scenes))]
        scores, right = (np.concatenate([one[part] for one in drawn]) for part in (0, 1))
        values.append(average_precision(scores, right, sum(one[2] for one in drawn)))
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]


def _share(value: float) -> float | None:
    """A figure of COCOeval, which says -1 where there is nothing to measure."""
    return None if value < 0 else float(value)
