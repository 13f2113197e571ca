"""Scenes of every type come out as uint8 RGB windows, and broken files as one line."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes import headers
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.headers import read_header
from resam_runtime.scenes.scene import open_scene
from resam_runtime.tiles.letterbox import PAD_VALUE

rasterio = pytest.importorskip("rasterio")


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def write_tiff(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """bands: (B, H, W)."""
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as out:
        out.write(bands)
    return path


def test_a_png_and_a_tiff_give_the_same_pixels_in_rgb_order(tmp_path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    write_tiff(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0))
    for name in ("a.png", "a.tif"):
        with open_scene(tmp_path / name) as scene:
            assert (scene.name, scene.width, scene.height, scene.info.georeference) == (name, 53, 37, None)
            np.testing.assert_array_equal(scene.read(0, 0, 53, 37), rgb)
            np.testing.assert_array_equal(scene.read(5, 7, 11, 13), rgb[7:20, 5:16])


def test_tiff_is_read_by_opencv_where_rasterio_is_missing(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = rasterio.transform.from_origin(500000, 5000000, 2, 2)
    write_tiff(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0), crs="EPSG:32633", transform=transform)
    monkeypatch.setitem(sys.modules, "rasterio", None)  # as if it were not installed
    with open_scene(tmp_path / "a.tif") as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 53, 37), rgb)
        assert scene.info.georeference is None
        assert any("resam[geo]" in note for note in scene.notes)


def test_gray_becomes_rgb_and_alpha_is_no_colour(tmp_path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), rgb[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 9, np.uint8)]))
    np.testing.assert_array_equal(
        open_scene(tmp_path / "gray.png").read(0, 0, 53, 37), np.repeat(rgb[..., :1], 3, axis=2)
    )
    np.testing.assert_array_equal(open_scene(tmp_path / "alpha.png").read(0, 0, 53, 37), rgb)


def test_transparent_geotiff_pixels_have_no_data(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full((1, 37, 53), 255, np.uint8)
    alpha[0, :10] = 0
    path = write_tiff(
        tmp_path / "a.tif", np.concatenate([np.moveaxis(rgb, 2, 0), alpha]), photometric="RGB", alpha="YES"
    )
    image = open_scene(path).read(0, 0, 53, 37)
    assert (image[:10] == PAD_VALUE).all()
    np.testing.assert_array_equal(image[10:], rgb[10:])


@pytest.mark.parametrize("kind", ["rgba", "gray+alpha", "palette", "16 bit"])
def test_transparent_png_pixels_have_no_data_either(tmp_path: Path, rgb: np.ndarray, kind: str) -> None:
    alpha = np.full((37, 53), 255, np.uint8)
    alpha[:10], alpha[10] = 0, 9  # translucent is not transparent
    path = tmp_path / "a.png"
    if kind == "rgba":
        cv2.imwrite(str(path), np.dstack([rgb[..., ::-1], alpha]))
    elif kind == "16 bit":
        wide = np.dstack([rgb[..., ::-1], alpha]).astype(np.uint16) * 257
        wide[:10, :, :3] = 0  # hidden pixels take no part in the stretch
        cv2.imwrite(str(path), wide)
    else:
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
        Image = pytest.importorskip("PIL.Image")  # OpenCV writes neither kind

        if kind == "palette":
            image = Image.fromarray(np.where(alpha == 0, 7, rgb[..., 0] | 8).astype(np.uint8), "P")
            image.putpalette([level for level in range(256) for _ in range(3)])
            image.save(path, transparency=7)
            rgb = rgb | 8
        else:
            Image.fromarray(np.dstack([rgb[..., 0], alpha]), "LA").save(path)
    with open_scene(path) as scene:
        image, small = scene.read(0, 0, 53, 37), scene.overview(20)
        part = scene.read(5, 8, 11, 13)
    assert (image[:10] == PAD_VALUE).all()
    assert (small[:3] == PAD_VALUE).all()
    assert not (small[6:] == PAD_VALUE).all(axis=2).any()
    np.testing.assert_array_equal(part, image[8:21, 5:16])
    if kind == "16 bit":
        assert (image[10:].min(), image[10:].max()) == (0, 255)
        assert np.median(image[10:]) == pytest.approx(np.median(rgb[10:]), abs=6)
    else:
        np.testing.assert_array_equal(image[10:], rgb[10:])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_gray_png_is_no_data(tmp_path: Path, depth: int) -> None:
    generator = np.random.default_rng(4)
    levels, hidden = generator.integers(0, 2**depth, (20, 32)), 2**depth - 1
    levels[:10] = hidden
    bits = (levels[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(20, -1).astype(np.uint8), axis=1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 32, 20, depth, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", hidden),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks.items():
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    empty = (open_scene(path).read(0, 0, 32, 20) == PAD_VALUE).all(axis=2)
    np.testing.assert_array_equal(empty, levels == hidden)


@pytest.mark.parametrize("kind", ["complex64", "CInt16", "CInt32"])
def test_complex_scenes_are_shown_by_their_magnitude(tmp_path: Path, kind: str) -> None:
    magnitude = np.arange(1000, 1000 + 20 * 30, dtype=np.float32).reshape(1, 20, 30)
    turned = (magnitude * np.exp(1j * magnitude)).astype(np.complex64)
    path = write_tiff(tmp_path / "a.tif", turned)
    if kind != "complex64":  # what Sentinel-1's SLC holds; rasterio reads it and does not write it
        source = f'<SourceFilename relativeToVRT="1">{path.name}</SourceFilename><SourceBand>1</SourceBand>'
        band = f'<VRTRasterBand dataType="{kind}" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
        path = tmp_path / "a.vrt"
        path.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{band}</VRTDataset>')
    image = open_scene(path).read(0, 0, 30, 20)
    low, high = np.percentile(magnitude, (2, 98))
    wanted = np.clip((magnitude[0] - low) / (high - low) * 255, 0, 255)
    assert np.abs(image[..., 0] - wanted).max() <= 1.5


def test_bands_are_chosen_by_number_from_one(tmp_path: Path) -> None:
    bands = np.random.default_rng(1).integers(0, 256, (5, 20, 30), dtype=np.uint8)
    path = write_tiff(tmp_path / "a.tif", bands)
    np.testing.assert_array_equal(
        open_scene(path, bands=(5, 1, 3)).read(0, 0, 30, 20), np.moveaxis(bands[[4, 0, 2]], 0, 2)
    )
    assert (open_scene(path, bands=(4,)).read(0, 0, 30, 20) == bands[3][..., None]).all()
    cv2.imwrite(str(tmp_path / "b.png"), np.moveaxis(bands[:3], 0, 2)[..., ::-1])
    np.testing.assert_array_equal(
        open_scene(tmp_path / "b.png", bands=(3, 2, 1)).read(0, 0, 30, 20), np.moveaxis(bands[[2, 1, 0]], 0, 2)
    )
    with pytest.raises(ResamError, match=r"a\.tif: has 5 bands, band 6"):
        open_scene(path, bands=(1, 2, 6))
    with pytest.raises(ResamError, match="one or three"):
        open_scene(path, bands=(1, 2))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_wide_types_are_stretched_between_percentiles_2_and_98(tmp_path: Path, dtype: type) -> None:
    generator = np.random.default_rng(2)
    bands = (generator.random((3, 60, 80)) * [[[3000]], [[900]], [[20000]]] + 100).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", bands)
    low, high = np.percentile(bands.astype(np.float64), (2, 98), axis=(1, 2))
    expected = np.clip((bands - low[:, None, None]) / (high - low)[:, None, None] * 255, 0, 255)
    whole = open_scene(path).read(0, 0, 80, 60)
    assert np.abs(whole - np.moveaxis(expected, 0, 2)).max() <= 0.51
    # a window shares the whole scene's stretch
    np.testing.assert_array_equal(open_scene(path).read(10, 20, 7, 9), whole[20:29, 10:17])


@pytest.mark.parametrize("kind", ["png", "tif", "tif with overviews"])
def test_the_stretch_of_a_large_scene_holds_its_speckle(tmp_path: Path, kind: str) -> None:
    speckle = (np.sqrt(np.random.default_rng(3).exponential(1, (1500, 2100))) * 1000).astype(np.uint16)
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "png":
        cv2.imwrite(str(path), speckle)
    else:
        write_tiff(path, speckle[None], nodata=0)
    if kind == "tif with overviews":
        with rasterio.open(path, "r+") as out:
            out.build_overviews([2, 4], rasterio.enums.Resampling.average)
    low, high = np.percentile(speckle, (2, 98))
    with open_scene(path) as scene:
        levels = scene.read(0, 0, 2100, 1500)[..., 0]
    wanted = np.clip((speckle - low) / (high - low) * 255, 0, 255)
    assert np.abs(levels[speckle > 0] - wanted[speckle > 0]).max() <= 3


def test_sixteen_bit_png_is_stretched_too(tmp_path: Path) -> None:
    gray = np.linspace(1000, 9000, 60 * 80).reshape(60, 80).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    image = open_scene(tmp_path / "a.png").read(0, 0, 80, 60)
    assert image.min() == 0
    assert image.max() == 255
    assert np.abs(np.median(image) - 127.5) <= 1


def test_wide_integers_far_from_zero_keep_their_levels(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint32), (50, 1)) + 4_000_000_000  # float32 tells only every 256th apart
    with open_scene(write_tiff(tmp_path / "a.tif", ramp[None])) as scene:
        levels = scene.read(0, 0, 200, 50)[0, :, 0]
    expected = np.clip((np.arange(200) - 3.98) / (195.02 - 3.98) * 255, 0, 255)
    assert np.abs(levels - expected).max() <= 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_largest_floats_are_stretched_without_a_warning(tmp_path: Path) -> None:
    extreme = np.where(np.arange(400).reshape(20, 20) % 2, 3e38, -3e38).astype(np.float32)
    with open_scene(write_tiff(tmp_path / "a.tif", extreme[None])) as scene:
        assert sorted(np.unique(scene.read(0, 0, 20, 20))) == [0, 255]


def test_a_damaged_raster_says_what_is_damaged(tmp_path: Path, rgb: np.ndarray) -> None:
    path = write_tiff(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0), compress="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(byte ^ 0x5A for byte in data[middle : middle + 40])
    path.write_bytes(data)
    with open_scene(path) as scene, pytest.raises(ResamError, match=r"a\.tif: cannot be read") as caught:
        scene.read(0, 0, 53, 37)
    assert "previous exception" not in str(caught.value)


def test_a_constant_scene_does_not_divide_by_zero(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.full((1, 9, 9), 777, np.uint16))
    assert open_scene(path).read(0, 0, 9, 9).shape == (9, 9, 3)


def test_nodata_and_nan_become_the_mean_pixel_and_stay_out_of_the_stretch(tmp_path: Path) -> None:
    values = np.linspace(10, 20, 64 * 64).reshape(1, 64, 64).astype(np.float32)
    marked, nan = values.copy(), values.copy()
    marked[0, :8] = -9999
    nan[0, :8] = np.nan
    images = [
        open_scene(write_tiff(tmp_path / "a.tif", marked, nodata=-9999)).read(0, 0, 64, 64),
        open_scene(write_tiff(tmp_path / "b.tif", nan)).read(0, 0, 64, 64),
    ]
    for image in images:
        assert (image[:8] == PAD_VALUE).all()
        assert image[8:].min() == 0
        assert image[8:].max() == 255
    np.testing.assert_array_equal(*images)


def test_zero_in_one_band_alone_is_a_colour_not_nodata(tmp_path: Path) -> None:
    bands = np.full((3, 4, 4), 200, np.uint8)
    bands[0] = 0
    bands[:, 0, 0] = 0
    image = open_scene(write_tiff(tmp_path / "a.tif", bands, nodata=0)).read(0, 0, 4, 4)
    assert tuple(image[1, 1]) == (0, 200, 200)
    assert tuple(image[0, 0]) == PAD_VALUE


def test_a_palette_tiff_shows_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    indices = np.array([[[0, 1], [2, 1]]], np.uint8)
    with rasterio.open(path, "w", driver="GTiff", count=1, height=2, width=2, dtype="uint8") as out:
        out.write(indices)
        out.write_colormap(1, {0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (200, 100, 0, 255)})
    assert open_scene(path).read(0, 0, 2, 2).tolist() == [[[1, 2, 3], [40, 50, 60]], [[200, 100, 0], [40, 50, 60]]]


def test_georeference_is_known(tmp_path: Path, rgb: np.ndarray) -> None:
    transform = rasterio.transform.from_origin(500000, 5000000, 2, 3)
    path = write_tiff(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0), crs="EPSG:32633", transform=transform)
    with open_scene(path) as scene:
        assert scene.info.georeference == Georeference((2, 0, 500000, 0, -3, 5000000), "EPSG:32633")


def test_a_picture_with_its_place_beside_it_is_georeferenced(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    transform = rasterio.transform.from_origin(500000, 5000000, 2, 3)
    profile = {"driver": "PNG", "count": 3, "height": 37, "width": 53, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile) as out:
        out.write(np.moveaxis(rgb, 2, 0))
    with open_scene(path) as scene:
        assert scene.info.georeference == Georeference((2, 0, 500000, 0, -3, 5000000), "EPSG:32633")
        assert scene.notes == ()
        np.testing.assert_array_equal(scene.read(0, 0, 53, 37), rgb)
    monkeypatch.setitem(sys.modules, "rasterio", None)  # as if it were not installed
    with open_scene(path) as scene:
        assert scene.info.georeference is None
        assert scene.notes == ("georeference not read: pip install 'resam[geo]'",)
    aux = tmp_path / "a.png.aux.xml"
    aux.write_text("<PAMDataset><Metadata><MDI key='STATISTICS_MEAN'>9</MDI></Metadata></PAMDataset>")
    assert open_scene(path).notes == ()


@pytest.mark.parametrize(("suffix", "world"), [("tif", "tfw"), ("png", "pgw"), ("jpg", "jgw"), ("png", "wld")])
def test_a_world_file_without_a_crs_is_told(tmp_path: Path, rgb: np.ndarray, suffix: str, world: str) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), rgb)
    assert open_scene(path).notes == ()
    path.with_suffix(f".{world}").write_text("1\n0\n0\n-1\n500000.5\n4999999.5\n")
    with open_scene(path) as scene:
        assert scene.info.georeference is None
        assert scene.notes == ("has a geotransform but no CRS: treated as not georeferenced",)


@pytest.mark.parametrize("with_rasterio", [True, False])
def test_pages_that_are_not_read_are_told(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch, with_rasterio: bool
) -> None:
    cv2.imwritemulti(str(tmp_path / "pages.tif"), [rgb[..., ::-1], rgb // 2, rgb // 3])
    # a mask and smaller copies are pages of the file, but not of the image
    single = write_tiff(tmp_path / "single.tif", np.moveaxis(np.tile(rgb, (20, 20, 1)), 2, 0), tiled=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(single, "r+") as out:
        out.write_mask(np.ones((37 * 20, 53 * 20), bool))
        out.build_overviews([2, 4])
    assert cv2.imcount(str(single), cv2.IMREAD_UNCHANGED) > 3
    if not with_rasterio:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    with open_scene(tmp_path / "pages.tif") as scene:
        assert scene.notes == ("has 3 pages; only the first is read",)
        np.testing.assert_array_equal(scene.read(0, 0, 53, 37), rgb)
    with open_scene(single) as scene:
        assert scene.notes == ()


def test_exif_orientation_is_ignored_since_annotations_count_stored_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((20, 40, 3), np.uint8))
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: rotate by 90
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + data[2:])
    assert cv2.imread(str(path)).shape[:2] == (40, 20), "the tag is understood by OpenCV"
    assert (open_scene(path).width, open_scene(path).height) == (40, 20)


def turn(path: Path, orientation: int) -> Path:
    """Write the orientation tag of a TIFF, little-endian, as the last page of its file."""
    data = path.read_bytes() + b"\0" * (path.stat().st_size % 2)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", 274)]
    entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    page = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + page)
    return path


@pytest.mark.parametrize("with_rasterio", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_upright_unless_it_is_a_map(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch, orientation: int, with_rasterio: bool
) -> None:
    bands = np.moveaxis(rgb, 2, 0)
    photo = turn(write_tiff(tmp_path / "photo.tif", bands, photometric="RGB"), orientation)
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500000, 5000000, 2, 2)}
    a_map = turn(write_tiff(tmp_path / "map.tif", bands, photometric="RGB", **place), orientation)
    seen = cv2.imdecode(np.fromfile(photo, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]  # turns it
    height, width = seen.shape[:2]
    assert (orientation == 1) == np.array_equal(seen, rgb)
    if not with_rasterio:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    with open_scene(photo) as scene:
        assert (scene.width, scene.height) == (width, height)
        np.testing.assert_array_equal(scene.read(0, 0, width, height), seen)
        np.testing.assert_array_equal(scene.read(5, 7, 11, 13), seen[7:20, 5:16])
        assert scene.overview(20).shape == ((20, 14, 3) if height > width else (14, 20, 3))
    with open_scene(a_map) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 53, 37), rgb)


def test_the_empty_pixels_of_a_turned_tiff_turn_with_it(tmp_path: Path, rgb: np.ndarray) -> None:
    rgb[:10] = 0
    path = turn(write_tiff(tmp_path / "a.tif", np.moveaxis(rgb, 2, 0), photometric="RGB", nodata=0), 6)
    _, valid = open_scene(path).read_with_data(0, 0, 37, 53)
    assert valid is not None
    assert valid[:, :27].all()
    assert not valid[:, 27:].any()


def test_overview_shrinks_and_never_enlarges(tmp_path: Path, rgb: np.ndarray) -> None:
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        cv2.imwrite(str(path), rgb[..., ::-1])
        with open_scene(path) as scene:
            assert scene.overview(20).shape == (14, 20, 3)
            np.testing.assert_array_equal(scene.overview(500), rgb)


def test_a_window_outside_the_scene_is_refused(tmp_path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), rgb)
    scene = open_scene(tmp_path / "a.png")
    for window in [(-1, 0, 5, 5), (50, 0, 5, 5), (0, 36, 5, 5), (0, 0, 0, 5)]:
        with pytest.raises(ValueError, match="leaves the scene"):
            scene.read(*window)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("damage", ["empty", "junk", "half", "head"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, rgb: np.ndarray, suffix: str, damage: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.tile(rgb, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "junk": b"hello" * 100, "half": data[: len(data) // 2], "head": data[:30]}[damage])
    with pytest.raises(ResamError) as caught, open_scene(path) as scene:
        scene.read(0, 0, scene.width, scene.height)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_jpeg_that_lost_only_its_end_is_truncated(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), rgb)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ResamError, match=r"truncated JPEG"):
        open_scene(path)


@pytest.mark.parametrize("colours", [3, 1])
def test_a_jpeg_that_lost_its_middle_is_damaged(tmp_path: Path, rgb: np.ndarray, colours: int) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.tile(rgb[..., :colours], (5, 5, 1)))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(1024) + data[middle + 1024 :])
    with pytest.raises(ResamError, match=r"a\.jpg: damaged JPEG file, part of it is zeros"):
        open_scene(path)


@pytest.mark.parametrize("optimised", [0, 1])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_that_is_mostly_of_one_colour_is_well(tmp_path: Path, optimised: int, progressive: int) -> None:
    image = np.zeros((3000, 3000, 3), np.uint8)  # with tables made for it, that is zeros in the file
    image[1000:1010, 1000:1010] = 255
    path = tmp_path / "a.jpg"
    flags = [cv2.IMWRITE_JPEG_OPTIMIZE, optimised, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    cv2.imwrite(str(path), image, flags)
    assert not optimised or bytes(256) in path.read_bytes()
    assert open_scene(path).read(1000, 1000, 10, 10).min() > 240


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResamError, match=r"none\.png: No such file"):
        open_scene(tmp_path / "none.png")
    with pytest.raises(ResamError, match="not a file"):
        open_scene(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    monkeypatch.setattr(headers, "DECODE_LIMIT", 1000)
    with open_scene(tmp_path / "a.png") as scene:  # rasterio reads it by windows
        np.testing.assert_array_equal(scene.read(3, 4, 10, 20), rgb[4:24, 3:13])
    monkeypatch.setitem(sys.modules, "rasterio", None)  # as if it were not installed
    with pytest.raises(ResamError, match="53 x 37 px is too large"):
        open_scene(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_sizes_are_read_from_headers(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), rgb)
    header = read_header(path.read_bytes())
    assert header is not None
    assert (header.width, header.height, header.whole, header.georeferenced) == (53, 37, True, False)
