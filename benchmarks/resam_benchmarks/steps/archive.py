"""Time and memory of a run as archives grow, and of resuming one that is done.

`python -m resam_benchmarks.steps.archive --scenes 100000`

Scenes are stand-ins of 64 px with one point each, and the engine's graphs are replaced by answers that take no time, so
that what is left is the host's part: reading, masks, writing, records. Time and memory of the last tenth of the scenes
are those of the first where nothing is done for a scene once per other scene.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from resam_benchmarks.measure.machine import process_memory
from resam_benchmarks.steps.answers import Answers
from resam_runtime import Segmenter
from resam_runtime.common.commands import HELP
from resam_runtime.common.errors import command_errors
from resam_runtime.common.option_types import Words
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.run.options import RunOptions
from resam_runtime.run.report import Observer
from resam_runtime.run.run import Run
from resam_runtime.writers import WRITERS, Record

SIDE, IN_FOLDER = 64, 1000


def make_scenes(folder: Path, count: int) -> Path:
    """So many scenes, links to one image in folders of a thousand; returns the points file of all."""
    folder.mkdir(parents=True)
    image = np.full((SIDE, SIDE, 3), 40, np.uint8)
    cv2.rectangle(image, (SIDE // 4, SIDE // 4), (3 * SIDE // 4, 3 * SIDE // 4), (200, 180, 160), -1)
    first, named = folder / ".first.png", {}
    cv2.imwrite(str(first), image)
    entry = {"instances": [{"id": 1, "points": [[SIDE // 2, SIDE // 2]]}]}
    for number in range(count):
        name = f"{number // IN_FOLDER:03}/{number:06}.png"
        if number % IN_FOLDER == 0:
            (folder / name).parent.mkdir()
        os.link(first, folder / name)
        named[name] = entry
    points = folder / "points.json"
    points.write_text(json.dumps({"scenes": named}))
    return points


@dataclass
class Moment:
    """After so many scenes: wall-clock and CPU seconds since the first, and bytes of memory."""

    scenes: int
    wall: float
    cpu: float
    bytes: int


class Watch(Observer):
    """Notes a `Moment` at each tenth of a run."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._count = self._done = 0
        self._begin = (0.0, 0.0)

    def begin(self, scenes: int, already: int) -> None:
        """See `Observer.begin`."""
        self._count, self._begin = scenes, (time.perf_counter(), time.process_time())
        self._note()

    def scene(self, record: Record) -> None:
        """See `Observer.scene`."""
        assert not record.failed, record.reason
        self._done += 1
        if self._done * 10 // self._count > (self._done - 1) * 10 // self._count:
            self._note()

    def _note(self) -> None:
        wall, cpu = self._begin
        now = Moment(self._done, time.perf_counter() - wall, time.process_time() - cpu, process_memory()["current"])
        self.moments.append(now)


@click.command("archive", context_settings=HELP)
@click.option("--scenes", default=10_000, show_default=True, type=click.IntRange(10))
@click.option("--engine", default="tiny", show_default=True, type=click.Path(path_type=Path))
@click.option("--format", "formats", default="coco,geojson", show_default=True, type=Words(tuple(WRITERS)))
@click.option("--folder", type=click.Path(path_type=Path), help="Where to make the scenes; removed afterwards.")
@command_errors
def main(scenes: int, engine: Path, formats: tuple[str, ...], folder: Path | None) -> None:
    """Run over an archive of stand-ins, resume it, and show time and memory."""
    place = Path(tempfile.mkdtemp(prefix="archive-", dir=folder))
    try:
        points = make_scenes(place / "scenes", scenes)
        opened = EngineFile.open(engine)
        segmenter = Segmenter(opened, "cpu", 1)
        segmenter.backend = Answers(segmenter.manifest)

        def prepare() -> Run:
            options = RunOptions(formats=frozenset(formats))
            return Run.prepare(opened, [place / "scenes"], place / "out", points, options)

        click.echo(f"before     {process_memory()['current'] / 2**20:7.0f} MiB")
        begin, watch = time.perf_counter(), Watch()
        report = prepare().execute(segmenter, observer=watch)
        whole = time.perf_counter() - begin
        click.echo("scenes     wall ms   CPU ms   memory MiB")
        for last, now in zip(watch.moments, watch.moments[1:]):
            count = (now.scenes - last.scenes) / 1000
            wall, cpu = (now.wall - last.wall) / count, (now.cpu - last.cpu) / count
            click.echo(f"{now.scenes:7}   {wall:9.2f}   {cpu:6.2f}   {now.bytes / 2**20:10.0f}")
        tenths = watch.moments
        ratios = [(tenths[-1].cpu - tenths[-2].cpu) / (tenths[1].cpu - tenths[0].cpu)]
        ratios.append((tenths[-1].wall - tenths[-2].wall) / (tenths[1].wall - tenths[0].wall))
        click.echo(f"the last tenth to the first: CPU {ratios[0]:.3f}, wall {ratios[1]:.3f}")
        before, after = tenths[0].wall, whole - tenths[-1].wall
        click.echo(
            f"{report.scenes} scenes in {whole:.1f} s, {after - before:.1f} s of them before and after the scenes"
        )
        click.echo(f"peak {process_memory()['peak'] / 2**20:.0f} MiB")
        begin, cpu = time.perf_counter(), time.process_time()
        report = prepare().execute(segmenter, "resume")
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        click.echo(
            f"{report.scenes} scenes resumed, nothing to do: {wall:.1f} s, CPU {cpu:.1f} s; "
            f"peak {process_memory()['peak'] / 2**20:.0f} MiB"
        )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
