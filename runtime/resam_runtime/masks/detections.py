"""Instances as the `Detections` of Roboflow's supervision, which draws, filters, tracks and counts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category, Instance

if TYPE_CHECKING:
    import supervision


def to_supervision(instances: Iterable[Instance]) -> supervision.Detections:
    """The instances of one scene that have a mask, in their order, as `supervision.Detections`.

    `xyxy` (N, 4) float32 runs along pixel edges counted from the corner of the first pixel, as COCO's boxes do; `mask`
    (N, H, W) bool is as large as the scene; `confidence` is the score; `class_id` COCO's number of the category, -1
    where an instance has none, None where none has. `data` holds `class_name` ("" for none) and `instance`, what
    the points call it. Raises `ResamError` where supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise ResamError("to_supervision: supervision is not installed; pip install supervision") from None
    shown = [one for one in instances if not one.empty]
    if not shown:
        return supervision.Detections.empty()
    mask = np.zeros((len(shown), *shown[0].scene_hw), bool)
    for whole, one in zip(mask, shown):
        (x, y), (height, width) = one.origin, one.mask.shape
        whole[y : y + height, x : x + width] = one.mask
    categories = [one.category or Category() for one in shown]
    numbers = None
    if any(category.id is not None for category in categories):
        numbers = np.array([-1 if category.id is None else category.id for category in categories])
    return supervision.Detections(
        xyxy=np.stack([one.box for one in shown]) + np.array([0, 0, 1, 1], np.float32),
        mask=mask,
        confidence=np.array([one.score for one in shown], np.float32),
        class_id=numbers,
        data={
            "class_name": np.array([category.name or "" for category in categories]),
            "instance": np.array([str(one.called) for one in shown]),
        },
    )
