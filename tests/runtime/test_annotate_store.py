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

from resam_runtime.annotate.operations import Conflict, Refused
from resam_runtime.annotate.store import PointsStore
from resam_runtime.common.errors import ResamError
from resam_runtime.points import read_points
from resam_runtime.scenes.scene_info import SceneInfo

from .annotate_helpers import drawn_on

SIZE = (100, 80)


def add(x: float, y: float, label: int = 1, instance: Any = None, **more: Any) -> dict[str, Any]:
    return {"do": "add", "instance": instance, "point": [x, y], "label": label, **more}


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
