"""TensorRT's Python bindings on a machine without a GPU.

`compiler()`: TensorRT 11's own bindings over TensorRT-RTX, whose ONNX parser and compiler run on a CPU. Its plans can't
be run here, and it tunes no kernels; that a graph parses, type-checks and compiles is what it shows.

`inspectable(version)`: the bindings of any version, importable but without a library behind them, to look at their
classes.

Both are made once, in a folder of this user's under the system's temporary folder, and skip where they cannot be made;
under CI they fail instead, so that a run which checked nothing does not look like one that did.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

BINDINGS = "tensorrt-cu13-bindings==11.4.0.106"
COMPILER = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
HERE = Path(__file__).parent
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


def compiler() -> dict[str, str]:
    """The environment of a process in which `import tensorrt` gives a TensorRT that compiles on the CPU."""
    return _environment(_made("compiler", [BINDINGS, COMPILER], "11"))


def inspectable(requirement: str) -> dict[str, str]:
    """The environment of a process in which `import tensorrt` gives the classes of `requirement`; nothing runs."""
    name, version = requirement.split("==")
    return _environment(_made(f"{name}-{version}", [requirement], version.split(".")[0]))


def _environment(folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    for name, place in (("LD_LIBRARY_PATH", folder / "lib"), ("PYTHONPATH", folder / "site")):
        environment[name] = os.pathsep.join(filter(None, [str(place), os.environ.get(name)]))
    return environment


def _made(name: str, requirements: list[str], major: str) -> Path:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        _missing("TensorRT-RTX is packaged for Linux on x86-64")
    gcc = shutil.which("gcc")
    if gcc is None:
        _missing("gcc is not installed")
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    home = Path(tempfile.gettempdir()) / f"resam-trt-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        _missing(f"{home} is not ours")
    folder = home / f"{name}-py{python}"
    if folder.exists():
        return folder
    # Made aside and renamed: two runs at once, or one that is stopped, leave no half of it.
    work = Path(tempfile.mkdtemp(dir=home))
    try:
        _make(work, requirements, major, gcc, folder)
        work.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _make(work: Path, requirements: list[str], major: str, gcc: str, final: Path) -> None:
    site, lib = work / "site", work / "lib"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(site), *requirements], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        _missing(f"{' and '.join(requirements)} cannot be installed ({lines[-1][:200]})")
    lib.mkdir()
    define = []
    for macro, stem in (("CORE", "libtensorrt_rtx"), ("PARSER", "libtensorrt_onnxparser_rtx"), ("", "libcudart")):
        for found in site.glob(f"onnxruntime_ep_nv_tensorrt_rtx/{stem}.so.*"):
            soname = ".".join(found.name.split(".")[:3])
            (lib / soname).symlink_to(os.path.relpath(found, lib))
            if macro:
                define.append(f'-D{macro}="{final / "lib" / soname}"')
    first = lib / f"{LIBRARIES[0]}.so.{major}"
    command = [gcc, "-O1", "-shared", "-fPIC", *define, str(HERE / "forward.c"), "-o", str(first), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    for library in LIBRARIES[1:]:
        (lib / f"{library}.so.{major}").symlink_to(first.name)
    (site / "tensorrt").mkdir(exist_ok=True)
    (site / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must compile with TensorRT, but {reason}")
    pytest.skip(f"TensorRT cannot be had here: {reason}")
