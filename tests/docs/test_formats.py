"""The examples of docs/formats.md, docs/python.md and docs/deploy-jetson.md, as users meet them."""

from __future__ import annotations

import configparser
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resam_runtime.common.files import sha256_file
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import Manifest
from resam_runtime.engine.shipped import SHIPPED
from resam_runtime.masks.instance import Category, Instance
from resam_runtime.points import read_points
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers import OutputOptions, Record, RunInfo, SceneResult
from resam_runtime.writers.coco import CocoWriter
from resam_runtime.writers.geojson import feature_collection
from resam_runtime.writers.record import annotation
from resam_runtime.writers.summary import Summary, write_summary
from resam_runtime.writers.yolo import YoloWriter

from .pages import ROOT, example

FORMATS = "docs/formats.md"
POINTS = [[[120.5, 80], [133, 84]], [[300, 212], [310, 240]], [[44, 401]]]
LABELS = [[1, 1], [1, 0], [1]]
HARBOUR = SceneInfo("harbour.png", 40, 30)


def written(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(example(FORMATS, name), "utf-8")
    return path


@pytest.mark.parametrize("name", ["points.json", "points.csv"])
def test_points_examples_hold_the_same_prompts(name: str, tmp_path: Path) -> None:
    prompts = read_points(written(tmp_path, name), SceneInfo("harbour.png", 512, 512))
    assert [prompt.coords.tolist() for prompt in prompts] == POINTS
    assert [prompt.labels.tolist() for prompt in prompts] == LABELS


def test_the_coco_points_example_has_all_three_kinds(tmp_path: Path) -> None:
    prompts = read_points(written(tmp_path, "points-coco.json"), SceneInfo("harbour.png", 512, 512))
    assert [prompt.coords.tolist() for prompt in prompts] == [POINTS[0], POINTS[1][:1], POINTS[2]]
    assert {prompt.category for prompt in prompts} == {Category(3, "ship")}


def test_the_geojson_points_example_is_two_instances_on_the_map(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    path = written(tmp_path, "points.geojson")
    # a north-up scene in longitude and latitude, a pixel of 1e-4 degrees, whose corner is at 9.93, 53.545
    place = Georeference((1e-4, 0.0, 9.93, 0.0, -1e-4, 53.545), "EPSG:4326")
    prompts = read_points(path, SceneInfo("a.tif", 100, 100, place))
    assert [prompt.labels.tolist() for prompt in prompts] == [[1, 0], [1]]
    assert np.allclose(prompts[0].coords, [[11.5, 47.5], [15.5, 47.5]], atol=0.01)  # centres lie at integers


def test_the_manifest_example_is_one_that_the_runtime_accepts(tmp_path: Path) -> None:
    manifest = Manifest.from_json(json.loads(example(FORMATS, "manifest.json")))
    assert list(manifest.to_json()) == list(json.loads(example(FORMATS, "manifest.json")))
    graphs: dict[str, bytes | Path] = dict.fromkeys(manifest.graphs, b"graph")
    write_engine_file(tmp_path / "model.resam", manifest, graphs)
    assert EngineFile.open(tmp_path / "model.resam").manifest.graphs["loop"].outputs == manifest.graphs["loop"].outputs


@pytest.fixture
def instance() -> Instance:
    """What instances.json and the GeoJSON example show: a block of 8 x 4 px at (10, 5) in a scene of 40 x 30 px."""
    points = np.array([[12, 6]], np.float32)
    mask = np.ones((4, 8), bool)
    return Instance(0, 0.93, 0.88, mask, (10, 5), points, np.array([1], np.int32), (30, 40), None)


def test_the_instances_example_is_what_the_writer_writes(instance: Instance, tmp_path: Path) -> None:
    shown = json.loads(example(FORMATS, "instances.json"))
    record = Record("harbour.png", "harbour", scene=HARBOUR, annotations=[annotation(instance)])
    CocoWriter().write(tmp_path / "instances.json", [record], RunInfo(shown["info"]), OutputOptions())
    assert json.loads((tmp_path / "instances.json").read_text()) == shown


def test_the_instances_example_is_a_points_file_too(tmp_path: Path) -> None:
    prompts = read_points(written(tmp_path, "instances.json"), SceneInfo("harbour.png", 40, 30))
    assert [prompt.coords.tolist() for prompt in prompts] == [[[12, 6]]]


def test_the_instances_example_decodes_with_pycocotools() -> None:
    from pycocotools import mask as masks

    annotation = json.loads(example(FORMATS, "instances.json"))["annotations"][0]
    mask = masks.decode(annotation["segmentation"])
    assert mask[5:9, 10:18].all()
    assert mask.sum() == annotation["area"] == 32


def test_the_geojson_example_is_what_the_writer_writes(instance: Instance) -> None:
    shown = json.loads(example(FORMATS, "scene.geojson"))
    scene = SceneResult(HARBOUR, [instance])
    made = json.loads(json.dumps(feature_collection(scene)))
    assert ring_set(made) == ring_set(shown)
    made["features"][0].pop("geometry"), shown["features"][0].pop("geometry")
    assert made == shown


def test_the_yolo_example_is_what_the_writer_writes(instance: Instance, tmp_path: Path) -> None:
    classed = dataclasses.replace(instance, category=Category(3, "ship"))
    YoloWriter().write(tmp_path / "a.txt", SceneResult(HARBOUR, [classed]), OutputOptions())
    (kind, *shown), (made_kind, *made) = example(FORMATS, "scene.txt").split(), (tmp_path / "a.txt").read_text().split()
    assert (kind, set(zip(shown[::2], shown[1::2]))) == (made_kind, set(zip(made[::2], made[1::2])))


def ring_set(document: dict[str, Any]) -> list[set[tuple[float, ...]]]:
    """Rings without their starting point."""
    return [{tuple(point) for point in ring} for ring in document["features"][0]["geometry"]["coordinates"]]


def test_the_summary_example_has_the_writers_members(tmp_path: Path) -> None:
    shown = json.loads(example(FORMATS, "summary.json"))
    seconds, outputs = shown["scenes"][0]["seconds"], ["harbour.geojson", "harbour.png"]
    summary = Summary()
    records = [
        Record("harbour.png", "harbour", scene=HARBOUR, points=1, annotations=[{}], outputs=outputs, seconds=seconds),
        Record("torn.png", "torn", reason="torn.png: not an image"),
    ]
    for record in records:
        summary.add(record)
    about = {key: shown[key] for key in ("resam_version", "engine", "complete", "left_out_by_budget", "notes")}
    write_summary(tmp_path / "summary.json", summary.to_json({**about, "wall_seconds": shown["wall_seconds"]}), records)
    made = json.loads((tmp_path / "summary.json").read_text())
    assert made["totals"] == shown["totals"]
    assert made["scenes"] == shown["scenes"]
    assert set(made) == set(shown)
    assert set(made["seconds"]) == set(shown["seconds"])


def test_a_scene_is_opened_and_prompted_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resam_runtime import Segmenter
    from tests.runtime.engines import write_engine

    drawn = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "scene.tif"), drawn[..., ::-1])
    write_engine(tmp_path / "model.resam")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"segmenter": Segmenter("model.resam", "cpu", 1)}
    exec(example("docs/python.md", "open-scene"), names)
    np.testing.assert_array_equal(names["image"], drawn)
    exec(example("docs/python.md", "prompts"), names)
    assert [item.labels.tolist() for item in names["instances"]] == [[2, 3]]
    exec(example("docs/python.md", "automatic"), {"image": drawn, "Segmenter": Segmenter})
    pytest.importorskip("supervision")
    exec(example("docs/python.md", "supervision"), names)
    assert len(names["detections"]) == len([one for one in names["instances"] if not one.empty])


def test_the_service_runs_a_command_that_exists() -> None:
    from resam_runtime.cli import run

    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(example("docs/deploy-jetson.md", "resam.service"))
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert program.endswith("/resam-run")
    run.make_context("resam-run", arguments)
    assert unit["Service"]["SuccessExitStatus"] == "143"  # what resam-run returns after SIGTERM


def test_pages_link_to_files_that_are_there() -> None:
    import re

    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_model_card_is_that_of_the_shipped_engine() -> None:
    card = (ROOT / "docs" / "tiny-base.md").read_text("utf-8").partition("## The shipped engine")[2]
    path = SHIPPED["tiny"]
    assert f"`{path.relative_to(ROOT)}`, {path.stat().st_size / 1e6:.1f} MB" in card
    assert f"`{sha256_file(path)}`" in card
    manifest = EngineFile.open(path).manifest
    assert manifest.precision == "fp16"
    assert manifest.base["sha256"] == sha256_file(ROOT / "resam" / "weights" / "tiny.safetensors")
    assert manifest.adapter is None
    assert path.stat().st_size < 9e6
