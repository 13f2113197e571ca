"""What an export is calibrated and verified on: a user's images as the engine sees them, and a record of which."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resam_export.engine import CALIBRATION_PHASE, CALIBRATION_TILES, VERIFICATION_PHASE, calibration, set_precision
from resam_export.prompted_tiles import PromptedTile, image_tiles
from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.precisions import FP16
from resam_runtime.tiles.tiling import Framing

from ..runtime.engines import engine_graphs, write_engine

SIZE = 64


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def engine_tiles(folder: Path, image: NDArray[np.uint8], framing: Framing) -> set[bytes]:
    """The bytes of every tile that an engine of `framing` encodes of an image."""
    path = folder / "framed.resam"
    write_engine(path, SIZE, fit_within=framing.fit_within, scale=framing.scale)
    segmenter = Segmenter(path)
    height, width = image.shape[:2]
    tiles = set()
    for tile in segmenter.tiles(width, height):
        window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        tiles.add(segmenter.prepare_tile(window, tile).tobytes())
    return tiles


@pytest.mark.parametrize("framing", [Framing(64), Framing(300, 2.0), Framing(100, 0.5), Framing(1000)])
def test_images_are_cut_as_the_engine_cuts_scenes(framing: Framing, tmp_path: Path) -> None:
    image = noise(330, 190)
    wanted = engine_tiles(tmp_path, image, framing)
    found = list(image_tiles(SIZE, framing, [image], 1000))
    assert {tile.image.tobytes() for tile in found} == wanted
    assert len(found) == len(wanted)


def test_points_lie_on_the_scene_and_not_on_its_padding() -> None:
    (tile,) = image_tiles(SIZE, Framing(320), [noise(320, 160)], 4)
    assert tile.coords.shape == (16, 1, 2)
    assert (tile.coords > 0).all()
    assert (tile.coords < (SIZE / 2, SIZE)).all()


def from_images(images: list[NDArray[np.uint8]], count: int, phase: float = 0.5) -> list[PromptedTile]:
    return list(image_tiles(SIZE, Framing(SIZE), images, count, phase))


def test_a_huge_scene_gives_sixteen_tiles_spread_over_it() -> None:
    rows = np.broadcast_to(np.arange(0, 256, 0.125).astype(np.uint8)[:, None, None], (2048, 2048, 3))
    tiles = list(calibration(SIZE, Framing(SIZE), [np.ascontiguousarray(rows)]))
    assert len(tiles) == CALIBRATION_TILES
    assert len({tile.image.tobytes() for tile in tiles}) == CALIBRATION_TILES
    brightness = [float(tile.image.mean()) for tile in tiles]
    assert min(brightness) < 32
    assert max(brightness) > 224


def test_sixteen_tiles_are_spread_over_many_images() -> None:
    tiles = from_images([noise(80, 200, seed) for seed in range(100)], 16)
    assert len({tile.source for tile in tiles}) == 16


def test_tiles_that_a_small_image_does_not_have_come_from_the_next() -> None:
    tiles = from_images([noise(40, 40), noise(500, 500, 1), noise(500, 500, 2)], 9)
    counts = {source: sum(s.source == source for s in tiles) for source in dict.fromkeys(s.source for s in tiles)}
    assert list(counts.values()) == [1, 4, 4]


def test_calibration_and_verification_see_different_tiles() -> None:
    images = [noise(300, 300, seed) for seed in range(3)]
    one, other = (
        {tile.image.tobytes() for tile in from_images(images, 9, phase)}
        for phase in (CALIBRATION_PHASE, VERIFICATION_PHASE)
    )
    assert len(one) == len(other) == 9
    assert not one & other


def test_a_file_and_a_folder_are_read_tile_by_tile(tmp_path: Path) -> None:
    image = noise(90, 150)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), image[..., ::-1])
    wanted = {tile.image.tobytes() for tile in from_images([image], 100)}
    for images in (tmp_path, tmp_path / "in" / "a.png", [tmp_path / "in" / "a.png"]):
        tiles = list(image_tiles(SIZE, Framing(SIZE), images, 100))
        assert {tile.image.tobytes() for tile in tiles} == wanted
        assert {tile.source for tile in tiles} == {"in/a.png" if images == tmp_path else "a.png"}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8), np.uint8), "must be"),
        (np.zeros((0, 8, 3), np.uint8), "must be"),
        (np.zeros((8, 8, 3), np.float32), "must be"),
        ("missing.png", "missing.png: No such file"),
    ],
)
def test_what_is_no_image_is_refused(image: object, words: str) -> None:
    with pytest.raises(ResamError, match=words):
        list(image_tiles(SIZE, Framing(SIZE), [image], 4))


@pytest.mark.parametrize("own", [True, False])
def test_the_report_says_what_was_calibrated_on(own: bool) -> None:
    images = [noise(600, 256)] if own else None
    tiles = list(calibration(256, Framing(256), images))[:2]
    models = {name: ir.from_proto(onnx.load_model_from_string(graph)) for name, graph in engine_graphs(256, 16).items()}
    _, made = set_precision(models, FP16, tiles)
    assert made["calibration"]["tiles"] == 2
    (source,) = made["calibration"]["images"]
    assert source.startswith("sha256:") if own else source == "synthetic"
