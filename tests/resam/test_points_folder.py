"""A folder of images and a points file are data enough: the path of somebody who has drawn points and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam.data.coco import scenes_of_points
from resam.data.prompts import PointOptions, scene_prompts
from resam.training.progress import Silent
from resam.training.sources import Sources
from resam_runtime.common.errors import ResamError


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, (height, width) in {"a.png": (60, 80), "b.png": (50, 40), "c.png": (30, 30)}.items():
        cv2.imwrite(str(tmp_path / "images" / name), np.full((height, width, 3), 90, np.uint8))
    scenes = {
        "a.png": {"instances": [{"points": [[10, 20]]}, {"points": [[30, 40], [31, 41]]}]},
        "b.png": {"instances": [{"points": [[5, 5]]}]},
        "c.png": {"instances": []},
    }
    (tmp_path / "points.json").write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": scenes}))
    return tmp_path


def sources(folder: Path) -> Sources:
    return Sources.choose(None, None, folder / "images", None, folder / "points.json", False, scenes=None)


def test_points_and_images_are_a_training_set(drawn: Path) -> None:
    chosen = sources(drawn)
    chosen.prepare(drawn / "run", Silent())
    assert not (drawn / "run" / "synthetic").exists()
    data = chosen.open(drawn / "run")
    assert [(scene.name, scene.width, scene.height) for scene in data.train.scenes] == [
        ("a.png", 80, 60), ("b.png", 40, 50)
    ]  # fmt: skip
    assert data.points_file == drawn / "points.json"
    prompts = scene_prompts(data.train, PointOptions(file=data.points_file))
    assert [[prompt.coords.tolist() for prompt in own] for own in prompts] == [
        [[[10, 20]], [[30, 40], [31, 41]]], [[[5, 5]]]
    ]  # fmt: skip
    assert data.tested is None
    assert chosen.name == "images"


def test_points_without_their_images_are_refused_in_one_line(drawn: Path) -> None:
    with pytest.raises(ResamError, match=r"points\.json: give the folder of its scenes with --images"):
        Sources.choose(None, None, None, None, drawn / "points.json", False, scenes=None)
    (drawn / "images" / "b.png").unlink()
    with pytest.raises(ResamError, match=r"images: has no image 'b\.png', but points\.json has points for it"):
        sources(drawn).open(drawn / "run")


def test_points_on_a_map_find_the_images_that_they_lie_in(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "images").mkdir()
    for name, left in (("west.tif", 500000), ("east.tif", 500020), ("far.tif", 600000)):
        place = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, left, 0, -0.5, 5000000)}
        with rasterio.open(
            tmp_path / "images" / name, "w", driver="GTiff", width=40, height=30, count=3, dtype="uint8", **place
        ) as out:
            out.write(np.full((3, 30, 40), 90, np.uint8))
    feature = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [500025.25, 4999994.75]},
        "properties": {},
    }
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    points = tmp_path / "points.geojson"
    points.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    chosen = Sources.choose(None, None, tmp_path / "images", None, points, False, scenes=None)
    data = chosen.open(tmp_path / "run")
    assert [scene.name for scene in data.train.scenes] == ["east.tif"]
    (prompts,) = scene_prompts(data.train, PointOptions(file=points))
    assert [prompt.coords.tolist() for prompt in prompts] == [[[10, 10]]]


def test_a_points_file_without_points_is_refused(drawn: Path) -> None:
    empty = {"format": "resam-points", "version": 1, "scenes": {"a.png": {"instances": []}}}
    (drawn / "points.json").write_text(json.dumps(empty))
    with pytest.raises(ResamError, match="points for no scene"):
        scenes_of_points(drawn / "points.json", drawn / "images")
