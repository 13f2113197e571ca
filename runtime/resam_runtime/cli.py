"""`resam-run`: parsing and printing; `resam_runtime.run.run` and `resam_runtime.run.watch` do the work."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from resam_runtime.common.commands import HELP, output_folder, second_signal_ends, version
from resam_runtime.common.errors import ResamError, command_errors, counted, printable, words
from resam_runtime.common.option_types import Bands, Bytes, Finite, Place, ShardOf, Words
from resam_runtime.points import POINT_KINDS, SUFFIXES
from resam_runtime.run.options import RunOptions
from resam_runtime.run.stop import StopRequest
from resam_runtime.writers import WRITERS

if TYPE_CHECKING:
    from resam_runtime.run.on_ray import RayCluster
    from resam_runtime.run.report import RunReport

_NOTES = 10  # more go to summary.json alone

EPILOG = """
\b
Examples:
  resam-run --engine model.resam images/ -o out
  resam-run --engine model.plan scene.tif --points points.geojson --format coco,labels
  resam-run --engine model.resam s3://bucket/a.tif https://example.com/items.json @more.txt -o out
  resam-run --engine model.plan --watch /data/incoming -o /data/results

\b
Exit codes:
  0    all scenes done
  1    some scenes failed (see summary.json), or, with --strict, the first failed and the run stopped
  2    nothing could be done: bad arguments, unreadable engine or points, points that lie in no scene,
       every instance skipped, or every scene failed
  3    the output could not be written (disk full); finished scenes are kept, use --resume
  130  stopped by Ctrl-C (SIGINT), 143 by SIGTERM: scenes in progress were finished, use --resume;
       a second signal stops at the next tile, or after 10 s at the latest
"""


@click.command("resam-run", context_settings=HELP, epilog=EPILOG)
@click.argument("images", nargs=-1, type=Place())
@click.option(
    "--engine",
    "-e",
    required=True,
    type=click.Path(path_type=Path),
    help="Engine file (.resam or .plan), or tiny, a small one that ships with resam.",
)
@output_folder("out", "Output folder.")
@click.option(
    "--points",
    "-p",
    type=click.Path(path_type=Path),
    help=f"One points file for all scenes: {words(kind.name for kind in POINT_KINDS)}. "
    f"Default: {words(f'NAME{suffix}' for suffix in SUFFIXES)} beside each scene; else points.json in "
    "the folder, where resam-annotate leaves it.",
)
@click.option("--boxes", is_flag=True, help="Take the bbox of COCO annotations as box prompts.")
@click.option(
    "--automatic",
    is_flag=True,
    help="Segment everything, from a grid of points, in scenes without points. An engine with a prompter finds its "
    "classes there without this option.",
)
@click.option(
    "--min-score",
    type=Finite(0, 1),
    help="Minimum score of instances found without points: lower finds more, with more errors.  "
    "[default: the engine's own for each class; 0.6 with --automatic]",
)
@click.option(
    "--format",
    "formats",
    type=Words(tuple(WRITERS)),
    default=",".join(name for name, writer in WRITERS.items() if writer.default),
    show_default=True,
    help=f"What to write: {', '.join(WRITERS)}.",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted run in the output folder.")
@click.option("--overwrite", is_flag=True, help="Remove the output of an earlier run and start again.")
@click.option("--strict", is_flag=True, help="Stop at the first scene that fails.")
@click.option("--exclusive", is_flag=True, help="Assign each pixel to at most one instance.")
@click.option(
    "--views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Average masks over this many mirrored and rescaled views of each tile, 1 to 7: slower, more accurate.",
)
@click.option(
    "--bands", type=Bands(), help="Bands to use as red, green, blue, counted from 1, such as 3,2,1; or one for gray."
)
@click.option(
    "--alpha/--no-alpha",
    default=True,
    show_default=True,
    help="Whether a band marked as alpha masks pixels without data; in some files it is infrared.",
)
@click.option(
    "--crs",
    type=click.Choice(["wgs84", "source"]),
    default="wgs84",
    show_default=True,
    help="Coordinates of GeoJSON for georeferenced scenes: WGS 84, or the scene's own.",
)
@click.option(
    "--simplify",
    type=Finite(0, 100),
    default=0.5,
    show_default=True,
    metavar="PX",
    help="Tolerance of GeoJSON outlines in pixels; 0 keeps pixel edges.",
)
@click.option(
    "--budget", type=Bytes(), help="Keep only the best instances, so that instances.json stays within this size."
)
@click.option("--asset", help="STAC asset to use as the scene.  [default: visual, else data]")
@click.option(
    "--shard",
    type=ShardOf(),
    metavar="K/N",
    help="Process only part K of N (from 0) of the scenes, split by name; combine the parts with resam-merge.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="auto",
    metavar="[ADDRESS]",
    help="Spread the scenes over a Ray cluster: the one at host:port, else this machine's own.",
)
@click.option("--device", help="cpu, cuda, cuda:1 or tensorrt-ep.  [default: the best available]")
@click.option(
    "--batch",
    type=click.IntRange(1, 256),
    help="Tiles that share a call of the encoder.  [default: as many as a GPU gains from, measured; 1 on a CPU]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option(
    "--watch",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Process scenes as they arrive in a folder until stopped; resumes automatically.",
)
@click.option(
    "--poll",
    type=Finite(0.05, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between checks of the watched folder; a file unchanged between two checks is complete.",
)
@version
@command_errors
def run(
    images: tuple[str | Path, ...],
    engine: Path,
    out: Path,
    points: Path | None,
    boxes: bool,
    automatic: bool,
    min_score: float | None,
    formats: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    strict: bool,
    exclusive: bool,
    views: int,
    bands: tuple[int, ...] | None,
    alpha: bool,
    crs: Any,
    simplify: float,
    budget: int | None,
    asset: str | None,
    shard: tuple[int, int] | None,
    ray: str | None,
    device: str | None,
    batch: int | None,
    threads: int | None,
    watch: Path | None,
    poll: float,
) -> None:
    """Segment the instances marked by points in IMAGES or, without points, those the engine was trained to find.

    IMAGES: files, folders, URLs (https, s3, gs, az), STAC items (.json, .parquet), or @LIST, a file listing them.

    Writes instances.json (COCO), per scene NAME.geojson, NAME.png (overlay) and NAME.labels.tif or .png, and
    summary.json. Every file is whole or absent.
    """
    if not images and watch is None:
        raise click.UsageError("give IMAGES, files or folders, or --watch DIR")
    if images and watch is not None:
        raise click.UsageError("give IMAGES or --watch DIR, not both")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    given = click.get_current_context().get_parameter_source
    for writer in WRITERS.values():
        for name in writer.options:
            heeded = any(name in WRITERS[word].options for word in formats)
            if not heeded and given(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} applies to {writer.files}; add {writer.name} to --format")
    if watch is not None and shard is not None:
        raise click.UsageError("--shard does not go with --watch DIR; leave one out")
    if ray is not None and watch is not None:
        raise click.UsageError("--ray does not go with --watch DIR; leave one out")
    if ray is not None and not re.fullmatch(r"auto|(ray://)?[\w.-]+:\d+", ray):
        raise click.UsageError(f"--ray {ray}: not host:port; write IMAGES before --ray, or --ray=auto")
    if watch is None and given("poll") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--poll needs --watch DIR")
    if watch is not None and strict:
        raise click.UsageError("--strict would stop --watch at the first failed scene; leave one out")
    # A damaged image is one line of ours; OpenCV, which logs three more, reads this once, when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # Heavy imports wait until the arguments are known to be good.
    from resam_runtime.engine.engine_file import EngineFile
    from resam_runtime.run.outputs import OutputError
    from resam_runtime.run.progress import TerminalProgress
    from resam_runtime.run.records import Mode
    from resam_runtime.run.run import Run
    from resam_runtime.run.shard import Shard
    from resam_runtime.run.watch import watch_folder
    from resam_runtime.segment.automatic import AutomaticOptions
    from resam_runtime.segment.segmenter import Segmenter

    options = RunOptions(
        crs=crs,
        simplify=simplify,
        budget=budget,
        formats=frozenset(formats),
        exclusive=exclusive,
        bands=bands,
        alpha=alpha,
        automatic=automatic,
        min_score=min_score,
        views=views,
        strict=strict,
        boxes=boxes,
        asset=asset,
    )
    part = None if shard is None else Shard(*shard)
    grid = None
    if automatic:
        grid = AutomaticOptions() if min_score is None else AutomaticOptions(min_score=min_score)
    mode: Mode = "overwrite" if overwrite else "resume" if resume or watch is not None else "new"
    with _signals() as (stop, received):
        try:
            opened = EngineFile.open(engine)
            if min_score is not None and not automatic and opened.manifest.prompter is None:
                raise ResamError(f"--min-score: {engine} has no prompter and finds nothing by itself; add --automatic")
            prepared = None if watch is not None else Run.prepare(opened, images, out, points, options, part)
            with contextlib.ExitStack() as cluster:
                segmenter: Segmenter | RayCluster
                if ray is None:
                    segmenter = Segmenter(
                        opened, device, threads, automatic=grid, min_score=min_score, views=views, batch=batch
                    )
                else:
                    address = None if ray == "auto" else ray
                    from resam_runtime.run.on_ray import RayCluster

                    segmenter = RayCluster(opened, address, device, threads, grid, min_score, views, batch)
                    cluster.enter_context(segmenter)
                click.echo(printable(segmenter.describe()))
                sys.stdout.flush()
                progress = cluster.enter_context(TerminalProgress(each_scene=watch is not None))
                if prepared is not None:
                    report = prepared.execute(segmenter, mode, stop, progress)
                else:
                    assert watch is not None
                    assert isinstance(segmenter, Segmenter)
                    report = watch_folder(
                        opened,
                        segmenter,
                        watch,
                        out,
                        stop,
                        points=points,
                        options=options,
                        mode=mode,
                        poll=poll,
                        observer=progress,
                    )
        except OutputError as error:
            click.echo(f"error: {printable(str(error))}", err=True)
            sys.exit(3)
        except MemoryError:
            raise ResamError("not enough memory; close other programs, or use a smaller engine") from None
    for note in report.notes[:_NOTES]:
        click.echo(f"note: {printable(note)}", err=True)
    if len(report.notes) > _NOTES:
        click.echo(
            f"note: {len(report.notes) - _NOTES} more, see {printable(str(report.out / 'summary.json'))}", err=True
        )
    click.echo(printable(_closing_line(report)))
    if report.all_skipped:
        line = f"nothing was segmented, all {report.skipped} instances were skipped; see {report.out / 'summary.json'}"
        click.echo(f"error: {printable(line)}", err=True)
    if received and (watch is not None or not report.complete):
        sys.exit(128 + received[0])
    sys.exit(report.exit_code)


def _closing_line(report: RunReport) -> str:
    parts = [f"{counted(report.instances, 'instance')} in {counted(report.scenes - report.failed, 'scene')}"]
    if report.failed:
        parts.append(f"{counted(report.failed, 'scene')} failed")
    if report.without_points:
        parts.append(f"{counted(report.without_points, 'scene')} without points")
    if report.skipped:
        parts.append(f"{counted(report.skipped, 'instance')} skipped")
    if report.nowhere:
        lie = "lies" if report.nowhere == 1 else "lie"
        parts.append(f"{counted(report.nowhere, 'instance')} of the points file {lie} in no processed scene")
    if report.left_out:
        parts.append(f"{counted(report.left_out, 'instance')} left out by --budget")
    if not report.complete:
        parts.append("stopped early, use --resume")
    return f"{', '.join(parts)}; {report.seconds:.1f} s; see {report.out}"


@contextlib.contextmanager
def _signals() -> Iterator[tuple[StopRequest, list[int]]]:
    """A stop request that SIGINT and SIGTERM make, and the signals that came."""
    stop, received = StopRequest(), list[int]()

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        stop.request()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with second_signal_ends(received):
            yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
