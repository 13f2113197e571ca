"""Evaluation against a slow, full-size computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions, scene_prompts
from resam.data.tiles import plan_samples, tile_arrays
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery
from resam.training.evaluate import Measured, evaluate, pixel_counts, summarise
from resam_runtime.tiles.tiling import Framing


@pytest.mark.parametrize("fit_within", [64, 128], ids=["tiled", "one tile"])
def test_counts_equal_those_of_full_size_masks(toy: Base, scenes_folder: Path, fit_within: int) -> None:
    data = CocoData.open(scenes_folder / "test.json")
    prompts = scene_prompts(data, PointOptions())
    encoder, loop = ImageEncoder(toy.sam), RefineRequery(PromptDecoder(toy.sam))
    measured = {(row.scene, row.instance): row for row in evaluate(encoder, loop, data, prompts, Framing(fit_within))}
    assert len(measured) == sum(len(own) for own in prompts)
    compared = 0
    for scene, own in zip(data.scenes, prompts):
        truths = {instance.id: scene.mask(instance) for instance in scene.instances}
        for sample in plan_samples([(scene.width, scene.height)], [own], 64, Framing(fit_within)):
            members, tile = [own[i] for i in sample.prompts], sample.tile
            arrays = tile_arrays(scene.read(tile), tile, members, 64)
            with torch.no_grad():
                output = loop(
                    encoder(torch.from_numpy(arrays.image)[None]),
                    torch.from_numpy(arrays.coords),
                    torch.from_numpy(arrays.labels),
                )
            side = round(64 / tile.scale)
            for stage, logits in enumerate((output.coarse_masks, output.masks)):
                full = F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0] > 0
                for prompt, mask in zip(members, full[:, : tile.height, : tile.width].numpy()):
                    placed = np.zeros((scene.height, scene.width), bool)
                    placed[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = mask
                    truth = truths[prompt.id]
                    expected = [(placed & truth).sum(), (placed & ~truth).sum(), (~placed & truth).sum()]
                    counts = measured[scene.name, prompt.id].counts[stage]
                    assert np.abs(counts - expected).max() <= 2  # pixels on the very edge: logits near 0
                    compared += int(sum(expected[:2]) > 0)
    assert compared > 10


def test_counts_of_crops() -> None:
    truth = np.zeros((10, 12), bool)
    truth[2:6, 3:8] = True
    assert pixel_counts(truth, np.ones((4, 5), bool), (3, 2)) == (20, 0, 0)
    assert pixel_counts(truth, np.ones((4, 5), bool), (5, 3)) == (9, 11, 11)
    assert pixel_counts(truth, np.zeros((0, 0), bool), (0, 0)) == (0, 0, 20)
    assert pixel_counts(np.zeros((10, 12), bool), np.ones((2, 2), bool), (0, 0)) == (0, 4, 0)


def test_means_over_instances_and_over_images_differ_as_they_should() -> None:
    def row(scene: str, area: int, counts: tuple[int, int, int]) -> Measured:
        return Measured(scene, 1, area, np.array([counts, (1, 0, 0)]), (0.0, 0.0))

    result = summarise([row("a", 100, (1, 1, 0)), row("a", 2000, (0, 5, 5)), row("b", 10**5, (3, 0, 1))])
    coarse = result["coarse"]
    assert coarse["miou"] == pytest.approx((0.5 + 0 + 0.75) / 3)
    assert coarse["miou_images"] == pytest.approx((0.25 + 0.75) / 2)
    assert coarse["precision"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert coarse["recall"] == pytest.approx((1 + 0 + 0.75) / 3)
    assert coarse["f1"] == pytest.approx((2 / 3 + 0 + 6 / 7) / 3)
    assert (coarse["miou_small"], coarse["miou_medium"], coarse["miou_large"]) == (0.5, 0.0, 0.75)
    assert result["final"]["miou"] == 1.0
    assert summarise([])["coarse"]["miou"] is None
