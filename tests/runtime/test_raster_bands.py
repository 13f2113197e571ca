"""Which pixels of a raster are empty and what its bands mean, for the layouts that real files have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.scenes.scene import open_scene
from resam_runtime.tiles.letterbox import PAD_VALUE

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp as C  # noqa: E402

SIDE, EMPTY = 100, 40


def write(path: Path, bands: np.ndarray, colours: list[Any] | None = None, **profile: Any) -> Path:
    """bands: (B, H, W)."""
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as out:
        out.write(bands)
        if colours is not None:
            out.colorinterp = colours
    return path


def mosaic(bands: int, dtype: str, outside: int = 0) -> np.ndarray:
    """(bands + 1, SIDE, SIDE): noise about 100 with an alpha band behind it; outside in the first EMPTY columns."""
    scale = {"uint8": 1, "uint16": 100, "float32": 0.01}[dtype]
    pixels = np.random.default_rng(bands).normal(100, 8, (bands + 1, SIDE, SIDE)) * scale
    pixels[-1] = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    pixels[:bands, :, :EMPTY], pixels[bands, :, :EMPTY] = outside, 0
    return pixels.astype(dtype)


def valid_of(path: Path) -> np.ndarray:
    with open_scene(path) as scene:
        image, valid = scene.read_with_data(0, 0, scene.width, scene.height)
        assert scene.notes == ()
    assert valid is not None
    assert (image[~valid] == PAD_VALUE).all()
    return valid


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3, 4, 5, 6])
def test_alpha_is_no_data_however_many_bands_there_are(bands: int, dtype: str, tmp_path: Path) -> None:
    colours = [C.red, C.green, C.blue, *[C.undefined] * 3] if bands > 1 else [C.gray]
    path = write(
        tmp_path / "a.tif", mosaic(bands, dtype), [*colours[:bands], C.alpha], alpha="yes" if bands in (1, 3) else "no"
    )
    valid = valid_of(path)
    assert not valid[:, :EMPTY].any()
    assert valid[:, EMPTY:].all()
    if dtype != "uint8":  # what is outside takes no part in the stretch: were it to, all inside would be bright
        with open_scene(path) as scene:
            assert np.median(scene.read(EMPTY, 0, SIDE - EMPTY, SIDE)) == pytest.approx(127, abs=12)


@pytest.mark.parametrize("nodata", [0, 9])
def test_either_of_alpha_and_nodata_makes_no_data(nodata: int, tmp_path: Path) -> None:
    bands = mosaic(3, "uint8", outside=255)
    bands[:3, :10, 50:] = nodata
    path = write(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES", nodata=nodata)
    wanted = np.ones((SIDE, SIDE), bool)
    wanted[:, :EMPTY] = wanted[:10, 50:] = False
    np.testing.assert_array_equal(valid_of(path), wanted)


def test_an_alpha_band_that_is_chosen_as_a_colour_is_one(tmp_path: Path) -> None:
    bands = mosaic(3, "uint8")
    path = write(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    with open_scene(path, bands=(4, 1, 2)) as scene:
        image, valid = scene.read_with_data(0, 0, SIDE, SIDE)
    assert valid is None
    np.testing.assert_array_equal(image, np.moveaxis(bands[[3, 0, 1]], 0, 2))


def test_infrared_that_is_called_alpha_is_told_and_can_be_overruled(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).normal(120, 20, (4, SIDE, SIDE)).astype(np.uint8)
    bands[3, 20:60, 20:60] = 0  # water
    path = write(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    with open_scene(path) as scene:
        assert [note for note in scene.notes if "band 4 is called alpha" in note and "--no-alpha" in note]
    with open_scene(path, alpha=False) as scene:
        image, valid = scene.read_with_data(0, 0, SIDE, SIDE)
        assert scene.notes == ()
    assert valid is None
    np.testing.assert_array_equal(image, np.moveaxis(bands[:3], 0, 2))


def test_a_soft_edge_of_alpha_is_nothing_to_tell(tmp_path: Path) -> None:
    bands = mosaic(3, "uint8")
    bands[3, :, EMPTY : EMPTY + 20] = np.arange(1, 240, 12)
    path = write(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    assert valid_of(path)[:, EMPTY:].all()


def test_a_palette_without_colours_is_gray(tmp_path: Path) -> None:
    levels = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE).astype(np.uint8)
    with open_scene(write(tmp_path / "a.tif", levels, [C.palette])) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, SIDE, SIDE), np.repeat(levels[0][..., None], 3, axis=2))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk_is_the_light_that_its_inks_leave(dtype: str, interleave: str, tmp_path: Path) -> None:
    inks = np.zeros((4, 2, 4), np.float64)  # white, cyan, magenta, yellow; black, half black, red, orange
    inks[0, 0, 1] = inks[1, 0, 2] = inks[2, 0, 3] = inks[3, 1, 0] = inks[1:3, 1, 2] = inks[2, 1, 3] = 1
    inks[3, 1, 1] = inks[1, 1, 3] = 0.5
    most = np.iinfo(dtype).max
    path = write(tmp_path / "a.tif", np.rint(inks * most).astype(dtype), photometric="CMYK", interleave=interleave)
    wanted = np.array(
        [
            [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0)],
            [(0, 0, 0), (128, 128, 128), (255, 0, 0), (255, 128, 0)],
        ]
    )
    with open_scene(path) as scene:
        assert np.abs(scene.read(0, 0, 4, 2).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("dtype", "value"), [("float32", -9999), ("int16", -9999), ("int16", -32768)])
def test_a_number_that_usually_means_no_data_is_told(dtype: str, value: int, tmp_path: Path) -> None:
    heights = np.random.default_rng(0).normal(300, 50, (1, SIDE, SIDE)).astype(dtype)
    assert open_scene(write(tmp_path / "whole.tif", heights)).notes == ()
    heights[0, :20] = value
    (note,) = open_scene(write(tmp_path / "a.tif", heights)).notes
    assert note.startswith(f"{value} in 20% of its pixels")
    assert f"gdal_edit.py -a_nodata {value}" in note
    assert open_scene(write(tmp_path / "said.tif", heights, nodata=value)).notes == ()


def test_a_scene_located_by_rational_polynomials_alone_is_told(tmp_path: Path) -> None:
    rpcs = rasterio.rpc.RPC(
        height_off=0, height_scale=100, lat_off=45, lat_scale=1, line_off=50, line_scale=50, long_off=10, long_scale=1,
        samp_off=50, samp_scale=50, line_num_coeff=[0, 0, -1] + [0] * 17, line_den_coeff=[1] + [0] * 19,
        samp_num_coeff=[0, 1] + [0] * 18, samp_den_coeff=[1] + [0] * 19,
    )  # fmt: skip
    path = write(tmp_path / "a.tif", mosaic(3, "uint8")[:3], rpcs=rpcs)
    with open_scene(path) as scene:
        assert scene.notes == (
            "located by rational polynomials only (RPC): treated as not georeferenced; orthorectify it first",
        )
        assert scene.info.georeference is None
