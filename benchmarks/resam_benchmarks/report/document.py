"""`bench.json`: what a run found out, raw, with all that is needed to judge it. Written and read here only."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from resam_benchmarks.measure import machine
from resam_benchmarks.measure.runner import BenchResult, CaseResult, RivalResult
from resam_runtime.common.checked import kind, number, read_json, take_from
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write

FORMAT, VERSION = "resam-bench", 1

_STAGE = Annotated[float, number(0)] | None  # 0: shorter than the clock can see
_SAMPLE = {
    "repeat": int, "scene": int, "prompts": int, "whole_s": number(0, ends=False),
    "encoder_s": _STAGE, "loop_s": _STAGE,
}  # fmt: skip
_GRADE = {
    "scene": int, "id": int | str, "area": float, "iou": float, "coarse_iou": float, "boundary": float,
    "coarse_boundary": float,
}  # fmt: skip
_BYTES = Annotated[float, number(0)] | None
_RIVAL = {
    "name": str, "description": str, "size_bytes": _BYTES, "peak_bytes": _BYTES, "device_bytes": _BYTES,
    "load_s": float, "first_s": float, "proposals": [{"scene": int, "proposed": int, "found": list[bool]}],
}  # fmt: skip
_DOCUMENT = kind({
    "created": str, "command": str, "commit": object, "energy_source": str | None, "versions": dict, "seeds": dict,
    "machine": {"processor": object, "cores": object, "devices": object, "system": object},
    "data": {"scenes": [{"instances": int}]},
    "rivals": [_RIVAL],
    "cases": [{"name": str, "rival": str, "label": str, "samples": [_SAMPLE], "grades": [_GRADE]}],
})  # fmt: skip
"""What is read from a `bench.json`, by anybody."""


def document(result: BenchResult, *, command: str, data: Mapping[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
    """A run as plain JSON data. command: as typed; data: what was measured on; seeds: all there were."""
    scenes = result.cases[0].case.scenes if result.cases else []
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "seeds": dict(seeds),
        "energy_source": result.energy_source,
        "data": {
            **data,
            "scenes": [
                {"name": s.name, "width": s.width, "height": s.height, "instances": len(s.truths)} for s in scenes
            ],
        },
        "rivals": [_rival(rival) for rival in result.rivals],
        "cases": [_case(case) for case in result.cases],
    }


def _rival(result: RivalResult) -> dict[str, Any]:
    return {
        "name": result.rival.name,
        "description": result.description,
        "size_bytes": result.rival.size_bytes,
        "about": {key: value for key, value in result.rival.about.items() if key != "automatic"},
        "load_s": result.load_s,
        "first_s": result.first_s,
        "peak_bytes": result.peak_bytes,
        "before_bytes": result.before_bytes,
        "device_bytes": result.device_bytes,
        "proposals": [
            {"scene": scene, "proposed": proposed, "found": found} for scene, proposed, found in result.proposals
        ],
    }


def _case(result: CaseResult) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "rival": result.case.rival.name,
        "label": result.case.label,
        "samples": [
            {
                "repeat": sample.repeat,
                "scene": sample.scene,
                "prompts": sample.prompts,
                "whole_s": sample.timing.whole,
                "encoder_s": sample.timing.encoder,
                "loop_s": sample.timing.loop,
                "host_s": sample.timing.host,
                "tiled": sample.timing.tiled,
                "peak_bytes": sample.timing.peak_bytes,
                "joules": sample.joules,
            }
            for sample in result.samples
        ],
        "grades": [asdict(grade) for grade in result.grades],
    }


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; numbers that JSON does not have (NaN) become null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """`ResamError` where results could not be written to a folder, which need not exist yet: said before the hours of
    measuring, not after."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ResamError(f"{there}: is a file; results need a folder, choose another --output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ResamError(f"{there}: cannot be written to; choose another --output")


def read(path: Path) -> dict[str, Any]:
    """Read a `bench.json`; `ResamError` names what is wrong with it."""
    advice = "give the bench.json of a run"
    data = read_json(path, advice)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ResamError(f"{path}: not a result of resam-bench; {advice}")
    if data.get("version") != VERSION:
        raise ResamError(f"{path}: version {data.get('version')}, expected {VERSION}; measure again with this resam")
    return take_from(path, data, _DOCUMENT, "measure again")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
