"""`resam-run`: parsing and printing; `resam_runtime.run.run` and `resam_runtime.run.watch` do the work."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors, printable
from resam_runtime.common.option_types import Bands, Bytes, Finite, Words
from resam_runtime.run.options import FORMATS, RunOptions
from resam_runtime.run.stop import StopRequest

if TYPE_CHECKING:
    from resam_runtime.run.outcome import RunReport

_NOTES = 10  # more go to summary.json alone

EPILOG = """
\b
Examples:
  resam-run --engine model.resam images/ -o out
  resam-run --engine model.plan scene.tif --points points.geojson --format coco,labels
  resam-run --engine model.plan --watch /data/incoming -o /data/results

\b
Exit codes:
  0    all scenes done
  1    some scenes failed (they are listed in summary.json), or the first one did, with --strict
  2    nothing could be done: bad arguments, unreadable engine or points, points that lie in no scene,
       every instance skipped, or every scene failed
  3    the output could not be written any more (full disk); what is done is kept, --resume goes on
  130  stopped by Ctrl-C (SIGINT), 143 by SIGTERM: scenes in hand were finished, --resume goes on;
       a second signal stops at the next tile
"""


@click.command("resam-run", context_settings=HELP, epilog=EPILOG)
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--engine", "-e", required=True, type=click.Path(path_type=Path), help="Engine file (.resam or .plan).")
@click.option(
    "--out", "-o", default=Path("out"), show_default=True, type=click.Path(path_type=Path), help="Output folder."
)
@click.option(
    "--points",
    "-p",
    type=click.Path(path_type=Path),
    help="One points file for all scenes: JSON, CSV, GeoJSON or COCO. Default: NAME.points.json, "
    "NAME.points.csv or NAME.points.geojson beside each scene.",
)
@click.option("--automatic", is_flag=True, help="Find instances without points in scenes that have none.")
@click.option(
    "--min-score",
    type=Finite(0, 1),
    help="Least score of an instance that --automatic finds: lower finds more, and errs more.  [default: 0.6]",
)
@click.option(
    "--format",
    "formats",
    type=Words(FORMATS),
    default="coco,geojson,overlay",
    show_default=True,
    help="What to write: coco, geojson, overlay, labels.",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted run in the output folder.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier run wrote into the output folder, start again.")
@click.option("--strict", is_flag=True, help="Stop at the first scene that fails.")
@click.option("--exclusive", is_flag=True, help="Give each pixel to one instance.")
@click.option(
    "--views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Views of each tile to average masks over, 1 to 7, mirrored and rescaled: more are slower and better.",
)
@click.option("--bands", type=Bands(), help="Bands for red, green, blue, counted from 1: 3,2,1; or one for gray.")
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
    "--budget", type=Bytes(), help="Keep the best instances, so that instances.json takes at most so many bytes."
)
@click.option("--device", help="cpu, cuda, cuda:1, tensorrt-ep; default: the best there is.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@click.option(
    "--watch",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Process scenes as they arrive in a folder, until stopped; resumes by itself.",
)
@click.option(
    "--poll",
    type=Finite(0.05, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks into the watched folder; a file unchanged between them is whole.",
)
@version
@command_errors
def run(
    images: tuple[Path, ...],
    engine: Path,
    out: Path,
    points: Path | None,
    automatic: bool,
    min_score: float | None,
    formats: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    strict: bool,
    exclusive: bool,
    views: int,
    bands: tuple[int, ...] | None,
    crs: Any,
    simplify: float,
    budget: int | None,
    device: str | None,
    threads: int | None,
    watch: Path | None,
    poll: float,
) -> None:
    """Segment the instances that points mark in IMAGES (files and folders) with an engine file.

    Writes instances.json (COCO), per scene NAME.geojson, NAME.png (overlay) and NAME.labels.tif or .png, and
    summary.json. Every file is whole or absent.
    """
    if not images and watch is None:
        raise click.UsageError("give IMAGES, files or folders, or --watch DIR")
    if images and watch is not None:
        raise click.UsageError("give IMAGES or --watch DIR, not both")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if min_score is not None and not automatic:
        raise click.UsageError("--min-score is about what --automatic finds; add --automatic")
    if budget is not None and "coco" not in formats:
        raise click.UsageError("--budget is about instances.json; add coco to --format")
    given = click.get_current_context().get_parameter_source
    for name in ("crs", "simplify"):
        if "geojson" not in formats and given(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is about NAME.geojson; add geojson to --format")
    if watch is None and given("poll") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--poll is about a watched folder; add --watch DIR")
    if watch is not None and strict:
        raise click.UsageError("--strict would end a watch at the first scene that fails; leave one of the two out")
    # A damaged image is one line of ours; OpenCV, which logs three more, reads this once, when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # Heavy imports wait until the arguments are known to be good.
    from resam_runtime.engine.engine_file import EngineFile
    from resam_runtime.run.progress import TerminalProgress
    from resam_runtime.run.records import Mode
    from resam_runtime.run.run import Run
    from resam_runtime.run.watch import watch_folder
    from resam_runtime.run.write_stage import OutputError
    from resam_runtime.segment.automatic import AutomaticOptions
    from resam_runtime.segment.segmenter import Segmenter

    options = RunOptions(frozenset(formats), exclusive, bands, crs, simplify, automatic, min_score, views, strict)
    proposals = None if min_score is None else AutomaticOptions(min_score=min_score)
    mode: Mode = "overwrite" if overwrite else "resume" if resume or watch is not None else "new"
    with _signals() as (stop, received):
        try:
            opened = EngineFile.open(engine)
            prepared = None if watch is not None else Run.prepare(opened, images, out, points, options, budget)
            segmenter = Segmenter(opened, device, threads, automatic=proposals, views=options.views)
            click.echo(printable(segmenter.describe()))
            sys.stdout.flush()
            with TerminalProgress(each_scene=watch is not None) as progress:
                if prepared is not None:
                    report = prepared.execute(segmenter, mode, stop, progress)
                else:
                    assert watch is not None
                    report = watch_folder(
                        opened,
                        segmenter,
                        watch,
                        out,
                        stop,
                        points=points,
                        options=options,
                        budget=budget,
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
    parts = [f"{report.instances} instances in {report.scenes - report.failed} scenes"]
    if report.failed:
        parts.append(f"{report.failed} scene{'s' * (report.failed != 1)} failed")
    if report.without_points:
        parts.append(f"{report.without_points} scenes without points")
    if report.skipped:
        parts.append(f"{report.skipped} instances skipped")
    if report.nowhere:
        parts.append(f"{report.nowhere} instances of the points file lie in no scene that is done")
    if report.left_out:
        parts.append(f"{report.left_out} instances left out by --budget")
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
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
