"""A run as a whole: what to do, what is done already, the files at its end. `resam-run` without the command line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.points import PointsFile, find_points, path_ends, shared_names
from resam_runtime.run.options import RunOptions
from resam_runtime.run.outcome import Observer, RunReport
from resam_runtime.run.pipeline import process_scenes
from resam_runtime.run.read_stage import PointsSource, source_of
from resam_runtime.run.records import Mode, Record, RunFolder, without_points
from resam_runtime.run.stop import StopRequest
from resam_runtime.run.write_stage import OutputError
from resam_runtime.scenes.scene_files import (
    SceneFile,
    check_apart,
    check_exist,
    check_outputs,
    find_scenes,
    output_names,
)
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.writers import coco, summary


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: checked, nothing written yet. Make it with `prepare`.

    Raises ResamError for a budget that cannot hold even an `instances.json` without any instance.
    """

    engine: EngineFile
    scenes: Sequence[SceneFile]
    out: Path
    points: PointsSource
    options: RunOptions
    budget: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < (least := coco.smallest_budget(self.info, self.categories)):
            raise ResamError(f"--budget {self.budget}: an empty instances.json takes {least} bytes already; give more")

    @classmethod
    def prepare(
        cls,
        engine: EngineFile,
        inputs: Iterable[str | Path],
        out: str | Path,
        points: str | Path | None = None,
        options: RunOptions | None = None,
        budget: int | None = None,
    ) -> Run:
        """Find scenes and points and check them against each other.

        Raises ResamError, one line, when there are no scenes, none of them exists, no points for any of them
        (options.automatic being off), a points file that cannot be read, outputs that would overwrite a scene or go
        into a folder of scenes itself, or a budget that holds nothing.
        """
        options, inputs, out = options or RunOptions(), list(inputs), Path(out)
        check_apart(inputs, out)
        scenes = find_scenes(inputs, out)
        check_exist(scenes)
        check_outputs(scenes, out, options.formats)
        shared = shared_names(scene.full_path for scene in scenes)
        file = None if points is None else PointsFile.open(points)
        notes: list[str] = []
        if file is not None:
            notes = _check_points(file, scenes, shared, options)
        elif not options.automatic and not any(_has_points(scene) for scene in scenes):
            others = f" and {len(scenes) - 1} more" if len(scenes) > 1 else ""
            for near in (place / "points.json" for given in inputs for place in (Path(given), Path(given).parent)):
                if os.path.isfile(near):  # where resam-annotate writes
                    raise ResamError(f"{scenes[0].path}{others}: no points; there is {near}: give --points {near}")
            raise ResamError(
                f"{scenes[0].path}{others}: no points; give --points FILE, put NAME.points.json, "
                "NAME.points.csv or NAME.points.geojson beside the scenes, or let --automatic find instances"
            )
        return cls(engine, scenes, out, PointsSource(file, shared), options, budget, notes)

    @property
    def engine_digest(self) -> str:
        """SHA-256 over the manifest, which holds the graphs' own digests."""
        return hashlib.sha256(json.dumps(self.engine.manifest.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        """COCO's `info` of instances.json: what made it, nothing about when and where."""
        manifest = self.engine.manifest
        return {
            "description": "instances segmented by resam-run",
            "engine": self.engine_digest,
            "base": str(manifest.base.get("name", "")),
            "precision": manifest.precision,
        }

    @property
    def categories(self) -> list[dict[str, Any]]:
        """COCO categories of the points file."""
        return [] if self.points.file is None else self.points.file.categories

    def take_folder(self, mode: Mode) -> RunFolder:
        """Take the output folder for this run; see `RunFolder.open`."""
        file = self.points.file
        points = "beside the scenes" if file is None else file.digest
        request = {"engine": self.engine_digest, "points": points, **self.options.request()}
        outputs = (
            name
            for scene in self.scenes
            for suffix in (".tif", ".png")
            for name in output_names(scene.stem, self.options.formats, suffix).values()
        )
        return RunFolder.open(self.out, request, mode, outputs)

    def is_done(self, scene: SceneFile, folder: RunFolder) -> bool:
        """Whether an earlier run did this scene, neither it nor the points beside it have changed since, and its
        outputs are still there."""
        record = folder.record(scene.name)
        if record is None or record["status"] != "done" or record["stem"] != scene.stem:
            return False
        return record["source"] == source_of(scene, self.points) and folder.has_outputs(record)

    def execute(
        self,
        segmenter: Segmenter,
        mode: Mode = "new",
        stop: StopRequest | None = None,
        observer: Observer | None = None,
    ) -> RunReport:
        """Process all scenes that are not done yet and write `instances.json` and `summary.json`.

        Raises ResamError when the output folder cannot be taken, and at the end when points that belong to scenes by
        their place gave no scene a prompt; OutputError when the folder cannot be written any more.
        """
        begin = time.monotonic()
        observer = observer or Observer()
        with self.take_folder(mode) as folder:
            todo = [scene for scene in self.scenes if not self.is_done(scene, folder)]
            observer.begin(len(todo), len(self.scenes) - len(todo))
            process_scenes(
                segmenter,
                todo,
                folder,
                self.points,
                self.options,
                stop=stop,
                on_points=observer.points,
                on_scene=observer.scene,
            )
            kept = self._kept(folder)
            line = f"kept what an earlier run made of {len(kept)} scenes that are not among the images now"
            names = sorted([*kept, *(scene.name for scene in self.scenes)])
            whole = replace(self, notes=[*self.notes, line]) if kept else self
            report = whole.finish(folder, names, segmenter, time.monotonic() - begin)
        prompts = report.instances + report.left_out + report.skipped
        if self.points.file is not None and report.nowhere and not prompts and not self.options.automatic:
            raise ResamError(
                f"{self.points.file.path}: none of its points lies in a scene that could be read; "
                "check its coordinates, its crs, and that the scenes are georeferenced"
            )
        return report

    def finish(self, folder: RunFolder, names: Sequence[str], segmenter: Segmenter, seconds: float) -> RunReport:
        """Write `instances.json` and `summary.json` from the records of the scenes named. Raises OutputError."""

        def done(name: str) -> Record | None:
            record = folder.record(name)
            return record if record is not None and record["status"] == "done" else None

        try:
            left_out = 0
            if "coco" in self.options.formats:
                ready = [name for name in names if done(name) is not None]
                path = self.out / "instances.json"
                left_out = coco.write_instances(path, ready, done, self.info, self.categories, self.budget)
            records = [_counted(record) for name in names if (record := folder.record(name)) is not None]
            complete = len(records) == len(names)
            nowhere = self._nowhere(records) if complete else 0
            notes = [f"{nowhere} instances of the points file lie in no scene that is done"] if nowhere else []
            about = {
                "resam_version": _version(),
                "engine": {"file": self.engine.path.name, "digest": self.engine_digest, "runs": segmenter.describe()},
                "options": {**self.options.request(), "--budget": self.budget},
                "complete": complete,
                "left_out_by_budget": left_out,
                "notes": [*_shorten(self.notes), *notes],
                "wall_seconds": round(seconds, 3),
            }
            data = summary.summarise(records, about)
            totals = data["totals"]
            if left_out and left_out == totals["instances"]:
                data["notes"].append(f"--budget {self.budget}: none of {left_out} instances fits into instances.json")
            summary.write_summary(self.out / "summary.json", data)
        except OSError as error:
            raise OutputError(
                f"{self.out}: cannot write ({error.strerror or error}); what is done is kept, use --resume"
            ) from error
        lacking = {record["name"]: note for record in records if (note := without_points(record)) is not None}
        told = [
            f"{record['name']}: {note}"
            for record in records
            for note in record.get("notes", [])
            if note != lacking.get(record["name"])
        ]
        return RunReport(
            out=self.out,
            scenes=totals["scenes"],
            failed=totals["failed"],
            instances=totals["instances"] - left_out,
            skipped=totals["skipped"],
            left_out=left_out,
            nowhere=nowhere,
            complete=complete,
            seconds=seconds,
            # what --automatic looks for may honestly not be there
            all_skipped=complete
            and not self.options.automatic
            and totals["skipped"] > 0
            and totals["points"] == totals["instances"] == 0,
            without_points=len(lacking),
            notes=[*self.notes, *told],
        )

    def _kept(self, folder: RunFolder) -> list[str]:
        """Scenes that an earlier run did and this one was not given; not those that now go by another name, or whose
        outputs another scene has taken."""
        names, stems = {scene.name for scene in self.scenes}, {scene.stem.casefold() for scene in self.scenes}
        others = [
            record["name"]
            for record in folder.records()
            if record["name"] not in names
            and record["status"] == "done"
            and record["stem"].casefold() not in stems
            and folder.has_outputs(record)
        ]
        paths = [scene.full_path for scene in self.scenes] if others else []
        ends = {end for path in paths for end in path_ends(path)}
        return [name for name in others if name not in ends]

    def _nowhere(self, records: Sequence[Record]) -> int:
        """Instances without a scene's name that lie in none of the scenes done; 0 while none is."""
        done = [record for record in records if record["status"] == "done"]
        if self.points.file is None or not done or any("by_place" not in record for record in done):
            return 0  # the last: written by a resam that did not record it
        return len(self.points.file.placed_ids.difference(*(record["by_place"] for record in done)))


def _check_points(
    file: PointsFile, scenes: Sequence[SceneFile], shared: Collection[str], options: RunOptions
) -> list[str]:
    """Notes on scenes that only the points file knows; ResamError where it fits none of the scenes."""
    file.check_named(len(scenes))
    known = {*shared}  # a scene that such a name is meant for says so itself
    for scene in scenes:
        with contextlib.suppress(ResamError):
            known |= {file.match(scene.name, shared, scene.full_path) or ""}
    unknown = [name for name in file.scenes if name not in known]
    if len(unknown) == len(file.scenes) and not (file.by_place or file.names_no_scene or options.automatic):
        held = f"it names {', '.join(file.scenes[:3])}" if file.scenes else "it is empty"
        raise ResamError(f"{file.path}: has points for none of the scenes ({held}); check its scene names")
    return [f"points for {name!r}, which is not among the scenes" for name in unknown]


def _counted(record: Record) -> Record:
    """A record whose annotations are only counted, as `instances`: those of all scenes may not fit into memory."""
    count = len(record.get("annotations", ()))
    return {**{key: value for key, value in record.items() if key != "annotations"}, "instances": count}


def _shorten(notes: Sequence[str], most: int = 100) -> list[str]:
    return list(notes) if len(notes) <= most else [*notes[:most], f"and {len(notes) - most} more"]


def _has_points(scene: SceneFile) -> bool:
    try:
        return find_points(scene.path) is not None
    except ResamError:
        return True  # two files compete: the scene itself will say so


def _version() -> str:
    try:
        return metadata.version("resam")
    except metadata.PackageNotFoundError:
        return "unknown"
