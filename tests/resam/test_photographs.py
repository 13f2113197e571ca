"""Tiles cut from photographs for pretraining: what is prompted is what was labelled, at the sizes asked for."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam.pretrain.batches import Batches, Mixture, Shape
from resam.pretrain.photographs import LARGEST, MIN_AREA, SMALLEST, open_sources, photograph_tile
from resam.pretrain.recolour import recoloured, turned
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.rle import encode_rle

RED, GREEN = (220, 30, 30), (30, 200, 40)


def write_source(folder: Path, images: int = 4, split: str = "train", size: int = 160) -> Path:
    """Red discs, each with a smaller green disc on it that is an instance of its own, on blue ground."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(folder.name))
    listed, annotations = [], []
    for number in range(images):
        image = np.full((size, size, 3), (20, 20, 160), np.uint8)
        for radius, offset in ((int(rng.integers(8, 22)), 40), (int(rng.integers(8, 22)), 110)):
            red, green = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
            cv2.circle(red, (offset, 60), radius, 1, -1)
            cv2.circle(green, (offset, 60), radius // 2, 1, -1)
            image[red > 0], image[green > 0] = RED, GREEN
            for mask in (red, green):
                rle = encode_rle(mask > 0, (0, 0), (size, size))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "segmentation": rle}
                )
        name = f"{split}{number}.png"
        cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
        listed.append({"id": number, "file_name": name, "width": size, "height": size})
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def test_masks_cover_the_objects_that_were_labelled_and_overlap_where_these_do(tmp_path: Path) -> None:
    sources = open_sources([write_source(tmp_path / "discs")])
    rng = np.random.default_rng(0)
    sizes, nested, beyond = [], 0, []
    for _ in range(60):
        tile = photograph_tile(sources, 128, rng)
        assert tile.image.shape == (128, 128, 3)
        red, green, _ = (tile.image[..., channel].astype(int) for channel in range(3))
        is_green, is_disc = green > red + 40, np.maximum(red, green) > 90
        for mask in tile.masks:
            assert mask.sum() >= MIN_AREA
            inner, outer = (change(mask.view(np.uint8), np.ones((5, 5))) > 0 for change in (cv2.erode, cv2.dilate))
            if not inner.any():
                continue
            own = is_green if is_green[inner].mean() > 0.9 else is_disc
            assert own[inner].mean() > 0.9
            around = cv2.dilate(outer.view(np.uint8), np.ones((3, 3))).astype(bool) & ~outer
            beyond.append(own[around].mean() if around.any() else 0)
        nested += any((a & ~b).any() and not (b & ~a).any() for a in tile.masks for b in tile.masks)
        sizes.append(tile.masks[0].sum() ** 0.5)
    assert nested > 20
    assert len(beyond) > 100
    assert np.mean(beyond) < 0.15  # of the next photograph, where the tile is a mosaic
    assert min(sizes) < 2 * SMALLEST
    assert max(sizes) > 40
    assert max(sizes) <= LARGEST


def test_turning_moves_masks_with_the_image_and_recolouring_moves_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tile = photograph_tile(open_sources([write_source(tmp_path / "discs")]), 64, rng)
    moved = turned(tile, rng)
    for before, after in zip(tile.masks, moved.masks):
        assert sorted(map(tuple, tile.image[before])) == sorted(map(tuple, moved.image[after]))
    again = recoloured(moved.image, np.random.default_rng(2))
    assert again.shape == moved.image.shape
    assert again.dtype == np.uint8


def test_a_step_has_the_same_batch_whenever_it_is_asked_for(tmp_path: Path) -> None:
    sources = open_sources([write_source(tmp_path / "discs")])
    shapes = [(Shape(64, 3, 2), 1.0)]
    one, other = (Batches(Mixture(sources, 0.3), shapes, 5) for _ in range(2))
    one[0]
    assert all(value.equal(getattr(other[3], name)) for name, value in vars(one[3]).items())
    assert not one[3].images.equal(one[4].images)
    assert one[3].masks.shape == (6, 64, 64)


def test_a_folder_is_a_source_or_holds_sources_and_small_ones_count_more_than_their_images(tmp_path: Path) -> None:
    few, many = write_source(tmp_path / "all" / "few", 1), write_source(tmp_path / "all" / "many", 9)
    write_source(few, 1, "val")
    one, other = open_sources([tmp_path / "all"])
    assert [one.name, other.name] == ["few", "many"]
    assert one.validation is not None
    assert other.validation is None
    assert other.weight == pytest.approx(3 * one.weight)
    assert [source.name for source in open_sources([many, few])] == ["many", "few"]
    with pytest.raises(ResamError, match=r"another source is called few"):
        open_sources([few, tmp_path / "all"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResamError, match=r"empty: no train\.json"):
        open_sources([tmp_path / "empty"])
