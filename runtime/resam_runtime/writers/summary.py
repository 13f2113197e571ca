"""`summary.json`: what was run on what, how long each stage took, and everything that went wrong, per scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from resam_runtime.common.files import atomic_write
from resam_runtime.writers.record import RUN_STAGES, Record


class Summary:
    """What `summary.json` and the end of a run say of all its scenes; takes records one at a time, and keeps none.

    totals: of scenes, failed ones, instances, points, skipped instances. found_by: instances by what marked them.
    notes: of single scenes, one line each. without_points: scenes that had none. by_place: instances that belong to a
    scene done by their place on the map.
    """

    def __init__(self) -> None:
        self.totals = {"scenes": 0, "failed": 0, "instances": 0, "points": 0, "skipped": 0}
        self.found_by: Counter[str] = Counter()
        self.notes: list[str] = []
        self.without_points = 0
        self.by_place: set[str | int | None] = set()
        self._seconds = dict.fromkeys(RUN_STAGES, 0.0)
        self._scenes: list[dict[str, Any]] = []

    def add(self, record: Record) -> None:
        """One more scene."""
        for stage in RUN_STAGES:
            self._seconds[stage] += record.seconds.get(stage, 0.0)
        self.totals["scenes"] += 1
        self.without_points += record.without_points is not None
        self.notes += [f"{record.name}: {note}" for note in record.notes if note != record.without_points]
        entry: dict[str, Any] = {"name": record.name, "status": "failed" if record.failed else "done"}
        if record.scene is None:
            self.totals["failed"] += 1
            entry["reason"] = record.reason
            if record.traceback is not None:
                entry["traceback"] = record.traceback
        else:
            count = len(record.annotations)
            for name, more in (("instances", count), ("points", record.points), ("skipped", len(record.skipped))):
                self.totals[name] += more
            self.by_place.update(record.by_place)
            found_by = Counter(item.get("found_by", "points") for item in record.annotations)
            self.found_by += found_by
            entry |= {"width": record.scene.width, "height": record.scene.height, "instances": count}
            entry["found_by"] = dict(found_by)
            entry |= {"skipped": [one._asdict() for one in record.skipped], "outputs": list(record.outputs)}
        self._scenes.append({**entry, "notes": list(record.notes), "seconds": dict(record.seconds)})

    def to_json(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Plain data: `about` (engine, options, complete, ...), totals, seconds per stage, and one entry per scene.

        Seconds are wall-clock time spent in a stage, summed over scenes; stages overlap: their sum exceeds the run's
        time.
        """
        seconds = {stage: round(value, 4) for stage, value in self._seconds.items()}
        totals = {**self.totals, "found_by": dict(self.found_by)}
        return {"format": 1, **about, "totals": totals, "seconds": seconds, "scenes": self._scenes}


def resam_version() -> str:
    """The version installed, or "unknown"."""
    try:
        return metadata.version("resam")
    except metadata.PackageNotFoundError:
        return "unknown"


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary, indented for reading. Raises OSError."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="ascii")
