"""What the writers of one scene's files need to know of it: plain data, no open file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from resam_runtime.masks.instance import Instance
from resam_runtime.scenes.georeference import Affine


@dataclass(frozen=True, eq=False)
class SceneResult:
    """A segmented scene.

    instances: those with a mask, in prompt order; ids, categories: per `Instance.index`, what the points file said.
    transform, crs: None if the scene is not georeferenced. overview: (h, w, 3) uint8 RGB, the scene no larger than an
    overlay is, None where no overlay is wanted.
    """

    name: str
    width: int
    height: int
    instances: Sequence[Instance]
    ids: Sequence[str | int | None] = ()
    categories: Sequence[int | None] = ()
    transform: Affine | None = None
    crs: str | None = None
    overview: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    def id_of(self, instance: Instance) -> str | int:
        """What the points file calls the instance, else its number from 1."""
        given = self.ids[instance.index] if instance.index < len(self.ids) else None
        return instance.index + 1 if given is None else given

    def category_of(self, instance: Instance) -> int | None:
        """Its category number, if the points file gave one."""
        return self.categories[instance.index] if instance.index < len(self.categories) else None
