"""A run over many scenes: reading, inference and writing at the same time, with bounded memory.

    reader thread            main thread             writer thread
    open, points, windows -> tiles through the    -> RLE, polygons, files,
    letterbox                segmenter               then the scene's record

Tiles travel one by one through a bounded channel, so that a scene of any size needs the memory of a few tiles. A scene
that fails is recorded with its reason and the run goes on; an output that cannot be written ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from resam_runtime.masks.instance import in_order
from resam_runtime.run.channel import Channel, Closed
from resam_runtime.run.jobs import Job, Work
from resam_runtime.run.options import RunOptions
from resam_runtime.run.read_stage import PointsSource, read_scene
from resam_runtime.run.records import Record, RunFolder
from resam_runtime.run.stop import StopRequest
from resam_runtime.run.write_stage import write_scene
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.segment.segmenter import Segmenter

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
    """Process scenes one after the other and save a record of each; return when all are done or the run was stopped.

    on_points: called in this thread with the number of instances just decoded. on_scene: called in the writer's
    thread with each record saved. Raises OutputError when an output cannot be written, and whatever on_scene raises;
    all scenes whose records were saved before that are done.
    """
    stop = stop or StopRequest()
    work: Channel[Work | Job] = Channel(_TILES_AHEAD)  # the tiles of a scene, then its job
    done: Channel[Job] = Channel(_SCENES_BEHIND)
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
            job = Job(scene)
            try:
                for item in read_scene(job, segmenter, points, options):
                    if stop.at_once or job.failure is not None:
                        break
                    work.put(item)
            except Closed:
                raise
            except Exception as error:
                job.fail(error)
            job.dropped = stop.at_once
            work.put(job)
            if options.strict and job.failure is not None:
                break
        work.finish()

    def write() -> None:
        for job in done:
            record = write_scene(job, folder, options)
            on_scene(record)
            if options.strict and record["status"] == "failed":
                stop.request()
                stop.request()

    threads = [stage(read), stage(write)]
    try:
        for item in work:
            if isinstance(item, Work):
                if item.job.failure is None and not stop.at_once:
                    on_points(_segment(item, segmenter, options))
                continue
            if item.dropped or (stop.at_once and item.failure is None):
                continue
            if item.failure is None:
                _gather(item, segmenter, options)
            done.put(item)
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


def _segment(work: Work, segmenter: Segmenter, options: RunOptions) -> int:
    """One tile through the engine; returns the number of instances decoded."""
    begin, job = time.perf_counter(), work.job
    size, keep = (job.height, job.width), options.exclusive
    try:
        if work.indices is None:
            found = segmenter.propose_tile(work.image, work.tile, size, valid=work.valid, keep_logits=keep)
        else:
            assert job.batch is not None
            found = segmenter.segment_tile(work.image, work.tile, job.batch, work.indices, size, keep_logits=keep)
    except Exception as error:
        job.fail(error)
        return 0
    job.instances += found
    job.seconds["inference"] += time.perf_counter() - begin
    return len(found)


def _gather(job: Job, segmenter: Segmenter, options: RunOptions) -> None:
    """Instances of all tiles -> instances of the scene, in the order of their prompts."""
    begin = time.perf_counter()
    try:
        if job.automatic:
            job.instances = list(segmenter.merge_proposals(job.instances, (job.height, job.width)))
        job.instances = in_order(job.instances, options.exclusive)
    except Exception as error:
        job.fail(error)
    job.seconds["inference"] += time.perf_counter() - begin
