"""Output folders of several runs -> `instances.json`, `summary.json` and what else one run over all scenes would write.

Everything is made anew from the records of the scenes, in the order of their names: how many runs there were, and in
what order they are given, makes no difference to a byte. Files of single scenes stay where they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resam_runtime.common.checked import Malformed, choice, kind, list_of, read_json, take, take_from
from resam_runtime.common.errors import ResamError, words
from resam_runtime.run.outputs import output_errors
from resam_runtime.run.records import RunFolder, read_request
from resam_runtime.run.spool import DoneRecords, RecordSpool
from resam_runtime.scenes.scene_files import STATE_FOLDER
from resam_runtime.writers import WRITERS, OutputOptions, Record, RunInfo, run_writers
from resam_runtime.writers.summary import Summary, resam_version, write_summary

_SHARD = "--shard"
_RESUME = "its run is unfinished or damaged; resume it first"
_RUN = kind({"info": dict, "categories": list[dict], "engine": str})
_WRITING = kind({"--format": list_of(choice(*WRITERS)), "--crs": Literal["wgs84", "source"], "--simplify": float})
_SUMMARY = kind({"complete": bool, "scenes": [{"name": str}]})
_MOST = 4 << 30  # bytes of a summary.json


@dataclass(frozen=True)
class MergeReport:
    """How a merge ended. lacking: shards of which no part was given."""

    out: Path
    scenes: int
    failed: int
    instances: int
    lacking: Sequence[int] = ()

    @property
    def exit_code(self) -> int:
        """0: all good; 1: some scenes failed, or are in shards that were not given."""
        return 1 if self.failed or self.lacking else 0


@dataclass(frozen=True)
class _Part:
    folder: Path
    request: Mapping[str, Any]
    run: Mapping[str, Any]
    names: Sequence[str]

    @classmethod
    def open(cls, folder: Path) -> _Part:
        """Raises ResamError for a folder without a run that was finished."""
        begun = read_request(folder)
        if begun is None:
            raise ResamError(f"{folder}: not an output folder of resam-run")
        try:
            run = take(begun.get("run"), _RUN)
        except Malformed:
            raise ResamError(f"{folder}: made by a version of resam-run without shards; run it again") from None
        if not (folder / "summary.json").is_file():
            raise ResamError(f"{folder}: {_RESUME}")
        summary = read_json(folder / "summary.json", _RESUME, _SUMMARY, _MOST)
        if not summary["complete"]:
            raise ResamError(f"{folder}: {_RESUME}")
        return cls(folder, begun["request"], run, [scene["name"] for scene in summary["scenes"]])

    @property
    def asked(self) -> dict[str, Any]:
        """What it was asked for, the shard apart."""
        return {name: value for name, value in self.request.items() if name != _SHARD}

    def record(self, name: str) -> Record:
        record = RunFolder(self.folder, None).record(name)
        if record is None:
            raise ResamError(f"{self.folder}: lacks the record of {name}; {_RESUME}")
        return record


class _Scenes:
    """Records of all parts by the names of their scenes, one by one."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._place = {name: number for number, part in enumerate(parts) for name in part.names}
        if len(self._place) < sum(len(part.names) for part in parts):
            for number, part in enumerate(parts):
                for name in part.names:
                    if self._place[name] != number:
                        other = parts[self._place[name]].folder
                        raise ResamError(f"{part.folder} and {other} both hold {name}; give each part once")
        self._names = sorted(self._place)

    def __iter__(self) -> Iterator[Record]:
        for name in self._names:
            yield self._parts[self._place[name]].record(name)


def merge(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], overwrite: bool = False
) -> MergeReport:
    """Write the files of the whole run into the folder `out`.

    Raises ResamError, one line, where a folder holds no finished run, runs had different engines, points or options,
    a scene is in two of them, or files are in the way; OutputError where `out` cannot be written.
    """
    out, parts = Path(out), [_Part.open(Path(folder)) for folder in folders]
    first = parts[0]
    for part in parts[1:]:
        _check_alike(part, first)
    if (out / STATE_FOLDER).exists():
        raise ResamError(f"{out}: holds another run; choose another folder with -o")
    lacking = _lacking(parts)
    scenes = _Scenes(parts)
    options = take_from(first.folder, first.request, _WRITING, "run it again with --overwrite")
    run, writing = (
        RunInfo(first.run["info"], first.run["categories"]),
        OutputOptions(options["--crs"], options["--simplify"]),
    )
    writers = run_writers(options["--format"])
    for writer in writers:
        writer.check(run, writing)
        if not overwrite and os.path.lexists(out / writer.files):
            raise ResamError(f"{out / writer.files}: exists; choose another folder with -o, or --overwrite")
    summary = Summary()
    with contextlib.ExitStack() as stack:
        stack.enter_context(output_errors(out))
        out.mkdir(parents=True, exist_ok=True)
        records = stack.enter_context(RecordSpool(scenes, out))
        for record in records:
            summary.add(record)
        for writer in writers:
            writer.write(out / writer.files, DoneRecords(records), run, writing)
        asked = {name: value for name, value in first.asked.items() if name.startswith("--")}
        about = {
            "resam_version": resam_version(),
            "engine": {"file": first.run["engine"], "digest": first.request["engine"]},
            "options": {**asked, "--budget": None},
            "complete": not lacking,
            "left_out_by_budget": 0,
            "notes": [f"without shards {', '.join(map(str, lacking))}"] if lacking else [],
        }
        write_summary(out / "summary.json", summary.to_json(about), records)
    totals = summary.totals
    return MergeReport(out, totals["scenes"], totals["failed"], totals["instances"], lacking)


def _check_alike(part: _Part, first: _Part) -> None:
    """ResamError where two runs were asked for different things."""
    mine, its = first.asked, part.asked
    differ = [name for name in sorted({*mine, *its}) if mine.get(name) != its.get(name)]
    if differ or part.run != first.run:
        what = words((name if name.startswith("--") else f"another {name}" for name in differ or ["engine"]), "and")
        raise ResamError(
            f"{part.folder}: its run differs from that of {first.folder} in {what}; merge runs with the same settings"
        )


def _lacking(parts: Sequence[_Part]) -> list[int]:
    """The shards that are not among the parts; ResamError for parts that are no shards of one archive."""
    shards: list[tuple[int, int]] = []
    for part in parts:
        written = part.request.get(_SHARD)
        if written is not None:
            number, _, count = str(written).partition("/")
            if not (number.isdecimal() and count.isdecimal() and int(number) < int(count) <= 1_000_000):
                raise ResamError(f"{part.folder}: damaged (shard {str(written)[:40]!r}); run it again with --overwrite")
            shards.append((int(number), int(count)))
    if not shards:
        return []
    if len(shards) < len(parts) or len({count for _, count in shards}) > 1:
        raise ResamError("the parts are not shards of one run (different counts, or no shards); give those of one run")
    return sorted(set(range(shards[0][1])) - {number for number, _ in shards})
