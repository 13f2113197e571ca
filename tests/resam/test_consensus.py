"""Pseudo-masks that views of the base agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.taught import SoftMask, load_masks, save_masks
from resam.data.tiles import tile_arrays
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.refine_requery import RefineRequery
from resam.training import consensus
from resam.training.consensus import consensus_masks
from resam.training.devices import make_fabric
from resam.training.options import TrainOptions
from resam.training.step import pseudo_masks
from resam.training.tile import to_device
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.averaged_views import VIEWS, decode_views
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY


def test_they_are_the_mean_of_the_loops_masks_weighed_by_its_scores(
    toy: Base, scenes: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two views, by hand: the tile, and the tile mirrored in both directions."""

    def two(*arguments: object) -> object:
        return decode_views(*arguments, views=VIEWS[:2])  # type: ignore[arg-type]

    monkeypatch.setattr(consensus, "decode_views", two)
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
    found = consensus_masks(toy, samples, TrainOptions(), make_fabric(1, "cpu"))
    assert set(found) == {(s.scene, i) for s in samples.samples for i in s.prompts}
    encoder, loop = ImageEncoder(toy.sam), RefineRequery(PromptDecoder(toy.sam))
    compared = 0
    for sample in samples.samples[:3]:
        prompts = [samples.prompts[sample.scene][i] for i in sample.prompts]
        arrays = tile_arrays(scenes.scenes[sample.scene].read(sample.tile), sample.tile, prompts, 64)
        assert arrays.extent == (64, 64)
        total = weights = 0.0
        for way in (1, -1):
            image = np.ascontiguousarray(arrays.image[::way, ::way])
            coords = arrays.coords if way == 1 else 63 - arrays.coords
            with torch.no_grad():
                out = loop(
                    encoder(torch.from_numpy(image)[None]), torch.from_numpy(coords), torch.from_numpy(arrays.labels)
                )
            weight = np.clip(out.scores.double().numpy(), 0.01, 1)[:, None, None] ** 2
            total = total + weight / (1 + np.exp(-out.masks.double().numpy()[:, ::way, ::way]))
            weights = weights + weight
        mean = total / weights
        sure = np.abs(mean - 0.5) > 1e-5
        own = np.stack([found[sample.scene, i].full() > 0.5 for i in sample.prompts])
        assert ((mean > 0.5) == own)[sure].all()
        compared += int(sure.sum())
    assert compared > 1000


def test_a_mirrored_view_of_the_tile_is_taught_the_mirrored_mask(toy: Base, scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), strength=0.0)
    rng = np.random.default_rng(0)
    masks = {(s.scene, i): rng.random((32, 32)) < 0.5 for s in samples.samples for i in s.prompts}
    samples.teach({key: SoftMask.of(mask.astype(float)) for key, mask in masks.items()})
    seen = set()
    for epoch in range(8):
        sample, view = samples.samples[0], samples.load(0, epoch)
        plain = scenes.scenes[sample.scene].read(sample.tile)
        across, down = next(
            (a, d) for a in (1, -1) for d in (1, -1) if np.array_equal(view.weak.image, plain[::d, ::a])
        )
        seen.add((across, down))
        assert view.given is not None
        expected = np.stack([masks[sample.scene, i][::down, ::across] for i in sample.prompts])
        assert np.array_equal(view.given, expected)
        tile = to_device(view, torch.device("cpu"), 32)
        pseudo = pseudo_masks(ImageEncoder(toy.sam), RefineRequery(PromptDecoder(toy.sam)), tile, "consensus")
        assert np.array_equal(pseudo.target.numpy(), expected)
        assert pseudo.known.all()
    assert len(seen) > 1


def test_masks_are_kept_in_steps_of_1_in_255_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    soft = {(3, 0): rng.random((31, 31)), (0, 7): np.zeros((31, 31)), (0, 8): np.zeros((31, 31))}
    soft[0, 8][5:9, 30] = 0.7
    masks = {key: SoftMask.of(mask) for key, mask in soft.items()}
    assert masks[0, 8].values.shape == (4, 1)
    save_masks(tmp_path / "c.npz", masks)
    back = load_masks(tmp_path / "c.npz")
    assert back.keys() == masks.keys()
    for key, mask in soft.items():
        assert np.array_equal(back[key].full(), masks[key].full())
        assert np.abs(back[key].full() - np.where(mask < 2.5 / 255, 0, mask)).max() <= 0.5 / 255 + 1e-6
    whole = (tmp_path / "c.npz").read_bytes()
    at = whole.index(b"PK\x01\x02") + 6
    of_no_version = whole[:at] + b"\x91" + whole[at + 1 :]
    for damaged in (whole[:100], b"", b"x" * 500, of_no_version):
        (tmp_path / "c.npz").write_bytes(damaged)
        with pytest.raises(ResamError, match=r"c\.npz: cannot be read"):
            load_masks(tmp_path / "c.npz")
    with pytest.raises(ResamError, match="missing"):
        load_masks(tmp_path / "missing")
