"""`bench.json`: what a run found out, raw, with all that is needed to judge it. Written and read here only."""

from __future__ import annotations

import datetime
import json
import math
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
                "peak_bytes": sample.peak_bytes,
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
    if not isinstance(data.get("cases"), list) or not isinstance(data.get("rivals"), list):
        raise ResamError(f"{path}: damaged (no cases or rivals); measure again")
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
