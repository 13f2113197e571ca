"""Exports of labelme, Label Studio and CVAT as these tools write them: pixel by pixel the same prompts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category
from resam_runtime.points import PointsFile, ScenePoints, find_points, read_points
from resam_runtime.scenes.scene_info import SceneInfo

SCENE = SceneInfo("north/harbour.png", 200, 100)

LABELME: dict[str, Any] = {
    "version": "6.3.1",
    "flags": {},
    "shapes": [
        {"label": "ship", "points": [[20.5, 30.5]], "group_id": 4, "description": "", "shape_type": "point",
         "flags": {}, "mask": None},
        {"label": "negative", "points": [[40.5, 30.5]], "group_id": 4, "description": "", "shape_type": "point",
         "flags": {}, "mask": None},
        {"label": "plane", "points": [[90.0, 60.0], [70.0, 50.0]], "group_id": None, "description": "",
         "shape_type": "rectangle", "flags": {}, "mask": None},
        {"label": "plane", "points": [[100.0, 10.0], [110.0, 10.0], [105.0, 20.0]], "group_id": None,
         "description": "", "shape_type": "polygon", "flags": {}, "mask": None},
    ],
    "imagePath": "..\\north\\harbour.png",
    "imageData": None,
    "imageHeight": 100,
    "imageWidth": 200,
}  # fmt: skip


def region(own: str, kind: str, value: dict[str, Any], label: str, **more: Any) -> dict[str, Any]:
    """One of Label Studio's."""
    value = {**value, kind: [label]}
    return {"original_width": 200, "original_height": 100, "image_rotation": 0, "value": value, "id": own,
            "from_name": "label", "to_name": "image", "type": kind, "origin": "manual", **more}  # fmt: skip


LABEL_STUDIO: list[dict[str, Any]] = [
    {
        "id": 7,
        "annotations": [
            {
                "id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False,
                "result": [
                    region("h1", "keypointlabels", {"x": 10.25, "y": 30.5, "width": 0.3}, "ship"),
                    region("h2", "keypointlabels", {"x": 20.25, "y": 30.5, "width": 0.3}, "negative", parentID="h1"),
                    region("r1", "rectanglelabels", {"x": 35.0, "y": 50.0, "width": 10.0, "height": 10.0,
                                                     "rotation": 0}, "plane"),
                    region("p1", "polygonlabels", {"points": [[50, 10], [55, 10], [52.5, 20]]}, "plane"),
                    {"value": {"choices": ["cloudy"]}, "id": "c", "from_name": "sky", "to_name": "image",
                     "type": "choices", "origin": "manual"},
                ],
            },
            {"id": 2, "completed_by": 2, "was_cancelled": True, "result": []},
        ],
        "file_upload": "3f0a12bc-harbour.png",
        "predictions": [],
        "data": {"image": "/data/upload/1/3f0a12bc-harbour.png"},
        "meta": {},
        "project": 1,
    },
    {"id": 8, "annotations": [], "data": {"image": "/data/upload/1/00000000-empty%20sea.png"}, "predictions": []},
]  # fmt: skip

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>5</id><name>ships</name><mode>annotation</mode></task></meta>
  <image id="0" name="harbour.png" width="200" height="100">
    <tag label="cloudy" source="manual"></tag>
    <points label="ship" source="manual" occluded="0" points="20.50,30.50" z_order="0" group_id="4"></points>
    <points label="negative" source="manual" occluded="0" points="40.50,30.50" z_order="0" group_id="4"></points>
    <box label="plane" source="manual" occluded="0" xtl="70.00" ytl="50.00" xbr="90.00" ybr="60.00" z_order="0">
      <attribute name="flying">no</attribute>
    </box>
    <polygon label="plane" source="manual" occluded="0" points="100.0,10.0;110.0,10.0;105.0,20.0" z_order="0"></polygon>
  </image>
  <image id="1" name="empty sea.png" width="200" height="100"></image>
</annotations>
"""


def opened(folder: Path, content: Any, name: str = "export.json") -> PointsFile:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2), "utf-8")
    return PointsFile.open(path)


def check(found: ScenePoints) -> None:
    ship, plane, other = found
    assert (ship.coords.tolist(), ship.labels.tolist()) == ([[20, 30], [40, 30]], [1, 0])
    assert ship.category == Category(name="ship")
    assert ship.box is None
    # the rectangle covers the pixels 70 to 89 and 50 to 59
    assert (plane.coords.tolist(), plane.category) == ([], Category(name="plane"))
    np.testing.assert_allclose(plane.box, [70, 50, 89, 59], atol=1e-4)
    np.testing.assert_allclose(other.box, [100, 10, 109, 19], atol=1e-4)
    assert len({prompt.id for prompt in found}) == 3


@pytest.mark.parametrize(
    ("content", "name"), [(LABELME, "a.json"), (LABEL_STUDIO, "b.json"), (CVAT, "annotations.xml")]
)
def test_the_three_exports_hold_the_same_prompts(content: Any, name: str, tmp_path: Path) -> None:
    file = opened(tmp_path, content, name)
    check(file.prompts(SCENE))
    with pytest.raises(ResamError, match="made for 200 x 100 px"):
        file.prompts(SceneInfo("north/harbour.png", 201, 100))
    if name != "a.json":
        assert file.scenes == ["harbour.png", "empty sea.png"]
        assert list(file.prompts(SceneInfo("empty sea.png", 200, 100))) == []


def test_labelmes_file_lies_beside_its_image(tmp_path: Path) -> None:
    scene = tmp_path / "harbour.png"
    assert find_points(scene) is None
    scene.with_suffix(".json").write_text(json.dumps({"stac_version": "1.0.0"}))
    assert find_points(scene) is None, "somebody else's"
    scene.with_suffix(".json").write_text(json.dumps(LABELME))
    assert find_points(scene) == scene.with_suffix(".json")
    check(read_points(scene.with_suffix(".json"), SCENE))
    (tmp_path / "harbour.points.json").write_text('{"instances": []}')
    assert find_points(scene) == tmp_path / "harbour.points.json"


def test_turned_rectangles_stand_for_their_bounds(tmp_path: Path) -> None:
    """A square of 20 px, turned by 90 degrees: about its corner in Label Studio, about its middle in CVAT."""
    tasks = copy.deepcopy(LABEL_STUDIO[:1])
    value = {"x": 50.0, "y": 20.0, "width": 10.0, "height": 20.0, "rotation": 90}
    tasks[0]["annotations"][0]["result"] = [region("r", "rectanglelabels", value, "plane")]
    [turned] = opened(tmp_path, tasks).prompts(SCENE)
    np.testing.assert_allclose(turned.box, [80, 20, 99, 39], atol=1e-4)
    box = '<box label="ship" xtl="100" ytl="20" xbr="140" ybr="30" rotation="90.00" z_order="0"/>'
    image = f'<image id="0" name="harbour.png" width="200" height="100">{box}</image>'
    [turned] = opened(tmp_path, f"<annotations>{image}</annotations>", "a.xml").prompts(SCENE)
    np.testing.assert_allclose(turned.box, [115, 5, 124, 44], atol=1e-4)


def test_several_points_of_one_shape_are_one_instance(tmp_path: Path) -> None:
    skeleton = (
        '<skeleton label="crane" z_order="0"><points label="a" points="5.5,6.5" outside="0"/>'
        '<points label="b" points="1,1" outside="1"/></skeleton>'
    )
    shapes = f'<points label="ship" points="20.5,30.5;22.5,31.5" z_order="0"/>{skeleton}'
    image = f'<image id="0" name="harbour.png" width="200" height="100">{shapes}</image>'
    ship, crane = opened(tmp_path, f"<annotations>{image}</annotations>", "a.xml").prompts(SCENE)
    assert ship.coords.tolist() == [[20, 30], [22, 31]]
    assert (crane.coords.tolist(), crane.category) == ([[5, 6]], Category(name="crane"))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/local-files/?d=survey%2Fnorth/harbour.png", "survey/north/harbour.png"),
        ("s3://bucket/survey/north/harbour.png", "harbour.png"),
        ("https://host/x/harbour%201.png?token=3", "harbour 1.png"),
        ("/data/upload/12/aabbccdd-harbour.png", "harbour.png"),
    ],
)
def test_label_studios_addresses_give_the_files_name(address: str, name: str, tmp_path: Path) -> None:
    task = {**LABEL_STUDIO[0], "data": {"image": address, "note": "x"}}
    assert opened(tmp_path, [task]).scenes == [name]


def test_a_click_off_the_object_of_label_studios_smart_tools(tmp_path: Path) -> None:
    tasks = copy.deepcopy(LABEL_STUDIO[:1])
    tasks[0]["annotations"][0]["result"] = [
        region("a", "keypointlabels", {"x": 10.25, "y": 30.5}, "ship", is_positive=True),
        region("b", "keypointlabels", {"x": 20.25, "y": 30.5}, "ship", is_positive=False, parentID="a"),
    ]
    [ship] = opened(tmp_path, tasks).prompts(SCENE)
    assert ship.labels.tolist() == [1, 0]


def broken(**members: Any) -> dict[str, Any]:
    return {**LABELME, "shapes": [{**LABELME["shapes"][0], **members}]}


TWICE = [LABEL_STUDIO[0], LABEL_STUDIO[0]]
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>&b;</annotations>'
TRACKS = '<annotations><track id="0" label="ship"/></annotations>'


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (broken(shape_type="circle"), "a.json", "shape 1: expected point, points, rectangle, polygon, got 'circle'"),
        (broken(points=[[1, "x"]]), "a.json", r"shape 1: expected a point \[x, y\]"),
        ({**LABELME, "imagePath": ""}, "a.json", "imagePath names no image"),
        (TWICE, "a.json", "two images are called 'harbour.png'"),
        ([{"annotations": [], "data": {"a": "x.png", "b": "y.png"}}], "a.json", "which member of its data"),
        (TRACKS, "a.xml", "exported as 'CVAT for images 1.1'"),
        (BOMB, "a.xml", "a document type of its own"),
        ("<annotations>", "a.xml", "not XML"),
        (CVAT.replace('xtl="70.00"', 'xtl="NaN"'), "a.xml", "xtl nan is not a number"),
        (CVAT.replace("<points", "<ellipse").replace("</points", "</ellipse"), "a.xml", "got 'ellipse'"),
        (CVAT.replace('"negative"', '"plane"'), "a.xml", "instance 1: of the classes 'ship' and 'plane'"),
    ],
)
def test_what_is_no_prompt_is_said_in_one_line(content: Any, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ResamError, match=message) as error:
        opened(tmp_path, content, name)
    assert "\n" not in str(error.value)
