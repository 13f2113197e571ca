"""How good the base has become: mean IoU from one point and from a tight box, source by source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from resam.data.coco import CocoData, CocoInstance
from resam.data.prompts import PointOptions, scene_prompts
from resam.data.spread import spread
from resam.data.tiles import plan_samples, tile_arrays
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.pretrain.batches import jittered_box
from resam.pretrain.photographs import MIN_AREA, LabelledTile, Source
from resam.pretrain.procedural import generate
from resam.training.losses.score import overlap
from resam_runtime.tiles.tiling import Framing

HELD_OUT_SEED = 1_000_000_000  # procedural images from here on are never trained on
PROCEDURAL = "procedural"
TILES, INSTANCES = 8, 8  # of a source, and of a tile: what is looked at again and again during a run


def procedural_tiles(count: int, size: int) -> list[LabelledTile]:
    """The first so many of the procedural images that are held out."""
    images = [generate(HELD_OUT_SEED + index, size) for index in range(count)]
    return [LabelledTile(image.image, image.masks) for image in images]


def held_out_tiles(data: CocoData, size: int) -> list[LabelledTile]:
    """Up to `TILES` tiles of a data set, cut as the runtime cuts them, each with up to `INSTANCES` of its instances."""
    prompts = scene_prompts(data, PointOptions())
    sizes = [(scene.width, scene.height) for scene in data.scenes]
    samples = plan_samples(sizes, prompts, size, Framing(size))
    tiles = []
    for place in spread(len(samples), TILES):
        sample = samples[place]
        scene, members = data.scenes[sample.scene], [prompts[sample.scene][i] for i in sample.prompts]
        by_id: dict[str | int | None, CocoInstance] = {instance.id: instance for instance in scene.instances}
        image = tile_arrays(scene.read(sample.tile), sample.tile, members, size).image
        masks = []
        for index in spread(len(members), INSTANCES):
            crop = sample.tile.cut(scene.mask(by_id[members[index].id]))
            mask = np.zeros((size, size), bool)
            mask[: crop.shape[0], : crop.shape[1]] = crop
            if mask.sum() >= MIN_AREA:
                masks.append(mask)
        if masks:
            tiles.append(LabelledTile(image, np.stack(masks)))
    return tiles


def validation_tiles(sources: Sequence[Source], size: int) -> dict[str, list[LabelledTile]]:
    """What a run is validated on: tiles of every source that has some set aside, and procedural ones."""
    held_out = {source.name: held_out_tiles(source.validation, size) for source in sources if source.validation}
    return {PROCEDURAL: procedural_tiles(TILES, size), **held_out}


def validate(sam: Sam, tiles: Mapping[str, Sequence[LabelledTile]]) -> dict[str, dict[str, float]]:
    """`evaluate` for every source, and `mean`: the mean over sources of each figure."""
    result = {name: evaluate(sam, own) for name, own in tiles.items()}
    mean = {kind: float(np.mean([row[kind] for row in result.values()])) for kind in ("point", "box", "best")}
    return {"mean": mean, **result}


@torch.no_grad()
def evaluate(sam: Sam, tiles: Iterable[LabelledTile], seed: int = 0) -> dict[str, float]:
    """Means over all instances of the IoU at full resolution: `point`, from one random point each; `best`, of the best
    mask for ambiguous prompts from that point (of the single one where there are none); `box`, from the tight box."""
    encoder, decoder = ImageEncoder(sam), PromptDecoder(sam)
    device = next(sam.parameters()).device
    rng = np.random.default_rng(seed)
    ious: dict[str, list[float]] = {"point": [], "box": [], "best": []}
    for tile in tiles:
        embedding = encoder(torch.from_numpy(np.ascontiguousarray(tile.image))[None].to(device))
        truth = torch.from_numpy(np.ascontiguousarray(tile.masks)).to(device)
        points = np.stack([_random_point(mask, rng) for mask in tile.masks])
        boxes = np.stack([jittered_box(mask, rng, 0.0) for mask in tile.masks]).reshape(-1, 2, 2)
        for name, coords, label in (("point", points, [1]), ("box", boxes, [2, 3])):
            labels = torch.tensor([label] * len(truth), device=device)
            logits, _ = decoder.every_mask(embedding, torch.from_numpy(coords).to(device), labels)
            full = F.interpolate(logits, truth.shape[1:], mode="bilinear", align_corners=False) > 0
            found = torch.stack([overlap(full[:, place], truth) for place in range(full.shape[1])], 1)
            ious[name] += found[:, 0].tolist()
            if name == "point":
                ious["best"] += found[:, -3:].amax(1).tolist()
    return {name: float(np.mean(values)) for name, values in ious.items()} | {"instances": len(ious["point"])}


def _random_point(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pixel of the mask drawn evenly, (1, 2) float32."""
    ys, xs = np.nonzero(mask)
    at = rng.integers(len(xs))
    return np.array([[xs[at], ys[at]]], np.float32)
