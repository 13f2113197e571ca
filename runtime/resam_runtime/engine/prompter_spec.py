"""What an engine's prompter finds: its classes, in the order of its heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from resam_runtime.common.checked import Malformed, kind, list_of, number, text

MOST_CLASSES = 1000
Share = Annotated[float, number(0, 1)]
_ROWS = list_of(list_of(kind(Share)))


def _table(value: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in _ROWS(value))


@dataclass(frozen=True)
class FoundClass:
    """One class: COCO's number and its name; threshold: the score, 0 to 1, from which a peak is an instance; clicks:
    how many it was chosen by; table: rows (score, precision, recall), of the clicks on images set aside in training."""

    id: int
    name: Annotated[str, text()]
    threshold: Share
    clicks: int = 0
    table: Annotated[tuple[tuple[float, ...], ...], _table] = ()


_CLASSES = list_of(kind(FoundClass), most=MOST_CLASSES)


def _classes(value: Any) -> tuple[FoundClass, ...]:
    classes = tuple(_CLASSES(value))
    if not classes:
        raise Malformed("expected at least one class")
    if len({one.id for one in classes}) != len(classes):
        raise Malformed("an id appears twice")
    return classes


@dataclass(frozen=True)
class PrompterSpec:
    """The prompter of an engine file, or of an adapter."""

    classes: Annotated[tuple[FoundClass, ...], _classes]
