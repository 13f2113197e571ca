"""The base install is the runtime: no torch is installed with it, and none is imported by it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from .engines import write_engine

ROOT = Path(__file__).parents[2]


def test_importing_the_runtime_brings_no_torch_and_no_backend() -> None:
    code = (
        "import sys, resam_runtime\n"
        "heavy = {'torch', 'segment_anything', 'onnxruntime', 'tensorrt', 'pycuda', 'rasterio', 'cv2'}"
        " & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_the_runtime_takes_less_than_a_third_of_a_second() -> None:
    code = "import time; start = time.perf_counter(); import resam_runtime; print(time.perf_counter() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.3


@pytest.mark.slow
def test_the_first_minute_needs_the_base_wheel_alone(tmp_path: Path) -> None:
    """The README's first commands, and an engine file of one's own."""
    wheels, environment = tmp_path / "wheels", tmp_path / "venv"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", wheels, ROOT], check=True)
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", next(wheels.glob("resam-*.whl"))], check=True)

    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert not installed & {"torch", "torchvision", "segment-anything", "onnx", "tensorrt", "rasterio"}

    engine, scenes, out = tmp_path / "model.resam", tmp_path / "scenes", tmp_path / "out"
    write_engine(engine)
    scenes.mkdir()
    image = np.full((96, 128, 3), 40, np.uint8)
    cv2.rectangle(image, (30, 20), (70, 60), (220, 220, 220), -1)
    cv2.imwrite(str(scenes / "roof.png"), image)
    (scenes / "roof.points.json").write_text(json.dumps({"instances": [{"id": 1, "points": [[50, 40]]}]}))
    command = [environment / "bin" / "resam-run", "--engine", engine, scenes, "-o", out]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(json.loads((out / "instances.json").read_text())["annotations"]) == 1

    command = [environment / "bin" / "resam-run", "--engine", "tiny", ROOT / "samples", "-o", tmp_path / "first"]
    begun = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - begun < 60
    assert len(list((tmp_path / "first").glob("*.png"))) == 5
    asked = json.loads((ROOT / "samples" / "points.json").read_text())["scenes"]
    made = json.loads((tmp_path / "first" / "instances.json").read_text())["annotations"]
    assert len(made) > 0.95 * sum(len(scene["instances"]) for scene in asked.values())

    trace = "import sys, resam_runtime.cli, resam_runtime.segment.segmenter; sys.exit('torch' in sys.modules)"
    subprocess.run([python, "-c", trace], check=True)
