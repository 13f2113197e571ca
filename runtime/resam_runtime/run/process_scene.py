"""One scene, from its file to its outputs and its record."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError, one_line, system_error
from resam_runtime.masks.instance import Instance, in_order
from resam_runtime.masks.rle import RLE_LIMIT
from resam_runtime.points import Skipped
from resam_runtime.run.options import RunOptions
from resam_runtime.run.outputs import output_errors, output_names
from resam_runtime.run.scene_prompts import PointsSource, ScenePrompts, searched
from resam_runtime.scenes.remote import RemoteFile, remote_file
from resam_runtime.scenes.scene import Scene, open_scene
from resam_runtime.scenes.scene_files import SceneFile, output_stems
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.segment.encoded_tile import EncodedTile
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.tiles.placement import points_beyond
from resam_runtime.tiles.prompt_batch import PromptBatch, padded
from resam_runtime.tiles.tiling import Tile
from resam_runtime.writers import Record, SceneResult, scene_writers
from resam_runtime.writers.overlay import LONGEST
from resam_runtime.writers.record import RUN_STAGES, annotation

# A name too long, a folder where the file should go: such a path is one scene's trouble, the disk is well.
_OF_ONE_PATH = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}


def process_scene(
    segmenter: Segmenter,
    file: SceneFile | str | os.PathLike[str],
    out: str | os.PathLike[str],
    points: PointsSource | None = None,
    options: RunOptions | None = None,
) -> Record:
    """Segment one scene and write its own files into the folder `out`; returns its record, which it does not save.

    file: a path or a URL stands for a scene of that file name. points: default: the points file beside the scene.
    Needs no threads, and knows nothing of other scenes: a run schedules the same steps side by side (`pipeline`). A
    scene that fails gives a record that says why. Raises OutputError when the folder cannot be written.
    """
    if not isinstance(file, SceneFile):
        path = (remote_file(file) if isinstance(file, str) else None) or Path(file)
        name = Path(path.place if isinstance(path, RemoteFile) else path).name
        file = SceneFile(path, name, output_stems([name])[name])
    job = SceneJob(file, segmenter, points or PointsSource(), options or RunOptions())
    tiles = job.read()
    while together := list(itertools.islice(tiles, segmenter.batch)):
        segment_tiles(segmenter, together)
    job.gather()
    with output_errors(Path(out)):
        return job.write(Path(out))


@dataclass(frozen=True, eq=False)
class PreparedTile:
    """A tile to be segmented.

    image: prepared. indices: the tile's prompts, or None, and where: where to look for instances, as
    `Segmenter.plan_automatic` says it. valid: where the tile's window has data, None where everywhere.
    """

    job: SceneJob
    tile: Tile
    image: npt.NDArray[np.uint8]
    indices: npt.NDArray[np.intp] | None = None
    where: npt.NDArray[np.float32] | None = None
    valid: npt.NDArray[np.bool_] | None = None


def segment_tiles(segmenter: Segmenter, tiles: Sequence[PreparedTile]) -> int:
    """Tiles of one or several scenes through the engine, encoded in one call; returns the number of instances decoded.

    Where they cannot be encoded together, each is by itself, so that a scene that fails does so alone.
    """
    live = [tile for tile in tiles if tile.job.failure is None]
    encoded: dict[PreparedTile, EncodedTile] = {}
    if len(live) > 1:
        begin = time.perf_counter()
        with contextlib.suppress(Exception):
            encoded = dict(zip(live, segmenter.encode_tiles([tile.image for tile in live])))
        each = (time.perf_counter() - begin) / len(live)
        for tile in live:
            tile.job.count_seconds("inference", each)
    return sum(tile.job.segment(tile, encoded.get(tile)) for tile in tiles)


class SceneJob:
    """A scene on its way: `read` -> `segment` each tile -> `gather` -> `write`.

    Each step is one thread's at a time. A step that fails keeps the reason in `failure`, and those that follow do
    nothing, but for `write`, whose record says so.
    """

    def __init__(self, file: SceneFile, segmenter: Segmenter, points: PointsSource, options: RunOptions) -> None:
        self.file, self.failure = file, None
        self.dropped = False
        self._segmenter, self._points, self._options = segmenter, points, options
        self._info: SceneInfo | None = None
        self._found = ScenePrompts()
        self._batch: PromptBatch | None = None
        self._overview: npt.NDArray[np.uint8] | None = None
        self._instances: list[Instance] = []
        self._notes: list[str] = []
        self._source: dict[str, object] = {}
        self._trace: str | None = None
        self._seconds = dict.fromkeys(RUN_STAGES, 0.0)

    failure: str | None
    """Why the scene failed; None while it has not."""

    def fail(self, error: Exception) -> None:
        """Remember the first failure. Errors that are no one's fault but ours keep their traceback."""
        if self.failure is not None:
            return
        if isinstance(error, ResamError):
            self.failure = str(error)
        elif isinstance(error, OSError):
            self.failure = system_error(error, self.file.path)
        elif isinstance(error, MemoryError):
            self.failure = f"{self.file.path}: not enough memory"
        else:
            self.failure = f"{self.file.path}: unexpected {type(error).__name__}: {one_line(error)}"
            self._trace = "".join(traceback.format_exception(error))
        self._instances, self._overview = [], None

    def count_seconds(self, stage: str, seconds: float) -> None:
        """Count time spent on several scenes together, as far as it was this one's."""
        self._seconds[stage] += seconds

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of the block for one of `RUN_STAGES`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin

    def read(self) -> Iterator[PreparedTile]:
        """Open the scene, find its prompts, and give its prepared tiles one by one."""
        try:
            yield from self._tiles()
        except Exception as error:
            self.fail(error)

    def segment(self, prepared: PreparedTile, encoded: EncodedTile | None = None) -> int:
        """One tile through the engine, its encoder where it is not encoded yet; returns the number of instances
        decoded."""
        if self.failure is not None or self._info is None:
            return 0
        segmenter, size_hw, keep = self._segmenter, self._info.size_hw, self._options.exclusive
        image = prepared.image if encoded is None else encoded
        try:
            with self.timed("inference"):
                if prepared.where is not None:
                    found = segmenter.propose_tile(
                        image, prepared.tile, prepared.where, size_hw, valid=prepared.valid, keep_logits=keep
                    )
                else:
                    assert self._batch is not None
                    assert prepared.indices is not None
                    found = segmenter.segment_tile(
                        image, prepared.tile, self._batch, prepared.indices, size_hw, keep_logits=keep
                    )
        except Exception as error:
            self.fail(error)
            return 0
        self._instances += found
        return len(found)

    def gather(self) -> None:
        """Instances of all tiles -> instances of the scene, in the order of their prompts."""
        if self.failure is not None or self._info is None:
            return
        try:
            with self.timed("inference"):
                if self._found.search:
                    self._instances = self._segmenter.merge_proposals(self._instances, self._info.size_hw)
                self._instances = [self._named(one) for one in in_order(self._instances, self._options.exclusive)]
        except Exception as error:
            self.fail(error)

    @property
    def output_names(self) -> list[str]:
        """Paths inside the output folder of what `write` will write."""
        if self.failure is not None or self._info is None:
            return []
        return output_names(self.file.stem, self._options.formats, self._info)

    def write(self, out: Path) -> Record:
        """Write the scene's own files; returns the record. Raises OSError where the disk is full or the like."""
        record = Record(self.file.name, self.file.stem, self._source)
        if self.failure is None:
            with self.timed("write"):
                record = self._written(record, out)
        return replace(
            record,
            seconds={stage: round(value, 4) for stage, value in self._seconds.items()},
            notes=self._notes,
            without_points=self._found.lacking,
            reason=self.failure,
            traceback=self._trace,
        )

    def _tiles(self) -> Iterator[PreparedTile]:
        segmenter = self._segmenter
        with contextlib.ExitStack() as open_files:
            with self.timed("read"):
                self._source = self._points.signature(self.file)
                scene = open_scene(self.file.path, self._options.bands, self.file.name, self._options.alpha)
                open_files.enter_context(scene)
                open_files.callback(self._take_notes, scene)
                plan = self._plan(scene)
            for tile, indices, where in plan:
                if self.failure is not None:
                    return
                with self.timed("read"):
                    window, valid = scene.read_with_data(tile.x, tile.y, tile.width, tile.height)
                if where is not None and valid is not None and not valid.any():
                    continue
                with self.timed("prepare"):
                    image = segmenter.prepare_tile(window, tile)
                yield PreparedTile(self, tile, image, indices, where, valid)

    def _take_notes(self, scene: Scene) -> None:
        self._notes[:0] = scene.notes

    def _plan(self, scene: Scene) -> Iterator[tuple[Tile, npt.NDArray[np.intp] | None, npt.NDArray[np.float32] | None]]:
        """What is to be done on which tile: some prompts, or a search."""
        segmenter, options = self._segmenter, self._options
        info = scene.info if self.file.date is None else replace(scene.info, date=self.file.date)
        if info.width * info.height >= RLE_LIMIT:
            raise ResamError(
                f"{scene.path}: {info.width} x {info.height} px are more than COCO's RLE can count; cut it into parts"
            )
        self._info = info
        limit = segmenter.points_per_instance
        search = searched(segmenter.manifest, self._points, options.automatic)
        self._found = self._points.prompts(self.file, info, limit, search)
        if self._found.lacking is not None:
            self._notes.append(self._found.lacking)
        if any(writer.needs_overview for writer in scene_writers(options.formats)):
            self._overview = scene.overview(LONGEST)
        if self._found.search:
            return ((tile, None, where) for tile, where in segmenter.plan_automatic(*info.size_wh))
        tokens = [prompt.tokens for prompt in self._found.prompts]
        self._batch = padded([coords for coords, _ in tokens], [labels for _, labels in tokens])
        if (sizes := segmenter.manifest.sizes) is not None:
            categories = [prompt.category for prompt in self._found.prompts]
            self._batch = replace(self._batch, sides=sizes.sides(categories, info.metres_per_pixel))
        plan = segmenter.plan(self._batch, *info.size_wh)
        self._note_beyond(plan, self._batch)
        return ((tile, indices, None) for tile, indices in plan)

    def _note_beyond(self, plan: list[tuple[Tile, npt.NDArray[np.intp]]], batch: PromptBatch) -> None:
        """Say of which instances some points are not used, as of an object larger than a tile."""
        for tile, indices in plan:
            for index, count in zip(indices.tolist(), points_beyond(batch, indices, tile).tolist()):
                if count:
                    given, total = self._found.prompts[index].id, len(batch.prompt(index)[0])
                    self._notes.append(
                        f"instance {index + 1 if given is None else given}: {count} of {total} points lie outside its "
                        f"tile of {tile.width} x {tile.height} px and were not used"
                    )

    def _named(self, instance: Instance) -> Instance:
        """The instance with what its prompt says of it."""
        if self._found.search:
            return instance
        prompt = self._found.prompts[instance.index]
        return replace(instance, id=prompt.id, category=prompt.category, found_by=prompt.found_by)

    def _written(self, record: Record, out: Path) -> Record:
        """The record of a scene whose files are written; a failure of the scene's own removes those before it."""
        assert self._info is not None
        shown = [instance for instance in self._instances if not instance.empty]
        empty = [Skipped(one.called, "its mask is empty") for one in self._instances if one.empty]
        names = self.output_names
        try:
            annotations = [annotation(one) for one in shown]
            if not all(math.isfinite(item["score"]) for item in annotations):
                raise ResamError(f"{self.file.path}: the engine gave scores that are not finite; check its precision")
            result = SceneResult(self._info, shown, self._overview)
            for writer, name in zip(scene_writers(self._options.formats), names):
                self._notes += writer.write(out / name, result, self._options)
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in _OF_ONE_PATH:
                raise
            self.fail(error)
            for name in names:
                with contextlib.suppress(OSError):
                    out.joinpath(name).unlink()
            return record
        return replace(
            record,
            scene=self._info,
            points=sum(len(instance.points) for instance in shown),
            annotations=annotations,
            by_place=self._found.by_place,
            skipped=[*self._found.skipped, *empty],
            outputs=names,
        )
