"""A watched folder: scenes are processed once they have arrived whole, for as long as the program runs.

A file counts as whole when neither its size nor its time changed between two looks, and, where points lie beside
scenes, when its points file is there and whole too: a scene waits for its points. A file that is replaced is processed
again. What was done before a restart stays done.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.points import PointsFile, find_points, shared_names
from resam_runtime.run.options import RunOptions
from resam_runtime.run.pipeline import process_scenes
from resam_runtime.run.records import Mode, RunFolder
from resam_runtime.run.report import Observer, RunReport
from resam_runtime.run.run import Run
from resam_runtime.run.scene_prompts import PointsSource, searched
from resam_runtime.run.stop import StopRequest
from resam_runtime.scenes.scene_files import SceneFile, check_apart, output_stems, walk_scenes
from resam_runtime.segment.segmenter import Segmenter

_BATCH = 64
_WRITE_EVERY = 60.0  # s between writing instances.json anew while scenes keep coming
_WRITE_SHARE = 20.0  # and always so many times what writing took: it takes longer with every scene there ever was

Signature = tuple[tuple[int, int], ...]


class FolderWatch:
    """Looks into a folder again and again; `look` returns the scenes that have become whole since the last time."""

    def __init__(
        self, folder: Path, out: Path, points_beside: bool, stems: dict[str, str] | None = None, *, wait: bool = True
    ) -> None:
        """points_beside: points files lie beside scenes; wait: a scene is whole only with its own, else it comes again
        when that arrives. stems: of scenes done before, name -> stem."""
        self._folder, self._out, self._points_beside, self._wait = folder, out, points_beside, wait
        self._stems = dict(stems or {})
        self._seen: dict[Path, Signature] = {}
        self._given: dict[Path, Signature] = {}
        self.trouble: list[str] = []
        """Folders that the last look could not read, and why, one line each; they may come back."""

    def look(self) -> list[SceneFile]:
        """Scenes that are whole and were not given out in this state before, sorted by name, at most a few dozen."""
        now: dict[Path, Signature] = {}
        self.trouble = []
        for path in walk_scenes(self._folder, self._out, self.trouble.append):
            signature = self._signature(path)
            if signature is not None:
                now[path] = signature
        whole = [p for p, state in now.items() if self._seen.get(p) == state and self._given.get(p) != state][:_BATCH]
        self._seen = now
        self._given = {path: state for path, state in self._given.items() if path in now}
        self._given.update((path, now[path]) for path in whole)
        return sorted((self._scene(path) for path in whole), key=lambda scene: scene.name)

    @property
    def names(self) -> set[str]:
        """Names of all scenes that the last look saw, also of those not whole yet."""
        return {path.relative_to(self._folder).as_posix() for path in self._seen}

    def _signature(self, path: Path) -> Signature | None:
        """Sizes and times of the scene and its points; None while something is missing."""
        files = [path]
        try:
            if self._points_beside:
                beside = find_points(path)
                if beside is None and self._wait:
                    return None
                files += [beside] if beside is not None else []
        except ResamError:
            pass  # competing points files: the scene is given out, and fails with that reason
        try:
            states = [file.stat() for file in files]
        except OSError:  # gone between two calls
            return None
        if any(state.st_size == 0 for state in states):
            return None
        return tuple((state.st_size, state.st_mtime_ns) for state in states)

    def _scene(self, path: Path) -> SceneFile:
        name = path.relative_to(self._folder).as_posix()
        if name not in self._stems:
            # Outputs that are there keep their name: a newcomer gets another.
            taken = {stem.casefold() for stem in self._stems.values()}
            stem = output_stems([name])[name]
            number = 1
            while stem.casefold() in taken:
                stem = name if number == 1 else f"{name}~{number}"
                number += 1
            self._stems[name] = stem
        return SceneFile(path, name, self._stems[name])


def watch_folder(
    engine: EngineFile,
    segmenter: Segmenter,
    folder: str | Path,
    out: str | Path,
    stop: StopRequest,
    *,
    points: str | Path | None = None,
    options: RunOptions | None = None,
    mode: Mode = "resume",
    poll: float = 2.0,
    observer: Observer | None = None,
) -> RunReport:
    """Process scenes as they arrive in a folder until `stop` is requested; returns the report of all that was done.

    poll: seconds between two looks. A folder that cannot be read, once the watch has begun, is told to the observer
    and looked into again. Raises ResamError for a folder that is not there or an output folder that cannot be taken,
    OutputError when it can no longer be written.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise ResamError(f"{folder}: not a folder that can be watched")
    check_apart([folder], out)
    options, observer = options or RunOptions(), observer or Observer()
    file = None if points is None else PointsFile.open(points, options.boxes)
    if file is not None and file.names_no_scene:
        raise ResamError(f"{file.path}: points do not say which scene they belong to; add the scene's file name")
    run = Run(engine, (), out, PointsSource(file, boxes=options.boxes), replace(options, strict=False))
    begin = time.monotonic()
    with run.take_folder(mode) as taken:
        records = {record.name: record.stem for record in taken.records()}
        wait = not searched(engine.manifest, run.points, options.automatic)
        watch = FolderWatch(folder, out, file is None, records, wait=wait)
        names = sorted(records)
        report, due, unwritten = None, -math.inf, True
        told: list[str] = []
        while not stop.requested:
            ready = [scene for scene in watch.look() if not _done(run, scene, taken)]
            for line in watch.trouble:
                if line not in told:
                    observer.trouble(line)
            told = watch.trouble
            if ready:
                observer.begin(len(ready), len(names))
                if file is not None:  # what came before, and what is on its way, may be called alike
                    root = os.path.abspath(folder)
                    run.points.shared = shared_names(Path(root, name).as_posix() for name in {*names, *watch.names})
                process_scenes(
                    segmenter,
                    ready,
                    taken,
                    run.points,
                    run.options,
                    stop=stop,
                    on_points=observer.points,
                    on_scene=observer.scene,
                )
                names = sorted({*names, *(scene.name for scene in ready)})
                unwritten = True
            start = time.monotonic()
            if unwritten and not stop.requested and start > due + (_WRITE_EVERY if ready else 0.0):
                report, unwritten = run.finish(taken, names, segmenter, start - begin), False
                due = time.monotonic() + _WRITE_SHARE * (time.monotonic() - start)
            stop.wait(poll)
        if report is None or unwritten:
            report = run.finish(taken, [n for n in names if taken.record(n)], segmenter, time.monotonic() - begin)
        return report


def _done(run: Run, scene: SceneFile, folder: RunFolder) -> bool:
    """Whether a scene needs nothing: done or failed before, and unchanged since."""
    record = folder.record(scene.name)
    if record is None or record.source != run.points.signature(scene):
        return False
    return folder.has_outputs(record)
