"""A raster from outside decides nothing but its own pixels: it makes GDAL open no other file, device or address."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.scene import open_scene

rasterio = pytest.importorskip("rasterio")
SECRET = 77


def write_tiff(path: Path, value: int, size: int = 64, **profile: Any) -> Path:
    pixels = np.full((1, size, size), value, np.uint8)
    with rasterio.open(path, "w", driver="GTiff", count=1, height=size, width=size, dtype="uint8", **profile) as out:
        out.write(pixels)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no scene of the folder `in` may show."""
    (tmp_path / "in").mkdir()
    return write_tiff(tmp_path / "secret.tif", SECRET, 32)


def pixels_of(path: Path) -> np.ndarray:
    with open_scene(path) as scene:
        return np.concatenate([scene.overview(16).ravel(), scene.read(0, 0, scene.width, scene.height).ravel()])


def vrt(source: str, relative: bool = False) -> str:
    band = (
        f'<SimpleSource><SourceFilename relativeToVRT="{int(relative)}">{source}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource>"
    )
    return f'<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1">{band}' + (
        "</VRTRasterBand></VRTDataset>"
    )


RAW = (
    '<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativeToVRT="0">{source}</SourceFilename></VRTRasterBand></VRTDataset>'
)
WMS = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}</ServerUrl></Service><DataWindow>'
    "<UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY>"
    "<SizeX>64</SizeX><SizeY>64</SizeY></DataWindow></GDAL_WMS>"
)


@pytest.mark.parametrize("suffix", [".tif", ".img", ".vrt", ".dat"])
@pytest.mark.parametrize("kind", ["raw", "absolute", "relative", "link", "nested", "geolocation"])
def test_a_text_that_names_other_files_is_no_scene(kind: str, suffix: str, secret: Path) -> None:
    path = secret.parent / "in" / f"a{suffix}"
    path.write_text(
        {
            "raw": RAW.format(source=secret),
            "absolute": vrt(os.fspath(secret)),
            "relative": vrt("../secret.tif", relative=True),
            "link": vrt("link.tif", relative=True),
            "nested": vrt("b.vrt", relative=True),
            "geolocation": vrt("good.tif", True).replace("<VRTRasterBand ", "<RPC_DEM>/x</RPC_DEM><VRTRasterBand "),
        }[kind]
    )
    path.with_name("link.tif").symlink_to(secret)
    path.with_name("b.vrt").write_text(RAW.format(source=secret))
    write_tiff(path.with_name("good.tif"), 5)
    with pytest.raises(ResamError, match=path.name.replace(".", r"\.")) as caught:
        pixels_of(path)
    assert "\n" not in str(caught.value)


def test_a_mosaic_of_files_in_its_folder_is_read(secret: Path) -> None:
    folder = secret.parent / "in"
    (folder / "parts").mkdir()
    write_tiff(folder / "parts" / "a.tif", 9, 32)
    (folder / "inner.vrt").write_text(vrt("parts/a.tif", relative=True))
    (folder / "outer.vrt").write_text(vrt("inner.vrt", relative=True))
    for name in ("inner.vrt", "outer.vrt"):
        assert set(pixels_of(folder / name)) == {9}
    (folder / "loop.vrt").write_text(vrt("loop.vrt", relative=True))
    with pytest.raises(ResamError, match="in a circle"):
        open_scene(folder / "loop.vrt")


@pytest.fixture
def server() -> Any:
    """A port, and how often somebody came."""
    listener = socket.create_server(("127.0.0.1", 0))
    visits: list[Any] = []

    def listen() -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            visits.append(address)
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    yield listener.getsockname()[1], visits
    listener.close()


@pytest.mark.parametrize("suffix", [".tif", ".vrt", ".png"])
@pytest.mark.parametrize("kind", ["wms", "curl", "overviews"])
def test_no_scene_reaches_the_network(kind: str, suffix: str, secret: Path, server: Any) -> None:
    port, visits = server
    path = secret.parent / "in" / f"a{suffix}"
    url = f"/vsicurl/http://127.0.0.1:{port}/a.tif"
    if kind == "overviews":
        write_tiff(path, 5)
        path.with_name(f"{path.name}.aux.xml").write_text(
            f'<PAMDataset><SRS>EPSG:4326</SRS><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{url}</MDI>'
            "</Metadata></PAMDataset>"
        )
    else:
        path.write_text(WMS.format(port=port) if kind == "wms" else vrt(url))
    with contextlib.suppress(ResamError):
        pixels_of(path)
    assert visits == []


@pytest.mark.parametrize("where", ["inside", "aux.xml", "aux.xml, escaped", "mask", "overviews"])
def test_overviews_are_never_those_of_another_file(where: str, secret: Path) -> None:
    path = write_tiff(secret.parent / "in" / "a.tif", 5)
    pointing = path
    if where in ("mask", "overviews"):
        pointing = path.with_name("a.tif.msk" if where == "mask" else "a.tif.ovr")
        write_tiff(pointing, 255, 64 if where == "mask" else 32)
    name = "OVERVIEW&#95;FILE" if "escaped" in where else "OVERVIEW_FILE"
    if "aux" in where:
        path.with_name("a.tif.aux.xml").write_text(
            f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="{name}">{secret}</MDI></Metadata></PAMDataset>'
        )
    else:
        with rasterio.open(pointing, "r+") as out:
            out.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=os.fspath(secret))
    if where == "inside":
        with pytest.raises(ResamError, match="OVERVIEW_FILE"):
            open_scene(path)
        return
    assert set(pixels_of(path)) == {5}
    assert len(open_scene(path).notes) == 1


@pytest.mark.parametrize("beside", ["a.tif.ovr", "a.tif.msk", "a.aux", "a.rrd"])
def test_a_raster_beside_a_scene_is_of_the_kind_that_its_name_says(beside: str, secret: Path) -> None:
    path = write_tiff(secret.parent / "in" / "a.tif", 5)
    path.with_name(beside).write_text(vrt(os.fspath(secret)))
    assert set(pixels_of(path)) == {5}
    assert open_scene(path).notes == (f"{beside}: not a raster of the kind that its name says: it is not read",)


def test_masks_overviews_and_georeference_beside_a_scene_count(secret: Path) -> None:
    path = secret.parent / "in" / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True):
        write_tiff(path, 5)
        with rasterio.open(path, "r+") as out:
            out.write_mask(np.arange(64 * 64).reshape(64, 64) >= 640)
        with rasterio.open(path) as out:
            assert path.with_name("a.tif.msk").exists()
            assert out.read_masks(1)[:10].max() == 0
    path.with_name("a.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>500000,2,0,5000000,0,-2</GeoTransform></PAMDataset>"
    )
    with open_scene(path) as scene:
        assert scene.info.georeference is not None
        assert (scene.info.georeference.crs, scene.notes) == ("EPSG:32633", ())
        valid = scene.read_with_data(0, 0, 64, 64)[1]
        assert valid is not None
        assert valid.sum() == 64 * 54


@pytest.mark.parametrize("beside", ["a.{}.aux.xml", "a.{}.msk", "a.{}.ovr", "a.wld", "a_rpc.txt"])
@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_fifo_beside_a_scene_is_not_waited_for(kind: str, beside: str, secret: Path) -> None:
    path = secret.parent / "in" / f"a.{kind}"
    with rasterio.open(
        path, "w", driver={"tif": "GTiff", "png": "PNG"}[kind], count=1, height=64, width=64, dtype="uint8"
    ) as out:
        out.write(np.full((1, 64, 64), 5, np.uint8))
    os.mkfifo(path.with_name(beside.format(kind)))
    assert set(pixels_of(path)) == {5}
    if kind == "tif":
        assert open_scene(path).notes == (f"{beside.format(kind)}: not a regular file: it is not read",)


def test_links_and_copies_are_gone_once_a_scene_is_closed(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = secret.parent / "view"
    view.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(view))
    path = write_tiff(secret.parent / "in" / "a.tif", 5)
    path.with_suffix(".tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    scene = open_scene(path)
    assert list(view.iterdir())
    scene.close()
    path.write_bytes(b"II*\0" + bytes(60))
    with pytest.raises(ResamError):
        open_scene(path)
    assert not list(view.iterdir())


def test_envi_rasters_are_read_by_their_headers(secret: Path) -> None:
    path = secret.parent / "in" / "a.img"
    with rasterio.open(path, "w", driver="ENVI", count=1, height=20, width=30, dtype="uint8") as out:
        out.write(np.full((1, 20, 30), 5, np.uint8))
    assert set(pixels_of(path)) == {5}
    path.with_suffix(".hdr").unlink()
    with pytest.raises(ResamError, match="not a supported raster"):
        open_scene(path)


def test_a_raster_whose_blocks_would_fill_the_memory_is_refused(secret: Path) -> None:
    path = secret.parent / "in" / "a.tif"
    side = 40_000
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8", sparse_ok=True, compress="deflate",
        interleave="pixel", tiled=True, blockxsize=39_936, blockysize=39_936,
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 100_000
    with pytest.raises(ResamError, match="blocks of 4563 MiB"):
        open_scene(path)


def multiband(path: Path) -> Path:
    """A TIFF of four bands that does not say what the fourth is, of which GDAL warns."""
    side, bands = 64, 4
    pixels = np.arange(side * side * bands, dtype="<i2").tobytes()
    tags = [(256, 3, side), (257, 3, side), (258, 3, None), (259, 3, 1), (262, 3, 1), (273, 4, None), (277, 3, bands)]
    tags += [(278, 3, side), (279, 4, len(pixels)), (284, 3, 1)]
    after = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, kind, value in tags:
        count = bands if tag == 258 else 1
        value = {258: after, 273: after + 8}.get(tag, value)
        entries += struct.pack("<HHI", tag, kind, count)
        entries += struct.pack("<I", value) if kind == 4 or count > 1 else struct.pack("<HH", value, 0)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + struct.pack("<4H", *[16] * 4) + pixels)
    return path


def test_what_gdal_says_becomes_a_note_and_nothing_is_printed(
    secret: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    path = multiband(secret.parent / "in" / "a.tif")
    with caplog.at_level(logging.DEBUG, "rasterio"), open_scene(path) as scene:
        scene.read(0, 0, 64, 64)
        assert len(scene.notes) == 1
        assert "ExtraSamples" in scene.notes[0]

    assert capfd.readouterr() == ("", "")
    assert [warning.message for warning in recwarn.list] == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_other_users_of_rasterio_still_hear_its_warnings(secret: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = multiband(secret.parent / "in" / "a.tif")
    open_scene(path).close()
    with rasterio.Env(), rasterio.open(path):
        pass
    assert any("ExtraSamples" in record.message for record in caplog.records)
    shutil.rmtree(secret.parent / "in")
