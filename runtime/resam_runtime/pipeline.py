"""A run over many scenes: reading, inference and writing at the same time, with bounded memory.

    reader thread            main thread             writer thread
    open, points, windows -> tiles through the    -> RLE, polygons, files,
    letterbox                segmenter               then the scene's record

Tiles travel one by one through a bounded channel, so that a scene of any size needs the memory of a few tiles. A scene
that fails is recorded with its reason and the run goes on; an output that cannot be written ends it.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.channel import Channel, Closed
from resam_runtime.errors import ResamError
from resam_runtime.files import sha256_file
from resam_runtime.instance import Instance, make_exclusive
from resam_runtime.points import PointsFile, Prompt, Skipped, check_prompts, find_points
from resam_runtime.prompts import PromptBatch
from resam_runtime.records import Record, RunFolder
from resam_runtime.scene_files import SceneFile, output_names
from resam_runtime.scenes import RASTER_SUFFIXES, Scene, has_rasterio, open_scene
from resam_runtime.segmenter import Segmenter
from resam_runtime.tiling import Tile
from resam_runtime.writers import coco
from resam_runtime.writers.geojson import CrsChoice, write_geojson
from resam_runtime.writers.labels import write_labels
from resam_runtime.writers.overlay import LONGEST, write_overlay
from resam_runtime.writers.scene import SceneResult

FORMATS = ("coco", "geojson", "overlay", "labels")
_TILES_AHEAD, _SCENES_BEHIND = 4, 2


@dataclass(frozen=True)
class RunOptions:
    """What is made of each scene; see `resam-run --help`."""

    formats: frozenset[str] = frozenset({"coco", "geojson", "overlay"})
    exclusive: bool = False
    bands: tuple[int, ...] | None = None
    crs: CrsChoice = "wgs84"
    simplify: float = 0.5
    automatic: bool = False
    strict: bool = False

    def request(self) -> dict[str, Any]:
        """Those that decide what a scene's outputs hold, as plain data; a resumed run must have the same."""
        return {
            "--format": [name for name in FORMATS if name in self.formats],
            "--exclusive": self.exclusive,
            "--bands": None if self.bands is None else list(self.bands),
            "--crs": self.crs,
            "--simplify": self.simplify,
            "--automatic": self.automatic,
        }


class OutputError(ResamError):
    """The output folder cannot be written any more: a full disk, most likely. What is done is kept."""


class StopRequest:
    """How a run is asked to end early. `request()` once: scenes in hand are finished; twice: at the next tile."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._at_once = False

    def request(self) -> None:
        """Ask; safe in a signal handler."""
        self._at_once = self._event.is_set()
        self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    @property
    def at_once(self) -> bool:
        return self._at_once

    def wait(self, seconds: float) -> bool:
        """Sleep, but not longer than until a request comes; returns whether there is one."""
        # A plain wait would leave a signal unheard where its handler runs in this very thread between two locks.
        end = time.monotonic() + seconds
        while not self._event.is_set() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._event.is_set()


@dataclass(eq=False)
class _Job:
    """One scene on its way. Each stage owns it in turn; the channels hand it over."""

    file: SceneFile
    width: int = 0
    height: int = 0
    transform: Any = None
    crs: str | None = None
    raster: bool = False
    overview: npt.NDArray[np.uint8] | None = None
    prompts: list[Prompt] = field(default_factory=list)
    batch: PromptBatch | None = None
    automatic: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    failure: str | None = None
    trace: str | None = None
    dropped: bool = False
    seconds: dict[str, float] = field(
        default_factory=lambda: {"read": 0.0, "prepare": 0.0, "inference": 0.0, "write": 0.0}
    )

    def fail(self, error: Exception) -> None:
        """Remember the first failure. Errors that are no one's fault but ours keep their traceback."""
        if self.failure is not None:
            return
        if isinstance(error, ResamError):
            self.failure = str(error)
        elif isinstance(error, OSError):
            self.failure = f"{error.filename or self.file.path}: {error.strerror or error}"
        elif isinstance(error, MemoryError):
            self.failure = f"{self.file.path}: not enough memory"
        else:
            self.failure = f"{self.file.path}: unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self.trace = "".join(traceback.format_exception(error))
        self.instances, self.overview = [], None


@dataclass(eq=False)
class _Work:
    """A tile to be segmented (`image` is prepared), or, without one, the end of its scene."""

    job: _Job
    tile: Tile | None = None
    image: npt.NDArray[np.uint8] | None = None
    indices: npt.NDArray[np.intp] | None = None


class ScenePoints:
    """Where the prompts of scenes come from: one file for all, or a file beside each.

    shared: file names that several scenes of the run have; only their paths can name them.
    """

    def __init__(self, file: PointsFile | None = None, shared: frozenset[str] = frozenset()) -> None:
        self.file = file
        self.shared = shared

    def find(self, scene: SceneFile) -> PointsFile | None:
        """The points file for a scene, None if it has none. Raises ResamError."""
        if self.file is not None:
            return self.file
        path = find_points(scene.path)
        return None if path is None else PointsFile.open(path)


def source_of(scene: SceneFile, points: ScenePoints) -> dict[str, Any]:
    """What tells whether a scene or the points beside it have changed: the file's size and time, the points' digest."""
    try:
        status = scene.path.stat()
        source: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    except OSError:
        source = {"size": None, "mtime_ns": None}
    try:
        beside = None if points.file is not None else find_points(scene.path)
        source["points"] = None if beside is None else sha256_file(beside)
    except (ResamError, OSError):
        source["points"] = "unreadable"
    return source


def process_scenes(
    segmenter: Segmenter,
    scenes: Iterable[SceneFile],
    folder: RunFolder,
    points: ScenePoints,
    options: RunOptions,
    *,
    stop: StopRequest | None = None,
    on_points: Callable[[int], None] = lambda count: None,
    on_scene: Callable[[Record], None] = lambda record: None,
) -> None:
    """Process scenes one after the other and save a record of each; return when all are done or the run was stopped.

    on_points: called in this thread with the number of instances just decoded. on_scene: called in the writer's
    thread with each record saved. Raises OutputError when an output cannot be written, and whatever on_scene raises;
    all scenes whose records were saved before that are done.
    """
    stop = stop or StopRequest()
    work: Channel[_Work] = Channel(_TILES_AHEAD)
    done: Channel[_Job] = Channel(_SCENES_BEHIND)
    errors: list[BaseException] = []

    def stage(body: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                body()
            except Closed:
                pass
            except BaseException as error:  # handed to the main thread, which raises it
                errors.append(error)
                work.abort()
                done.abort()

        thread = threading.Thread(target=guarded, name=f"resam-{body.__name__}", daemon=True)
        thread.start()
        return thread

    def read() -> None:
        for scene in scenes:
            if stop.requested:
                break
            job = _Job(scene)
            try:
                for item in _read_scene(job, segmenter, points, options):
                    if stop.at_once or job.failure is not None:
                        break
                    work.put(item)
            except Closed:
                raise
            except Exception as error:
                job.fail(error)
            job.dropped = stop.at_once
            work.put(_Work(job))
            if options.strict and job.failure is not None:
                break
        work.finish()

    def write() -> None:
        for job in done:
            record = _write_scene(job, folder, options)
            on_scene(record)
            if options.strict and record["status"] == "failed":
                stop.request()
                stop.request()

    threads = [stage(read), stage(write)]
    try:
        for item in work:
            job = item.job
            if item.tile is not None and item.image is not None:
                if job.failure is None and not stop.at_once:
                    on_points(_segment(job, item.tile, item.image, item.indices, segmenter, options))
                continue
            if job.dropped or (stop.at_once and job.failure is None):
                continue
            if job.failure is None:
                _gather(job, segmenter, options)
            done.put(job)
        done.finish()
    except Closed:
        pass
    except BaseException:
        work.abort()
        done.abort()
        raise
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def _read_scene(job: _Job, segmenter: Segmenter, points: ScenePoints, options: RunOptions) -> Iterator[_Work]:
    """Open a scene, find its prompts, and yield its prepared tiles."""
    clock = time.perf_counter
    begin = clock()
    job.source = source_of(job.file, points)
    with open_scene(job.file.path, options.bands, name=job.file.name) as scene:
        _describe(job, scene)
        _find_prompts(job, scene, segmenter, points, options)
        if "overlay" in options.formats:
            job.overview = scene.overview(LONGEST)
        if job.automatic:
            plan: list[tuple[Tile, npt.NDArray[np.intp] | None]] = [
                (tile, None) for tile in segmenter.tiles(scene.width, scene.height)
            ]
        else:
            job.batch = segmenter.prompts(
                [prompt.coords for prompt in job.prompts],
                [prompt.labels for prompt in job.prompts],
                None,
                scene.width,
                scene.height,
            )
            plan = list[tuple[Tile, npt.NDArray[np.intp] | None]](segmenter.plan(job.batch, scene.width, scene.height))
        job.seconds["read"] += clock() - begin
        for tile, indices in plan:
            begin = clock()
            window = scene.read(tile.x, tile.y, tile.width, tile.height)
            middle = clock()
            image = segmenter.prepare_tile(window, tile)
            job.seconds["read"] += middle - begin
            job.seconds["prepare"] += clock() - middle
            yield _Work(job, tile, image, indices)


def _describe(job: _Job, scene: Scene) -> None:
    job.width, job.height = scene.width, scene.height
    job.transform, job.crs = scene.transform, scene.crs
    job.raster = job.file.path.suffix.lower() in RASTER_SUFFIXES and has_rasterio()
    job.notes += scene.notes


def _find_prompts(job: _Job, scene: Scene, segmenter: Segmenter, points: ScenePoints, options: RunOptions) -> None:
    found = points.find(job.file)
    if found is None:
        if options.automatic:
            job.automatic = True
        else:
            job.notes.append("no points file beside it")
        return
    name = job.file.name
    prompts = found.prompts(
        name,
        width=scene.width,
        height=scene.height,
        transform=scene.transform,
        crs=scene.crs,
        shared=points.shared,
    )
    if not prompts and points.file is not None:
        if options.automatic and found.match(name, points.shared) is None:
            job.automatic = True
            return
        job.notes.append(f"no points for it in {found.path.name}")
    job.prompts, job.skipped = check_prompts(prompts, scene.width, scene.height)
    limit = segmenter.manifest.max_points_per_instance
    if limit is not None:
        for prompt in [prompt for prompt in job.prompts if len(prompt.coords) > limit]:
            job.skipped.append(
                Skipped(prompt.id, f"{len(prompt.coords)} points, the engine takes {limit} per instance")
            )
        job.prompts = [prompt for prompt in job.prompts if len(prompt.coords) <= limit]


def _segment(
    job: _Job,
    tile: Tile,
    image: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.intp] | None,
    segmenter: Segmenter,
    options: RunOptions,
) -> int:
    """One tile through the engine; returns the number of instances decoded."""
    begin = time.perf_counter()
    size, keep = (job.height, job.width), options.exclusive
    try:
        if job.automatic:
            found = segmenter.propose_tile(image, tile, size, keep_logits=keep)
        else:
            assert job.batch is not None
            assert indices is not None
            found = segmenter.segment_tile(image, tile, job.batch, indices, size, keep_logits=keep)
    except Exception as error:
        job.fail(error)
        return 0
    job.instances += found
    job.seconds["inference"] += time.perf_counter() - begin
    return len(found)


def _gather(job: _Job, segmenter: Segmenter, options: RunOptions) -> None:
    """Instances of all tiles -> instances of the scene, in the order of their prompts."""
    begin = time.perf_counter()
    try:
        if job.automatic:
            job.instances = list(segmenter.merge_proposals(job.instances, (job.height, job.width)))
        job.instances.sort(key=lambda instance: instance.index)
        if options.exclusive:
            job.instances = make_exclusive(job.instances)
    except Exception as error:
        job.fail(error)
    job.seconds["inference"] += time.perf_counter() - begin


def _write_scene(job: _Job, folder: RunFolder, options: RunOptions) -> Record:
    """Write a scene's outputs, then its record, which says that they are there. Raises OutputError."""
    begin = time.perf_counter()
    record: Record = {"format": 1, "name": job.file.name, "stem": job.file.stem, "source": job.source}
    try:
        earlier = folder.record(job.file.name)
        if earlier is not None:
            folder.remove_outputs(earlier)
        if job.failure is None:
            try:
                record |= _outputs(job, folder.out, options)
            except OSError:
                raise
            except Exception as error:
                job.fail(error)
        seconds = {stage: round(value, 4) for stage, value in job.seconds.items()}
        seconds["write"] = round(time.perf_counter() - begin, 4)
        record |= {"seconds": seconds, "notes": job.notes}
        if job.failure is not None:
            record |= {"status": "failed", "reason": job.failure} | ({"traceback": job.trace} if job.trace else {})
        folder.save(record)
    except OSError as error:
        raise OutputError(
            f"{folder.out}: cannot write ({error.strerror or error}); what is done is kept, go on with --resume"
        ) from error
    return record


def _outputs(job: _Job, out: Path, options: RunOptions) -> Record:
    """Write a scene's own files; returns the part of its record that speaks of them."""
    ids = [prompt.id for prompt in job.prompts]
    categories = [prompt.category for prompt in job.prompts]
    shown = [instance for instance in job.instances if not instance.empty]
    scene = SceneResult(
        name=job.file.name,
        width=job.width,
        height=job.height,
        instances=shown,
        ids=ids,
        categories=categories,
        transform=job.transform,
        crs=job.crs,
        overview=job.overview,
    )
    empty = [Skipped(scene.id_of(instance), "its mask is empty") for instance in job.instances if instance.empty]
    annotations = [coco.annotation(one, scene.id_of(one), scene.category_of(one)) for one in shown]
    if not all(math.isfinite(item["score"]) for item in annotations):
        raise ResamError(f"{job.file.path}: the engine gave scores that are not finite; check its precision")
    names = output_names(job.file.stem, options.formats, ".tif" if job.raster else ".png")
    if "geojson" in names:
        write_geojson(out / names["geojson"], scene, options.crs, options.simplify)
    if "overlay" in names:
        write_overlay(out / names["overlay"], scene)
    if "labels" in names:
        write_labels(out / names["labels"], scene)
    return {
        "status": "done",
        "width": job.width,
        "height": job.height,
        "points": sum(len(instance.points) for instance in job.instances),
        "annotations": annotations,
        "skipped": [{"instance": one.instance, "reason": one.reason} for one in [*job.skipped, *empty]],
        "outputs": list(names.values()),
    }
