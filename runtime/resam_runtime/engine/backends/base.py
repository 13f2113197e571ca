"""What a backend is: three methods. Nothing else in the runtime knows which one it talks to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from resam_runtime.engine.engine_file import EngineFile


class Backend(Protocol):
    """Executes the graphs of one engine file.

    Arrays go in and come out as numpy arrays, C-contiguous, with the dtypes of the manifest, except what a run
    was asked to keep: such a value is opaque, lives where the backend computes, may only be passed on to `run`
    of the same backend, and frees its memory when the last reference to it goes.
    """

    @classmethod
    def load(cls, engine: EngineFile, device: str | None = None, threads: int | None = None) -> Backend:
        """Prepare the engine's graphs on a device; `ResamError` where that is not possible."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        """Run a graph and return the named outputs in order; with `keep`, left on the device."""
        ...

    def describe(self) -> str:
        """One line: the library, what executes the graphs in fact, and the precision."""
        ...
