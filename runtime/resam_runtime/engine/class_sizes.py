"""How large the objects of an engine's classes are, and of which prompts it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.checked import Malformed, choice, number, text
from resam_runtime.engine.prompter_spec import MOST_CLASSES
from resam_runtime.masks.instance import Category

_AREA, _NAME = number(1e-6, 1e12), text()


def _areas(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or len(value) > MOST_CLASSES:
        raise Malformed("expected an area for each class")
    return {_NAME(name): float(_AREA(area)) for name, area in value.items()}


@dataclass(frozen=True)
class ClassSizes:
    """Areas of the objects of classes, by name: in square metres (unit "m2") or square pixels of the scene ("px2")."""

    unit: Annotated[str, choice("m2", "px2")]
    areas: Annotated[Mapping[str, float], _areas]

    @property
    def in_metres(self) -> bool:
        """Whether a scene's scale is needed to tell a size in pixels."""
        return self.unit == "m2"

    def sides(
        self, categories: Sequence[Category | None], metres_per_pixel: float | None
    ) -> NDArray[np.float32] | None:
        """(N,) px of the scene: side of a square of each object's area, 0 where it is not known; None: of none.

        metres_per_pixel: of the scene, None where it has none.
        """
        pixel = metres_per_pixel if self.in_metres else 1.0
        if pixel is None:
            return None
        known = {name.casefold(): math.sqrt(area) / pixel for name, area in self.areas.items()}
        names = [(one.name or "").casefold() if one is not None else "" for one in categories]
        sides = np.array([known.get(name, 0.0) for name in names], np.float32)
        return sides if sides.any() else None
