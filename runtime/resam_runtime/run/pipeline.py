"""A run over many scenes: reading, inference and writing at the same time, with bounded memory.

    reader thread            main thread             writer thread
    open, points, windows -> tiles through the    -> RLE, polygons, files,
    letterbox                segmenter               then the scene's record

Tiles travel one by one through a bounded channel, so that a scene of any size needs the memory of a few tiles. A scene
that fails is recorded with its reason and the run goes on; an output that cannot be written ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from resam_runtime.common.errors import ResamError
from resam_runtime.run.channel import Channel, Closed
from resam_runtime.run.options import RunOptions
from resam_runtime.run.outputs import output_errors
from resam_runtime.run.process_scene import PreparedTile, SceneJob, segment_tiles
from resam_runtime.run.records import RunFolder
from resam_runtime.run.scene_prompts import PointsSource
from resam_runtime.run.stop import StopRequest
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.writers import Record

_TILES_AHEAD, _SCENES_BEHIND = 4, 2


def process_scenes(
    segmenter: Segmenter,
    scenes: Iterable[SceneFile],
    folder: RunFolder,
    points: PointsSource,
    options: RunOptions,
    *,
    stop: StopRequest | None = None,
    on_points: Callable[[int], None] = lambda count: None,
    on_scene: Callable[[Record], None] = lambda record: None,
) -> None:
    """Do what `process_scene` does for many scenes, side by side, and save a record of each; return when all are done
    or the run was stopped.

    on_points: called in this thread with the number of instances just decoded. on_scene: called in the writer's
    thread with each record saved. Raises OutputError when an output cannot be written, and whatever on_scene raises;
    all scenes whose records were saved before that are done.
    """
    stop = stop or StopRequest()
    # the tiles of a scene, then its job
    work: Channel[PreparedTile | SceneJob] = Channel(max(_TILES_AHEAD, segmenter.batch))
    done: Channel[SceneJob] = Channel(_SCENES_BEHIND)
    errors: list[BaseException] = []

    def thread_of(body: Callable[[], None]) -> threading.Thread:
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
            job = SceneJob(scene, segmenter, points, options)
            for tile in job.read():
                if stop.at_once:
                    break
                work.put(tile)
            job.dropped = stop.at_once
            work.put(job)
            if options.strict and job.failure is not None:
                break
        work.finish()

    def write() -> None:
        for job in done:
            record = save_scene(job, folder)
            on_scene(record)
            if options.strict and record.failed:
                stop.request()
                stop.request()

    threads = [thread_of(read), thread_of(write)]
    try:
        for tiles, jobs in _together(work, segmenter.batch):
            if tiles and not stop.at_once:
                on_points(segment_tiles(segmenter, tiles))
            for job in jobs:
                if not job.dropped and not (stop.at_once and job.failure is None):
                    job.gather()
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


def _together(
    work: Iterable[PreparedTile | SceneJob], most: int
) -> Iterator[tuple[list[PreparedTile], list[SceneJob]]]:
    """As many tiles as share an encoder call, and the jobs that are through when they are."""
    tiles: list[PreparedTile] = []
    jobs: list[SceneJob] = []
    for item in work:
        if isinstance(item, PreparedTile):
            tiles.append(item)
        else:
            jobs.append(item)
        if len(tiles) == most or not tiles:
            yield tiles, jobs
            tiles, jobs = [], []
    if tiles or jobs:
        yield tiles, jobs


def save_scene(job: SceneJob, folder: RunFolder) -> Record:
    """Write a scene's outputs, then its record, which says that they are there. Raises OutputError."""
    with output_errors(folder.out):
        with job.timed("write"):
            try:
                folder.claim(job.file.name, job.output_names)
            except ResamError as error:
                job.fail(error)
            earlier = folder.record(job.file.name)
            if earlier is not None:
                folder.remove_outputs(earlier)
        record = job.write(folder.out)
        folder.save(record)
    return record
