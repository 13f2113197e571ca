"""Sizes of classes on their way from the manifest to the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from resam_runtime import ResamError, Segmenter
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.masks.instance import Category
from resam_runtime.run.process_scene import process_scene
from resam_runtime.tiles.averaged_views import View, Window
from resam_runtime.tiles.placement import into_tile
from resam_runtime.tiles.prompt_batch import SIDE, PromptBatch, with_sides
from resam_runtime.tiles.tiling import Tile

from .engines import write_engine

SIZES = ClassSizes("px2", {"ship": 400.0, "Tank": 100.0})


class Watched:
    """A segmenter's backend that keeps what the loop is asked."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.backend, self.asked = segmenter.backend, list[Mapping[str, Any]]()
        segmenter.backend = self  # type: ignore[assignment]

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        if graph == "loop":
            self.asked.append(inputs)
        return self.backend.run(graph, inputs, outputs, keep)

    def sides(self) -> list[list[float]]:
        """For each call and each of its prompts the side that it says, 0 where it says none."""
        return [
            [float(x[mark == SIDE].sum()) for x, mark in zip(one["point_coords"][..., 0], one["point_labels"])]
            for one in self.asked
        ]


def engine(path: Path, **changes: Any) -> Path:
    write_engine(path, sizes=SIZES, **changes)
    return path


def test_a_manifest_keeps_its_sizes_and_refuses_bad_ones(tmp_path: Path) -> None:
    manifest = EngineFile.open(engine(tmp_path / "a.resam")).manifest
    assert manifest.sizes == SIZES
    data = manifest.to_json()
    for bad in ({"unit": "ft2", "areas": {}}, {"unit": "px2", "areas": {"ship": -1}}, {"unit": "px2", "areas": [3]}):
        with pytest.raises(ResamError, match="sizes"):
            Manifest.from_json({**data, "sizes": bad})


def test_sizes_of_classes_in_pixels_and_metres() -> None:
    categories = [Category(1, "Ship"), None, Category(2, "tank"), Category(3, "plane")]
    assert np.array_equal(SIZES.sides(categories, None), [20, 0, 10, 0])  # type: ignore[arg-type]
    in_metres = replace(SIZES, unit="m2")
    assert np.array_equal(in_metres.sides(categories, 0.5), [40, 0, 20, 0])  # type: ignore[arg-type]
    assert in_metres.sides(categories, None) is None, "nothing says how large a pixel is"
    assert SIZES.sides(categories[1:2], None) is None


def test_the_loop_is_told_sizes_in_pixels_of_its_tile(tmp_path: Path) -> None:
    segmenter = Segmenter(engine(tmp_path / "a.resam", fit_within=64, scale=2.0), "cpu", 1)
    watched = Watched(segmenter)
    image = np.zeros((80, 120, 3), np.uint8)  # larger than 64: windows of 32 px, shown twice as large
    found = segmenter(image, [(10, 10), (12, 12), (110, 70)], sizes=[7, 0, 9])
    assert sorted(map(sorted, watched.sides())) == [[0, 14], [18]]
    assert [len(one.points) for one in found] == [1, 1, 1], "a size is no point"
    segmenter.embed(image).prompt([(10, 10)], sizes=5)
    assert watched.sides()[-1] == [10]
    segmenter(image, [(10, 10)])
    assert watched.asked[-1]["point_labels"].tolist() == [[1]]


def test_a_view_scales_sizes_and_leaves_them_where_they_are() -> None:
    coords, labels = with_sides(np.full((1, 1, 2), 20, np.float32), np.ones((1, 1), np.int32), np.float32([12]))
    window = Window(View(0.5, True, True), Tile(0, 0, 64, 64, 0.5), 64)
    turned, marks = window.prompts(PromptBatch(coords, labels), np.array([0]))
    assert turned[0, 1].tolist() == [6, 0]
    assert marks.tolist() == [[1, SIDE]]
    assert PromptBatch(coords, labels).centroids.tolist() == [[20, 20]]
    beyond = into_tile(PromptBatch(coords, labels), np.array([0]), Tile(16, 16, 8, 8))
    assert beyond[0][0, 1].tolist() == [12, 0]


def test_points_of_a_class_bring_its_size_by_the_scenes_scale(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    grid = rasterio.transform.from_origin(500000, 4000000, 0.5, 0.5)
    with rasterio.open(path, "w", "GTiff", 60, 50, 3, "EPSG:32633", grid, "uint8") as scene:
        scene.write(np.full((3, 50, 60), 90, np.uint8))
    instances = [{"points": [[9, 9]], "category": 7}, {"points": [[30, 30]]}]
    document = {"format": "resam-points", "version": 1, "categories": [{"id": 7, "name": "ship"}],
                "scenes": {"scene.tif": {"instances": instances}}}  # fmt: skip
    (tmp_path / "scene.points.json").write_text(json.dumps(document))
    segmenter = Segmenter(engine(tmp_path / "a.resam"), "cpu", 1)
    segmenter.manifest = replace(segmenter.manifest, sizes=replace(SIZES, unit="m2"))
    watched = Watched(segmenter)
    record = process_scene(segmenter, path, tmp_path / "out")
    assert record.reason is None
    (sides,) = watched.sides()
    assert sides == pytest.approx([40 * 64 / 60, 0], rel=2e-3)  # 20 m of 0.5 m pixels; 60 px fill a tile of 64


def test_sizes_that_will_not_do_are_refused(tmp_path: Path) -> None:
    segmenter = Segmenter(engine(tmp_path / "a.resam"), "cpu", 1)
    image = np.zeros((40, 40, 3), np.uint8)
    for sizes, words in (
        ([1, 2], "one for each of 1"),
        (-3, "instance 0: size -3"),
        (np.nan, "size nan"),
        ("x", "got"),
    ):
        with pytest.raises(ResamError, match=words):
            segmenter(image, [(3, 3)], sizes=sizes)
    write_engine(tmp_path / "b.resam")
    with pytest.raises(ResamError, match="--size"):
        Segmenter(tmp_path / "b.resam", "cpu", 1)(image, [(3, 3)], sizes=4)


def test_a_size_takes_one_of_the_places_that_a_plan_has(tmp_path: Path) -> None:
    segmenter = Segmenter(engine(tmp_path / "a.resam", max_points_per_instance=2), "cpu", 1)
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ResamError, match="the engine takes 1"):
        segmenter(image, [[(3, 3), (5, 5)]])
    assert cv2.countNonZero(segmenter(image, [(9, 9)], sizes=4)[0].mask.astype(np.uint8)) > 0
