"""Results that are read back: they may have been edited, cut or made by hand, and that is the reader's news, no
traceback's.

A kind says what a value has to be: a type (float takes whole numbers too, `object` anything), None, a tuple of kinds any
of which will do, [kind] for a list of such values, {key: kind} for an object with at least these keys.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from resam_runtime.common.errors import ResamError

LARGEST = 1e15  # no second and no byte that is measured here comes near; and no ratio of two such overflows
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def read_json(path: Path, advice: str) -> Any:
    """What a JSON file holds. advice: what to do where it holds none, the end of the error's line.

    Raises `ResamError` for a file that cannot be read, is not JSON, or holds a number that JSON does not have (NaN,
    infinity): nothing can be said to be larger or smaller than that, so a comparison would pass it.
    """

    def finite(text: str) -> float:
        if math.isfinite(value := float(text)):
            return value
        raise ResamError(f"{path}: damaged ({text} is no measurement); {advice}")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=finite, parse_constant=finite)
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ResamError(f"{path}: not JSON ({error}); {advice}") from None


def mismatch(value: Any, kind: Any, where: str = "") -> str | None:
    """Where a value is not of its kind, in a few words ("cases[0].name: expected text, got 3"); None where it is."""
    if isinstance(kind, dict | list):
        expected = type(kind)
        if not isinstance(value, expected):
            return _unfit(value, expected, where)
        if isinstance(kind, dict):
            if absent := [key for key in kind if key not in value]:
                return f"no {_inside(where, absent[0])}"
            parts = ((value[key], part, _inside(where, key)) for key, part in kind.items())
        else:
            parts = ((item, kind[0], f"{where}[{number}]") for number, item in enumerate(value))
        return next((found for part in parts if (found := mismatch(*part)) is not None), None)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return None if any(_fits(value, one) for one in kinds) else _unfit(value, kind, where)


def _fits(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is object:
        return True
    if isinstance(value, bool):
        return kind is bool  # Python's are whole numbers, JSON's are not
    if isinstance(value, int | float) and abs(value) > LARGEST:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _unfit(value: Any, kind: Any, where: str) -> str:
    names = ["null" if one is None else _NAMES[one] for one in (kind if isinstance(kind, tuple) else (kind,))]
    came = json.dumps(value)
    return f"{where}: expected {' or '.join(names)}, got {came if len(came) <= 40 else came[:37] + '...'}"
