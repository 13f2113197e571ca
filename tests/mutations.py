"""Damage to plain JSON data, as an editor, a script or a stranger does it: somewhere in it another value stands."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**400, -(2**70), 0.5, -0.0, 1e300, "", "x", "..", "../x",
    "/etc/x", "a\0b", "\udce9", "x" * 5000, [], {}, [[]], [None], {"": None}, {"id": "x"}, [1, 2, 3], ["a", "b"],
]  # fmt: skip


def mutations(data: Any, count: int, seed: int = 20260129) -> Iterator[Any]:
    """`count` damaged copies: of each a value or a few are replaced, dropped, wrapped or moved elsewhere."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = copy.deepcopy(data)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            damaged = _mutated(damaged, chance)
        yield damaged


def damaged_texts(data: Any, count: int, seed: int = 20260130) -> Iterator[bytes]:
    """`count` damaged texts of a JSON file: cut, with bytes changed or repeated, or nested without end."""
    chance, whole = random.Random(seed), json.dumps(data).encode()
    for _ in range(count):
        text, at = bytearray(whole), chance.randrange(len(whole))
        length = chance.choice((1, 1, 3, 30))
        kind = chance.choice(("cut", "flip", "repeat", "drop", "number", "deep"))
        if kind == "cut":
            del text[at:]
        elif kind == "flip":
            text[at] ^= 1 << chance.randrange(8)
        elif kind == "repeat":
            text[at:at] = text[at : at + length]
        elif kind == "drop":
            del text[at : at + length]
        elif kind == "number":
            text[at:at] = chance.choice((b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"-", b"0x1"))
        else:
            depth = chance.choice((100, 900, 5000, 100_000))
            text[at:at] = b"[" * depth + b"]" * chance.choice((0, depth))
        yield bytes(text)


def _mutated(data: Any, chance: random.Random) -> Any:
    places = list(_places(data))
    if not places:
        return chance.choice(ODD)
    owner, key = chance.choice(places)
    kind = chance.choice(("odd", "odd", "odd", "drop", "wrap", "other", "rename"))
    if kind == "drop":
        del owner[key]
    elif kind == "wrap":
        owner[key] = chance.choice(([owner[key]], {"value": owner[key]}, str(owner[key])))
    elif kind == "other":
        giver, name = chance.choice(places)
        owner[key] = copy.deepcopy(giver[name])
    elif kind == "rename" and isinstance(owner, dict):
        owner[chance.choice(("", "x", key.upper(), key + "s"))] = owner.pop(key)
    else:
        owner[key] = copy.deepcopy(chance.choice(ODD))
    return data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])
