"""`summary.json`: what was run on what, how long each stage took, and everything that went wrong, per scene."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resam_runtime.common.files import atomic_write

STAGES = ("read", "prepare", "inference", "write")


def summarise(records: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data: `about` (engine, options, complete, ...), totals, seconds per stage, and one entry per scene.

    records: as a run's folder holds them, with the number of `instances` in place of `annotations`. Seconds are
    wall-clock time spent in a stage, summed over scenes; stages overlap: their sum exceeds the run's time.
    """
    scenes = []
    seconds = dict.fromkeys(STAGES, 0.0)
    totals = {"scenes": 0, "failed": 0, "instances": 0, "points": 0, "skipped": 0}
    for record in records:
        own = record.get("seconds", {})
        for stage in STAGES:
            seconds[stage] += own.get(stage, 0.0)
        entry = {"name": record["name"], "status": record["status"]}
        totals["scenes"] += 1
        if record["status"] == "failed":
            totals["failed"] += 1
            entry["reason"] = record["reason"]
            if "traceback" in record:
                entry["traceback"] = record["traceback"]
        else:
            totals["instances"] += record["instances"]
            totals["points"] += record["points"]
            totals["skipped"] += len(record["skipped"])
            entry |= {"width": record["width"], "height": record["height"]}
            entry |= {"instances": record["instances"], "skipped": record["skipped"], "outputs": record["outputs"]}
        entry |= {"notes": record.get("notes", []), "seconds": own}
        scenes.append(entry)
    return {
        "format": 1,
        **about,
        "totals": totals,
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
        "scenes": scenes,
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary, indented for reading. Raises OSError."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="ascii")
