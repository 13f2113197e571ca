"""Points find the scene and the instance that they were drawn for, or the user hears of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from resam.cli import train
from resam.data.coco import CocoData, scenes_of_points
from resam.data.prompts import PointOptions, scene_prompts
from resam.data.training_set import TrainingSet
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY


def _set(folder: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    """A data set of images of 60 x 40 px; annotations without an image belong to the first."""
    images = []
    for number, name in enumerate(names, 1):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (40, 60, 3)).astype(np.uint8))
        images.append({"id": number, "file_name": name, "width": 60, "height": 40})
    whole = [{"image_id": 1, "category_id": 1, "iscrowd": 0, **annotation} for annotation in annotations]
    document = {"images": images, "annotations": whole, "categories": [{"id": 1, "name": "ship"}]}
    (folder / "train.json").write_text(json.dumps(document))
    return folder / "train.json"


def _square(x: int, y: int, side: int = 8) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.mark.parametrize("header", ["x,y\n7,8\n", "scene,x,y\na.png,7,8\n,9,9\n"])
def test_points_that_name_no_scene_are_refused_where_there_are_several(
    header: str, base_file: Path, tmp_path: Path
) -> None:
    path = _set(tmp_path, [{"id": 1, "segmentation": _square(5, 5)}])
    (tmp_path / "p.csv").write_text(header)
    arguments = ["--points-file", str(tmp_path / "p.csv"), "--base", str(base_file), "-o", str(tmp_path / "run")]
    said = f"{tmp_path / 'p.csv'}: points do not say which of 2 scenes they belong to; add the scene's file name"
    for data in (["--annotations", str(path)], ["--images", str(tmp_path / "images")]):
        result = CliRunner().invoke(train, [*data, *arguments])
        assert result.exit_code == 2, result.output
        assert f"error: {said}" in result.output
        assert not (tmp_path / "run").exists()


def test_points_that_name_no_scene_will_do_for_a_single_one(tmp_path: Path) -> None:
    path = _set(tmp_path, [], ("a.png",))
    (tmp_path / "p.csv").write_text("x,y\n7,8\n")
    for data in (CocoData.open(path), scenes_of_points(tmp_path / "p.csv", tmp_path / "images")):
        [own] = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
        assert [prompt.coords.tolist() for prompt in own] == [[[7, 8]]]


def test_a_file_name_that_several_scenes_have_is_refused(tmp_path: Path) -> None:
    data = CocoData.open(_set(tmp_path, [], ("north/a.png", "south/a.png")))
    (tmp_path / "p.csv").write_text("scene,x,y\na.png,7,8\n")
    with pytest.raises(ResamError, match=r"'a\.png' fits several scenes; write the path, 'north/a\.png'"):
        scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    (tmp_path / "p.csv").write_text("scene,x,y\nsouth/a.png,7,8\n")
    north, south = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    assert (len(north), len(south)) == (0, 1)


def test_instances_that_cannot_be_used_are_told(base_file: Path, tmp_path: Path) -> None:
    path = _set(tmp_path, [])
    instances = [{"id": 1, "points": [[7, 8]]}, {"id": 2, "points": [[7, 8]], "labels": [0]}, {"id": 3, "points": []}]
    scenes = {"a.png": {"instances": instances}, "b.png": {"instances": []}, "other.png": {"instances": instances[:2]}}
    (tmp_path / "p.json").write_text(json.dumps({"format": "resam-points", "version": 1, "scenes": scenes}))
    arguments = ["--annotations", path, "--points-file", tmp_path / "p.json", "--base", base_file]
    arguments += ["-o", tmp_path / "run", "--rank", "2", "--epochs", "1", "--pseudo", "coarse"]
    result = CliRunner().invoke(train, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("skipped: ")]
    assert lines == [
        "skipped: a.png: instance 2: has no positive point",
        "skipped: a.png: instance 3: has no points",
        f"skipped: 2 instances of {tmp_path / 'p.json'} that are in none of the 2 scenes",
    ]


def test_masks_without_a_pixel_in_their_image_are_told(tmp_path: Path) -> None:
    path = _set(tmp_path, [{"id": 1, "segmentation": _square(5, 5)}, {"id": 2, "segmentation": _square(300, 300)}])
    notes: list[str] = []
    prompts = scene_prompts(CocoData.open(path), PointOptions(), note=notes.append)
    assert [prompt.id for own in prompts for prompt in own] == [1]
    assert notes == [f"skipped: 1 instance of {path} whose masks have no pixel in their image"]


def test_a_run_that_learned_nothing_says_so(base_file: Path, tmp_path: Path) -> None:
    path = _set(tmp_path, [])
    (tmp_path / "p.csv").write_text("scene,x,y\na.png,7,8\na.png,7,8\n")  # each keeps what the other's mask has not
    arguments = ["--annotations", path, "--points-file", tmp_path / "p.csv", "--base", base_file]
    arguments += ["-o", tmp_path / "run", "--rank", "2", "--epochs", "1", "--pseudo", "final"]
    result = CliRunner().invoke(train, [*map(str, arguments), "--no-choose-scale"])
    assert result.exit_code == 0, result.output
    assert "nothing was learned: no instance ever got a pseudo-label" in " ".join(result.output.split())


def test_many_skipped_instances_are_a_few_lines(tmp_path: Path) -> None:
    data = CocoData.open(_set(tmp_path, []))
    rows = "".join(f"a.png,{number},3,3,0\n" for number in range(2, 40))
    (tmp_path / "p.csv").write_text(f"scene,instance,x,y,label\na.png,1,3,3,1\n{rows}")
    notes: list[str] = []
    scene_prompts(data, PointOptions(file=tmp_path / "p.csv"), note=notes.append)
    assert len(notes) == 6
    assert notes[-1] == f"skipped: 33 more instances of {tmp_path / 'p.csv'}"


def _map_scene(folder: Path, points: list[tuple[dict[str, str], list[float]]]) -> Path:
    """A GeoTIFF of 40 x 30 px of half a metre, its corner at 0, 0; and a GeoJSON file of points on it."""
    rasterio = pytest.importorskip("rasterio")
    (folder / "images").mkdir()
    profile = {"driver": "GTiff", "width": 40, "height": 30, "count": 3, "dtype": "uint8", "crs": "EPSG:3395"}
    transform = rasterio.transform.from_origin(0, 0, 0.5, 0.5)
    with rasterio.open(folder / "images" / "a.tif", "w", transform=transform, **profile) as out:
        out.write(np.full((3, 30, 40), 90, np.uint8))
    features = [
        {"type": "Feature", "properties": about, "geometry": {"type": "Point", "coordinates": place}}
        for about, place in points
    ]
    (folder / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return folder / "p.geojson"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ([({"instance": "pole", "scene": "a.tif"}, [0, 100])],
         "pole: a point has no position in the scene's coordinate reference system"),
        # of an instance that lies in two scenes, resam-run says the same
        ([({"instance": "astride"}, [1.7e-4, -4e-5]), ({"instance": "astride"}, [2e-4, -4e-5])],
         "astride: point 44.0278, 8.34594 lies outside the image of 40 x 30 px"),
    ],
)  # fmt: skip
def test_map_points_without_a_place_in_the_scene_are_told_and_not_refused(
    other: list[tuple[dict[str, str], list[float]]], reason: str, tmp_path: Path
) -> None:
    about = {name: value for name, value in other[0][0].items() if name != "instance"}
    points = _map_scene(tmp_path, [({"instance": "here", **about}, [4.5e-5, -4.5e-5]), *other])
    notes: list[str] = []
    data = scenes_of_points(points, tmp_path / "images")
    [own] = scene_prompts(data, PointOptions(file=points), note=notes.append)
    assert [prompt.id for prompt in own] == ["here"]
    assert notes == [f"skipped: a.tif: instance {reason}"]


# What `resam-run` writes: `instance` is what the points file called it, `id` a number of its own.
FOUND = [
    {"id": 1, "instance": 2, "points": [[9, 9]], "labels": [1], "segmentation": _square(5, 5)},
    {"id": 2, "instance": "roof", "points": [[33, 9]], "labels": [1], "segmentation": _square(30, 5)},
    {"id": 3, "instance": 2, "image_id": 2, "points": [[9, 29]], "labels": [1], "segmentation": _square(5, 25)},
    {"id": 4, "instance": 9, "points": [[50, 30]], "labels": [1], "segmentation": _square(45, 25), "iscrowd": 1},
]


def test_the_points_of_what_resam_run_found_are_those_of_its_instances(tmp_path: Path) -> None:
    data = CocoData.open(_set(tmp_path, FOUND))
    prompts = scene_prompts(data, PointOptions(keypoints=True))
    assert [[(prompt.id, prompt.coords.tolist()) for prompt in own] for own in prompts] == [
        [(2, [[9, 9]]), ("roof", [[33, 9]])],
        [(2, [[9, 29]])],
    ]


@pytest.mark.parametrize("source", ["keypoints", "points file"])
def test_the_points_of_what_resam_run_found_are_taught_their_own_masks(source: str, tmp_path: Path) -> None:
    data = CocoData.open(_set(tmp_path, FOUND))
    (tmp_path / "p.csv").write_text("scene,instance,x,y\na.png,2,9,9\na.png,roof,33,9\nb.png,2,9,29\n")
    options = PointOptions(keypoints=True) if source == "keypoints" else PointOptions(file=tmp_path / "p.csv")
    samples = TrainingSet(data, options, TOY, Framing(64), supervised=True)
    seen = 0
    for number in range(len(samples)):
        view = samples.load(number, 0)
        assert view.given is not None
        cell = 64 // view.given.shape[-1]
        for mask, coords in zip(view.given, view.weak.coords):
            x, y = (coords[0] / cell).astype(int)
            assert mask[y, x] == 1
            seen += 1
    assert seen == 3


def test_annotations_without_an_id_are_found_by_their_place(tmp_path: Path) -> None:
    data = CocoData.open(_set(tmp_path, [{"keypoints": [7, 8, 2]}, {"keypoints": [33, 9, 1]}]))
    first, _ = scene_prompts(data, PointOptions(keypoints=True))
    assert [prompt.coords.tolist() for prompt in first] == [[[7, 8]], [[33, 9]]]


def test_two_instances_of_a_scene_that_are_called_alike_are_refused(tmp_path: Path) -> None:
    twice = [{"id": number, "instance": 2, "segmentation": _square(5, 5)} for number in (1, 2)]
    with pytest.raises(ResamError, match=r"train\.json: annotation 2: its image has another one that is called 2"):
        CocoData.open(_set(tmp_path, twice))


def test_a_bare_file_name_finds_its_image_in_a_folder_while_there_is_one(tmp_path: Path) -> None:
    _set(tmp_path, [], ("north/a.png", "b.png"))
    (tmp_path / "p.csv").write_text("scene,x,y\na.png,7,8\nb.png,9,9\n")
    data = scenes_of_points(tmp_path / "p.csv", tmp_path / "images")
    assert [scene.name for scene in data.scenes] == ["north/a.png", "b.png"]
    prompts = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    assert [one.coords.tolist() for own in prompts for one in own] == [[[7, 8]], [[9, 9]]]
    _set(tmp_path, [], ("south/a.png",))
    with pytest.raises(ResamError, match=r"p\.csv: 'a\.png' fits several scenes; write the path, 'north/a\.png'"):
        scenes_of_points(tmp_path / "p.csv", tmp_path / "images")


def test_scenes_are_called_by_the_longest_end_of_their_path_as_in_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "north" / "images"
    path = _set(folder.parent, [], ("a.png", "old/a.png", "b.png"))
    rows = "north/images/a.png,1,1\na.png,2,2\nimages/old/a.png,3,3\nimages/b.png,4,4\n"
    (tmp_path / "p.csv").write_text(f"scene,x,y\n{rows}")
    expected = {"a.png": [[1, 1]], "old/a.png": [[3, 3]], "b.png": [[4, 4]]}
    data = CocoData.open(path)
    prompts = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    assert {scene.name: one.coords.tolist() for scene, [one] in zip(data.scenes, prompts)} == expected
    with pytest.raises(ResamError, match=r"images: has no image 'a\.png', but p\.csv has points for it"):
        scenes_of_points(tmp_path / "p.csv", folder)
    (tmp_path / "p.csv").write_text("scene,x,y\n" + rows.replace("a.png,2,2\n", ""))
    data = scenes_of_points(tmp_path / "p.csv", folder)
    prompts = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    assert {scene.name: one.coords.tolist() for scene, [one] in zip(data.scenes, prompts)} == expected


def test_the_scene_of_that_very_name_is_meant_among_several_that_end_in_it(tmp_path: Path) -> None:
    _set(tmp_path, [], ("a.png", "old/a.png"))
    (tmp_path / "p.csv").write_text("scene,x,y\na.png,7,8\n")
    data = scenes_of_points(tmp_path / "p.csv", tmp_path / "images")
    assert [scene.name for scene in data.scenes] == ["a.png"]
    assert len(scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))[0]) == 1


def test_a_data_set_whose_images_lie_beside_its_folder_takes_its_own_points(tmp_path: Path) -> None:
    path = _set(tmp_path, [{"keypoints": [7, 8, 2]}], ("../other/a.png",))
    [own] = scene_prompts(CocoData.open(path), PointOptions(keypoints=True))
    assert [prompt.coords.tolist() for prompt in own] == [[[7, 8]]]
