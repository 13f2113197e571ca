"""The first stage of the pipeline: a scene and its points from disk to prepared tiles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import has_rasterio
from resam_runtime.common.files import sha256_file
from resam_runtime.masks.rle import RLE_LIMIT
from resam_runtime.points import PointsFile, Skipped, check_prompts, find_points
from resam_runtime.run.jobs import Job, Work
from resam_runtime.run.options import RunOptions
from resam_runtime.scenes.scene import RASTER_SUFFIXES, Scene, open_scene
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.tiles.placement import points_beyond
from resam_runtime.tiles.prompt_batch import PromptBatch
from resam_runtime.tiles.tiling import Tile
from resam_runtime.writers.overlay import LONGEST


class PointsSource:
    """Where the prompts of scenes come from: one file for all, or a file beside each.

    shared: names that several scenes of the run end in, see `shared_names`.
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


def source_of(scene: SceneFile, points: PointsSource) -> dict[str, Any]:
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


def read_scene(job: Job, segmenter: Segmenter, points: PointsSource, options: RunOptions) -> Iterator[Work]:
    """Open a scene, find its prompts, and yield its prepared tiles. Raises ResamError, OSError."""
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
            owned = segmenter.plan(job.batch, scene.width, scene.height)
            _note_beyond(job, job.batch, owned)
            plan = list[tuple[Tile, npt.NDArray[np.intp] | None]](owned)
        job.seconds["read"] += clock() - begin
        for tile, indices in plan:
            begin = clock()
            window, valid = scene.read_with_data(tile.x, tile.y, tile.width, tile.height)
            middle = clock()
            if job.automatic and valid is not None and not valid.any():
                job.seconds["read"] += middle - begin
                continue
            image = segmenter.prepare_tile(window, tile)
            job.seconds["read"] += middle - begin
            job.seconds["prepare"] += clock() - middle
            yield Work(job, tile, image, indices, valid)


def _describe(job: Job, scene: Scene) -> None:
    if scene.width * scene.height >= RLE_LIMIT:
        raise ResamError(
            f"{scene.path}: {scene.width} x {scene.height} px are more than COCO's RLE can count; cut it into parts"
        )
    job.width, job.height = scene.width, scene.height
    job.transform, job.crs = scene.transform, scene.crs
    job.raster = scene.georeferenced or (job.file.path.suffix.lower() in RASTER_SUFFIXES and has_rasterio())
    job.notes += scene.notes


def _note_beyond(job: Job, batch: PromptBatch, plan: list[tuple[Tile, npt.NDArray[np.intp]]]) -> None:
    """Say of which instances some points are not used, as of an object larger than a tile."""
    for tile, indices in plan:
        for index, count in zip(indices.tolist(), points_beyond(batch, indices, tile).tolist()):
            if count:
                given, total = job.prompts[index].id, len(batch.prompt(index)[0])
                job.notes.append(
                    f"instance {index + 1 if given is None else given}: {count} of {total} points lie outside its tile "
                    f"of {tile.width} x {tile.height} px and were not used"
                )


def _find_prompts(job: Job, scene: Scene, segmenter: Segmenter, points: PointsSource, options: RunOptions) -> None:
    found = points.find(job.file)
    if found is None:
        if options.automatic:
            job.automatic = True
        else:
            job.lack_points("no points file beside it")
        return
    name, beside = job.file.name, points.file is None
    # a file beside a scene says by its place which one it means
    called = found.match(name, () if beside else points.shared, job.file.full_path)
    no_place = scene.transform is None and job.file.path.suffix.lower() not in RASTER_SUFFIXES
    if no_place and not beside and found.by_place and called is None:
        # a quicklook beside GeoTIFFs, say: it cannot be where the points are
        job.automatic = options.automatic
        if not options.automatic:
            job.lack_points(f"no points for it in {found.path.name}: it has no place on the map")
        return
    prompts = found.prompts_called(
        called, name, width=scene.width, height=scene.height, transform=scene.transform, crs=scene.crs
    )
    job.by_place = [prompt.id for prompt in prompts if prompt.by_place]
    if not prompts and beside and len(found) and called is None:
        if found.by_place:
            raise ResamError(f"{found.path}: none of its points lies in {name}; check its coordinates and its crs")
        raise ResamError(f"{found.path}: holds points for {', '.join(found.scenes[:3])}, none for {name}")
    if not prompts and not beside:
        if options.automatic and called is None:
            job.automatic = True
            return
        job.lack_points(f"no points for it in {found.path.name}")
    job.prompts, job.skipped = check_prompts(prompts, scene.width, scene.height)
    limit = segmenter.manifest.max_points_per_instance
    if limit is not None:
        for prompt in [prompt for prompt in job.prompts if len(prompt.coords) > limit]:
            job.skipped.append(
                Skipped(prompt.id, f"{len(prompt.coords)} points, the engine takes {limit} per instance")
            )
        job.prompts = [prompt for prompt in job.prompts if len(prompt.coords) <= limit]
