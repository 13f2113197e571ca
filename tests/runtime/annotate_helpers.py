"""A running annotate server with small scenes, for tests."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from resam_runtime.annotate.images import SceneImages, list_scenes
from resam_runtime.annotate.preview import MaskPreview
from resam_runtime.annotate.server import AnnotateServer
from resam_runtime.annotate.store import PointsStore
from resam_runtime.points import Prompt, read_points
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.segment.segmenter import Segmenter

BRIGHT = (60, 40, 30, 20)
"""x, y, width, height of the bright block in `a.png`."""


def write_scenes(folder: Path) -> None:
    """`a.png` and `c.png` of 200 x 150 px, `b.png` broken, `large.png` of 3000 x 1200 px."""
    folder.mkdir(exist_ok=True)
    for name, content in _scene_files().items():
        (folder / name).write_bytes(content)


@functools.cache
def _scene_files() -> dict[str, bytes]:
    """Drawn and encoded once a process: the large one takes half a second, and most tests of the page want it."""
    image = np.full((150, 200, 3), 40, np.uint8)
    x, y, width, height = BRIGHT
    image[y : y + height, x : x + width] = 220
    across, down = np.meshgrid(np.arange(3000), np.arange(1200))
    ramp = np.stack([across * 255 / 3000, down * 255 / 1200, np.full(across.shape, 90)], 2)
    images = {"a.png": image, "c.png": image[::-1], "large.png": ramp[..., ::-1].astype(np.uint8)}
    files = {name: cv2.imencode(".png", pixels)[1].tobytes() for name, pixels in images.items()}
    return {**files, "b.png": files["a.png"][:200]}


@contextlib.contextmanager
def running(
    folder: Path, engine: Path | None = None, port: int | None = None, host: str = "127.0.0.1"
) -> Iterator[AnnotateServer]:
    """Serve a folder, with its points in points.json, until the block ends."""
    root, names = list_scenes(folder)
    images = SceneImages(root, names)
    preview = MaskPreview(Segmenter(engine, threads=1), images) if engine else None
    with AnnotateServer(host, port, images, PointsStore(root / "points.json", names), preview) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    images.close()


def drawn_on(path: Path, name: str) -> list[Prompt]:
    """The prompts that a points file holds for a scene of the size that it was drawn for."""
    made_for = json.loads(path.read_text())["scenes"].get(name, {})
    return read_points(path, SceneInfo(name, made_for.get("width", 100), made_for.get("height", 80)))
