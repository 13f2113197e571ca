"""Points files of all four kinds, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category
from resam_runtime.points import PointsFile, Prompt, check_prompts, find_points, read_points, shared_names
from resam_runtime.scenes.georeference import Affine, Georeference
from resam_runtime.scenes.scene_info import SceneInfo

UTM = "EPSG:32633"
TRANSFORM = (2.0, 0.0, 500000.0, 0.0, -2.0, 5000000.0)  # 2 m pixels, north up


def info(name: str, width: int = 100, height: int = 80, transform: Affine | None = None, crs: str = UTM) -> SceneInfo:
    return SceneInfo(name, width, height, None if transform is None else Georeference(transform, crs))


def save(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def plain(prompts: list[Prompt]) -> list[tuple[Any, list[list[float]], list[int]]]:
    return [(prompt.id, prompt.coords.tolist(), prompt.labels.tolist()) for prompt in prompts]


EXPECTED = [("ship", [[10.5, 20.0], [12.0, 21.0]], [1, 0]), (7, [[3.0, 4.0]], [1])]

OWN = {
    "format": "resam-points",
    "version": 1,
    "scenes": {
        "a.png": {
            "width": 100,
            "height": 80,
            "instances": [
                {"id": "ship", "points": [[10.5, 20], [12, 21]], "labels": [1, 0]},
                {"id": 7, "points": [[3, 4]]},
            ],
        },
        "b.png": {"instances": []},
    },
}
CSV = "scene,instance,x,y,label\na.png,ship,10.5,20,1\na.png,7,3,4,1\nb.png,1,1,1,1\na.png,ship,12,21,0\n"
COCO = {
    "images": [{"id": 5, "file_name": "a.png", "width": 100, "height": 80}, {"id": 6, "file_name": "b.png"}],
    "annotations": [
        {"id": "ship", "image_id": 5, "category_id": 3, "points": [[10.5, 20], [12, 21]], "labels": [1, 0]},
        {"id": 7, "image_id": 5, "category_id": 3, "keypoints": [3, 4, 2, 0, 0, 0]},
        {"id": 8, "image_id": 6, "category_id": 2, "point": [1, 1]},
    ],
    "categories": [{"id": 3, "name": "ship"}],
}


@pytest.mark.parametrize(("name", "data"), [("p.json", OWN), ("p.csv", CSV), ("coco.json", COCO)])
def test_every_kind_gives_the_same_prompts(tmp_path: Path, name: str, data: Any) -> None:
    file = PointsFile.open(save(tmp_path / name, data))
    assert plain(file.prompts(info("a.png"))) == EXPECTED
    assert file.prompts(info("c.png")) == []


def test_coco_categories_are_kept(tmp_path: Path) -> None:
    file = PointsFile.open(save(tmp_path / "p.json", COCO))
    assert [prompt.category for prompt in file.prompts(info("a.png"))] == [Category(3, "ship")] * 2
    assert file.categories == [{"id": 3, "name": "ship"}]


def test_a_file_beside_a_scene_needs_no_scene_names(tmp_path: Path) -> None:
    own = save(tmp_path / "a.points.json", {"instances": OWN["scenes"]["a.png"]["instances"]})  # type: ignore[index]
    assert plain(read_points(own, info("a.png"))) == EXPECTED
    table = save(tmp_path / "a.points.csv", "instance,x,y\n1,5,6\n1,7,8\n2,9,9\n")
    assert plain(read_points(table, info("a.png"))) == [(1, [[5, 6], [7, 8]], [1, 1]), (2, [[9, 9]], [1])]
    bare = save(tmp_path / "b.points.csv", "x,y\n5,6\n7,8\n")
    assert [coords for _, coords, _ in plain(read_points(bare, info("b.png")))] == [[[5, 6]], [[7, 8]]]


def test_a_scene_is_found_by_path_then_by_file_name(tmp_path: Path) -> None:
    file = PointsFile.open(save(tmp_path / "p.csv", "scene,x,y\nx/a.png,1,1\na.png,2,2\nb.png,3,3\n"))
    assert file.prompts(info("x/a.png"))[0].coords.tolist() == [[1, 1]]
    assert file.prompts(info("y/a.png"))[0].coords.tolist() == [[2, 2]]
    with pytest.raises(ResamError, match=r"'b\.png' fits several scenes; write the path, 'z/b\.png'"):
        file.match("z/b.png", {"b.png"})


def test_a_scene_is_called_by_the_longest_end_of_its_path(tmp_path: Path) -> None:
    table = "scene,x,y\na.png,1,1\nsub/a.png,2,2\nimages/b.png,3,3\nimages/images/b.png,4,4\n"
    file = PointsFile.open(save(tmp_path / "p.csv", table))

    def found(name: str, path: str, *others: str) -> list[list[float]]:
        prompts = file.prompts(info(name), file.match(name, shared_names([path, *others]), path) or "")
        return [place for prompt in prompts for place in prompt.coords.tolist()]

    assert found("a.png", "/x/images/sub/a.png") == [[2, 2]], "the folder below the one that was annotated"
    assert found("a.png", "/x/images/a.png") == found("a.png", "/x/other/a.png") == [[1, 1]]
    assert found("b.png", "/x/images/b.png") == [[3, 3]]
    assert found("c.png", "/x/images/c.png") == []
    nested = "/x/images/images/b.png"
    assert found("images/b.png", nested, "/x/images/b.png") == [[4, 4]]
    assert found("b.png", "/x/images/b.png", nested) == [], "'images/b.png' is the name of another scene"
    with pytest.raises(ResamError, match=r"'sub/a\.png' fits several scenes; write the path, 'x/sub/a\.png'"):
        found("x/sub/a.png", "/x/sub/a.png", "/y/sub/a.png")


def test_the_points_beside_a_scene_are_found(tmp_path: Path) -> None:
    scene = tmp_path / "a.png"
    assert find_points(scene) is None
    short = save(tmp_path / "a.points.csv", "x,y\n")
    assert find_points(scene) == short
    full = save(tmp_path / "a.png.points.csv", "x,y\n")
    assert find_points(scene) == full
    assert find_points(tmp_path / "a.tif") == short
    save(tmp_path / "a.points.json", {"instances": []})
    with pytest.raises(ResamError, match=r"a\.points\.json and a\.points\.csv"):
        find_points(tmp_path / "a.tif")


def feature(x: float, y: float, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Point", "coordinates": [x, y]}}


def collection(*features: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), **members}


def crs(name: str) -> dict[str, Any]:
    return {"type": "name", "properties": {"name": name}}


def test_geojson_in_the_scenes_crs_lands_on_pixels(tmp_path: Path) -> None:
    # the centre of pixel (10, 20) lies 10.5 pixels east and 20.5 south of the corner
    data = collection(
        feature(500000 + 10.5 * 2, 5000000 - 20.5 * 2, instance=1),
        feature(500000 + 2.0, 5000000 - 2.0, instance=1, label=0),
        crs=crs("urn:ogc:def:crs:EPSG::32633"),
    )
    [prompt] = read_points(save(tmp_path / "p.geojson", data), info("a.tif", transform=TRANSFORM))
    np.testing.assert_allclose(prompt.coords, [[10, 20], [0.5, 0.5]], atol=1e-3)
    assert prompt.labels.tolist() == [1, 0]


def test_geojson_in_longitude_and_latitude_lands_on_pixels(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    longitude, latitude = warp.transform("EPSG:32633", "EPSG:4326", [500000 + 61], [5000000 - 81])
    data = collection(feature(longitude[0], latitude[0]))
    [prompt] = read_points(save(tmp_path / "p.geojson", data), info("a.tif", transform=TRANSFORM))
    np.testing.assert_allclose(prompt.coords, [[30, 40]], atol=1e-2)


def test_map_points_without_a_scene_go_to_every_scene_they_lie_in(tmp_path: Path) -> None:
    data = collection(
        feature(500000 + 20, 5000000 - 20, instance="here"),
        feature(500000 + 2000, 5000000 - 20, instance="elsewhere"),
        crs=crs("EPSG:32633"),
    )
    file = PointsFile.open(save(tmp_path / "p.geojson", data))
    assert file.by_place
    prompts = file.prompts(info("a.tif", transform=TRANSFORM))
    assert [prompt.id for prompt in prompts] == ["here"]


@pytest.mark.parametrize(
    ("west", "given", "x"),
    [(0.0, -160.0, 200), (0.0, 200.0, 200), (170.0, -175.0, 15), (-190.0, 175.0, 5), (-180.0, -180.0, 0)],
)
@pytest.mark.parametrize("named", [{}, {"scene": "a.tif"}])
def test_longitudes_find_a_scene_beyond_the_antimeridian(
    tmp_path: Path, west: float, given: float, x: int, named: dict[str, str]
) -> None:
    pytest.importorskip("rasterio")
    transform, width = (1.0, 0.0, west, 0.0, -1.0, 30.0), 20 if abs(west) in (170, 190) else 360
    path = save(tmp_path / "p.geojson", collection(feature(given, 20.5, **named)))
    prompts = read_points(path, info("a.tif", width, 60, transform, "EPSG:4326"))
    assert plain(prompts) == [("feature 1", [[x - 0.5, 9]], [1])]
    if not named:  # 20 degrees west of the scene, and a third of the way round the globe
        path = save(tmp_path / "p.geojson", collection(feature(west - 20, 20.5), feature(west + 120, 20.5)))
        prompts = read_points(path, info("a.tif", 20, 60, transform, "EPSG:4326"))
        assert prompts == []


def test_negative_map_points_alone_belong_to_the_scene_they_lie_in(tmp_path: Path) -> None:
    data = collection(
        feature(500000 + 20, 5000000 - 20, instance="here", label=0),
        feature(500000 + 2000, 5000000 - 20, instance="elsewhere", label=0),
        crs=crs("EPSG:32633"),
    )
    prompts = read_points(save(tmp_path / "p.geojson", data), info("a.tif", transform=TRANSFORM))
    assert check_prompts(prompts, 100, 80) == ([], [("here", "has no positive point")])


def test_map_points_need_a_georeferenced_scene(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")  # where it is missing, that may be the cause
    path = save(tmp_path / "p.geojson", collection(feature(15, 45)))
    with pytest.raises(ResamError, match=r"p\.geojson: holds map coordinates, but a\.png is not georeferenced$"):
        read_points(path, info("a.png", 10, 10))


def test_geojson_may_say_that_it_holds_pixels(tmp_path: Path) -> None:
    data = collection(feature(3, 4), resam={"coordinates": "pixel"})
    assert read_points(save(tmp_path / "a.points.geojson", data), info("a.png"))[0].coords.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.json", "{", "not JSON"),
        ("p.json", "[" * 100_000, "nested too deeply|not JSON"),
        ("p.json", "[]", "expected a JSON object, got list"),
        ("p.json", {"hello": 1}, "neither points JSON"),
        ("p.json", {"version": 2, "scenes": {}}, "version 2"),
        ("p.json", {"instances": [{"points": [[1, 2, 3]]}]}, r"expected a point \[x, y\]"),
        ("p.json", {"instances": [{"points": [[1, "x"]]}]}, r"expected a point \[x, y\]"),
        ("p.json", '{"instances": [{"points": [[1, NaN]]}]}', "NaN is not a number JSON knows"),
        ("p.json", '{"instances": [{"points": [[1, 1e999]]}]}', "too large"),
        ("p.json", {"instances": [{"points": [[1, 2]], "labels": [1, 1]}]}, "1 points but 2 labels"),
        ("p.json", {"instances": [{"points": [[1, 2]], "labels": [5]}]}, "expected label 1"),
        ("p.json", {"instances": {"a": 1}}, "expected a list"),
        ("p.json", {"images": [], "annotations": [{"id": 1, "image_id": 3}]}, "not among the images"),
        (
            "p.json",
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 1, "image_id": 1}]},
            "hold no points",
        ),
        ("p.csv", "a,b\n1,2\n", "expected the header"),
        ("p.csv", "", "expected the header"),
        ("p.csv", "x,y\n1\n", "line 2: expected 2 fields, got 1"),
        ("p.csv", "x,y\n1,2\n1,north\n", "line 3: expected a point"),
        ("p.csv", "x,y,label\n1,2,yes\n", "line 2: expected label 1"),
        ("p.json", {"instances": [{"points": ["12"]}]}, r"expected a point \[x, y\]"),
        ("p.json", {"instances": [{"points": [["3", "4"]]}]}, r"expected a point \[x, y\]"),
        ("p.json", {"instances": [{"points": [[True, False]]}]}, r"expected a point \[x, y\]"),
        ("p.json", {"instances": [{"points": [{"1": 0, "2": 0}]}]}, r"expected a point \[x, y\]"),
        ("p.json", '{"scenes": {"a": {"instances": []}, "a": {"instances": []}}}', "member 'a' appears twice"),
        (
            "p.json",
            {"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []},
            "image id 1 appears twice",
        ),
        (
            "p.json",
            {"images": [{"id": 1, "file_name": "a"}, {"id": "x", "file_name": "./a"}], "annotations": []},
            r"the images 1 and 'x' have the same file_name, 'a'; make them one image",
        ),
        ("p.json", {"images": [], "categories": [{"id": "ship"}]}, "categories: id: expected a whole number"),
        ("p.json", {"images": [], "categories": [{"id": None}]}, "categories: id: expected a whole number"),
        ("p.csv", "x,x,y\n1,2,3\n", "expected the header"),
        ("p.csv", 'x,y\n"' + "1" * 200_000 + '",2\n', "not CSV"),
        ("p.csv", "x,y\n1_0,2\n", "line 2: expected a point"),
        ("p.csv", "scene;instance;x;y;label\na.png;1;21,5;21;1\n", "fields are separated by ';', expected commas"),
        ("p.csv", "filename,x,y\na.png,1,2\nb.png,3,4\n", "'filename' is not known, expected 'scene'"),
        ("p.csv", "x,y,Image_Name\n1,2,a.png\n", "'image_name' is not known, expected 'scene'"),
        ("p.csv", "x\ty\n1\t2\n", r"separated by '\\t', expected commas"),
        ("p.json", {"scenes": {"b.png": {"points": [[21, 21]]}}}, r"scene 'b\.png': expected instances"),
        ("p.json", {"scenes": {"b.png": {"Instances": [{"points": [[21, 21]]}]}}}, r"'b\.png': expected instances"),
        ("p.json", {"instances": [{"point": [21, 21]}]}, "instance 1: 'point' is not known, expected 'points', a list"),
        ("p.json", {"instances": [{"id": 1, "x": 2, "y": 3}]}, "instance 1: 'x' is not known, expected 'points'"),
        ("p.geojson", collection({"type": "Feature", "geometry": {"type": "LineString"}}), "expected a Point"),
        ("p.geojson", collection(crs=3), "crs member names no"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_it(tmp_path: Path, name: str, data: Any, said: str) -> None:
    with pytest.raises(ResamError, match=said) as caught:
        PointsFile.open(save(tmp_path / name, data))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def coco(**annotation: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, **annotation}]}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.json", {"instances": [{"points": [[21, 21]], "label": [0]}]}, "instance 1: 'label' is not .* 'labels'"),
        ("p.json", {"instances": [{"points": [[21, 21]], "label": "negative"}]}, "'label' is not .* 'labels'"),
        ("p.json", {"scenes": {"a": {"instances": [{"points": [[1, 2]], "Labels": [0]}]}}}, "'Labels' is not known"),
        ("p.json", coco(points=[[21, 21]], label=[0]), "annotation 1: 'label' is not known, expected 'labels'"),
        ("p.json", coco(point=[21, 21], label=0), "annotation 1: 'label' is not known, expected 'labels'"),
        ("p.csv", "x,y,labels\n21,21,0\n", "the header: 'labels' is not known, expected 'label'"),
        ("p.geojson", collection(feature(21, 21, Label=0)), "feature 1: 'Label' is not known, expected 'label'"),
    ],
)
def test_a_misspelt_label_is_refused_since_the_point_would_count_as_positive(
    tmp_path: Path, name: str, data: Any, said: str
) -> None:
    with pytest.raises(ResamError, match=said):
        PointsFile.open(save(tmp_path / name, data))


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({"point": [21, 21], "labels": [0]}, [0]),
        ({"keypoints": [1, 1, 0, 21, 21, 2], "labels": [1, 0]}, [0]),
        ({"points": [[21, 21]], "labels": [0], "label": 7}, [0]),  # a class's number, say: the labels are there
        ({"points": [[21, 21]], "label": "ship"}, [1]),
    ],
)
def test_labels_count_beside_every_kind_of_coco_point(tmp_path: Path, members: Any, labels: list[int]) -> None:
    [prompt] = read_points(save(tmp_path / "p.json", coco(**members)), info("a.png"))
    assert plain([prompt]) == [(1, [[21, 21]], labels)]


def test_an_instance_of_which_a_positive_point_lies_elsewhere_is_skipped_in_every_kind_of_file(tmp_path: Path) -> None:
    inside, outside = (500000 + 20.0, 5000000 - 20.0), (500000 + 2000.0, 5000000 - 20.0)
    data = collection(
        *(feature(*place, instance="half") for place in (inside, outside)),
        feature(*inside, instance="whole"),
        feature(*outside, instance="whole", label=0),
        crs=crs("EPSG:32633"),
    )
    table = "instance,x,y\nhalf,9.5,9.5\nhalf,999.5,9.5\nwhole,9.5,9.5\n"
    for path in (save(tmp_path / "p.geojson", data), save(tmp_path / "p.csv", table)):
        prompts = read_points(path, info("a.tif", transform=TRANSFORM))
        kept, skipped = check_prompts(prompts, 100, 80)
        assert plain(kept) == [("whole", [[9.5, 9.5]], [1])]
        assert skipped == [("half", "point 999.5, 9.5 lies outside the image of 100 x 80 px")]


def test_what_spreadsheets_and_qgis_write_is_understood(tmp_path: Path) -> None:
    table = "instance,x,y,label\r1.0,5,6,1.0\r1,7,8,0.0\r²,1,2,\r--5,3,4,1\r" + "9" * 5000 + ",9,9,1\r"
    prompts = read_points(save(tmp_path / "p.csv", table))
    assert [prompt.id for prompt in prompts] == [1, "²", "--5", "9" * 5000]
    assert prompts[0].labels.tolist() == [1, 0]
    data = collection(feature(3, 4, label=None, instance=None, scene=None), resam={"coordinates": "pixel"})
    assert read_points(save(tmp_path / "p.geojson", data), info("a.png"))[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"id": 2}, {}], [2, 3]),
        ([{}, {"id": 1.0}, {}], [4, 1, 3]),
        ([{"id": None}, {"id": "1"}, {"id": 7}], [1, "1", 7]),
        ([{"id": 2}, {}, {"id": 3}, {"id": None}], [2, 5, 3, 4]),
    ],
)
def test_an_instance_without_an_id_gets_one_that_no_other_has(tmp_path: Path, given: Any, expected: Any) -> None:
    path = save(tmp_path / "p.json", {"instances": [{**one, "points": [[1, 2]]} for one in given]})
    assert [prompt.id for prompt in read_points(path)] == expected


def test_a_category_is_a_name_or_a_number(tmp_path: Path) -> None:
    instances = [{"points": [[1, 2]], "category": "ship"}, {"points": [[1, 2]], "category": 3}]
    path = save(tmp_path / "p.json", {"instances": instances})
    assert [prompt.category for prompt in read_points(path)] == [Category(name="ship"), Category(3)]


def test_coco_annotations_need_no_id_and_keep_the_name_that_resam_run_gave(tmp_path: Path) -> None:
    annotations = [
        {"id": None, "image_id": 1, "points": [[1, 2]]},
        {"id": 9, "image_id": 1, "instance": "tank", "points": [[1, 2]], "category_id": 2.0},
        {"id": 8, "image_id": 1, "keypoints": [1, 2, 0, 3, 4, 2, 5, 6, -1]},
    ]
    data = {"images": [{"id": 1, "file_name": "a.png", "width": 9.0, "height": 9}], "annotations": annotations}
    first, second, third = read_points(save(tmp_path / "p.json", data), info("a.png", 9, 9))
    assert (first.id, second.id, second.category, third.coords.tolist()) == (1, "tank", Category(2), [[3, 4]])


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_lie_outside(tmp_path: Path) -> None:
    data = {"instances": [{"points": [[1e308, 1]]}, {"points": [[1, 1]]}]}
    kept, skipped = check_prompts(read_points(save(tmp_path / "p.json", data)), 10, 10)
    assert [prompt.id for prompt in kept] == [2]
    assert "lies outside the image" in skipped[0].reason


def test_map_points_that_have_no_place_in_a_scenes_crs_do_not_spoil_the_others(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    longitude, latitude = warp.transform("EPSG:32633", "EPSG:4326", [500000 + 61], [5000000 - 81])
    here = feature(longitude[0], latitude[0], instance="here")
    for x, y in ((-75.0, -95.0), (-165.0, 0.0)):  # no such latitude; the other side of the earth
        data = collection(feature(x, y, instance="far"), here)
        file = PointsFile.open(save(tmp_path / "p.geojson", data))
        prompts = file.prompts(info("a.tif", transform=TRANSFORM))
        assert [prompt.id for prompt in prompts] == ["here"]
        named = collection(feature(x, y, instance="far", scene="a.tif"), here)
        both = PointsFile.open(save(tmp_path / "q.geojson", named)).prompts(info("a.tif", transform=TRANSFORM))
        kept, skipped = check_prompts(both, 100, 80)
        assert ([one.id for one in kept], [one.instance for one in skipped]) == (["here"], ["far"])


def test_a_table_that_says_its_scenes_may_have_other_columns(tmp_path: Path) -> None:
    [prompt] = read_points(save(tmp_path / "p.csv", "scene,image,x,y\na.png,full.tif,1,2\n"), info("a.png"))
    assert prompt.coords.tolist() == [[1, 2]]


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResamError, match="No such file"):
        PointsFile.open(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ResamError, match="not UTF-8"):
        PointsFile.open(tmp_path / "b.json")


def test_an_unknown_crs_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    path = save(tmp_path / "p.geojson", collection(feature(1, 2), crs=crs("EPSG:999999")))
    with pytest.raises(ResamError, match="unknown coordinate reference system"):
        read_points(path, info("a.tif", transform=TRANSFORM))


def test_points_made_for_another_size_are_refused(tmp_path: Path) -> None:
    file = PointsFile.open(save(tmp_path / "p.json", OWN))
    with pytest.raises(ResamError, match=r"made for 100 x 80 px, a\.png has 50 x 40"):
        file.prompts(info("a.png", 50, 40))


def test_prompts_outside_the_image_are_left_out_with_a_reason() -> None:
    def prompt(*points: tuple[float, float], labels: tuple[int, ...] | None = None) -> Prompt:
        marks = labels or (1,) * len(points)
        return Prompt(np.array(points, np.float32).reshape(-1, 2), np.array(marks, np.int32), id=str(points))

    good = [prompt((0, 0)), prompt((-0.5, 79.4)), prompt((99.4, 0), (5, 5), labels=(1, 0))]
    bad = [
        (prompt((99.6, 0)), "point 99.6, 0 lies outside the image of 100 x 80 px"),
        (prompt((5, 5), (5, -0.6)), "point 5, -0.6 lies outside the image of 100 x 80 px"),
        (prompt((5, 5), labels=(0,)), "has no positive point"),
        (prompt(), "has no points"),
    ]
    kept, skipped = check_prompts([*good, *(one for one, _ in bad)], 100, 80)
    assert kept == good
    assert [one.reason for one in skipped] == [reason for _, reason in bad]


# --- boxes -------------------------------------------------------------------------------------------------------


def square(west: float, north: float, east: float, south: float) -> list[list[list[float]]]:
    return [[[west, north], [east, north], [east, south], [west, south], [west, north]]]


def on_map(kind: str, coordinates: Any) -> dict[str, Any]:
    """A feature whose coordinates are those of pixel edges, two metres each."""

    def placed(value: Any) -> Any:
        if isinstance(value[0], list):
            return [placed(one) for one in value]
        return [500000 + 2 * value[0], 5000000 - 2 * value[1]]

    return collection(shape({"type": kind, "coordinates": placed(coordinates)}), crs=crs(UTM))


def shape(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def coco_boxes(*boxes: Any) -> dict[str, Any]:
    annotations = [{"id": number, "image_id": 5, "bbox": box} for number, box in enumerate(boxes, 1)]
    return {"images": [{"id": 5, "file_name": "a.tif"}], "annotations": annotations}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.json", {"instances": [{"box": [10, 20, 29, 39]}]}),
        ("p.csv", "scene,x0,y0,x1,y1\na.tif,10,20,29,39\n"),
        ("p.csv", "scene,x,y,x0,y0,x1,y1\na.tif,,,10,20,29,39\n"),
        ("p.json", coco_boxes([10, 20, 20, 20])),
        ("p.geojson", on_map("Polygon", square(10, 20, 30, 40))),
        ("p.geojson", on_map("MultiPolygon", [square(10, 20, 12, 40), square(28, 30, 30, 32)])),
    ],
)
def test_every_kind_may_hold_boxes(tmp_path: Path, name: str, data: Any) -> None:
    pytest.importorskip("rasterio")
    [prompt] = PointsFile.open(save(tmp_path / name, data), boxes=True).prompts(info("a.tif", transform=TRANSFORM))
    assert prompt.box is not None
    np.testing.assert_allclose(prompt.box, [10, 20, 29, 39], atol=1e-3)
    coords, labels = prompt.tokens
    assert (len(prompt.coords), labels.tolist(), prompt.found_by) == (0, [2, 3], "box")
    np.testing.assert_allclose(coords, [[10, 20], [29, 39]], atol=1e-3)
    assert check_prompts([prompt], 100, 80) == ([prompt], [])


def test_a_box_and_points_are_one_prompt(tmp_path: Path) -> None:
    table = "instance,x,y,label,x0,y0,x1,y1\n1,12,13,1,10,11,20,21\n1,2,3,0,,,,\n2,5,6,1,,,,\n"
    first, second = read_points(save(tmp_path / "p.csv", table))
    assert first.tokens[0].tolist() == [[12, 13], [2, 3], [10, 11], [20, 21]]
    assert first.tokens[1].tolist() == [1, 0, 2, 3]
    assert (second.box, second.found_by, second.tokens[1].tolist()) == (None, "points", [1])


def test_boxes_are_cut_to_the_scene_and_left_out_beyond_it(tmp_path: Path) -> None:
    path = save(
        tmp_path / "p.json", coco_boxes([-3.5, -2, 20, 10], [90, 70, 50, 50], [200, 10, 5, 5], [7, 7, 0.25, 0.5])
    )
    prompts = PointsFile.open(path, boxes=True).prompts(info("a.tif"))
    assert [prompt.box.tolist() for prompt in prompts if prompt.box is not None] == [
        [0, 0, 15.5, 7],
        [90, 70, 99, 79],
        [200, 10, 204, 14],
        [6.625, 6.75, 6.625, 6.75],
    ]
    kept, [(number, reason)] = check_prompts(prompts, 100, 80)
    assert [prompt.id for prompt in kept] == [1, 2, 4]
    assert (number, reason) == (3, "box corner 200, 10 lies outside the image of 100 x 80 px")


def test_a_box_on_the_map_belongs_to_the_scene_that_holds_its_middle(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    for west, found in ((80, 1), (95, 0)):  # the scene ends at 100
        file = PointsFile.open(save(tmp_path / "p.geojson", on_map("Polygon", square(west, 10, west + 30, 20))))
        prompts = file.prompts(info("a.tif", transform=TRANSFORM))
        assert len(prompts) == found
        assert all(prompt.by_place for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        (
            "p.json",
            {"instances": [{"box": [5, 2, 4, 3]}]},
            r"box: expected a box \[x0, y0, x1, y1\], got \[5, 2, 4, 3\]",
        ),
        ("p.json", {"instances": [{"box": [1, 2, 3]}]}, "box: expected a box"),
        ("p.json", {"instances": [{"box": "all"}]}, "box: expected a list"),
        ("p.csv", "x0,y0,x1,y1\n1,2,3,\n", "line 2"),
        ("p.csv", "x0,y0,x1,y1\n,,,\n1,2,3,4\n,,,9\n", "line 4"),
        ("p.csv", "x0,y0,x1\n1,2,3\n", "expected the header scene,instance,x,y,label or x0,y0,x1,y1"),
        ("p.json", coco_boxes([1, 2, 0, 4]), r"bbox: expected \[x, y, width, height\]"),
        ("p.json", coco_boxes(None), "hold no points, point or keypoints; resam-run --boxes"),
        ("p.geojson", collection(shape({"type": "Polygon"}, label=0)), "label 0"),
        ("p.geojson", collection(shape({"type": "Polygon", "coordinates": [[[1, "x"]]]})), "expected a point"),
    ],
)
def test_boxes_that_are_none_are_told(tmp_path: Path, name: str, data: Any, cause: str) -> None:
    with pytest.raises(ResamError, match=cause):
        PointsFile.open(save(tmp_path / name, data), boxes=True)


def test_coco_boxes_are_no_prompts_unless_asked_for(tmp_path: Path) -> None:
    data = coco_boxes([1, 2, 3, 4])
    data["annotations"][0]["points"] = [[2, 3]]
    [prompt] = read_points(save(tmp_path / "p.json", data), info("a.tif"))
    assert prompt.box is None
