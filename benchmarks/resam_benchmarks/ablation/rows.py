"""The rows of an ablation: names, and the options of resam-train that make each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resam_runtime.common.errors import ResamError


@dataclass(frozen=True)
class Row:
    """One line of the table: its name on the command line, what it is, and the options that make it."""

    name: str
    title: str
    changes: Mapping[str, Any]
    trained: bool = True


_BOX = {
    "requery": "box", "pseudo": "final", "ssa": "off", "resample_points": False, "supervised": False,
    "choose_scale": False, "scale": 1.0, "teach_requery": False, "asked": 0, "sizes": "", "examples": 0, "soft": False,
    "layers": "qv", "decoder_rank": 0, "own_boxes": 0.0,
}  # fmt: skip
_ALIGNED = {"ssa": "gradient", "queue": 128}
_SSA = {**_BOX, **_ALIGNED}
_TAUGHT = {**_BOX, "requery": "box+points", "teach_requery": True}
_CONSENSUS = {**_TAUGHT, "pseudo": "consensus"}
_ADAPTED = {  # what is trained, and how, in every row about labels
    **_TAUGHT, "layers": "all", "decoder_rank": 16, "own_boxes": 0.5, "points": 1, "asked": 1, "sizes": "",
    "examples": 0, "soft": False,
}  # fmt: skip
_LABELS = {**_ADAPTED, "pseudo": "consensus"}

ROWS = (
    Row("base", "base", _BOX, trained=False),
    Row("base-points", "base, Requery by box+points", {**_BOX, "requery": "box+points"}, trained=False),
    Row("base-scale", "base, scale chosen", {**_BOX, "requery": "box+points", "choose_scale": True}, trained=False),
    Row("coarse", "+ self-training on coarse masks", {**_BOX, "pseudo": "coarse"}),
    Row("refine", "+ Refine", {**_BOX, "pseudo": "refined"}),
    Row("requery", "+ Requery", _BOX),
    Row("ssa-detached", "+ SSA, detached as in the reference, queue 32", {**_SSA, "ssa": "detached", "queue": 32}),
    Row("ssa-0", "+ SSA, queue 0", {**_SSA, "queue": 0}),
    Row("ssa-32", "+ SSA, queue 32", {**_SSA, "queue": 32}),
    Row("ssa-128", "+ SSA, queue 128", _SSA),
    Row("points", "+ Requery by box+points, no SSA", {**_BOX, "requery": "box+points"}),
    Row("points-ssa", "+ SSA, queue 128, Requery by box+points", {**_SSA, "requery": "box+points"}),
    Row("taught", "no SSA, Requery by box+points and taught", _TAUGHT),
    Row("consensus", "the same, pseudo-masks of all views of the base", _CONSENSUS),
    Row("consensus-ssa", "the same, + SSA, queue 128", {**_CONSENSUS, **_ALIGNED}),
    Row("scaled", "the same without SSA, scale chosen", {**_CONSENSUS, "choose_scale": True}),
    Row("resampled", "+ SSA, queue 128, points redrawn each epoch", {**_SSA, "resample_points": True}),
    Row("teacher", "+ SSA, queue 128, averaged teacher", {**_SSA, "teacher": "average"}),
    Row("supervised", "true masks (upper bound)", {**_BOX, "supervised": True}),
    Row(
        "supervised-scaled",
        "true masks, Requery taught, scale chosen",
        {**_TAUGHT, "supervised": True, "choose_scale": True},
    ),
    Row("ssa-paired", "+ SSA paired as in the reference, queue 32", {**_SSA, "ssa": "paired", "queue": 32}),
    Row("hard", "one click, labels of the base's views", _LABELS),
    Row(
        "soft",
        "one click, the same, soft: the preset tiny",
        {**_LABELS, "soft": True, "sizes": "examples"},
    ),
    Row("clicks", "labels from three clicks, prompted with one", {**_LABELS, "points": 3, "soft": True}),
    Row(
        "sizes",
        "one click, three examples of each class",
        {**_LABELS, "soft": True, "sizes": "examples", "examples": 3},
    ),
    Row(
        "clicks-sizes",
        "labels from three clicks, prompted with one, three examples of each class",
        {**_LABELS, "points": 3, "soft": True, "sizes": "examples", "examples": 3},
    ),
    Row(
        "image-sizes",
        "one click, one example in each image",
        {**_LABELS, "soft": True, "sizes": "image", "examples": 1},
    ),
    Row("true", "true masks, the same trained parts", {**_ADAPTED, "supervised": True}),
)
NAMES = tuple(row.name for row in ROWS)


def check_changes(changes: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """`ResamError` for an option of all rows that would be overridden without a word: by a row, or by the seeds."""
    if "seed" in changes:
        raise ResamError("--set seed: every row is trained with the seeds from 0; say how many with --seeds")
    for row in rows:
        for name, value in changes.items():
            if name in row.changes and row.changes[name] != value:
                raise ResamError(f"--set {name}: the row {row.name!r} sets {name} itself; leave it out")
