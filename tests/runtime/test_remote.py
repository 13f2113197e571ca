"""Scenes on a web server, in an object store, and in STAC catalogues; servers that refuse and tear."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.remote import RemoteFile, redacted, remote_file
from resam_runtime.scenes.scene import open_scene
from resam_runtime.scenes.scene_files import find_scenes

from .run_helpers import instances_of, make_engine, resam_run, summary_of
from .servers import Files, file_server

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

SECRET = "sig=SECRET/SECRETS%2Fkey&v=1"
CENTRES = [[40, 40], [150, 60], [90, 160]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiled GeoTIFF of 256 px with bright discs."""
    ys, xs = np.mgrid[:256, :256]
    image = np.full((3, 256, 256), 30, np.uint8)
    for x, y in CENTRES:
        image[:, np.hypot(xs - x, ys - y) < 7] = 220
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    place = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 2, 2)}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    with rasterio.open(
        path, "w", driver="GTiff", width=256, height=256, count=3, dtype="uint8", **place, **tiles
    ) as out:
        out.write(image)
        out.update_tags(TIFFTAG_DATETIME="2021:05:12 10:20:31")
    return path.read_bytes()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    with file_server() as served:
        yield served


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"instances": [{"points": [centre]} for centre in CENTRES]}))
    return path


def everything(folder: Path) -> bytes:
    return b"".join(str(path).encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_scene_at_a_url_is_the_scene_of_the_file(
    engine: Path, tiff: bytes, files: Files, points: Path, tmp_path: Path
) -> None:
    url = files.add("/north/a.tif", tiff)
    (tmp_path / "a.tif").write_bytes(tiff)
    more = ("--points", points, "--format", "coco,geojson,labels,geoparquet", "--engine", engine)
    assert resam_run(tmp_path / "a.tif", "-o", tmp_path / "here", *more).code == 0
    result = resam_run(f"{url}?{SECRET}", "-o", tmp_path / "there", *more)
    assert result.code == 0, result.stderr
    for name in ("instances.json", "a.geojson", "a.labels.tif", "instances.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert SECRET in files.queries, "the server was given it"
    assert b"SECRET" not in everything(tmp_path / "there") + (result.stdout + result.stderr).encode()
    before = dict(files.requests)
    assert resam_run(f"{url}?{SECRET}", "-o", tmp_path / "there", *more, "--resume").code == 0
    assert files.requests == before, "what is done is not asked for again"


def test_three_points_in_a_large_cog_read_a_small_part_of_it(engine: Path, files: Files, tmp_path: Path) -> None:
    """300 MB, most of them holes in the file, which a server sends like any other bytes."""
    size, path = 10240, tmp_path / "large.tif"
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True, "interleave": "pixel"}
    with rasterio.open(path, "w", driver="GTiff", width=size, height=size, count=3, dtype="uint8", **tiles) as out:
        out.write(np.full((3, 16, 16), 220, np.uint8), window=((5000, 5016), (5000, 5016)))
    _fill_holes(path)
    files.sizes["/large.tif"] = path.stat().st_size
    assert files.sizes["/large.tif"] > 300e6

    def content(first: int, last: int) -> bytes:
        with path.open("rb") as file:
            file.seek(first)
            return file.read(last - first + 1)

    files.contents["/large.tif"] = content
    points = tmp_path / "points.json"
    points.write_text(json.dumps({"instances": [{"points": [p]} for p in ([5008, 5008], [90, 90], [9000, 200])]}))
    only = ("--points", points, "--format", "coco", "-o", tmp_path / "out")
    assert resam_run("--engine", engine, f"{files.url}/large.tif", *only).code == 0
    assert len(instances_of(tmp_path / "out")["annotations"]) == 3
    assert files.sent["/large.tif"] < 0.05 * files.sizes["/large.tif"]
    assert files.requests["/large.tif"] < 30


def _fill_holes(path: Path) -> None:
    """Give every missing tile of a sparse TIFF of one image a place behind the file's end, without writing there."""
    import struct

    data = bytearray(path.read_bytes())
    [directory] = struct.unpack_from("<I", data, 4)
    [count] = struct.unpack_from("<H", data, directory)
    entries = {}
    for number in range(count):
        tag, _, length, value = struct.unpack_from("<HHII", data, directory + 2 + 12 * number)
        entries[tag] = (length, value)
    tile, end = 256 * 256 * 3, len(data)
    for number in range(entries[324][0]):
        if struct.unpack_from("<I", data, entries[324][1] + 4 * number) == (0,):
            struct.pack_into("<I", data, entries[324][1] + 4 * number, end)
            struct.pack_into("<I", data, entries[325][1] + 4 * number, tile)
            end += tile
    path.write_bytes(data)
    os.truncate(path, end)


def test_scenes_that_cannot_be_read_fail_alone_and_are_tried_again(
    engine: Path, tiff: bytes, files: Files, points: Path, tmp_path: Path
) -> None:
    urls = {
        "good": files.add("/good.tif", tiff),
        "hiccup": files.add("/hiccup.tif", tiff, drop=1),
        "torn": files.add("/torn.tif", tiff, drop=10_000),
        "gone": f"{files.url}/gone.tif",
        "forbidden": files.add("/forbidden.tif", tiff, status=403),
        "broken": files.add("/broken.tif", tiff, status=500),
        "page": files.add("/page.tif", b"<html>sign in</html>"),
        "nobody": f"http://127.0.0.1:{_closed_port()}/nobody.tif",
    }
    listing = tmp_path / "list.txt"
    listing.write_text("# scenes\n\n" + "\n".join(f"{url}?{SECRET}" for url in urls.values()))
    shared = tmp_path / "all.json"
    shared.write_text(json.dumps({f"{name}.tif": [{"points": [centre]} for centre in CENTRES] for name in urls}))
    scenes = {f"{name}.tif": {"instances": [{"points": [centre]} for centre in CENTRES]} for name in urls}
    shared.write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": scenes}))
    arguments = ("--engine", engine, f"@{listing}", "--points", shared, "--format", "coco", "-o", tmp_path / "out")
    result = resam_run(*arguments)
    assert result.code == 1
    scenes = {scene["name"]: scene for scene in summary_of(tmp_path / "out")["scenes"]}
    assert [name for name, scene in scenes.items() if scene["status"] == "done"] == ["good.tif", "hiccup.tif"]
    reasons = {name: scenes[f"{name}.tif"].get("reason", "") for name in urls}
    assert "not found (HTTP 404)" in reasons["gone"]
    assert "forbidden (HTTP 403)" in reasons["forbidden"]
    assert "the server failed (HTTP 500)" in reasons["broken"]
    for name in ("torn", "gone", "forbidden", "broken", "page", "nobody"):
        assert reasons[name].startswith(f"{urls[name]}: "), "the URL, without its query"
        assert "traceback" not in scenes[f"{name}.tif"]
    assert max(files.requests.values()) < 40, "retries have an end"
    assert b"SECRET" not in everything(tmp_path / "out") + (result.stdout + result.stderr).encode()

    files.drop["/torn.tif"], files.status = 0, {}
    assert resam_run(*arguments, "--resume").code == 1
    done = [scene["name"] for scene in summary_of(tmp_path / "out")["scenes"] if scene["status"] == "done"]
    assert done == ["broken.tif", "forbidden.tif", "good.tif", "hiccup.tif", "torn.tif"]


def _closed_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_raster_on_the_web_opens_no_other_address(tiff: bytes, files: Files, tmp_path: Path) -> None:
    vrt = (
        f'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>/vsicurl/{files.url}/other.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    files.add("/other.tif", tiff)
    for name in ("/a.vrt", "/a.tif"):
        url = remote_file(files.add(name, vrt.encode()))
        with pytest.raises(ResamError, match="cannot be read"):
            open_scene(url)  # type: ignore[arg-type]
    (tmp_path / "a.tif").write_bytes(tiff)
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{files.url}/other.tif")
    url = remote_file(files.add("/led.tif", (tmp_path / "a.tif").read_bytes()))
    with pytest.raises(ResamError, match="OVERVIEW_FILE"):
        open_scene(url)  # type: ignore[arg-type]
    local = tmp_path / "b.vrt"
    local.write_text(vrt)
    with pytest.raises(ResamError):
        open_scene(local)
    assert "/other.tif" not in files.requests
    with open_scene(remote_file(f"{files.url}/other.tif")) as scene:  # type: ignore[arg-type]
        assert scene.width == 256
    assert not any(path.endswith((".ovr", ".msk", ".aux.xml", ".tfw")) for path in files.requests)


def test_names_come_from_the_ends_of_urls_and_never_lead_out() -> None:
    urls = [
        "https://a.org/x/s.tif?key=1",
        "https://b.org/x/s.tif",
        "s3://bucket/deep/t.tif",
        "https://a.org/..%2F..%2Fu.tif",
        "https://a.org/get?id=1",
        "https://a.org/get?id=2",
        "https://a.org/get?id=2",
    ]
    scenes = find_scenes(urls, "out")
    assert [scene.name for scene in scenes] == sorted(
        ["a.org/x/s.tif", "b.org/x/s.tif", "t.tif", "___.._u.tif", "get", "get~2"]
    )
    assert len({scene.stem for scene in scenes}) == 6
    assert not any(part in ("", ".", "..") for scene in scenes for part in scene.stem.split("/"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:pass@a.org/s.tif", "environment variables"),
        ("ftp://a.org/s.tif", "not read from there"),
        ("file:///etc/passwd", "not read from there"),
        ("https://a.org", "names no file"),
        ("s3://bucket/a.tif?versionId=3", "not a URL"),
        ("https://a.org/a b.tif?key=SECRET", "not a URL"),
    ],
)
def test_urls_that_are_not_read_are_refused(url: str, said: str) -> None:
    with pytest.raises(ResamError, match=said) as error:
        find_scenes([url], "out")
    assert "pass" not in str(error.value).replace("password", "").replace("passwd", "")
    assert "SECRET" not in str(error.value)


def test_a_path_is_never_a_url(tmp_path: Path) -> None:
    """Names of files come from points files and folders too."""
    (tmp_path / "@list.txt").write_text("https://a.org/s.tif")
    (tmp_path / "item.json").write_text("{}")
    scenes = find_scenes([tmp_path / "@list.txt", tmp_path / "item.json", Path("https://a.org/s.tif")], "out")
    assert all(not isinstance(scene.path, RemoteFile) for scene in scenes)


def test_secrets_are_cut_from_whatever_is_said() -> None:
    text = "'/vsicurl/https://me:pass@a.org/s.tif?sig=SECRET&x=1' and s3://k:v@b/c failed"
    assert redacted(text) == "'/vsicurl/https://a.org/s.tif' and s3://b/c failed"


# --- STAC ----------------------------------------------------------------------------------------------------------


def item(name: str, assets: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """By pystac, which knows what an item is."""
    pystac = pytest.importorskip("pystac")
    import datetime

    moment = datetime.datetime(2021, 5, 12, 10, 20, 31, tzinfo=datetime.timezone.utc)
    made = pystac.Item(name, {"type": "Point", "coordinates": [0, 0]}, [0, 0, 0, 0], moment, properties)
    for key, asset in assets.items():
        made.add_asset(key, pystac.Asset(**asset))
    written: dict[str, Any] = made.to_dict(include_self_link=False, transform_hrefs=False)
    return written


def test_items_of_a_catalogue_are_scenes_named_by_their_ids(
    engine: Path, tiff: bytes, files: Files, points: Path, tmp_path: Path
) -> None:
    cog = "image/tiff; application=geotiff; profile=cloud-optimized"
    files.add("/data/tci.tif", tiff), files.add("/data/b4.tif", tiff)
    features = [
        item("S2.A_1", {"B04": {"href": "b4.tif", "roles": ["data"], "media_type": cog},
                        "visual": {"href": f"tci.tif?{SECRET}", "roles": ["visual"], "media_type": cog}}),
        item("S2.A_2", {"thumbnail": {"href": "t.png", "roles": ["thumbnail"], "media_type": "image/png"}}),
        item("../../S2.A_3", {"B04": {"href": f"{files.url}/data/b4.tif", "roles": ["data"], "media_type": cog}}),
    ]  # fmt: skip
    url = files.add("/data/items.json", json.dumps({"type": "FeatureCollection", "features": features}).encode())
    shared = tmp_path / "all.json"
    names = ("S2.A_1.tif", "___.._S2.A_3.tif")
    scenes = {name: {"instances": [{"points": [centre]} for centre in CENTRES]} for name in names}
    shared.write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": scenes}))
    result = resam_run("--engine", engine, f"{url}?{SECRET}", "--points", shared, "-o", tmp_path / "out",
                       "--format", "coco,geojson,geoparquet")  # fmt: skip
    assert result.code == 1, result.stderr
    scenes = {scene["name"]: scene for scene in summary_of(tmp_path / "out")["scenes"]}
    assert scenes["S2.A_1.tif"]["outputs"] == ["S2.A_1.geojson"]
    assert "no asset with the role data" in scenes["S2.A_2"]["reason"]
    assert files.requests["/data/tci.tif"] > 0
    assert len(scenes) == 3
    assert not list(tmp_path.parent.glob("*S2*")), "no name leads out of the folder"
    assert b"SECRET" not in everything(tmp_path / "out") + (result.stdout + result.stderr).encode()
    import pyarrow.parquet as pq

    dates = pq.read_table(tmp_path / "out/instances.parquet").column("date").to_pylist()
    assert {date.isoformat() for date in dates} == {"2021-05-12T10:20:31+00:00"}


def test_an_asset_is_chosen_by_name_or_by_what_it_is(tmp_path: Path, tiff: bytes) -> None:
    bands = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    assets = {
        "scl": {"href": "scl.tif", "roles": ["data"]},
        "rgb": {"href": "./rgb.tif", "roles": ["data"], "extra_fields": {"eo:bands": bands}},
        "meta": {"href": "meta.xml", "roles": ["data"], "media_type": "application/xml"},
    }
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item("one", assets)))
    for asset, file in ((None, "rgb.tif"), ("scl", "scl.tif"), ("meta", "meta.xml")):
        [scene] = find_scenes([str(path)], tmp_path / "out", asset)
        assert scene.local == tmp_path / file
        assert scene.date == "2021-05-12T10:20:31Z"
    [scene] = find_scenes([str(path)], tmp_path / "out", "B1")
    with pytest.raises(ResamError, match="item one: has no asset 'B1', but scl, rgb, meta"):
        open_scene(scene.path)


@pytest.mark.parametrize("href", ["/etc/passwd", "../up.tif", "file:///etc/passwd", "/vsicurl/http://a.org/b.tif"])
def test_a_catalogue_names_no_file_outside_its_folder(tmp_path: Path, href: str) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (tmp_path / "up.tif").write_bytes(b"II*\0")
    (folder / "item.json").write_text(json.dumps(item("one", {"visual": {"href": href}})))
    [scene] = find_scenes([str(folder / "item.json")], tmp_path / "out")
    with pytest.raises(ResamError, match=r"outside the catalogue's folder|not read from there"):
        open_scene(scene.path)


def test_stac_geoparquet_is_read_as_the_items_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = pa.scalar(1_620_814_831_000, pa.timestamp("ms", "UTC")).as_py()
    rows = [
        {"id": name, "collection": collection, "datetime": moment, "assets": {"visual": {"href": f"s3://b/{name}.tif"}}}
        for name, collection in (("a", "x"), ("a", "y"), ("b", "y"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    scenes = find_scenes([str(tmp_path / "items.parquet")], tmp_path / "out")
    assert [(scene.name, str(scene.path), scene.date) for scene in scenes] == [
        ("b.tif", "s3://b/b.tif", "2021-05-12T10:20:31Z"),
        ("x/a.tif", "s3://b/a.tif", "2021-05-12T10:20:31Z"),
        ("y/a.tif", "s3://b/a.tif", "2021-05-12T10:20:31Z"),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"type": "Catalog"}', '{"type": "FeatureCollection", "features": [1]}'])
def test_what_is_no_catalogue_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResamError, match=r"x\.json: "):
        find_scenes([str(tmp_path / "x.json")], tmp_path / "out")


def test_an_object_store_is_read_by_its_own_credentials(
    engine: Path, tiff: bytes, points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    store = server.ThreadedMotoServer("127.0.0.1", 0)
    store.start()
    try:
        host, port = store.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_REGION": "eu-west-1",
            "AWS_S3_ENDPOINT": f"{host}:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="scenes")
        client.put_object(Bucket="scenes", Key="north/a.tif", Body=tiff)
        arguments = ("s3://scenes/north/a.tif", "s3://scenes/gone.tif", "--points", points)
        (tmp_path / "points.json").write_text(
            json.dumps(
                {"scenes": {"a.tif": {"instances": [{"points": [[40, 40]]}]}}, "format": "resam-points", "version": 1}
            )
        )
        result = resam_run("--engine", engine, *arguments, "-o", tmp_path / "out")
        assert result.code == 1, result.stderr
        assert len(instances_of(tmp_path / "out")["annotations"]) == 1
        [gone] = [scene for scene in summary_of(tmp_path / "out")["scenes"] if scene["status"] == "failed"]
        assert gone["reason"].startswith("s3://scenes/gone.tif: cannot be read")
        said = everything(tmp_path / "out") + (result.stdout + result.stderr).encode()
        assert b"SECRET" not in said
        assert b"AKIAEXAMPLE" not in said
    finally:
        store.stop()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
