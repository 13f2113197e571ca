"""What is known of a scene once it was processed: all that files of a whole run are made from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from resam_runtime.common.checked import Malformed, kind, list_of, shown, take, text, whole
from resam_runtime.masks.instance import FoundBy, Instance
from resam_runtime.points.prompts import Skipped
from resam_runtime.scenes.dates import utc
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_files import STATE_FOLDER
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.tiles.prompt_batch import BOX_TOP_LEFT

FORMAT = 1
RUN_STAGES = ("read", "prepare", "inference", "write")
Annotation = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A scene that is done, or has failed.

    name, stem: what it and its outputs are called. source: what tells whether it or its points have changed since.
    scene: None if it failed. points: of all its instances. annotations: see `annotation`. by_place: ids of instances
    that are its own by their place on the map. skipped: instances without a mask. outputs: its files, in the output
    folder. seconds: spent in each of `RUN_STAGES`. notes: what a user should know, one line each; without_points: the
    one that says that it came without points. reason: why it failed; traceback: where, if that is a defect of ours.
    """

    name: str
    stem: str
    source: Mapping[str, Any] = field(default_factory=dict)
    scene: SceneInfo | None = None
    points: int = 0
    annotations: Sequence[Annotation] = ()
    by_place: Sequence[str | int | None] = ()
    skipped: Sequence[Skipped] = ()
    outputs: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    without_points: str | None = None
    reason: str | None = None
    traceback: str | None = None

    @property
    def failed(self) -> bool:
        return self.reason is not None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = {"format": FORMAT, "name": self.name, "stem": self.stem, "source": dict(self.source)}
        if self.scene is not None:
            data |= {"status": "done", "width": self.scene.width, "height": self.scene.height}
            if self.scene.georeference is not None:
                data |= {"transform": list(self.scene.georeference.transform), "crs": self.scene.georeference.crs}
            data |= {"raster": True} if self.scene.raster else {}
            data |= {"date": self.scene.date} if self.scene.date is not None else {}
            data |= {"points": self.points, "annotations": list(self.annotations), "by_place": list(self.by_place)}
            data |= {"skipped": [one._asdict() for one in self.skipped], "outputs": list(self.outputs)}
        data |= {"seconds": dict(self.seconds), "notes": list(self.notes), "without_points": self.without_points}
        if self.reason is not None:
            data |= {"status": "failed", "reason": self.reason}
            data |= {"traceback": self.traceback} if self.traceback else {}
        return data

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """The record that `to_json` gave. Raises Malformed for anything else."""
        members = _ALWAYS(data)
        done = members["status"] == "done"
        members = (_DONE if done else _FAILED)(members)
        skipped = [Skipped(one["instance"], one["reason"]) for one in members.get("skipped", ())]
        scene = SceneInfo(members["name"], *_place(members)) if done else None
        names = [one.name for one in fields(cls) if one.name in members and one.name not in ("scene", "skipped")]
        return cls(**{name: members[name] for name in names}, scene=scene, skipped=skipped)


def annotation(instance: Instance) -> Annotation:
    """A COCO annotation without its `id` and `image_id`, which only the whole run can give.

    bbox = [x, y, width, height] in px; `instance` is what the points file calls it, `index` its place among the prompts
    of the scene that could be decoded, `points`, `labels` and, of one that had a box, `box_prompt` (x0, y0, x1, y1) its
    prompt, `found_by` what gave it: the file can be given to `--points` as it is. `category_id` may be None here: the
    writer knows which numbers are free.
    """
    x0, y0, x1, y1 = (int(value) for value in instance.box)
    points = instance.labels < BOX_TOP_LEFT
    return {
        "category_id": None if instance.category is None else instance.category.id,
        "instance": instance.called,
        "index": instance.index,
        "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
        "area": instance.area,
        "iscrowd": 0,
        "score": round(float(instance.score), 5),
        "coarse_score": round(float(instance.coarse_score), 5),
        # the shortest numbers that are these float32 again: the next run's prompts are the same, to the last bit
        "points": [[float(str(x)), float(str(y))] for x, y in instance.points[points]],
        "labels": [int(label) for label in instance.labels[points]],
        **({} if points.all() else {"box_prompt": [float(str(v)) for v in instance.points[~points].reshape(-1)]}),
        "found_by": instance.found_by,
        "segmentation": instance.rle,
    }


def plain_name(value: Any) -> str:
    """A `Kind`: a path inside an output folder, as outputs of scenes have it; neither hidden nor leading out of it."""
    name = take(value, text(r"(?s:[^\0]+)"))
    parts = name.replace("\\", "/").split("/") if os.sep == "\\" else name.split("/")
    if any(part in ("", ".", "..", STATE_FOLDER) for part in parts) or os.path.isabs(name):
        raise Malformed("expected a path inside the output folder")
    return name


def _id(value: Any) -> str | int | None:
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise Malformed(f"expected an id, got {shown(value)}")
    return value


_PAIR = list_of(kind(float), 2, 2)
_BOX = list_of(kind(float), 4, 4)
_ANNOTATION = kind({
    "category_id": int | None,
    "instance": _id,
    "index": whole(0),
    "bbox": list_of(kind(int), 4, 4),
    "area": whole(0),
    "iscrowd": whole(0, 1),
    "score": float,
    "coarse_score": float,
    "points": [_PAIR],
    "labels": list[int],
    "found_by": FoundBy,
    "segmentation": {"size": list_of(whole(1), 2, 2), "counts": str},
})  # fmt: skip


def _annotation(value: Any) -> Annotation:
    taken: Annotation = _ANNOTATION(value)
    return taken if "box_prompt" not in taken else {**taken, "box_prompt": _BOX(taken["box_prompt"])}


_ALWAYS = kind({
    "format": whole(FORMAT, FORMAT),
    "name": str,
    "stem": plain_name,
    "status": Literal["done", "failed"],
    "source": dict,
    "seconds": Mapping[str, float],
    "notes": list[str],
    "without_points": str | None,
})  # fmt: skip
_FAILED = kind({"reason": str, "traceback": str | None})
_DONE = kind({
    "width": whole(1),
    "height": whole(1),
    "transform": tuple[float, ...] | None,
    "crs": str | None,
    "raster": bool | None,
    "date": str | None,
    "points": whole(0),
    "annotations": [_annotation],
    "by_place": [_id],
    "skipped": [{"instance": _id, "reason": str}],
    "outputs": [plain_name],
})  # fmt: skip


def _place(members: Mapping[str, Any]) -> tuple[int, int, Georeference | None, bool, str | None]:
    transform, crs = members["transform"], members["crs"]
    if (transform is None) != (crs is None) or len(transform or range(6)) != 6:
        raise Malformed("transform, crs: expected six numbers and a CRS")
    place = None if crs is None else Georeference(transform, crs)
    return members["width"], members["height"], place, members["raster"] is True, utc(members["date"])
