"""Host time a tile of a search without points, as scenes grow.

`python -m resam_benchmarks.steps.automatic_tiles model.resam`

The engine's graphs are replaced by answers that take no time, one instance on each tile, so that what is left is the
host's part: planning the grid, filtering, masks, merging. It is constant where nothing is done for a scene once per
tile.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

from resam_benchmarks.measure import statistics
from resam_benchmarks.steps.answers import Answers
from resam_runtime import AutomaticOptions, Segmenter
from resam_runtime.common.commands import HELP
from resam_runtime.common.errors import command_errors

TILES = (1000, 2000, 5000, 10_000)


def host_seconds(segmenter: Segmenter, tiles: int) -> tuple[int, float]:
    """Tiles of a square scene of about so many, and the CPU seconds that finding instances on all of them takes."""
    manifest = segmenter.manifest
    side = manifest.image_size
    while len(segmenter.tiles(side, side)) < tiles:
        side += manifest.image_size // 2
    image = np.zeros((manifest.image_size, manifest.image_size, 3), np.uint8)
    begin, count = time.process_time(), 0
    found = []
    for tile, grid in segmenter.plan_automatic(side, side):
        found += segmenter.propose_tile(image, tile, grid, (side, side))
        count += 1
    merged = segmenter.merge_proposals(found, (side, side))
    assert merged
    return count, time.process_time() - begin


@click.command("automatic-tiles", context_settings=HELP)
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--repeats", default=statistics.MIN_GROUPS, show_default=True, type=click.IntRange(1))
@command_errors
def main(engine: Path, repeats: int) -> None:
    """Show the host's milliseconds a tile for scenes of 1,000 to 10,000 tiles, in turns."""
    segmenter = Segmenter(engine, "cpu", 1, automatic=AutomaticOptions())
    segmenter.backend = Answers(segmenter.manifest)
    samples: dict[int, list[float]] = {}
    for _ in range(repeats):
        for tiles in TILES:
            count, seconds = host_seconds(segmenter, tiles)
            samples.setdefault(count, []).append(1000 * seconds / count)
    first = next(iter(samples.values()))
    click.echo("tiles   ms a tile   to the first")
    for count, values in samples.items():
        estimate = statistics.median(values, range(len(values)))
        ratio = statistics.median_ratio(values, first)
        click.echo(f"{count:5}   {estimate.value:9.2f}   {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")


if __name__ == "__main__":
    main()
