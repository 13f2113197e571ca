"""A run as a whole: what to do, what is done already, the files at its end. `resam-run` without the command line."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resam_runtime.common.errors import ResamError, counted, words
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.points import SUFFIXES, PointsFile, find_points, path_ends, shared_names
from resam_runtime.run.options import RunOptions
from resam_runtime.run.outputs import check_outputs, output_errors, output_names
from resam_runtime.run.pipeline import process_scenes
from resam_runtime.run.records import Mode, RunFolder
from resam_runtime.run.report import Observer, RunReport
from resam_runtime.run.scene_prompts import PointsSource, searched
from resam_runtime.run.shard import Shard
from resam_runtime.run.spool import DoneRecords
from resam_runtime.run.stop import StopRequest
from resam_runtime.scenes.scene_files import SceneFile, check_apart, check_exist, find_scenes
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.writers import WRITERS, RunInfo, run_writers
from resam_runtime.writers.summary import Summary, resam_version, write_summary

if TYPE_CHECKING:
    from resam_runtime.run.on_ray import RayCluster


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: checked, nothing written yet. Make it with `prepare`.

    Raises ResamError for outputs that cannot be: a package is missing, or an option asks too much.
    """

    engine: EngineFile
    scenes: Sequence[SceneFile]
    out: Path
    points: PointsSource
    options: RunOptions
    notes: Sequence[str] = field(default_factory=tuple)
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for name in self.options.formats:
            WRITERS[name].check(self.info, self.options)

    @classmethod
    def prepare(
        cls,
        engine: EngineFile,
        inputs: Iterable[str | Path],
        out: str | Path,
        points: str | Path | None = None,
        options: RunOptions | None = None,
        shard: Shard | None = None,
    ) -> Run:
        """Find scenes and points and check them against each other. shard: do only those of the scenes that it holds.

        Raises ResamError, one line, when there are no scenes, none of them exists, no points for any of them where they
        are not searched (`searched`), a points file that cannot be read, outputs that would overwrite a scene or go
        into a folder of scenes itself or cannot be.
        """
        options, inputs, out = options or RunOptions(), list(inputs), Path(out)
        check_apart(inputs, out)
        scenes = find_scenes(inputs, out, options.asset)
        check_exist(scenes)
        check_outputs(scenes, out, options.formats)
        shared = shared_names(scene.full_path for scene in scenes)
        notes: list[str] = []
        beside = points is None and any(_has_points(scene) for scene in scenes)
        if points is None and not beside:
            points = _annotated(inputs)
            notes = [] if points is None else [f"points from {points}, which resam-annotate leaves there"]
        file = None if points is None else PointsFile.open(points, options.boxes)
        if file is not None:
            notes += _check_points(file, scenes, shared, options)
        elif not beside and not searched(engine.manifest, PointsSource(), options.automatic):
            others = f" and {len(scenes) - 1} more" if len(scenes) > 1 else ""
            for near in (place / "points.json" for given in inputs for place in (Path(given), Path(given).parent)):
                if os.path.isfile(near):  # where resam-annotate writes
                    raise ResamError(f"{scenes[0].path}{others}: no points; there is {near}: give --points {near}")
            raise ResamError(
                f"{scenes[0].path}{others}: no points; give --points FILE, put {words(f'NAME{s}' for s in SUFFIXES)} "
                "beside the scenes, or let --automatic find instances; an engine that was taught with "
                "resam-train --prompter finds its classes by itself"
            )
        if shard is not None:
            scenes = [scene for scene in scenes if shard.holds(scene.name)]
        return cls(engine, scenes, out, PointsSource(file, shared, options.boxes), options, notes, shard)

    @property
    def engine_digest(self) -> str:
        """SHA-256 over the manifest, which holds the graphs' own digests."""
        return hashlib.sha256(json.dumps(self.engine.manifest.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def info(self) -> RunInfo:
        """What made it, nothing about when and where."""
        manifest, file = self.engine.manifest, self.points.file
        info = {
            "description": "instances segmented by resam-run",
            "engine": self.engine_digest,
            "base": str(manifest.base.get("name", "")),
            "precision": manifest.precision,
        }
        return RunInfo(info, _found_categories(manifest) if file is None else file.categories)

    def take_folder(self, mode: Mode) -> RunFolder:
        """Take the output folder for this run; see `RunFolder.open`."""
        file = self.points.file
        points = "beside the scenes" if file is None else file.digest
        request = {"engine": self.engine_digest, "points": points, **self.options.request()}
        request |= {} if self.shard is None else {"--shard": str(self.shard)}
        run = {"info": self.info.info, "categories": self.info.categories, "engine": self.engine.path.name}
        formats = self.options.formats
        outputs = (name for scene in self.scenes for name in output_names(scene.stem, formats))
        files = (writer.files for writer in run_writers(formats))
        return RunFolder.open(self.out, request, mode, itertools.chain(files, outputs), run)

    def is_done(self, scene: SceneFile, folder: RunFolder) -> bool:
        """Whether an earlier run did this scene, neither it nor the points beside it have changed since, and its
        outputs are still there."""
        earlier = folder.earlier.get(scene.name)
        if earlier is None or earlier.failed or earlier.stem != scene.stem:
            return False
        return earlier.source == self.points.signature(scene) and folder.has_outputs(earlier)

    def execute(
        self,
        segmenter: Segmenter | RayCluster,
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
            process = (
                functools.partial(process_scenes, segmenter)
                if isinstance(segmenter, Segmenter)
                else segmenter.process_scenes
            )
            process(
                todo,
                folder,
                self.points,
                self.options,
                stop=stop,
                on_points=observer.points,
                on_scene=observer.scene,
            )
            kept = self._kept(folder)
            are = "is" if len(kept) == 1 else "are"
            line = (
                f"kept the earlier run's results of {counted(len(kept), 'scene')} that {are} no longer among the images"
            )
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

    def finish(
        self, folder: RunFolder, names: Sequence[str], segmenter: Segmenter | RayCluster, seconds: float
    ) -> RunReport:
        """Write the files of the whole run from the records of the scenes named. Raises OutputError."""
        options, summary, left_out = self.options, Summary(), 0
        with output_errors(self.out), folder.spool(names) as records:
            for record in records:
                summary.add(record)
            for writer in run_writers(options.formats):
                left_out += writer.write(self.out / writer.files, DoneRecords(records), self.info, options)
            totals = summary.totals
            complete = totals["scenes"] == len(names)
            nowhere = 0
            whole = complete and self.shard is None  # what lies in no scene of a shard may lie in one of another
            if whole and self.points.file is not None and totals["failed"] < totals["scenes"]:
                nowhere = len(self.points.file.placed_ids - summary.by_place)
            notes = [f"{nowhere} instances of the points file lie in no processed scene"] if nowhere else []
            if left_out and left_out == totals["instances"]:
                notes.append(f"--budget {options.budget}: none of {left_out} instances fits into instances.json")
            about = {
                "resam_version": resam_version(),
                "engine": {"file": self.engine.path.name, "digest": self.engine_digest, "runs": segmenter.describe()},
                "options": {**options.request(), "--budget": options.budget},
                "complete": complete,
                "left_out_by_budget": left_out,
                "notes": [*_shorten(self.notes), *notes],
                "wall_seconds": round(seconds, 3),
            }
            write_summary(self.out / "summary.json", summary.to_json(about), records)
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
            # what is looked for may honestly not be there
            all_skipped=complete
            and not searched(self.engine.manifest, self.points, options.automatic)
            and totals["skipped"] > 0
            and totals["points"] == totals["instances"] == 0,
            without_points=summary.without_points,
            notes=[*self.notes, *summary.notes],
        )

    def _kept(self, folder: RunFolder) -> list[str]:
        """Scenes that an earlier run did and this one was not given; not those that now go by another name, or whose
        outputs another scene has taken."""
        names, stems = {scene.name for scene in self.scenes}, {scene.stem.casefold() for scene in self.scenes}
        others = [
            name
            for name, earlier in folder.earlier.items()
            if name not in names
            and not earlier.failed
            and earlier.stem.casefold() not in stems
            and folder.has_outputs(earlier)
        ]
        paths = [scene.full_path for scene in self.scenes] if others else []
        ends = {end for path in paths for end in path_ends(path)}
        return [name for name in others if name not in ends]


def _found_categories(manifest: Manifest) -> list[dict[str, int | str]]:
    """COCO's categories of what an engine's prompter finds."""
    return [] if manifest.prompter is None else [{"id": one.id, "name": one.name} for one in manifest.prompter.classes]


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


def _shorten(notes: Sequence[str], most: int = 100) -> list[str]:
    return list(notes) if len(notes) <= most else [*notes[:most], f"and {len(notes) - most} more"]


def _annotated(inputs: Sequence[str | Path]) -> Path | None:
    """The points file that `resam-annotate` leaves in the one folder that a run was given; None without it."""
    file = Path(inputs[0]) / "points.json" if len(inputs) == 1 else None
    return file if file is not None and os.path.isfile(file) else None


def _has_points(scene: SceneFile) -> bool:
    try:
        return scene.local is not None and find_points(scene.local) is not None
    except ResamError:
        return True  # two files compete: the scene itself will say so
