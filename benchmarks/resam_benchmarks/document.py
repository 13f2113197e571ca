"""`bench.json`: what a run found out, raw, with all that is needed to judge it. Written and read here only."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resam_benchmarks import machine
from resam_benchmarks.runner import CaseResult, RivalResult, RunResult
from resam_runtime.errors import ResamError
from resam_runtime.files import atomic_write

FORMAT, VERSION = "resam-bench", 1


def document(result: RunResult, *, command: str, data: Mapping[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
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
        raise ResamError(f"{there}: is a file; results need a folder, choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ResamError(f"{there}: cannot be written to; choose another --out")


def read(path: Path) -> dict[str, Any]:
    """Read a `bench.json`; `ResamError` names what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ResamError(f"{path}: not JSON ({error}); expected a bench.json of resam-bench") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ResamError(f"{path}: not a result of resam-bench; give the bench.json of a run")
    if data.get("version") != VERSION:
        raise ResamError(f"{path}: version {data.get('version')}, expected {VERSION}; measure again with this resam")
    if lacking := _lacking(data):
        raise ResamError(f"{path}: damaged ({lacking}); measure again")
    return data


def _lacking(data: Mapping[str, Any]) -> str | None:
    """What a `bench.json` lacks of what is read from it, None where it is whole."""
    for part in ("machine", "versions", "data", "seeds"):
        if not isinstance(data.get(part), dict):
            return f"no {part}"
    try:
        for case in data["cases"]:
            for sample in case["samples"]:
                _ = [sample[key] for key in ("repeat", "scene", "prompts", "encoder_s", "loop_s")]
                if not sample["whole_s"] > 0:
                    return f"a latency of {sample['whole_s']}"
            for grade in case["grades"]:
                _ = [grade[key] + 0.0 for key in ("area", "iou", "coarse_iou", "boundary", "coarse_boundary")]
                _ = grade["scene"], grade["id"]
            _ = case["name"] + case["rival"] + case["label"]
        for rival in data["rivals"]:
            _ = [rival[key] for key in ("description", "size_bytes", "peak_bytes", "device_bytes", "load_s", "first_s")]
            _ = rival["name"] + "", [scene["proposed"] + len(scene["found"]) for scene in rival["proposals"]]
        _ = [scene["instances"] for scene in data["data"]["scenes"]], data["energy_source"]
        _ = [data["machine"][key] for key in ("processor", "cores", "devices", "system")]
        _ = data["created"], data["command"], data["commit"]
    except KeyError as error:
        return f"no {error.args[0]}"
    except TypeError:
        return "a value of another kind"
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
