"""What a backend is. Nothing else in the runtime knows which one it talks to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile


class Backend(Protocol):
    """Executes the graphs of one engine file.

    Arrays go in and come out as numpy arrays, C-contiguous, with the dtypes of the manifest, except what a run
    was asked to keep: such a value is opaque, lives where the backend computes, may only be passed on to `run`
    of the same backend, and frees its memory when the last reference to it goes.
    """

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU, which several tiles may fill better than one."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Sequence[str], keep: bool = False) -> list[Any]:
        """Run a graph and return the named outputs in order; with `keep`, left on the device."""
        ...

    def split(self, kept: Any) -> list[Any]:
        """What a run kept of a batch, item by item, each with a first axis of 1."""
        ...

    def describe(self) -> str:
        """One line: the library, what executes the graphs in fact, and the precision."""
        ...


class BackendType(Protocol):
    """A class of backends, as `BACKENDS` lists them.

    reads: the `backend` of the manifests whose graphs it executes. suffix: of such engine files. devices: the words
    that choose it and its device, the CPU's as "cpu"; any other may carry a number ("cuda:1").
    """

    reads: ClassVar[str]
    suffix: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]

    @classmethod
    def load(cls, engine: EngineFile, device: str | None = None, threads: int | None = None) -> Backend:
        """Prepare the engine's graphs on a device (None: the best there is), with so many CPU threads (None: its own
        choice). `ResamError` where that is not possible: the library or the device is missing, or the engine does not
        suit it.
        """
        ...


def parse_device(path: object, device: str, devices: Sequence[str]) -> tuple[str, int]:
    """ "cuda:1" as ("cuda", 1), a word alone as device 0. `ResamError`, naming the engine file, for no such device."""
    match = re.fullmatch(r"(\w[\w-]*?)(?::(\d{1,3}))?", device, re.ASCII)
    if match is None or match[1] not in devices or (match[1] == "cpu" and match[2]):
        gpu = next(word for word in devices if word != "cpu")
        raise ResamError(f"{path}: runs on {' or '.join(devices)} (or {gpu}:1, ...), not on device {device!r}")
    return match[1], int(match[2] or 0)
