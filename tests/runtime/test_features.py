"""What GIS people open: GeoParquet, FlatGeobuf and GeoPackage, read by geopandas."""

from __future__ import annotations

import dataclasses
import gc
import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resam_runtime.masks.instance import Category, Instance
from resam_runtime.masks.rle import decode_rle, encode_rle
from resam_runtime.scenes.dates import utc
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers import WRITERS, OutputOptions, Record, RunInfo, RunWriter, SceneResult, run_writers
from resam_runtime.writers.geojson import feature_collection
from resam_runtime.writers.record import annotation

from .test_writers import HEIGHT, PLACE, WIDTH, disc, instance

pandas = pytest.importorskip("pandas")
geopandas = pytest.importorskip("geopandas")
FORMATS = ("geoparquet", "flatgeobuf", "geopackage")
MASKS = [disc(30, 30, 12), disc(30, 30, 12) & ~disc(30, 30, 6), disc(60, 20, 5) | disc(50, 60, 9)]
RUN = RunInfo({"engine": "5f2c"}, [{"id": 4, "name": "ship"}])
INSTANCES = [
    dataclasses.replace(instance(i, mask, 0.5 + i / 10), id=f"no-{i}", category=category, found_by=found)
    for i, (mask, category, found) in enumerate(zip(MASKS, (Category(4), None, None), ("box", "points", "prompter")))
]


def record(name: str, place: Georeference | None, date: str | None = None, items: list[Instance] = INSTANCES) -> Record:
    scene = SceneInfo(name, WIDTH, HEIGHT, place, date=date)
    return Record(name, name, scene=scene, annotations=[annotation(one) for one in items])


def write(name: str, folder: Path, records: Iterable[Record]) -> Path:
    writer = WRITERS[name]
    assert isinstance(writer, RunWriter)
    assert writer.write(folder / writer.files, records, RUN, OutputOptions()) == 0
    return folder / writer.files


def written(name: str, folder: Path, records: Iterable[Record]) -> Any:
    path = write(name, folder, records)
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


def geojson_of(record: Record, items: list[Instance] = INSTANCES) -> Any:
    assert record.scene is not None
    return geopandas.GeoDataFrame.from_features(feature_collection(SceneResult(record.scene, items)))


@pytest.mark.parametrize("name", FORMATS)
def test_geopandas_reads_the_geometries_of_the_geojson(name: str, tmp_path: Path) -> None:
    across = Georeference((0.001, 0.0, 179.94, 0.0, -0.001, 10.0), "EPSG:4326")  # the antimeridian
    records = [record("a.tif", PLACE, "2021-05-12T10:20:31.250Z"), record("b.png", None), record("c.tif", across)]
    table = written(name, tmp_path, records)
    assert table.crs.name.startswith("WGS 84")
    for source in (records[0], records[2]):
        part, expected = table[table.scene == source.name].sort_values("index"), geojson_of(source).set_crs(table.crs)
        assert part.geometry.reset_index(drop=True).geom_equals(expected.geometry).all()
        assert list(part.geom_type) == ["MultiPolygon"] * 3
        assert list(part.score) == list(expected.score)
        assert list(part.found_by) == ["box", "points", "prompter"]
        assert list(part.area_px) == [int(mask.sum()) for mask in MASKS]
        assert list(part.instance) == ["no-0", "no-1", "no-2"]
        assert list(part.category_name.fillna("")) == ["ship", "", ""]
        assert list(part.category.fillna(-1)) == [4, -1, -1]
        taken = pandas.Timestamp("2021-05-12 10:20:31.250") if source is records[0] else pandas.NaT
        assert list(part.date.dt.tz_convert(None)) == [taken] * 3
    assert set(table.engine) == {"5f2c"}
    without = table[table.scene == "b.png"]  # no place on the map, no geometry: none in FlatGeobuf
    assert len(without) == (0 if name == "flatgeobuf" else 3)
    assert without.geometry.isna().all()


def test_area_and_perimeter_are_those_on_the_ground(tmp_path: Path) -> None:
    """Beside a UTM zone's middle a metre of the map is 1 / 0.9996 m on the ground."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 30:90] = True
    mask[30:40, 40:50] = False
    for place, crosses in ((PLACE, False), (Georeference((1e-4, 0.0, 179.9953, 0.0, -1e-4, 0.005), "EPSG:4326"), True)):
        [row] = written("geoparquet", tmp_path, [record("a.tif", place, items=[instance(0, mask)])]).itertuples()
        # PLACE: 2 m a pixel. Degrees at the equator: 111319.49 m along it, 110574.3 m across (WGS 84).
        wide, high = (11.131949, 11.05743) if crosses else (2 / 0.9996, 2 / 0.9996)
        assert row.area_m2 == pytest.approx(mask.sum() * wide * high, rel=1e-4)
        assert row.perimeter_m == pytest.approx((2 * 60 + 2 * 10) * wide + (2 * 40 + 2 * 10) * high, rel=1e-4)
        assert len(row.geometry.geoms) == 1 + crosses


def test_geoparquet_says_what_version_1_1_asks_of_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = written("geoparquet", tmp_path, [record("a.tif", PLACE), record("b.png", None)])
    file = pq.ParquetFile(tmp_path / "instances.parquet")
    about = json.loads(file.metadata.metadata[b"geo"])
    column = about["columns"][about["primary_column"]]
    assert (about["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", ["MultiPolygon"])
    assert column["bbox"] == pytest.approx(list(table.total_bounds))
    assert all(polygon.exterior.is_ccw for shape in table.geometry[:3] for polygon in shape.geoms)
    near = table.total_bounds[0], table.total_bounds[1], *table.geometry[0].centroid.coords[0]
    some = geopandas.read_parquet(tmp_path / "instances.parquet", bbox=near)
    assert 0 < len(some) < 6
    again = tmp_path / "again"
    again.mkdir()
    written("geoparquet", again, [record("a.tif", PLACE), record("b.png", None)])
    assert (again / "instances.parquet").read_bytes() == (tmp_path / "instances.parquet").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_without_instances_gives_a_file_without_rows(name: str, tmp_path: Path) -> None:
    table = written(name, tmp_path, [record("a.tif", PLACE, items=[])])
    assert len(table) == 0
    assert "score" in table.columns


def test_memory_does_not_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resam_runtime.writers.features._ROWS", 32)
    one = record("a.tif", PLACE, items=INSTANCES[:1] * 16)
    peaks = []
    for count in (2, 4, 10, 10):  # the first pays for what is imported; one of the last for what others left to do
        gc.collect()
        tracemalloc.start()
        write("geoparquet", tmp_path, (one for _ in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks[2:]) < 1.5 * peaks[1]


def test_a_crop_of_rle_is_that_of_pycocotools() -> None:
    generator = np.random.default_rng(0)
    full = np.ones((7, 5), bool)
    for mask in (*MASKS, full, full & (np.arange(5) % 2 == 0), generator.random((31, 40)) > 0.5):
        rle = encode_rle(mask, (0, 0), mask.shape)  # type: ignore[arg-type]
        crop, (x, y) = decode_rle(rle)
        whole = np.zeros_like(mask)
        whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert (whole == coco_mask.decode(rle).astype(bool)).all()
        assert crop.any(1)[[0, -1]].all()
        assert crop.any(0)[[0, -1]].all()
    assert decode_rle(encode_rle(np.zeros((3, 4), bool), (0, 0), (3, 4)))[0].size == 0


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2021:05:12 10:20:31", "2021-05-12T10:20:31Z"),
        ("2021-05-12T10:20:31.25Z", "2021-05-12T10:20:31.250Z"),
        ("2021-05-12T10:20:31.123456789+02:00", "2021-05-12T08:20:31.123Z"),
        ("2021:05:12", None),
        ("0000:00:00 00:00:00", None),
        (None, None),
    ],
)
def test_dates_are_utc(text: str | None, date: str | None) -> None:
    assert utc(text) == date


def test_every_format_of_gis_is_a_run_writer() -> None:
    assert [writer.name for writer in run_writers(FORMATS)] == list(FORMATS)
