"""The last stage of the pipeline: a scene's files, then the record that says that they are there."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Mapping
from pathlib import Path

from resam_runtime.common.errors import ResamError
from resam_runtime.points import Skipped
from resam_runtime.run.jobs import Job
from resam_runtime.run.options import RunOptions
from resam_runtime.run.records import FORMAT, Record, RunFolder
from resam_runtime.scenes.scene_files import output_names
from resam_runtime.writers import coco
from resam_runtime.writers.geojson import write_geojson
from resam_runtime.writers.labels import write_labels
from resam_runtime.writers.overlay import write_overlay
from resam_runtime.writers.scene import SceneResult

# A name too long, a folder where the file should go: such a path is one scene's trouble, the disk is well.
_OF_ONE_PATH = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}


class OutputError(ResamError):
    """The output folder cannot be written any more: a full disk, most likely. What is done is kept."""


def write_scene(job: Job, folder: RunFolder, options: RunOptions) -> Record:
    """Write a scene's outputs, then its record, which says that they are there. Raises OutputError."""
    begin = time.perf_counter()
    record: Record = {"format": FORMAT, "name": job.file.name, "stem": job.file.stem, "source": job.source}
    names = output_names(job.file.stem, options.formats, ".tif" if job.raster else ".png")
    try:
        try:
            folder.claim(job.file.name, names.values() if job.failure is None else ())
        except ResamError as error:
            job.fail(error)
        earlier = folder.record(job.file.name)
        if earlier is not None:
            folder.remove_outputs(earlier)
        if job.failure is None:
            try:
                record |= _outputs(job, folder.out, names, options)
            except Exception as error:
                if isinstance(error, OSError) and error.errno not in _OF_ONE_PATH:
                    raise
                job.fail(error)
                for name in names.values():  # those written before the one that failed
                    with contextlib.suppress(OSError):
                        folder.out.joinpath(name).unlink()
        seconds = {stage: round(value, 4) for stage, value in job.seconds.items()}
        seconds["write"] = round(time.perf_counter() - begin, 4)
        record |= {"seconds": seconds, "notes": job.notes, "without_points": job.without_points}
        if job.failure is not None:
            record |= {"status": "failed", "reason": job.failure} | ({"traceback": job.trace} if job.trace else {})
        folder.save(record)
    except OSError as error:
        raise OutputError(
            f"{folder.out}: cannot write ({error.strerror or error}); what is done is kept, use --resume"
        ) from error
    return record


def _outputs(job: Job, out: Path, names: Mapping[str, str], options: RunOptions) -> Record:
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
        "by_place": job.by_place,
        "skipped": [{"instance": one.instance, "reason": one.reason} for one in [*job.skipped, *empty]],
        "outputs": list(names.values()),
    }
