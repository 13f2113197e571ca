"""Types of option values that several commands take. Each refuses a bad value in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class Words(click.ParamType):
    """Some of a few words, separated by commas."""

    name = "list"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self._choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = _split(self, value, param, ctx)
        for word in words:
            if word not in self._choices:
                self.fail(f"{word!r} is not one of {', '.join(self._choices)}", param, ctx)
        return words


class Place(click.ParamType):
    """A file or a folder, as a path; a URL, a list (`@list.txt`) or a catalogue stays the text that it is."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        if not isinstance(value, str):
            return Path(value)
        said = value.startswith("@") or "://" in value or value.lower().endswith((".json", ".geojson", ".parquet"))
        return value if said else Path(value)


class ShardOf(click.ParamType):
    """K/N: one of N parts, counted from 0."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        number, _, count = value.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 0 < int(count) <= 1_000_000):
            self.fail(f"{value!r} is not K/N, such as 3/64", param, ctx)
        if int(number) >= int(count):
            self.fail(f"{value!r}: parts are counted from 0, so the last is {int(count) - 1}/{count}", param, ctx)
        return int(number), int(count)


class Bands(click.ParamType):
    """One or three band numbers, counted from 1, separated by commas."""

    name = "bands"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = _split(self, value, param, ctx)
        for word in words:
            if not (word.isdecimal() and len(word) < 10 and int(word) > 0):
                self.fail(f"{word!r} is not a band number (1, 2, ...)", param, ctx)
        if len(words) not in (1, 3):
            self.fail(f"expected one or three bands, got {len(words)}", param, ctx)
        return tuple(int(word) for word in words)


class Bytes(click.ParamType):
    """A number of bytes, with k, M or G for powers of 1000."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        factor = {"k": 1000, "m": 1000**2, "g": 1000**3}.get(str(value)[-1:].lower(), 1)
        digits = str(value)[:-1] if factor > 1 else str(value)
        if not digits.isdecimal() or len(digits) > 18:
            self.fail(f"{value!r} is not a number of bytes (20000, 20k, 2M)", param, ctx)
        return int(digits) * factor


class Finite(click.FloatRange):
    """A range of numbers that "nan" is outside of: it is neither below nor above any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class TrainingPrecision(click.ParamType):
    """auto, fp32 or bf16. "32", the spelling of version 0.1, is understood until 0.3 and not shown."""

    name = "precision"
    _choices = ("auto", "fp32", "bf16")

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self._choices)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        precision = "fp32" if value == "32" else value
        if precision not in self._choices:
            self.fail(f"{value!r} is not one of {', '.join(self._choices)}", param, ctx)
        return str(precision)


def _split(
    kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None
) -> tuple[str, ...]:
    words = tuple(word.strip() for word in str(value).split(",") if word.strip())
    if not words:
        kind.fail("empty list", param, ctx)
    return words
