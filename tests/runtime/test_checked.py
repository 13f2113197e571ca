"""Values from outside: what is taken, what is refused and in which words, and that hostile sizes take no time."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from resam_runtime.common.checked import (
    LARGEST,
    Malformed,
    number,
    optional,
    parse_json,
    read_json,
    take,
    text,
    whole,
)
from resam_runtime.common.errors import ResamError


@dataclasses.dataclass(frozen=True)
class Part:
    name: Annotated[str, text("[a-z]+", "abc")]
    sizes: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("is forbidden")


@dataclasses.dataclass(frozen=True)
class Whole:
    count: Annotated[int, whole(1, 9)]
    share: Annotated[float, number(0, 1, ends=False)]
    word: Literal["new", "old"]
    parts: Mapping[str, Part]
    note: str | None = None


GOOD = {"count": 3.0, "share": 0.5, "word": "new", "parts": {"one": {"name": "abc", "sizes": [1, "N"]}}, "more": 1}


def test_a_dataclass_is_made_of_its_fields() -> None:
    made = take(GOOD, Whole)
    assert made == Whole(3, 0.5, "new", {"one": Part("abc", (1, "N"))})
    assert isinstance(made.count, int)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 0}, "thing.count: expected a whole number from 1 to 9, got 0"),
        ({"count": 1.5}, "thing.count: expected a whole number from 1 to 9, got 1.5"),
        ({"count": True}, "thing.count: expected a whole number from 1 to 9, got true"),
        ({"share": 1}, "thing.share: expected a number between 0 and 1, got 1"),
        ({"share": float("nan")}, "thing.share: expected a number between 0 and 1, got NaN"),
        ({"word": "x" * 99}, f'thing.word: expected new or old, got "{"x" * 36}...'),
        ({"word": ["new"]}, "thing.word: expected new or old, got a list"),
        ({"parts": []}, "thing.parts: expected an object, got a list"),
        ({"parts": {"one": {}}}, "thing.parts.one.name: missing, expected text such as abc"),
        ({"parts": {"one": {"name": "A"}}}, 'thing.parts.one.name: expected text such as abc, got "A"'),
        (
            {"parts": {"one": {"name": "a", "sizes": [1, None]}}},
            "thing.parts.one.sizes[1]: expected a whole number or text, got null",
        ),
        ({"parts": {"one": {"name": "forbidden"}}}, "thing.parts.one: is forbidden"),
        ({"note": 7}, "thing.note: expected text or null, got 7"),
    ],
)
def test_what_is_wrong_is_said_by_its_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed) as caught:
        take({**GOOD, **changes}, Whole, "thing")
    assert str(caught.value) == said


def test_plain_objects_keep_what_nobody_asked_for() -> None:
    kinds = {"id": int | str, "seen": optional([float], list), "left": float | None}
    assert take({"id": 1.0, "x": []}, kinds) == {"id": 1, "x": [], "seen": [], "left": None}
    with pytest.raises(Malformed, match=r"^line 3\[1\].id: expected a whole number or text, got null$"):
        take([{"id": 1}, {"id": None}], [kinds], "line 3")
    with pytest.raises(Malformed, match=r"^there: missing, expected a value$"):
        take({}, {"there": object})


@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 1, 1e300, float("inf"), 10**400])
def test_no_number_is_larger_than_json_readers_agree_on(value: Any) -> None:
    assert take(LARGEST, int) == take(float(LARGEST), float) == LARGEST
    for spec in (int, float):
        with pytest.raises(Malformed, match="number, got"):
            take(value, spec)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1e999]", "1e999 is too large"),
        ("[-Infinity]", "Infinity"),
        ("[NaN]", "NaN is not a number JSON knows"),
        ("1" * 5000, "not JSON"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the member 'b' appears twice"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(content: str | bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        parse_json(content)


def test_a_member_that_is_repeated_is_found_in_linear_time() -> None:
    hostile = "{" + ",".join(f'"{n}":0' for n in range(200_000)) + ',"199999":1}'
    begin = time.process_time()
    with pytest.raises(Malformed, match="199999"):
        parse_json(hostile)
    assert time.process_time() - begin < 2


def test_a_file_is_read_whole_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert read_json(path, "make it again", Whole).count == 3
    for content in (b"\xff", b"[]", b'{"count": 1}'):
        path.write_bytes(content)
        with pytest.raises(ResamError, match=r"^\S+a\.json: damaged \([^\n]+\); make it again$"):
            read_json(path, "make it again", Whole)
    path.write_text(" " * 99)
    with pytest.raises(ResamError, match="has more than 50 bytes"):
        read_json(path, "", most=50)
    with pytest.raises(ResamError, match="No such file"):
        read_json(tmp_path / "none", "")
    with pytest.raises(ResamError, match="directory"):
        read_json(tmp_path, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_in_a_files_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ResamError, match=r"a\.json: not a regular file"):
        read_json(tmp_path / "a.json", "")
    os.symlink("/dev/zero", tmp_path / "b.json")
    with pytest.raises(ResamError, match=r"b\.json: not a regular file"):
        read_json(tmp_path / "b.json", "")
