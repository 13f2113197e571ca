"""Backends: each executes the graphs of an engine file. A new one is a file here and a line in `BACKENDS`."""

from __future__ import annotations

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.base import Backend, BackendType, parse_device
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.backends.tensorrt import TensorRTBackend
from resam_runtime.engine.engine_file import EngineFile

__all__ = ["BACKENDS", "DEVICES", "Backend", "BackendType", "load_backend"]

BACKENDS: tuple[type[BackendType], ...] = (OnnxBackend, TensorRTBackend)
"""Of those that read the same engine files, the first is the one that is taken where no device is named."""

DEVICES = tuple(dict.fromkeys(word for backend in BACKENDS for word in backend.devices))
"""The words that name a device, to some backend."""


def load_backend(engine: EngineFile, device: str | None = None, threads: int | None = None) -> Backend:
    """Load the backend that reads the engine file and has the `device`, with `threads` CPU threads.

    Raises `ResamError` when its library is not installed, the device is not there, or the engine does not
    suit it.
    """
    readers = [backend for backend in BACKENDS if backend.reads == engine.manifest.backend]
    if not readers:
        raise ResamError(f"{engine.path}: unknown backend {engine.manifest.backend!r}; update resam")
    chosen = readers[0]
    if device is not None:
        word, _ = parse_device(engine.path, device, [word for backend in readers for word in backend.devices])
        chosen = next(backend for backend in readers if word in backend.devices)
    return chosen.load(engine, device, threads)
