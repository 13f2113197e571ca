"""Backends: each executes the graphs of an engine file. The file's manifest says which one."""

from __future__ import annotations

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.base import Backend
from resam_runtime.engine.engine_file import EngineFile

__all__ = ["Backend", "load_backend"]


def load_backend(engine: EngineFile, device: str | None = None, threads: int | None = None) -> Backend:
    """Load the backend that the engine file names, on `device` (see each backend), with `threads` CPU threads.

    Raises `ResamError` when its library is not installed, the device is not there, or the engine does not
    suit it.
    """
    if engine.manifest.backend == "onnx":
        from resam_runtime.engine.backends.onnx import OnnxBackend

        return OnnxBackend.load(engine, device, threads)
    if engine.manifest.backend == "tensorrt":
        from resam_runtime.engine.backends.tensorrt import TensorRTBackend

        return TensorRTBackend.load(engine, device, threads)
    raise ResamError(f"{engine.path}: unknown backend {engine.manifest.backend!r}; update resam")
