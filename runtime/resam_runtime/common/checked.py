"""Values that come from outside, checked as they are taken. They may have been edited, cut, made by hand or by somebody
hostile, and what is wrong with them is one line of news, no traceback.

What a value has to be is written as a type hint: `int`, `float` (takes whole numbers too), `str`, `bool`, `dict`,
`list`, `None`, `object` (anything that is there), `X | Y`, `list[X]`, `tuple[X, ...]`, `Mapping[str, X]`,
`Literal["a", "b"]`; a dataclass, for an object with its fields; `Annotated[int, whole(1, 256)]` where the type does not
say it all. Beside hints stand `[X]` for a list, `{member: X}` for an object with these members, and functions such as
`whole(1, 256)` themselves.

Numbers are finite and no larger than `LARGEST`. A member that is absent is taken for null. Members that nobody asked
for stay where they are in a plain object, and do not enter a dataclass.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import read_regular

LARGEST = (1 << 53) - 1
"""The largest number taken: every reader of JSON has whole numbers up to here exactly (RFC 8259, section 6)."""
Kind = Callable[[Any], Any]
"""Takes a value and returns it as it is to be used, or raises `Malformed`."""
T = TypeVar("T")


class Malformed(ValueError):
    """What is wrong with a value, in a few words. where: its place, such as "cases[0].name"; empty for the whole."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(problem, where)
        self.problem, self.where = problem, where

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem

    def inside(self, place: str | int) -> Malformed:
        """The same, of a part of something: by the name of a member, the number of an item, or in words."""
        name = f"[{place}]" if isinstance(place, int) else place
        if not (self.where and name):
            return Malformed(self.problem, self.where or name)
        joint = "" if self.where.startswith("[") else ": " if " " in name else "."
        return Malformed(self.problem, f"{name}{joint}{self.where}")


def parse_json(text: str | bytes) -> Any:
    """JSON as plain data. Raises `Malformed` where it is none, for a number that is not finite (a larger or smaller one
    is never found, so a comparison would pass it), and for a member that appears twice in one object (Python would keep
    the last and drop the first in silence)."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_no_duplicates)
    except Malformed:
        raise
    except RecursionError:
        raise Malformed("not JSON: nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"not JSON: {one_line(error)}") from None


def read_json(path: Path, advice: str, spec: Any = object, most: int | None = None) -> Any:
    """What a JSON file holds, as `take_from` gives it. most: bytes that it may have. Raises `ResamError` for a file
    that cannot be read, is no regular one or larger, or holds something else."""
    try:
        content = read_regular(path, most)
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    try:
        data = parse_json(content)
    except Malformed as error:
        raise ResamError(f"{path}: damaged ({error}); {advice}") from None
    return take_from(path, data, spec, advice)


@overload
def take_from(path: Path, value: Any, spec: type[T], advice: str) -> T: ...
@overload
def take_from(path: Path, value: Any, spec: Any, advice: str) -> Any: ...
def take_from(path: Path, value: Any, spec: Any, advice: str) -> Any:
    """What was read from a file, as `take` gives it. advice: the end of the error's line, what to do where it is not
    what it should be. Raises `ResamError`."""
    try:
        return take(value, spec)
    except Malformed as error:
        raise ResamError(f"{path}: damaged ({error}); {advice}") from None


@overload
def take(value: Any, spec: type[T], where: str = "") -> T: ...
@overload
def take(value: Any, spec: Any, where: str = "") -> Any: ...
def take(value: Any, spec: Any, where: str = "") -> Any:
    """The value, where it is what `spec` says; where: what the error calls it. Raises `Malformed`."""
    try:
        return kind(spec)(value)
    except Malformed as error:
        raise error.inside(where) from None


def kind(spec: Any) -> Kind:
    """The function that takes values of a kind; to be kept where `take` would be told an object's members often."""
    if isinstance(spec, list):
        return list_of(kind(spec[0]))
    if isinstance(spec, dict):
        return object_of({name: kind(part) for name, part in spec.items()})
    return _kind(spec)


def whole(low: int = -LARGEST, high: int = LARGEST) -> Kind:
    """A whole number in a range, also written 1.0."""

    def take_whole(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            _refuse(f"a whole number{_between(low, high)}", value)
        return value

    return take_whole


def number(low: float = -LARGEST, high: float = LARGEST, ends: bool = True) -> Kind:
    """A number in a range, with or without its ends, as a float."""

    def take_number(value: Any) -> float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not fits or (not ends and value in (low, high)):
            _refuse(f"a number{_between(low, high) if ends else _within(low, high)}", value)
        return float(value)

    return take_number


def text(pattern: str = r"(?s:.{1,1000})", such_as: str = "") -> Kind:
    """A text that matches a regular expression as a whole; by default 1 to 1000 characters. such_as: an example."""
    expression = re.compile(pattern, re.ASCII)

    def take_text(value: Any) -> str:
        if not isinstance(value, str) or not expression.fullmatch(value):
            _refuse(f"text such as {such_as}" if such_as else "text", value)
        return value

    return take_text


def choice(*words: str) -> Kind:
    """One of a few words."""

    def take_word(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            _refuse(" or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}", value)
        return value

    return take_word


def list_of(item: Kind, most: int | None = None, least: int = 0) -> Kind:
    """A list of so many values."""

    def take_list(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            _refuse("a list", value)
        if len(value) < least or (most is not None and len(value) > most):
            wanted = str(least) if least == most else f"at most {most}" if not least else f"{least} or more"
            raise Malformed(f"expected a list of {wanted}, got {len(value)}")
        taken: list[Any] = []
        try:
            for one in value:
                taken.append(item(one))
        except Malformed as error:
            raise error.inside(len(taken)) from None
        return taken

    return take_list


def object_of(members: Mapping[str, Kind]) -> Kind:
    """An object with these members, and whatever others it has."""

    def take_object(value: Any) -> dict[str, Any]:
        return {**_object(value), **_members(value, members)}

    return take_object


def mapping_of(item: Kind) -> Kind:
    """An object whose members, however many and whatever they are called, are all of one kind."""

    def take_mapping(value: Any) -> dict[str, Any]:
        return _members(_object(value), dict.fromkeys(value, item))

    return take_mapping


def optional(spec: Any, instead: Callable[[], Any]) -> Kind:
    """A value of a kind; null, or a member that is absent, stands for what `instead` makes."""
    part = kind(spec)
    return lambda value: instead() if value is None else part(value)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as an error shows it: short, and the kind of what is not short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        line = json.dumps(value)
    except (TypeError, ValueError):
        return type(value).__name__
    return line if len(line) <= 40 else f"{line[:37]}..."


def _refuse(expected: str, value: Any) -> NoReturn:
    raise Malformed(f"expected {expected}, got {shown(value)}")


def _between(low: float, high: float) -> str:
    if -low >= LARGEST and high >= LARGEST:
        return ""
    return f" from {low} to {high}" if high < LARGEST else f" from {low}"


def _within(low: float, high: float) -> str:
    return f" between {low} and {high}" if high < LARGEST else f" above {low}"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse("an object", value)
    return value


def _members(value: Mapping[str, Any], members: Mapping[str, Kind]) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    name = ""
    try:
        for name, part in members.items():
            if name not in value and part is _anything:
                raise Malformed("expected a value")
            taken[name] = part(value.get(name))
    except Malformed as error:
        if name not in value:
            error = Malformed(f"missing, {error.problem.partition(', got ')[0]}")
        raise error.inside(name) from None
    return taken


@functools.cache
def _kind(spec: Any) -> Kind:
    """As `kind`, of what can be told apart by being itself: hints, types, dataclasses and functions."""
    if spec in _KINDS:
        return _KINDS[spec]
    origin, parts = get_origin(spec), get_args(spec)
    if origin is Annotated:
        return _kind(parts[1])
    if origin is Literal:
        return choice(*parts)
    if origin in (Union, types.UnionType):
        return _any_of(tuple(map(_kind, parts)))
    if origin is list:
        return list_of(_kind(parts[0]))
    if origin is tuple:
        items = list_of(_kind(parts[0]))
        return lambda value: tuple(items(value))
    if origin in (dict, Mapping, collections.abc.Mapping):
        return mapping_of(_kind(parts[1]))
    if dataclasses.is_dataclass(spec) and isinstance(spec, type):
        return _dataclass(spec)
    if not callable(spec) or isinstance(spec, type):
        raise TypeError(f"{spec!r} says not what a value has to be")
    made: Kind = spec
    return made


def _any_of(kinds: tuple[Kind, ...]) -> Kind:
    takes_null = _KINDS[types.NoneType] in kinds

    def take_any(value: Any) -> Any:
        if value is None and takes_null:  # what is most often so, without the others' complaints
            return None
        problems = []
        for one in kinds:
            try:
                return one(value)
            except Malformed as error:
                if error.where:  # it is of this kind, but for a part of it
                    raise
                problems.append(error.problem.removeprefix("expected ").partition(", got ")[0])
        _refuse(" or ".join(problems), value)

    return take_any


def _dataclass(made: type) -> Kind:
    hints = get_type_hints(made, include_extras=True)
    fields = [field for field in dataclasses.fields(made) if field.init]
    needed = {field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING}
    members = {field.name: _kind(hints[field.name]) for field in fields}

    def take_dataclass(value: Any) -> Any:
        present = {n: one for n, one in members.items() if n in needed or n in _object(value)}
        taken = _members(_object(value), present)
        try:
            return made(**taken)
        except Malformed:
            raise
        except ValueError as error:
            raise Malformed(one_line(error)) from None

    return take_dataclass


def _of_type(wanted: type, name: str) -> Kind:
    def take_type(value: Any) -> Any:
        if not isinstance(value, wanted):
            _refuse(name, value)
        return value

    return take_type


def _anything(value: Any) -> Any:
    return value


def _finite(written: str) -> float:
    if not math.isfinite(value := float(written)):
        raise Malformed(
            f"{written[:40]} is not a number JSON knows" if written.isalpha() else f"{written[:40]} is too large"
        )
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Malformed(f"the member {twice[:40]!r} appears twice in one object")
    return result


_KINDS: dict[Any, Kind] = {
    object: _anything,
    Any: _anything,
    int: whole(),
    float: number(),
    str: _of_type(str, "text"),
    bool: _of_type(bool, "true or false"),
    dict: _of_type(dict, "an object"),
    list: _of_type(list, "a list"),
    None: _of_type(types.NoneType, "null"),
    types.NoneType: _of_type(types.NoneType, "null"),
}
