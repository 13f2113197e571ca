"""The values of a manifest, each checked as it is taken: what is wrong is said in a few words, without the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard


class Malformed(Exception):
    """What is wrong with a manifest, in a few words and without its file's name."""


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def take_object(data: Any, where: str) -> Mapping[str, Any]:
    """A JSON object, as it is. Raises Malformed, as all of these do."""
    if not isinstance(data, dict):
        raise Malformed(f"{where}: expected an object, got {type(data).__name__}")
    return data


def take_optional_object(fields: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """A JSON object, or None."""
    value = fields.get(key)
    return None if value is None else take_object(value, key)


def take_text(fields: Mapping[str, Any], key: str, where: str) -> str:
    """1 to 1000 characters."""
    value = fields.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise Malformed(f"{where}.{key}: expected a text, got {value!r:.40}")
    return value


def take_choice(fields: Mapping[str, Any], key: str, where: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    value = fields.get(key)
    if value not in choices:
        raise Malformed(f"{where}.{key}: expected one of {', '.join(choices)}, got {value!r:.40}")
    return str(value)


def take_digest(fields: Mapping[str, Any], key: str, where: str) -> str:
    """A SHA-256."""
    value = fields.get(key)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise Malformed(f"{where}.{key}: expected 64 hex digits, got {value!r:.40}")
    return value


def take_flag(fields: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false; false where it is absent."""
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise Malformed(f"{where}.{key}: expected true or false, got {value!r:.40}")
    return value


def take_whole(fields: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    value = fields.get(key)
    if not is_whole(value) or not low <= value <= high:
        raise Malformed(f"{key}: expected a whole number from {low} to {high}, got {value!r:.40}")
    return value


def take_limit(fields: Mapping[str, Any], key: str) -> int | None:
    """A number of things at most, 1 or more; None for no limit."""
    return None if fields.get(key) is None else take_whole(fields, key, 1, 1 << 20)
