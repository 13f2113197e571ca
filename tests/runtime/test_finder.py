"""Without points an engine that was taught what to find finds it: each object once, with its class, in every output."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam_runtime import AutomaticOptions, EngineFile, ResamError, Segmenter
from resam_runtime.engine.prompter_spec import FoundClass, PrompterSpec
from resam_runtime.masks.instance import Category, Instance
from resam_runtime.segment.finder import merge_found, scene_uncertainty, uncertainty
from resam_runtime.tiles.tiling import Framing, Tile, assign_points, owned_windows, plan_tiles

from .engines import engine_manifest, write_engine
from .run_helpers import resam_run
from .test_automatic import LARGE, SMALL, best_match, scene


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "finds.resam"
    write_engine(path, 64, 8, radius=24.0, by_value=True, finds=True)
    return path


@pytest.fixture(scope="module")
def segmenter(engine: Path) -> Segmenter:
    return Segmenter(engine, device="cpu", threads=1)


@pytest.mark.parametrize(("width", "height", "shapes"), [(64, 64, SMALL), (180, 150, LARGE)])
def test_every_object_is_found_once_with_its_class(
    segmenter: Segmenter, width: int, height: int, shapes: list[tuple[int, int, int]]
) -> None:
    image, truths = scene(width, height, shapes)
    found = segmenter(image)
    assert len(found) == len(shapes)
    assert min(best_match(truth, found) for truth in truths) > 0.55  # a box of 18 px holds more than a disc of 16
    for number, (x, y, _) in enumerate(shapes):  # every second disc is white
        here = [one for one in found if np.hypot(*(one.points[0] - (x, y))) < 6]
        assert [one.category for one in here] == [Category(7, "white") if number % 2 else Category(3, "gray")]
    assert {one.found_by for one in found} == {"prompter"}
    assert [one.index for one in found] == list(range(len(found)))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_a_higher_score_finds_less(engine: Path) -> None:
    image, _ = scene(64, 64, SMALL)
    few = Segmenter(engine, "cpu", 1, min_score=0.9999)(image)
    assert len(few) < len(SMALL)
    assert all(one.score >= 0.9999 for one in few)
    with pytest.raises(ResamError, match="min_score: expected 0 to 1, got 2"):
        Segmenter(engine, "cpu", 1, min_score=2)


def test_the_grid_can_be_asked_for_all_the_same(engine: Path) -> None:
    image, _ = scene(64, 64, SMALL)
    strict = AutomaticOptions(points_per_side=16, min_stability=0.85)
    found = Segmenter(engine, "cpu", 1, automatic=strict)(image)
    assert {(one.found_by, one.category) for one in found} == {("grid", None)}


@pytest.mark.parametrize(("width", "height", "overlap"), [(300, 200, 0.25), (64, 64, 0.25), (500, 70, 0.6)])
def test_what_a_tile_owns_is_what_lies_most_centrally_in_it(width: int, height: int, overlap: float) -> None:
    tiles = plan_tiles(width, height, 64, Framing(64), overlap)
    points = np.random.default_rng(0).uniform(-0.5, (width - 0.5, height - 0.5), (2000, 2))
    owner = assign_points(tiles, points)
    for number, (x0, y0, x1, y1) in enumerate(owned_windows(tiles)):
        x, y = points.T
        assert ((owner == number) == ((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))).all()


def instance(score: float, x: int, width: int, point: tuple[float, float], name: str = "a") -> Instance:
    mask = np.ones((10, width), bool)
    points, labels = np.array([point], np.float32), np.ones(1, np.int32)
    return Instance(0, score, score, mask, (x, 20), points, labels, (64, 100), category=Category(1, name))


def test_a_part_at_a_cut_edge_gives_way_to_the_whole_and_a_small_one_inside_stays() -> None:
    tiles = [Tile(0, 0, 64, 64), Tile(36, 0, 64, 64)]
    part, whole = instance(0.9, 44, 20, (45.0, 25.0)), instance(0.6, 44, 30, (58.0, 25.0))
    assert [one.box.tolist() for one in merge_found([part, whole], tiles)] == [whole.box.tolist()]
    small = dataclasses.replace(instance(0.3, 50, 8, (60.0, 25.0), "b"), index=1)
    assert [one.score for one in merge_found([whole, small], tiles)] == [0.6, 0.3]
    again = dataclasses.replace(instance(0.3, 45, 29, (60.0, 25.0), "b"), index=1)
    assert [one.score for one in merge_found([again, whole], tiles)] == [0.6]


def test_a_run_without_points_writes_what_was_found(engine: Path, tmp_path: Path) -> None:
    image, _ = scene(180, 150, LARGE)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), image)
    run = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out")
    assert run.code == 0
    coco = json.loads((tmp_path / "out/instances.json").read_text())
    assert coco["categories"] == [{"id": 3, "name": "gray"}, {"id": 7, "name": "white"}]
    assert len(coco["annotations"]) == len(LARGE)
    assert {(one["found_by"], one["category_id"]) for one in coco["annotations"]} == {("prompter", 3), ("prompter", 7)}
    features = json.loads((tmp_path / "out/a.geojson").read_text())["features"]
    assert {(one["properties"]["found_by"], one["properties"]["category_name"]) for one in features} == {
        ("prompter", "gray"),
        ("prompter", "white"),
    }
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["totals"]["found_by"] == summary["scenes"][0]["found_by"] == {"prompter": len(LARGE)}
    again = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "few", "--min-score", "0.9999")
    assert again.code == 0
    assert len(json.loads((tmp_path / "few/instances.json").read_text())["annotations"]) < len(LARGE)


def test_points_beside_a_scene_come_before_the_prompter(engine: Path, tmp_path: Path) -> None:
    image, _ = scene(64, 64, SMALL)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    x, y, _ = SMALL[0]
    (tmp_path / "a.points.json").write_text(json.dumps({"instances": [{"points": [[x, y]]}]}))
    assert resam_run("--engine", engine, tmp_path, "-o", tmp_path / "out").code == 0
    scenes = json.loads((tmp_path / "out/summary.json").read_text())["scenes"]
    assert [one["found_by"] for one in scenes] == [{"points": 1}, {"prompter": 3}]


def test_one_points_file_for_all_says_what_is_to_be_segmented(engine: Path, tmp_path: Path) -> None:
    image, _ = scene(64, 64, SMALL)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    points = {"scenes": {"a.png": {"instances": [{"points": [[14, 14]]}]}}}
    (tmp_path / "p.json").write_text(json.dumps(points))
    assert resam_run("--engine", engine, tmp_path, "-p", tmp_path / "p.json", "-o", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["totals"]["found_by"] == {"points": 1}


def test_a_least_score_is_refused_where_nothing_is_found(tmp_path: Path) -> None:
    write_engine(tmp_path / "plain.resam")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    run = resam_run(
        "--engine", tmp_path / "plain.resam", tmp_path / "a.png", "--min-score", "0.5", "-o", tmp_path / "o"
    )
    assert run.code == 2
    assert "has no prompter" in run.stderr


def test_a_manifest_says_what_its_prompter_finds(engine: Path) -> None:
    manifest = EngineFile.open(engine).manifest
    assert manifest.prompter is not None
    assert [(one.id, one.name, one.threshold) for one in manifest.prompter.classes] == [
        (3, "gray", 0.5),
        (7, "white", 0.5),
    ]


@pytest.mark.parametrize("change", ["classes", "graph", "spec"])
def test_a_manifest_whose_prompter_does_not_fit_is_refused(change: str) -> None:
    manifest = engine_manifest(finds=True)
    assert manifest.prompter is not None
    data = json.loads(json.dumps(manifest.to_json()))
    for graph in data["graphs"].values():
        graph["sha256"] = "0" * 64
    type(manifest).from_json(data)
    if change == "classes":
        del data["prompter"]["classes"][0]
    elif change == "graph":
        del data["graphs"]["prompter"]
    else:
        del data["prompter"]
    with pytest.raises(ResamError, match="prompter"):
        type(manifest).from_json(data)


def test_what_is_near_its_threshold_is_uncertain() -> None:
    spec = PrompterSpec((FoundClass(1, "a", 0.4),))
    scores = [0.0, 0.2, 0.4, 0.7, 1.0]
    found = [uncertainty(instance(score, 0, 5, (1, 1)), spec) for score in scores]
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.5, 0])
    few, many = ([instance(0.4, 0, 5, (1, 1))] * count for count in (1, 9))
    assert scene_uncertainty([], spec) == 0
    assert 0 < scene_uncertainty(few, spec) < scene_uncertainty(many, spec) == 1
