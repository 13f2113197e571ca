"""`summary.json`: what was run on what, how long each stage took, and everything that went wrong, per scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
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

    def add(self, record: Record) -> None:
        """One more scene."""
        for stage in RUN_STAGES:
            self._seconds[stage] += record.seconds.get(stage, 0.0)
        self.totals["scenes"] += 1
        self.without_points += record.without_points is not None
        self.notes += [f"{record.name}: {note}" for note in record.notes if note != record.without_points]
        if record.scene is None:
            self.totals["failed"] += 1
            return
        counts = (len(record.annotations), record.points, len(record.skipped))
        for name, count in zip(("instances", "points", "skipped"), counts):
            self.totals[name] += count
        self.by_place.update(record.by_place)
        self.found_by += _found_by(record)

    def to_json(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Plain data: `about` (engine, options, complete, ...), totals, seconds per stage.

        Seconds are wall-clock time spent in a stage, summed over scenes; stages overlap: their sum exceeds the run's
        time.
        """
        seconds = {stage: round(value, 4) for stage, value in self._seconds.items()}
        totals = {**self.totals, "found_by": dict(self.found_by)}
        return {"format": 1, **about, "totals": totals, "seconds": seconds}


def resam_version() -> str:
    """The version installed, or "unknown"."""
    try:
        return metadata.version("resam")
    except metadata.PackageNotFoundError:
        return "unknown"


def scene_entry(record: Record) -> dict[str, Any]:
    """What the summary says of one scene, as plain data."""
    entry: dict[str, Any] = {"name": record.name, "status": "failed" if record.failed else "done"}
    if record.scene is None:
        entry["reason"] = record.reason
        if record.traceback is not None:
            entry["traceback"] = record.traceback
    else:
        entry |= {"width": record.scene.width, "height": record.scene.height, "instances": len(record.annotations)}
        entry["found_by"] = dict(_found_by(record))
        entry |= {"skipped": [one._asdict() for one in record.skipped], "outputs": list(record.outputs)}
    return {**entry, "notes": list(record.notes), "seconds": dict(record.seconds)}


def write_summary(path: Path, summary: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Write the summary of all scenes (`Summary.to_json`), indented for reading, and a line for each of them. Raises
    OSError."""
    head = json.dumps(summary, indent=1, allow_nan=False).removesuffix("\n}")
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as out:
        out.write(f'{head},\n "scenes": [')
        for number, record in enumerate(records):
            out.write(f"{',' if number else ''}\n  {json.dumps(scene_entry(record), allow_nan=False)}")
        out.write("\n ]\n}\n")


def _found_by(record: Record) -> Counter[str]:
    return Counter(item.get("found_by", "points") for item in record.annotations)
