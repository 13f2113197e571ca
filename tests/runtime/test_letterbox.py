"""A letterboxed image keeps its geometry, and coordinates follow it there and back."""

from __future__ import annotations

import numpy as np
import pytest

from resam_runtime.tiles.letterbox import PAD_VALUE, PIXEL_MEAN, letterbox, scale_to_tile, scene_to_tile, tile_to_scene


def blob(height: int, width: int, x: float, y: float, sigma: float) -> np.ndarray:
    """A bright bump whose centre of mass is (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(value.round().astype(np.uint8)[..., None], 3, 2)


def centre_of_mass(tile: np.ndarray) -> np.ndarray:
    weight = tile[..., 0].astype(float)
    rows, columns = np.mgrid[: tile.shape[0], : tile.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def test_padding_is_the_mean_pixel_at_the_bottom_or_right() -> None:
    tile, scale = letterbox(np.zeros((50, 100, 3), np.uint8), 200)
    assert (tile.shape, scale) == ((200, 200, 3), 2.0)
    assert not tile[:100].any()
    assert (tile[100:] == PAD_VALUE).all()
    assert tuple(round(mean) for mean in PIXEL_MEAN) == PAD_VALUE
    tile, _ = letterbox(np.zeros((100, 50, 3), np.uint8), 200)
    assert (tile[:, 100:] == PAD_VALUE).all()


def test_an_image_of_the_tiles_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tile, scale = letterbox(image, 64)
    assert scale == 1.0
    np.testing.assert_array_equal(tile, image)


@pytest.mark.parametrize(("height", "width"), [(100, 150), (333, 200), (97, 411), (64, 1000)])
def test_points_land_where_their_pixels_land(height: int, width: int) -> None:
    x, y = width * 0.4, height * 0.5
    image = blob(height, width, x, y, 7)
    tile, scale = letterbox(image, 256)
    tile[np.all(tile == PAD_VALUE, -1)] = 0
    np.testing.assert_allclose(centre_of_mass(tile), scene_to_tile((x, y), scale), atol=0.12)


def test_coordinates_go_there_and_back() -> None:
    points = np.random.default_rng(1).uniform(0, 4000, (50, 3, 2)).astype(np.float32)
    there = scene_to_tile(points, 0.37, (1000, 200))
    assert there.dtype == np.float32
    np.testing.assert_allclose(tile_to_scene(there, 0.37, (1000, 200)), points, atol=2e-3)


def test_corners_of_the_image_are_corners_of_the_tile() -> None:
    np.testing.assert_allclose(scene_to_tile([[-0.5, -0.5], [99.5, 99.5]], 2.56), [[-0.5, -0.5], [255.5, 255.5]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_extreme_shapes_still_fit(shape: tuple[int, int]) -> None:
    tile, scale = letterbox(np.full((*shape, 3), 200, np.uint8), 64)
    assert tile.shape == (64, 64, 3)
    assert scale == 64 / max(shape)
    assert (tile[0, 0] == 200).all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected|no pixels"):
        letterbox(image, 64)


def test_a_window_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        scale_to_tile(np.zeros((65, 10, 3), np.uint8), 64, 1.0)
