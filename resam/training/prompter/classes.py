"""The classes that the prompter is taught: those of the clicks."""

from __future__ import annotations

import itertools

from resam.data.training_set import TrainingSet
from resam_runtime.masks.instance import Category
from resam_runtime.points import Prompt


class ClickedClasses:
    """The classes of a set's clicks, in the order of the heat maps; one, "instance", where the clicks say none."""

    def __init__(self, samples: TrainingSet) -> None:
        given = {one.category for own in samples.prompts for one in own if one.category is not None}
        known = {one.id for one in given if one.id is not None}
        names = {one.id: one.name or samples.data.categories.get(one.id) for one in given if one.id is not None}
        numbered = [Category(number, str(names[number] or number)) for number in sorted(known)]
        free = itertools.filterfalse(known.__contains__, itertools.count(1))
        others = sorted({one.name for one in given if one.id is None and one.name is not None})
        others = [name for name in others if name not in {one.name for one in numbered}]
        self.categories = [*numbered, *(Category(next(free), name) for name in others)] or [Category(1, "instance")]
        self._place = {one.id: place for place, one in enumerate(self.categories)}
        self._named = {one.name: place for place, one in enumerate(self.categories)}

    def __len__(self) -> int:
        return len(self.categories)

    def place(self, prompt: Prompt) -> int:
        """The heat map of a prompt's class; of one that says none the first."""
        category = prompt.category
        if category is None:
            return 0
        return self._named[category.name] if category.id is None else self._place[category.id]
