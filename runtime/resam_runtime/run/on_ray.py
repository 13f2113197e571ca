"""A run on a Ray cluster: Ray Data maps the list of scenes, its actors load the engine once and do `process_scene`.

What a worker makes of a scene comes back to this process, which writes it: workers need no folder in common for
outputs, and records, resuming and the files of the run are as ever. Scheduling, and doing again what a lost worker had
in hand, is Ray's. Scenes, and points beside them, must be where workers can read them: URLs, or a file system that all
share.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resam_runtime.common.errors import ResamError, counted, one_line
from resam_runtime.common.extras import needs_extra
from resam_runtime.common.files import atomic_write
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.run.options import RunOptions
from resam_runtime.run.outputs import output_errors
from resam_runtime.run.records import RunFolder
from resam_runtime.run.scene_prompts import PointsSource
from resam_runtime.run.stop import StopRequest
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.segment.automatic import AutomaticOptions
from resam_runtime.writers import Record

_TOGETHER = 16  # scenes that a worker is given at once, at most
_AGAIN = 2  # how often what a lost worker had in hand is done again


class RayCluster:
    """Takes the place of a `Segmenter` in a run. Use as a context manager: it leaves the cluster at the end."""

    def __init__(
        self,
        engine: EngineFile,
        address: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        automatic: AutomaticOptions | None = None,
        min_score: float | None = None,
        views: int = 1,
        batch: int | None = None,
    ) -> None:
        """address: host:port, or ray://host:port; None: the cluster that this machine belongs to, else one of its own.

        threads: CPU threads of a worker, 1 by default; where the cluster has GPUs a worker takes one of those besides.
        Others as for `Segmenter`. Raises ResamError where Ray is not installed or does not answer.
        """
        with needs_extra("--ray", "ray"):
            import ray
            import ray.data
        self._ray, self._path, self._threads = ray, engine.path, threads or 1
        try:
            dashboard = None if address else False
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
        except Exception as error:  # of several kinds
            raise ResamError(f"--ray {address or ''}: no cluster there ({one_line(error)})") from None
        there = ray.cluster_resources()
        self._gpus = 1 if there.get("GPU", 0) >= 1 and device != "cpu" else 0
        self._workers = max(1, int(there.get("GPU", 0) if self._gpus else there.get("CPU", 1) // self._threads))
        content = engine.path.read_bytes()
        how = {"automatic": automatic, "min_score": min_score, "views": views, "batch": batch}
        self._engine = ray.put((engine.path.name, content, device, self._threads, pickle.dumps(how)))

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def describe(self) -> str:
        """One line: the engine, and how many workers there may be."""
        kind = "GPU" if self._gpus else "CPU"
        return f"{self._path.name}: Ray, at most {counted(self._workers, 'worker')}, {kind}"

    def process_scenes(
        self,
        scenes: Iterable[SceneFile],
        folder: RunFolder,
        points: PointsSource,
        options: RunOptions,
        *,
        stop: StopRequest | None = None,
        on_points: Callable[[int], None] = lambda count: None,
        on_scene: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """As `pipeline.process_scenes`. A scene at which a worker is lost again and again fails alone."""
        stop, left = stop or StopRequest(), {scene.name: scene for scene in scenes}
        work = self._ray.put(pickle.dumps((points, options)))
        for together in (_TOGETHER, 1):
            for record, contents in self._made(list(left.values()), work, together):
                del left[record.name]
                record = _save(record, contents, folder)
                on_points(len(record.annotations))
                on_scene(record)
                if stop.requested or (options.strict and record.failed):
                    return
            if not left:
                return
        for scene in left.values():
            why = f"{scene.path}: its worker was lost every time, perhaps for lack of memory"
            record = _save(Record(scene.name, scene.stem, points.signature(scene), reason=why), [], folder)
            on_scene(record)

    def _made(self, scenes: Sequence[SceneFile], work: Any, together: int) -> Iterator[tuple[Record, Sequence[bytes]]]:
        """Records, in no particular order, and the contents of their outputs."""
        data = self._ray.data
        context = data.DataContext.get_current()
        context.max_errored_blocks = -1  # what is lost shows in what does not come back
        context.enable_progress_bars = False
        rows = [{"scene": pickle.dumps(scene)} for scene in scenes]
        source = data.from_items(rows, override_num_blocks=-(-len(rows) // together))
        with warnings.catch_warnings():
            # Remote arguments go in Ray 2.64, which has no other word for how often lost work is done again.
            warnings.filterwarnings("ignore", "`ray_remote_args`")
            made = source.map(
                _Worker,
                fn_constructor_args=(self._engine, work),
                concurrency=(1, self._workers),
                num_cpus=self._threads,
                num_gpus=self._gpus,
                max_restarts=-1,
                max_task_retries=_AGAIN,
            )
        for row in made.iter_rows():
            yield Record.from_json(pickle.loads(row["record"])), pickle.loads(row["contents"])


class _Worker:
    """An actor: a segmenter, and what is to be made of scenes."""

    def __init__(self, engine: Any, work: Any) -> None:
        import ray

        from resam_runtime.segment.segmenter import Segmenter

        name, content, device, threads, how = ray.get(engine)
        self._points, self._options = pickle.loads(ray.get(work))
        with tempfile.TemporaryDirectory(prefix="resam-") as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self._segmenter = Segmenter(path, device, threads, **pickle.loads(how))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from resam_runtime.run.process_scene import process_scene

        with tempfile.TemporaryDirectory(prefix="resam-") as folder:
            record = process_scene(self._segmenter, pickle.loads(row["scene"]), folder, self._points, self._options)
            contents = [Path(folder, name).read_bytes() for name in record.outputs]
        return {"record": pickle.dumps(record.to_json()), "contents": pickle.dumps(contents)}


def _save(record: Record, contents: Sequence[bytes], folder: RunFolder) -> Record:
    """Write a scene's outputs, each whole or not at all, then its record. Raises OutputError."""
    with output_errors(folder.out):
        try:
            folder.claim(record.name, record.outputs)
        except ResamError as error:
            record = Record(record.name, record.stem, record.source, seconds=record.seconds, reason=str(error))
        earlier = folder.record(record.name)
        if earlier is not None:
            folder.remove_outputs(earlier)
        for name, content in zip(record.outputs, contents):
            with atomic_write(folder.out / name) as temporary:
                temporary.write_bytes(content)
        folder.save(record)
    return record
