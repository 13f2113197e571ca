"""What only a trained model shows: an instance at a tile's border equals the one decoded in the middle of a tile."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from resam.model.bases import load_base
from resam_export.engine import export_engine
from resam_runtime import Segmenter
from resam_runtime.masks.crops import mask_iou

pytestmark = pytest.mark.slow

SIDE = 640  # 3 x 3 tiles of 256 px that begin at 0, 192 and 384
AT_BORDERS = [(192, 192), (384, 200), (224, 400), (448, 448), (150, 320), (320, 150)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory, traces: None) -> Segmenter:
    path = tmp_path_factory.mktemp("engine") / "tiny.resam"
    export_engine(load_base("tiny"), None, path, scenes=1)
    return Segmenter(path, device="cpu", threads=1)


def roofs() -> tuple[np.ndarray, list[np.ndarray]]:
    """Bright turned rectangles of 56 x 40 px on rough ground, around `AT_BORDERS`; the scene and their masks."""
    ground = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 2)
    gray = np.clip(90 + 10 * ground / ground.std(), 0, 255).astype(np.uint8)
    image, masks = np.repeat(gray[..., None], 3, 2), []
    for number, centre in enumerate(AT_BORDERS):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        corners = cv2.boxPoints((centre, (56, 40) if number % 2 else (40, 56), 15.0 * number))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
        image[mask > 0] = np.clip(image[mask > 0].astype(int) + np.array((110, 90, 80)), 0, 255)
        masks.append(mask > 0)
    return image, masks


def test_an_instance_at_a_border_equals_the_one_in_the_middle(segmenter: Segmenter) -> None:
    image, truths = roofs()
    size = segmenter.manifest.image_size
    starts = {tile.x for tile in segmenter.tiles(SIDE, SIDE)}
    assert any(abs(x - start) < 28 for x, _ in AT_BORDERS for start in starts)  # some roofs are cut by a tile's edge
    found = segmenter(image, AT_BORDERS)
    alike = []
    for own, truth, centre in zip(found, truths, AT_BORDERS):
        x, y = (int(np.clip(value - size // 2, 0, SIDE - size)) for value in centre)
        window = np.ascontiguousarray(image[y : y + size, x : x + size])
        middle = segmenter(window, [(centre[0] - x, centre[1] - y)])[0]
        alike.append(mask_iou(own.mask, own.origin, middle.mask, (middle.origin[0] + x, middle.origin[1] + y)))
        assert mask_iou(own.mask, own.origin, truth, (0, 0)) > 0.85
    assert min(alike) > 0.9
    assert np.mean(alike) >= 0.95
