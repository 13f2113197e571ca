"""python -m resam.pretrain.measure: bases side by side on real data sets, as the runtime would segment them.

Scenes are tiled at their own resolution, prompts placed and masks scaled back as in `resam.training.evaluate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from resam.data.coco import SPLITS, CocoData, CocoScene
from resam.data.prompts import PointOptions, pointed, scene_prompts
from resam.data.spread import spread
from resam.data.tiles import plan_samples, tile_arrays
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery
from resam.pretrain.batches import jittered_box
from resam.pretrain.validation import evaluate as evaluate_tiles
from resam.pretrain.validation import procedural_tiles
from resam.training.distill.models import Teacher
from resam.training.evaluate import evaluate, pixel_counts
from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.points import Prompt
from resam_runtime.tiles.tiling import Framing

SceneIous = dict[str, list[float]]
COLUMNS = ("one point", "after Requery", "box")


@click.command(context_settings=HELP, epilog="Example: python -m resam.pretrain.measure tiny --data nwpu --split test")
@click.argument("bases", nargs=-1, required=True)
@click.option(
    "--data",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A COCO data set, or a folder of such; may be given several times.",
)
@click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1), help="Images of each data set to look at, evenly spread [default: all]."
)
@click.option(
    "--procedural", type=click.IntRange(0), default=0, help="Procedural images to look at, held out from all."
)
@click.option("--intervals", is_flag=True, help="Beside each mean, half the width of its 95 % interval: a bootstrap "
              "over the images.")  # fmt: skip
@version
@command_errors
def measure(
    bases: tuple[str, ...],
    folders: tuple[Path, ...],
    split: str,
    limit: int | None,
    procedural: int,
    intervals: bool,
) -> None:
    """Mean IoU over instances of BASES (tiny, files, or runs' folders) from one random point, after Requery, and from
    the true box."""
    loaded = [Teacher.open(name).base for name in bases]
    table = Table("data", "instances", *(f"{Path(base).stem}: {column}" for base in bases for column in COLUMNS))
    if procedural:
        size = loaded[0].architecture.image_size
        drawn = [evaluate_tiles(base.sam, procedural_tiles(procedural, size)) for base in loaded]
        texts = [text for row in drawn for text in (f"{row['point']:.3f}", "", f"{row['box']:.3f}")]
        table.add_row("procedural images", str(drawn[0]["instances"]), *texts)
    means, counts = [], []
    for path in _annotations(folders, split):
        data = CocoData.open(path)
        found = [column for base in loaded for column in scene_ious(base, data, limit)]
        values = [mean_iou(column) for column in found]
        means.append(values)
        counts.append(_instances(found[0]))
        widths = [f" ±{half_width(column):.3f}" if intervals else "" for column in found]
        cells = (f"{value:.3f}{width}" for value, width in zip(values, widths))
        table.add_row(path.parent.name, str(counts[-1]), *cells)
    if means:
        ways: tuple[tuple[str, list[int] | None], ...] = (("data sets", None), ("instances", counts))
        for name, weights in ways:
            average = np.average(means, axis=0, weights=weights)
            table.add_row(f"mean over {name}", str(sum(counts)), *(f"{value:.3f}" for value in average))
    Console(width=max(120, 40 + 22 * len(bases) * len(COLUMNS))).print(table)


def figures(base: Base, data: CocoData, limit: int | None = None) -> tuple[float, float, float, int]:
    """Mean IoU from one point, after Requery, and from the true box; and the number of instances."""
    point, requery, box = scene_ious(base, data, limit)
    return mean_iou(point), mean_iou(requery), mean_iou(box), _instances(point)


def mean_iou(scenes: SceneIous) -> float:
    """Over instances."""
    return float(np.mean([iou for own in scenes.values() for iou in own]))


def half_width(scenes: SceneIous, resamples: int = 2000) -> float:
    """Of the 95 % interval of `mean_iou`, whole images being drawn anew."""
    sums, counts = (np.array([function(own) for own in scenes.values()], float) for function in (sum, len))
    drawn = np.random.default_rng(0).integers(0, len(sums), (resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return float(high - low) / 2


def _instances(scenes: SceneIous) -> int:
    return sum(len(own) for own in scenes.values())


def scene_ious(base: Base, data: CocoData, limit: int | None = None) -> tuple[SceneIous, SceneIous, SceneIous]:
    """The IoU of every instance, by image: from one point, after Requery, and from the true box."""
    encoder, loop = _Remembering(ImageEncoder(base.sam)), RefineRequery(PromptDecoder(base.sam))
    prompts, framing = scene_prompts(data, PointOptions()), Framing(base.fit_within)
    points = evaluate(encoder, loop, data, prompts, framing, limit=limit)
    numbers = pointed(prompts)
    looked_at = [numbers[i] for i in spread(len(numbers), len(numbers) if limit is None else limit)]
    seen = [data.scenes[number] for number in looked_at]
    boxes = {scene.name: _box_ious(encoder, loop.decoder, scene, framing) for scene in seen}
    coarse: SceneIous = {}
    final: SceneIous = {}
    for row in points:
        for column, iou in zip((coarse, final), row.ious):
            column.setdefault(row.scene, []).append(iou)
    return coarse, final, boxes


class _Remembering(nn.Module):
    """An encoder that knows the tiles it has seen: points and boxes ask for the same ones."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self._seen: dict[bytes, torch.Tensor] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key not in self._seen:
            self._seen[key] = self.encoder(image)
        return self._seen[key]


@torch.no_grad()
def _box_ious(encoder: nn.Module, decoder: PromptDecoder, scene: CocoScene, framing: Framing) -> list[float]:
    """The IoU of every instance from its true box, in the tile that holds the box's middle best."""
    truths = [mask for instance in scene.instances if (mask := scene.mask(instance)).any()]
    boxes = np.stack([jittered_box(mask, np.random.default_rng(0), 0.0) for mask in truths]).reshape(-1, 2, 2)
    middles = [Prompt(box.mean(0, keepdims=True).astype(np.float32)) for box in boxes]
    ious, size = [], decoder.image_size
    for sample in plan_samples([(scene.width, scene.height)], [middles], size, framing):
        tile, members = sample.tile, list(sample.prompts)
        arrays = tile_arrays(scene.read(tile), tile, [middles[i] for i in members], size)
        corners = (boxes[members] - (tile.x, tile.y) + 0.5) * tile.scale - 0.5
        corners = np.clip(corners, 0, np.array(arrays.extent[::-1]) - 1).astype(np.float32)
        labels = torch.tensor([[2, 3]]).expand(len(members), 2)
        logits = decoder(encoder(torch.from_numpy(arrays.image)[None]), torch.from_numpy(corners), labels)[0].numpy()
        for row, cells, index in zip(logits, grid_boxes(logits), members, strict=True):
            mask, origin, _ = scene_mask(row, cells, tile, size)
            both, extra, missed = pixel_counts(truths[index], mask, origin)
            ious.append(both / (both + extra + missed))
    return ious


def _annotations(folders: Sequence[Path], split: str) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        own = [folder / f"{split}.json"] if (folder / f"{split}.json").is_file() else []
        found += own or sorted(folder.glob(f"*/{split}.json"))
    if folders and not found:
        raise ResamError(f"{folders[0]}: no {split}.json in it or in its folders; expected COCO data sets")
    return found


if __name__ == "__main__":
    measure(prog_name="python -m resam.pretrain.measure")
