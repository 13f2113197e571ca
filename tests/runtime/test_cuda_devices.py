"""The two device classes, over cuda-python and over pycuda, on a simulated driver: they do the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.cuda import Device, open_device
from resam_runtime.engine.backends.cuda_pycuda import PycudaDevice
from resam_runtime.engine.backends.cuda_python import CudaPythonDevice

from .cuda_drivers import CudaPythonDriver, Gpu, Result, left_over, over_cuda_python, over_pycuda

Opens = Callable[..., Device]
both = pytest.mark.parametrize("opens", [over_cuda_python, over_pycuda])


@both
def test_bytes_go_to_the_device_and_back(opens: Opens) -> None:
    gpu = Gpu()
    device = opens(gpu)
    assert (device.name, device.compute_capability, device.stream, gpu.depth) == ("Orin", "8.7", 7, 0)
    with device.active():
        first, second = device.allocate(100), device.allocate(100)
        source, target = device.pinned(100), device.pinned(60)
        source[:] = np.arange(100)
        device.upload(first, source[:80])
        device.copy(second, first, 70)
        device.download(target[:60], second)
        device.synchronize()
    assert gpu.diary == ["upload", "copy", "download", "synchronize"]
    assert target.tolist() == list(range(60))
    del first, second, source, target
    assert left_over(gpu) == (0, 0, 0)
    assert gpu.depth == 0


@both
def test_pinned_memory_lives_as_long_as_a_view_of_it(opens: Opens) -> None:
    gpu = Gpu()
    device = opens(gpu)
    with device.active():
        view = device.pinned(12)[:8].view(np.float32)
    view[:] = 1.5
    held = left_over(gpu)[1]
    assert view.tolist() == [1.5, 1.5]
    del view
    assert left_over(gpu)[1] == max(0, held - 1)


@both
def test_a_recording_is_launched_as_often_as_wanted_and_freed(opens: Opens) -> None:
    gpu, runs = Gpu(), [0]

    def work() -> None:
        runs[0] += 1

    device = opens(gpu)
    with device.active():
        recording = device.capture(lambda: gpu.enqueue(work) is None)
        assert runs == [0], "recorded, not run"
        for _ in range(3):
            device.launch(recording)
    assert runs == [3]
    assert left_over(gpu)[2] == 1
    del recording
    assert left_over(gpu)[2] == 0


@both
def test_what_cannot_be_recorded_is_none_and_leaves_nothing(opens: Opens) -> None:
    gpu = Gpu()
    device = opens(gpu)
    with device.active():
        assert device.capture(lambda: False) is None
        with pytest.raises(ZeroDivisionError):
            device.capture(lambda: bool(1 / 0))
        gpu.enqueue(lambda: None)
        gpu.records = False
        assert device.capture(lambda: True) is None
    assert gpu.diary == ["capture", "capture", "enqueue", "capture"]


@both
def test_full_memory_and_missing_gpus_are_said(opens: Opens) -> None:
    gpu = Gpu()
    device = opens(gpu)
    gpu.full = True
    with device.active(), pytest.raises(ResamError, match=r"^GPU Orin: no memory for 9 bytes \(.*MEMORY|memory"):
        device.allocate(9)
    assert gpu.depth == 0
    with pytest.raises(ResamError, match=r"^model.plan: no GPU 1 \(found 1\)"):
        opens(Gpu(), 1)


def test_without_a_driver_cuda_python_says_so() -> None:
    driver: Any = CudaPythonDriver(Gpu())
    driver.cuInit = lambda flags: (Result.CUDA_ERROR_NOT_SUPPORTED,)
    with pytest.raises(ResamError, match=r"CUDA does not start \(CUDA: CUDA_ERROR_NOT_SUPPORTED\).*nvidia-smi"):
        CudaPythonDevice(driver, Path("model.plan"), 0)


def test_the_real_package_without_a_gpu_is_an_error_of_one_line() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    try:
        if driver.cuInit(0)[0] == driver.CUresult.CUDA_SUCCESS:
            pytest.skip("there is a GPU here")
    except RuntimeError:
        pass
    with pytest.raises(ResamError, match="needs an NVIDIA GPU") as error:
        CudaPythonDevice(CudaPythonDevice.driver(), Path("model.plan"), 0)
    assert "\n" not in str(error.value)


def test_the_simulated_driver_has_cuda_pythons_names_and_arguments() -> None:
    real = pytest.importorskip("cuda.bindings.driver")
    for name in (name for name in vars(CudaPythonDriver) if name.startswith("cu")):
        [given] = re.findall(rf"^{name}\((.*)\)$", getattr(real, name).__doc__.splitlines()[0])
        assert len([one for one in given.split(",") if one]) == getattr(CudaPythonDriver, name).__code__.co_argcount - 1
    for member in vars(CudaPythonDriver.CUdevice_attribute), vars(CudaPythonDriver.CUstreamCaptureMode):
        for name, value in member.items():
            kinds = real.CUdevice_attribute if "ATTRIBUTE" in name else real.CUstreamCaptureMode
            assert int(getattr(kinds, name)) == value
    assert int(real.CUdeviceptr(4096)) == 4096


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that these packages, and no other, can be imported."""

    def install(*names: str) -> None:
        for name in ("pycuda", "cuda"):
            driver = f"{name}.driver" if name == "pycuda" else "cuda.bindings.driver"
            for module in (name, driver, *(["cuda.bindings"] if name == "cuda" else [])):
                monkeypatch.setitem(sys.modules, module, ModuleType(module) if name in names else None)
        if "pycuda" in names:
            monkeypatch.setattr(sys.modules["pycuda"], "driver", SimpleNamespace(), raising=False)
            monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace())
        if "cuda" in names:
            monkeypatch.setattr(sys.modules["cuda.bindings"], "driver", SimpleNamespace(), raising=False)

    return install


def test_the_package_that_is_installed_is_taken(packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for kind in (PycudaDevice, CudaPythonDevice):
        monkeypatch.setattr(kind, "__init__", lambda self, driver, path, number: opened.append(self.package))
    for names in (["cuda"], ["pycuda"], ["cuda", "pycuda"]):
        packages(*names)
        open_device(Path("model.plan"), 0)
    assert opened == ["cuda-bindings", "pycuda", "pycuda"]
    packages()
    with pytest.raises(
        ResamError, match=r"^model.plan: .* needs cuda-python or pycuda.*pip install 'cuda-bindings<13'"
    ):
        open_device(Path("model.plan"), 0)
