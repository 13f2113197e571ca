"""Points files of unknown origin: what they may name, and what a large or twisted one costs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.points import PointsFile
from resam_runtime.scenes import Georeference, SceneInfo

WGS84 = SceneInfo("a.tif", 100, 100, Georeference((0.01, 0, 10, 0, -0.01, 50), "EPSG:4326"), True)
UTM = SceneInfo("a.tif", 100, 100, Georeference((10, 0, 500000, 0, -10, 5000000), "EPSG:32633"), True)


def geojson(path: Path, crs: str, x: float, y: float) -> PointsFile:
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [x, y]}}
    named = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature], "crs": named}))
    return PointsFile.open(path)


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:32633",
        "urn:ogc:def:crs:EPSG::32633",
        "http://www.opengis.net/def/crs/EPSG/0/32633",
        "wkt",
        "projjson",
    ],
)
def test_names_and_definitions_of_a_crs_are_taken(crs: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    known = rasterio.crs.CRS.from_epsg(32633)
    crs = {"wkt": known.to_wkt(), "projjson": json.dumps(known.to_dict(projjson=True))}.get(crs, crs)
    file = geojson(tmp_path / "p.geojson", crs, 500105, 4999895)
    [prompt] = file.prompts(UTM)
    assert prompt.coords[0].tolist() == pytest.approx([10, 10], abs=0.01)


@pytest.mark.parametrize(
    "crs",
    ["http://127.0.0.1:{port}/crs", "/vsicurl/http://127.0.0.1:{port}/crs", "{folder}/crs.wkt", "{folder}/crs.prj",
     "+proj=utm +zone=33 +nadgrids={folder}/crs.wkt", "ESRI::{folder}/crs.prj",
     'PROJCS["x",EXTENSION["PROJ4","+proj=utm +zone=33 +nadgrids={folder}/crs.wkt"]]'],
)  # fmt: skip
def test_a_crs_is_neither_an_address_nor_a_file(crs: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    for name in ("crs.wkt", "crs.prj"):
        (tmp_path / name).write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        crs = crs.format(port=listener.getsockname()[1], folder=tmp_path)
        with pytest.raises(ResamError, match="unknown coordinate reference system"):
            geojson(tmp_path / "p.geojson", crs, 500105, 4999895).prompts(UTM)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            listener.accept()


@pytest.mark.parametrize("suffix", ["shp", "gpkg", "kml"])
def test_other_programs_points_are_to_be_exported(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wells.{suffix}"
    path.write_bytes(b"\0\1\2\xff")
    with pytest.raises(ResamError, match=r"GeoJSON \(ogr2ogr points\.geojson wells\."):
        PointsFile.open(path)


@pytest.mark.parametrize("kind", ["own", "none", "text"])
def test_a_large_csv_takes_little_memory(kind: str, tmp_path: Path) -> None:
    """A hundred bytes for a row of fifteen; Python's objects would be a kilobyte."""
    path, rows = tmp_path / "a.csv", 80_000
    with path.open("w") as out:
        out.write("x,y\n" if kind == "none" else "scene,instance,x,y\n")
        for row in range(rows):
            name = {"own": f"a.png,{row},", "none": "", "text": f"b.png,t{row},"}[kind]
            out.write(f"{name}{row % 1000},{row % 777}\n")
    script = (
        "import resource, sys\n"
        "from resam_runtime.points import PointsFile\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = most()\n"
        "file = PointsFile.open(sys.argv[1])\n"
        "print(len(file), (most() - before) * 1024)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    count, taken = map(int, shown.stdout.split())
    assert count == rows
    assert taken < 250 * rows


def test_a_csv_is_put_together_in_the_order_of_first_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names, scenes = ["7", "ship", "7.0", "-3", ""], ["b.png", "a.png"]
    rows = [
        (rng.choice(scenes), rng.choice(names), *rng.integers(0, 99, 2).tolist(), int(rng.random() < 0.7))
        for _ in range(300)
    ]
    path = tmp_path / "p.csv"
    path.write_text("scene,instance,x,y,label\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    wanted: dict[str, dict[object, list[tuple[list[int], int]]]] = {}
    for line, (scene, name, x, y, label) in enumerate(rows, 2):
        called = {"7": 7, "7.0": 7, "-3": -3, "": f"line {line}"}.get(name, name)
        wanted.setdefault(scene, {}).setdefault(called, []).append(([x, y], label))
    file = PointsFile.open(path)
    assert file.scenes == list(wanted)
    assert len(file) == sum(map(len, wanted.values()))
    for scene in ("a.png", "b.png"):
        found = {
            prompt.id: [(point.tolist(), int(label)) for point, label in zip(prompt.coords, prompt.labels)]
            for prompt in file.prompts(SceneInfo(scene, 99, 99), scene)
        }
        assert found == wanted[scene]
        assert list(found) == list(wanted[scene])
