"""What is known of a scene once it was processed: all that files of a whole run are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resam_runtime.masks.instance import Instance
from resam_runtime.points.prompts import Skipped
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_info import SceneInfo

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
            data |= {"points": self.points, "annotations": list(self.annotations), "by_place": list(self.by_place)}
            data |= {"skipped": [one._asdict() for one in self.skipped], "outputs": list(self.outputs)}
        data |= {"seconds": dict(self.seconds), "notes": list(self.notes), "without_points": self.without_points}
        if self.reason is not None:
            data |= {"status": "failed", "reason": self.reason}
            data |= {"traceback": self.traceback} if self.traceback else {}
        return data

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """The record that `to_json` gave. Raises ValueError, in a few words, for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError("not a record of this version")
        members = _DONE if data.get("status") == "done" else _FAILED
        for name, (kinds, inner) in (_ALWAYS | members).items():
            value = data.get(name)
            inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            if not isinstance(value, kinds) or not all(isinstance(one, inner) for one in inside):
                raise ValueError(f"{name}: got {type(value).__name__}, or something odd in it")
        common = {name: data[name] for name in ("name", "stem", "source", "seconds", "notes", "without_points")}
        if data["status"] == "failed":
            return cls(**common, reason=data["reason"], traceback=data.get("traceback"))
        if not all(one.keys() >= _ANNOTATION for one in data["annotations"]):
            raise ValueError("annotations: one lacks a member")
        return cls(
            **common,
            scene=SceneInfo(
                data["name"],
                data["width"],
                data["height"],
                _georeference(data.get("transform"), data.get("crs")),
                data.get("raster") is True,
            ),
            points=data["points"],
            annotations=data["annotations"],
            by_place=data["by_place"],
            skipped=[Skipped(one.get("instance"), str(one.get("reason"))) for one in data["skipped"]],
            outputs=data["outputs"],
        )


def annotation(instance: Instance) -> Annotation:
    """A COCO annotation without its `id` and `image_id`, which only the whole run can give.

    bbox = [x, y, width, height] in px; `instance` is what the points file calls it, `index` its place among the prompts
    of the scene that could be decoded, `points` and `labels` its prompt: the file can be given to `--points` as it is.
    `category_id` may be None here: the writer knows which numbers are free.
    """
    x0, y0, x1, y1 = (int(value) for value in instance.box)
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
        "points": [[float(str(x)), float(str(y))] for x, y in instance.points],
        "labels": [int(label) for label in instance.labels],
        "segmentation": instance.rle,
    }


_ID = (str, int, type(None))
_NUMBER = (int, float)
# member -> the type of its value, and of what is inside
_ALWAYS: dict[str, tuple[Any, Any]] = {
    "name": (str, ()),
    "stem": (str, ()),
    "status": (str, ()),
    "source": (dict, _ID),
    "seconds": (dict, _NUMBER),
    "notes": (list, str),
    "without_points": ((str, type(None)), ()),
}
_DONE: dict[str, tuple[Any, Any]] = {
    "width": (int, ()),
    "height": (int, ()),
    "points": (int, ()),
    "annotations": (list, dict),
    "by_place": (list, _ID),
    "skipped": (list, dict),
    "outputs": (list, str),
}
_FAILED: dict[str, tuple[Any, Any]] = {"reason": (str, ())}
_ANNOTATION = {"category_id", "instance", "index", "bbox", "area", "score", "points", "labels", "segmentation"}


def _georeference(transform: Any, crs: Any) -> Georeference | None:
    if transform is None and crs is None:
        return None
    if not isinstance(crs, str) or not isinstance(transform, list) or len(transform) != 6:
        raise ValueError("transform and crs: not a place on the map")
    a, b, c, d, e, f = (float(number) for number in transform)
    return Georeference((a, b, c, d, e, f), crs)
