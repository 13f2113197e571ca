"""What an engine's prompter finds: its classes, in the order of its heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resam_runtime.engine.manifest_values import Malformed, is_whole, take_object, take_text

MOST_CLASSES = 1000


@dataclass(frozen=True)
class FoundClass:
    """One class: COCO's number and its name; threshold: the score, 0 to 1, from which a peak is an instance; clicks:
    how many it was chosen by; table: rows (score, precision, recall), of the clicks on images set aside in training."""

    id: int
    name: str
    threshold: float
    clicks: int = 0
    table: tuple[tuple[float, float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "threshold": self.threshold,
            "clicks": self.clicks,
            "table": [list(row) for row in self.table],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> FoundClass:
        fields = take_object(data, where)
        number, clicks, table = fields.get("id"), fields.get("clicks", 0), fields.get("table", [])
        if not is_whole(number) or not is_whole(clicks):
            raise Malformed(f"{where}: expected id and clicks as whole numbers, got {number!r:.40} and {clicks!r:.40}")
        if not isinstance(table, list) or not all(isinstance(row, list) and len(row) == 3 for row in table):
            raise Malformed(f"{where}.table: expected rows of score, precision and recall")
        rows = tuple(tuple(_share(value, f"{where}.table") for value in row) for row in table)
        name = take_text(fields, "name", where)
        return cls(number, name, _share(fields.get("threshold"), f"{where}.threshold"), clicks, rows)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PrompterSpec:
    """The prompter of an engine file."""

    classes: tuple[FoundClass, ...]

    def to_json(self) -> dict[str, Any]:
        return {"classes": [one.to_json() for one in self.classes]}

    @classmethod
    def from_json(cls, data: Any) -> PrompterSpec:
        listed = take_object(data, "prompter").get("classes")
        if not isinstance(listed, list) or not 0 < len(listed) <= MOST_CLASSES:
            raise Malformed(f"prompter.classes: expected 1 to {MOST_CLASSES} classes")
        classes = tuple(FoundClass.from_json(one, f"prompter.classes[{i}]") for i, one in enumerate(listed))
        if len({one.id for one in classes}) != len(classes):
            raise Malformed("prompter.classes: an id appears twice")
        return cls(classes)


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Malformed(f"{where}: expected a number from 0 to 1, got {value!r:.40}")
    return float(value)
