"""The points file behind resam-annotate: operations, other writers, crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.annotate.operations import Conflict, Refused, apply_operation
from resam_runtime.annotate.store import PointsStore
from resam_runtime.common.checked import Malformed, parse_json
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category
from resam_runtime.points import PointsFile, read_points
from resam_runtime.points.file_kinds import parse_points
from resam_runtime.scenes.scene_info import SceneInfo

from ..mutations import mutations
from .annotate_helpers import drawn_on

SIZE = (100, 80)


def add(x: float, y: float, label: int = 1, instance: Any = None, **more: Any) -> dict[str, Any]:
    return {"do": "add", "instance": instance, "point": [x, y], "label": label, **more}


DEEP = json.loads("[" * 500 + "]" * 500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "points.json"


@pytest.fixture
def store(path: Path) -> PointsStore:
    return PointsStore(path, ["a.png", "sub/b.png"])


def test_points_are_read_by_the_other_commands(store: PointsStore, path: Path) -> None:
    first = store.apply("a.png", SIZE, add(3, 4))["instance"]
    store.apply("a.png", SIZE, add(5.25, 6, 0, first))
    second = store.apply("a.png", SIZE, add(50, 60))["instance"]
    store.apply("sub/b.png", SIZE, add(1, 1))
    prompts = read_points(path, SceneInfo("a.png", 100, 80))
    assert [prompt.id for prompt in prompts] == [first, second]
    np.testing.assert_array_equal(prompts[0].coords, [[3, 4], [5.25, 6]])
    assert prompts[0].labels.tolist() == [1, 0]
    assert len(drawn_on(path, "sub/b.png")) == 1
    with pytest.raises(ResamError, match="100 x 80"):
        read_points(path, SceneInfo("a.png", 10, 80))


def test_nothing_is_written_before_the_first_point(store: PointsStore, path: Path) -> None:
    assert not path.exists()
    with pytest.raises(Refused):
        store.apply("a.png", SIZE, add(300, 4))
    assert not path.exists()


def test_every_operation_can_be_taken_back(store: PointsStore) -> None:
    one = store.apply("a.png", SIZE, add(3, 4))
    store.apply("a.png", SIZE, add(7, 7))
    before = store.scene("a.png")[0]
    moved = {"do": "move", "instance": 1, "point": [3, 4], "label": 1, "to": [9, 9]}
    assert store.apply("a.png", SIZE, moved)["value"]["points"] == [[9, 9]]
    store.apply("a.png", SIZE, {**moved, "point": [9, 9], "to": [3, 4]})
    assert store.scene("a.png")[0] == before
    gone = store.apply("a.png", SIZE, {"do": "remove", "instance": 1, "point": [3, 4], "label": 1})
    assert gone["value"] is None, "an instance goes with its last point"
    store.apply("a.png", SIZE, {"do": "restore", "value": one["value"], "place": gone["place"]})
    assert store.scene("a.png")[0] == before
    store.apply("a.png", SIZE, {"do": "done", "done": True})
    assert store.summary()[0] == {"instances": 2, "done": True}
    store.apply("a.png", SIZE, {"do": "done", "done": False})
    assert store.scene("a.png")[0] == before


def test_an_id_is_not_given_twice(store: PointsStore) -> None:
    first = store.apply("a.png", SIZE, add(3, 4))["instance"]
    store.apply("a.png", SIZE, {"do": "delete", "instance": first})
    assert store.apply("a.png", SIZE, add(3, 4))["instance"] != first


def test_a_repeated_request_does_nothing_twice(store: PointsStore) -> None:
    answer = store.apply("a.png", SIZE, add(3, 4, key="w-1"))
    assert store.apply("a.png", SIZE, add(3, 4, key="w-1")) == answer
    store.apply("a.png", SIZE, add(3, 4, instance=answer["instance"]))
    assert store.scene("a.png")[0]["instances"][0]["points"] == [[3, 4]]


def test_an_operation_whose_answer_was_lost_is_not_done_twice_by_a_new_server(path: Path) -> None:
    point = {"instance": 1, "point": [3, 4], "label": 1}
    value = {"id": 1, "points": [[9, 9], [7, 7]], "labels": [1, 0]}
    steps = [
        add(3, 4, key="w-1"),
        add(7, 7, 0, instance=1, key="w-2"),
        {"do": "move", **point, "to": [9, 9], "key": "w-3"},
        {"do": "delete", "instance": 1, "key": "w-4"},
        {"do": "restore", "value": value, "place": 0, "key": "w-5"},
        {"do": "remove", "instance": 1, "point": [7, 7], "label": 0, "key": "w-6"},
        {"do": "done", "done": True, "key": "w-7"},
        {"do": "remove", "instance": 1, "point": [9, 9], "label": 1, "key": "w-8"},
    ]
    for operation in steps:
        PointsStore(path, ["a.png"]).apply("a.png", SIZE, operation)
        before = path.read_bytes()
        again = PointsStore(path, ["a.png"])  # knows no answers of the one before
        assert again.apply("a.png", SIZE, {**operation, "retry": True})["instance"] in (1, None), operation
        assert path.read_bytes() == before, operation
    # what was not done before is done now
    for place, operation in enumerate(steps):
        PointsStore(path.with_name("late.json"), ["a.png"]).apply("a.png", SIZE, {**operation, "retry": True})
        if place == 2:
            kept = drawn_on(path.with_name("late.json"), "a.png")
            assert [prompt.coords.tolist() for prompt in kept] == [[[9, 9], [7, 7]]]
    assert path.with_name("late.json").read_bytes() == path.read_bytes()


def test_a_repetition_is_known_by_its_mark_and_by_all_its_points(store: PointsStore) -> None:
    first, second = (store.apply("a.png", SIZE, add(3, 4))["instance"] for _ in range(2))
    assert first != second, "two clicks at one place are two instances"
    store.apply("a.png", SIZE, add(5, 5, 0, instance=second))
    assert store.apply("a.png", SIZE, add(3, 4, retry=True))["instance"] == first
    for other in (add(3, 4, 0, retry=True), add(3, 5, retry=True)):
        assert store.apply("a.png", SIZE, other)["instance"] not in (first, second)
    store.apply("a.png", SIZE, {"do": "delete", "instance": first})
    for lost in (
        {"do": "move", "instance": first, "point": [3, 4], "label": 1, "to": [8, 8]},
        {"do": "move", "instance": second, "point": [1, 1], "label": 1, "to": [8, 8]},
        {"do": "restore", "value": {"id": second, "points": [[1, 1]], "labels": [1]}},
        add(3, 4, instance=first),
    ):
        with pytest.raises(Conflict):
            store.apply("a.png", SIZE, {**lost, "retry": True})
    for nothing in ({}, {"value": 5}):
        with pytest.raises(Refused, match="expected an instance with points"):
            store.apply("a.png", SIZE, {"do": "restore", "instance": second, "retry": True, **nothing})


def test_a_link_to_a_points_file_stays_a_link(path: Path) -> None:
    file = path.parent / "elsewhere" / "mine.json"
    file.parent.mkdir()
    path.symlink_to(file)
    for point in ((3, 4), (5, 6)):  # the first makes the file
        PointsStore(path, ["a.png"]).apply("a.png", SIZE, add(*point))
    assert path.is_symlink()
    assert len(drawn_on(file, "a.png")) == 2


@pytest.mark.parametrize(
    "operation",
    [
        {},
        {"do": "explode"},
        add(-1, 3),
        add(99.5, 3),
        add(3, 79.6),
        add(3, 4, 2),
        add(3, 4, True),
        {**add(3, 4), "point": [float("nan"), 1]},
        {**add(3, 4), "point": [10**400, 1]},
        {**add(3, 4), "point": "34"},
        {**add(3, 4), "point": [1, 2, 3]},
        {"do": "done", "done": 1},
        {"do": "restore", "value": {"id": 5, "points": [], "labels": []}},
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1, 1]}},
        {"do": "restore", "value": {"id": [5], "points": [[1, 1]], "labels": [1]}},
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1], "category": 1.5}},
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1], "category": 2**53}},
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1], "category": []}},
        {"do": "restore", "value": {"id": 2**53, "points": [[1, 1]], "labels": [1]}},
        {"do": "restore", "value": {"id": 5, "points": [[2**53, 1]], "labels": [1]}},
        {"do": "restore", "value": {"id": 5, "points": [[float("inf"), 1]], "labels": [1]}},
        {
            "do": "restore",
            "value": {"id": 5, "points": [[1, 1]], "labels": [1], "label": 0, "labels ": 1, "box": [5, 1]},
        },
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1], "remark": DEEP}},
        {"do": "box", "instance": None, "box": None},
        {"do": "box", "instance": None, "box": [1, 1, 0, 5]},
        {"do": "box", "instance": None, "box": [1, 1, 100, 5]},
        {"do": "box", "instance": None, "box": [1, 1, 5]},
        {"do": "box", "instance": None, "box": [1, 1, 5, 5], "category": 1.5},
        {"do": "box", "instance": 12, "box": [1, 1, 5, 5]},
        {"do": "class", "instance": 1, "category": True},
        {"do": "class", "instance": 12, "category": 1},
        {**add(3, 4), "category": {}},
        {"do": "accept", "box": [1, 1, 5, 5]},
        {"do": "reject", "box": [1, 1]},
        {"do": "delete", "instance": 12},
        {"do": "delete", "instance": {}},
        {"do": "remove", "instance": 1, "point": [2, 2], "label": 1},
        add(3, 4, instance="1"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(store: PointsStore, path: Path, operation: dict[str, Any]) -> None:
    store.apply("a.png", SIZE, add(3, 4))
    before = path.read_bytes()
    with pytest.raises(Refused):
        store.apply("a.png", SIZE, operation)
    assert path.read_bytes() == before


def test_members_of_others_are_kept(path: Path) -> None:
    content = {
        "format": "resam-points",
        "version": 1,
        "remark": "spring",
        "scenes": {
            "elsewhere.png": {"instances": [{"points": [[1, 2]]}]},
            "a.png": {"by": "ann", "instances": [{"id": 7, "points": [[1, 2]], "category": 3}, {"points": [[4, 4]]}]},
        },
    }
    path.write_text(json.dumps(content))
    store = PointsStore(path, ["a.png"])
    store.apply("a.png", SIZE, add(9, 9, 0, instance=7))
    saved = json.loads(path.read_text())
    assert saved["remark"] == "spring"
    assert saved["scenes"]["elsewhere.png"]["instances"][0]["points"] == [[1, 2]]
    assert saved["scenes"]["a.png"]["by"] == "ann"
    first, second = saved["scenes"]["a.png"]["instances"]
    assert first == {"id": 7, "points": [[1, 2], [9, 9]], "labels": [1, 0], "category": 3}
    assert second["id"] == 2, "the number by which readers call it"


def test_ids_that_repeat_are_told_apart(path: Path) -> None:
    twice = [{"id": 1, "points": [[1, 1]]}, {"id": 1, "points": [[2, 2]]}, {"id": "1", "points": [[3, 3]]}]
    path.write_text(json.dumps({"scenes": {"a.png": {"instances": twice}}}))
    store = PointsStore(path, ["a.png"])
    store.apply("a.png", SIZE, {"do": "delete", "instance": 1})
    assert [i["points"] for i in store.scene("a.png")[0]["instances"]] == [[[2, 2]], [[3, 3]]]


def test_a_scene_named_by_its_file_name_is_found_in_a_subfolder(path: Path) -> None:
    path.write_text(json.dumps({"scenes": {"b.png": {"instances": [{"id": 1, "points": [[1, 1]]}]}}}))
    store = PointsStore(path, ["a.png", "sub/b.png"])
    store.apply("sub/b.png", SIZE, add(2, 2, instance=1))
    assert list(json.loads(path.read_text())["scenes"]) == ["b.png"]
    both = PointsStore(path, ["x/b.png", "y/b.png"])
    assert both.summary() == [{"instances": 0, "done": False}] * 2, "two could be meant, so neither is"


def test_instances_without_an_id_are_called_as_readers_call_them(path: Path) -> None:
    given = [{"points": [[1, 2]]}, {"id": 1, "points": [[3, 4]]}, {"id": None, "points": [[5, 6]]}]
    path.write_text(json.dumps({"scenes": {"a.png": {"instances": given}}}))
    instances = PointsStore(path, ["a.png"]).scene("a.png")[0]["instances"]
    assert [one["id"] for one in instances] == [prompt.id for prompt in drawn_on(path, "a.png")] == [4, 1, 3]


def test_two_servers_on_one_file_lose_nothing(path: Path) -> None:
    stores = [PointsStore(path, ["a.png"]) for _ in range(2)]

    def work(number: int) -> None:
        for i in range(20):
            stores[number % 2].apply("a.png", SIZE, add(number, i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prompts = drawn_on(path, "a.png")
    assert {tuple(prompt.coords[0].tolist()) for prompt in prompts} == {(n, i) for n in range(4) for i in range(20)}
    assert len({prompt.id for prompt in prompts}) == 80


def test_a_change_by_another_program_is_seen_and_kept(store: PointsStore, path: Path) -> None:
    store.apply("a.png", SIZE, add(3, 4))
    version, _ = store.changes(0)
    other = PointsStore(path, ["a.png"])
    other.apply("a.png", SIZE, add(5, 6))
    now, changed = store.changes(version)
    assert now > version
    assert list(changed) == ["a.png"]
    answer = store.apply("a.png", SIZE, {"do": "delete", "instance": 1})
    assert answer["previous"] == changed["a.png"]
    with pytest.raises(Conflict):
        other.apply("a.png", SIZE, add(8, 8, instance=1))
    assert [prompt.coords.tolist() for prompt in drawn_on(path, "a.png")] == [[[5, 6]]]


def test_a_file_that_went_bad_is_not_overwritten(store: PointsStore, path: Path) -> None:
    store.apply("a.png", SIZE, add(3, 4))
    path.write_text('{"scenes": {"a.png": ')
    for act in (lambda: store.apply("a.png", SIZE, add(5, 6)), lambda: store.changes(0)):
        with pytest.raises(ResamError, match="not JSON"):
            act()
    assert path.read_text() == '{"scenes": {"a.png": '


def test_a_write_that_fails_changes_nothing(store: PointsStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.apply("a.png", SIZE, add(3, 4))
    before, content = store.scene("a.png"), path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResamError, match="No space left"):
        store.apply("a.png", SIZE, add(5, 6))
    assert store.scene("a.png") == before
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"scenes": {"a.png": {"instances": [{"points": [[1]]}]}}}', "expected a point"),
        ('{"version": 2, "scenes": {}}', "version 2"),
        ('{"instances": []}', "without its name"),
        ('{"type": "FeatureCollection", "features": []}', "GeoJSON or COCO"),
        ('{"scenes": {"a.png": {"instances": []}, "./a.png": {"instances": []}}}', "twice"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(path: Path, content: str, why: str) -> None:
    path.write_text(content)
    with pytest.raises(ResamError, match=why) as caught:
        PointsStore(path, ["a.png"])
    assert str(caught.value).startswith(str(path))
    assert path.read_text() == content


def test_boxes_and_classes_are_drawn_and_taken_back(store: PointsStore, path: Path) -> None:
    ship = store.name_class("ship")
    assert (ship, store.name_class("quay"), store.name_class(" ship ")) == (1, 2, 1)
    one = store.apply("a.png", SIZE, {"do": "box", "instance": None, "box": [10, 20.004, 30, 40], "category": ship})
    two = store.apply("a.png", SIZE, {**add(50, 60), "category": 2})["instance"]
    store.apply("a.png", SIZE, {"do": "box", "instance": two, "box": [45, 55, 60, 70]})
    store.apply("a.png", SIZE, {"do": "class", "instance": two, "category": 1})
    prompts = drawn_on(path, "a.png")
    assert [prompt.category for prompt in prompts] == [Category(1, "ship"), Category(1, "ship")]
    assert [prompt.box.tolist() for prompt in prompts if prompt.box is not None] == [[10, 20, 30, 40], [45, 55, 60, 70]]
    assert [len(prompt.coords) for prompt in prompts] == [0, 1]
    assert PointsFile.open(path).categories == [{"id": 1, "name": "ship"}, {"id": 2, "name": "quay"}]
    # an instance goes with the last of what marks it
    store.apply("a.png", SIZE, {"do": "remove", "instance": two, "point": [50, 60], "label": 1})
    gone = store.apply("a.png", SIZE, {"do": "box", "instance": two, "box": None})
    assert gone["value"] is None
    store.apply("a.png", SIZE, {"do": "restore", "value": {"id": two, "points": [], "labels": [], "box": [1, 1, 2, 2]}})
    store.apply("a.png", SIZE, {"do": "class", "instance": one["instance"], "category": None})
    assert [prompt.category for prompt in drawn_on(path, "a.png")] == [None, None]


def test_classes_are_those_of_the_file_and_those_in_use(path: Path) -> None:
    instances = [{"points": [[1, 1]], "category": category} for category in (7, 2.0, "boat", None)]
    content = {"categories": [{"id": 7, "name": "ship", "supercategory": "vessel"}], "scenes": {"a.png": {}}}
    content["scenes"]["a.png"]["instances"] = instances  # type: ignore[call-overload]
    path.write_text(json.dumps(content))
    store = PointsStore(path, ["a.png"])
    names = [{"id": 7, "name": "ship"}, {"id": 2, "name": "2"}, {"id": "boat", "name": "boat"}]
    assert store.classes() == names
    assert store.name_class("car") == 8
    store.name_class("vessel", 7)
    store.name_class("tank", 2)
    assert store.name_class("boat") == "boat"
    for name, key in (("", None), ("x" * 101, None), ("car", 7), ("new", 99)):
        with pytest.raises(Refused):
            store.name_class(name, key)
    listed = PointsFile.open(path).categories
    assert listed == [
        {"id": 2, "name": "tank"},
        {"id": 7, "name": "vessel", "supercategory": "vessel"},
        {"id": 8, "name": "car"},
    ]


def test_what_an_engine_proposed_is_accepted_or_rejected(store: PointsStore, path: Path) -> None:
    accept = {"do": "accept", "point": [15, 25], "label": 1, "box": [10, 20, 20, 30], "category": 3}
    accepted = store.apply("a.png", SIZE, accept)
    assert accepted["value"] == {"id": 1, "points": [[15, 25]], "labels": [1], "box": [10, 20, 20, 30], "category": 3}
    assert store.apply("a.png", SIZE, {**accept, "retry": True})["instances"] == 1
    for _ in range(2):
        store.apply("a.png", SIZE, {"do": "reject", "box": [40, 40, 50, 50]})
    store.apply("a.png", SIZE, {"do": "reject", "box": [60, 40, 70, 50]})
    store.apply("a.png", SIZE, {"do": "reject", "box": [40, 40, 50, 50], "back": True})
    assert json.loads(path.read_text())["scenes"]["a.png"]["rejected"] == [[60, 40, 70, 50]]
    assert len(drawn_on(path, "a.png")) == 1


def test_thousands_of_odd_operations_leave_a_file_that_every_command_reads(path: Path) -> None:
    good = [
        add(3, 4),
        {"do": "restore", "value": {"id": 5, "points": [[1, 1]], "labels": [1], "category": 2, "box": [1, 2, 3, 4]}},
        {"do": "box", "instance": 1, "box": [1, 2, 30, 40]},
        {"do": "box", "instance": None, "box": [1, 2, 30, 40], "category": "ship"},
        {"do": "accept", "point": [5, 6], "label": 1, "box": [1, 2, 30, 40], "category": 3},
        {"do": "class", "instance": 1, "category": 4},
        {"do": "reject", "box": [1, 2, 3, 4]},
        {"do": "done", "done": True},
    ]
    scene: Any = {"width": SIZE[0], "height": SIZE[1], "instances": []}
    done = 0
    for number, damaged in enumerate(mutations({"all": good}, 2000)):
        operations = damaged["all"] if isinstance(damaged, dict) and isinstance(damaged.get("all"), list) else []
        for operation in operations:
            try:
                operation = parse_json(json.dumps(operation))  # as the server takes it
                scene = apply_operation(scene, operation, number + 1).scene if isinstance(operation, dict) else scene
                done += 1
            except (Refused, Malformed):
                continue
        scene = {**scene, "instances": scene["instances"][-3:]}
        text = json.dumps({"scenes": {"a.png": scene}}, allow_nan=False)
        if number % 50 == 0:
            path.write_text(text)
            PointsStore(path, ["a.png"])
        parse_points(text, path)
    assert done > 2000


def test_what_a_killed_server_left_is_removed(path: Path) -> None:
    store = PointsStore(path, ["a.png"])
    store.apply("a.png", SIZE, add(3, 4))
    left = path.with_name(".resam.0123abcd.tmp.json")
    left.write_text("half")
    other = path.with_name(".resam.0123abcd.tmp.tif")
    other.write_text("of a run")
    PointsStore(path, ["a.png"])
    assert (left.exists(), other.exists(), path.exists()) == (False, True, True)


def test_an_id_that_no_browser_can_hold_is_said(path: Path) -> None:
    path.write_text(json.dumps({"scenes": {"a.png": {"instances": [{"id": 2**53, "points": [[1, 1]]}]}}}))
    with pytest.raises(ResamError, match="no browser can hold the id 9007199254740992"):
        PointsStore(path, ["a.png"])


CRASH = """
import os, signal, sys
from resam_runtime.annotate.store import PointsStore
store = PointsStore(sys.argv[1], ["a.png"])
for i in range(1000):
    store.apply("a.png", (1000, 1000), {"do": "add", "instance": None, "point": [i, 1], "label": 1})
    os.write(1, b"%d\\n" % i)
"""


def test_a_killed_server_has_every_point_it_acknowledged(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASH, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(25)]
    process.kill()
    seen += process.stdout.read().splitlines()
    process.wait()
    acknowledged = {int(line) for line in seen if line.strip()}
    kept = {int(prompt.coords[0, 0]) for prompt in drawn_on(path, "a.png")}
    assert acknowledged <= kept
    assert len(kept) - len(acknowledged) <= 1
