"""The runtime of resam: engine files, the segmenter, scenes and writers. It needs no torch.

    from resam_runtime import Segmenter
    segmenter = Segmenter("model.resam")
    instances = segmenter(image, points)

Importing this package is light: what it exports is loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resam_runtime.common.errors import ResamError
    from resam_runtime.engine.engine_file import EngineFile
    from resam_runtime.masks.instance import Instance
    from resam_runtime.segment.automatic import AutomaticOptions
    from resam_runtime.segment.segmenter import Embedding, Segmenter

__all__ = ["AutomaticOptions", "Embedding", "EngineFile", "Instance", "ResamError", "Segmenter"]

_HOMES = {
    "AutomaticOptions": "segment.automatic",
    "Embedding": "segment.segmenter",
    "EngineFile": "engine.engine_file",
    "Instance": "masks.instance",
    "ResamError": "common.errors",
    "Segmenter": "segment.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
