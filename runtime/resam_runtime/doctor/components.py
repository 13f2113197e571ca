"""The components that a machine may have or lack, beyond the base install. A new one is an entry of `COMPONENTS`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resam_runtime.common.errors import one_line
from resam_runtime.common.gpu import NotHereError, find_gpu


@dataclass(frozen=True)
class Found:
    """Whether a part works here, and a few words: its version, or what is the matter with it."""

    works: bool
    detail: str


@dataclass(frozen=True)
class Component:
    """name: of the part. gives: what it is for. command: what brings it. find: looks for it, without loading torch."""

    name: str
    gives: str
    command: str
    find: Callable[[], Found]


def _package(*names: str, load: bool = True) -> Callable[[], Found]:
    """Looks for packages. load: imports them as well, since a package may be there and its libraries not."""

    def find() -> Found:
        absent = [name for name in names if importlib.util.find_spec(name) is None]
        if absent:
            return Found(False, f"{' and '.join(absent)} not installed")
        try:
            for name in names if load else ():
                importlib.import_module(name)
        except Exception as error:  # whatever a broken library raises is the news
            return Found(False, f"installed, but cannot be imported: {one_line(error)}")
        return Found(True, _version(names[0]))

    return find


def _version(name: str) -> str:
    """The version of the distribution that brings a module."""
    for distribution in _distributions().get(name, [name]):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Those that bring each module: the records of all that is installed are read for it."""
    return importlib.metadata.packages_distributions()


def _cuda_package() -> Found:
    """The package that plans run through."""
    from resam_runtime.engine.backends.cuda import DEVICE_TYPES

    for device in DEVICE_TYPES:
        with contextlib.suppress(ImportError):
            device.driver()
            return Found(True, f"{device.package} {importlib.metadata.version(device.package)}")
    return Found(False, f"none of {', '.join(device.package for device in DEVICE_TYPES)} can be imported")


def _provider(name: str) -> Callable[[], Found]:
    def find() -> Found:
        found = _package("onnxruntime")()
        if not found.works:
            return found
        import onnxruntime

        there = name in onnxruntime.get_available_providers()
        return Found(there, found.detail if there else f"ONNX Runtime {found.detail} comes without it")

    return find


def _gpu() -> Found:
    try:
        gpu = find_gpu()
    except NotHereError as error:
        return Found(False, str(error).removeprefix("no NVIDIA GPU found ").strip("()"))
    return Found(True, f"{gpu.name}, compute capability {gpu.compute_capability}")


COMPONENTS = (
    Component(
        "NVIDIA GPU",
        "engines on CUDA and TensorRT, and faster training",
        "where one is built in: install its driver, until nvidia-smi lists it",
        _gpu,
    ),
    Component("ONNX Runtime", "runs .resam files on the CPU", "pip install onnxruntime", _package("onnxruntime")),
    Component(
        "ONNX Runtime on CUDA",
        "runs .resam files on the GPU",
        "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu>=1.18'",
        _provider("CUDAExecutionProvider"),
    ),
    Component(
        "TensorRT",
        "builds and runs .plan files on the GPU",
        "pip install 'resam[tensorrt]' (JetPack: apt install python3-libnvinfer)",
        _package("tensorrt"),
    ),
    Component(
        "CUDA for Python",
        "runs .plan files, with TensorRT",
        "pip install 'cuda-bindings<13' for CUDA 12, 'cuda-bindings<14' for CUDA 13; or pip install pycuda",
        _cuda_package,
    ),
    Component("rasterio", "georeferenced scenes (GeoTIFF)", "pip install 'resam[geo]'", _package("rasterio")),
    Component(
        "torch",
        "resam-train, resam-distill, and resam-export from an adapter",
        "pip install 'resam[train,export]'",
        _package("torch", "segment_anything", "safetensors", "lightning_fabric", load=False),
    ),
    Component(
        "onnx",
        "resam-export from an adapter",
        "pip install 'resam[train,export]'",
        _package("onnx", "onnxscript", load=False),
    ),
)
