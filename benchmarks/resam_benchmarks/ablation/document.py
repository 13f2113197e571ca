"""`ablation.json`: read, and gone on with. The first run's conditions are the document's own; those of later runs that
added cells under other ones are listed as `resumed`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resam_benchmarks.ablation.rows import NAMES
from resam_runtime.common.checked import read_json, take, take_from
from resam_runtime.common.errors import ResamError

FORMAT, VERSION = "resam-ablation", 1

_RUN = {
    "created": str,
    "command": str,
    "machine": {"processor": object, "cores": object, "devices": [str], "system": str},
    "versions": dict,
}
_STAGE = {"miou": float, "miou_images": float}


def _training(value: Any) -> dict[str, Any]:
    """Figures of a cell's training: rows that are not trained have none."""
    return take(value, {"labelled": float} if value else dict)


_DOCUMENT = {
    **_RUN,
    "resumed": [_RUN],
    "base": {"name": str, "sha256": str},
    "data": [
        {
            "name": str,
            "train": {"digest": str, "scenes": int, "instances": int},
            "test": {"split": str, "digest": str, "scenes": int, "instances": int},
        }
    ],
    "rows": [{"name": str, "title": str, "trained": bool, "precision": str, "options": {"requery": str}}],
    "cells": [
        {
            "data": str,
            "row": str,
            "seed": int,
            "coarse": _STAGE,
            "final": _STAGE,
            "training": _training,
            "seconds": float,
        }
    ],
}
"""What is read from an `ablation.json`, by anybody."""


def go_on(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The document so far: `fresh`, or that of a run that was stopped, which must have asked for the same."""
    if not path.exists():
        return fresh
    old = read(path)
    if old["base"] != fresh["base"]:
        raise ResamError(f"{path}: was made with another base; choose another --output or remove it")
    merged = {}
    for part, key in (("data", "data set"), ("rows", "row")):
        known = {entry["name"]: entry for entry in old[part]}
        for entry in json.loads(json.dumps(fresh[part])):
            if known.setdefault(entry["name"], entry) != entry:
                raise ResamError(
                    f"{path}: {key} {entry['name']!r} was measured with other scenes or options; "
                    "choose another --output"
                )
        merged[part] = list(known.values())
    order = {name: place for place, name in enumerate(NAMES)}
    merged["rows"].sort(key=lambda entry: order.get(entry["name"], len(order)))
    return {**old, **merged}


def add_run(found: dict[str, Any], fresh: Mapping[str, Any]) -> None:
    """List the conditions of the run that adds cells now, where no run before it had the same."""
    run = {key: fresh[key] for key in _RUN}
    resumed = found["resumed"]
    if all(any(run[key] != other[key] for key in ("command", "machine", "versions")) for other in (found, *resumed)):
        resumed.append(run)


def read(path: Path) -> dict[str, Any]:
    """Read an `ablation.json`; `ResamError` names what is wrong with it."""
    advice = "remove it to start anew"
    data = read_json(path, advice)
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise ResamError(f"{path}: not an ablation of this version; {advice}")
    found = take_from(path, data, _DOCUMENT, advice)
    for row in found["rows"]:
        row["precision"] = {"32": "fp32"}.get(row["precision"], row["precision"])  # as version 0.1 wrote it
    return found
