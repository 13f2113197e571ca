"""What other people's tools make of our files and instances: the real packages read them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from resam_runtime import to_supervision
from resam_runtime.masks.instance import Category, Instance
from resam_runtime.writers import WRITERS, OutputOptions, SceneResult, SceneWriter
from resam_runtime.writers.yolo import joined

from .test_writers import HEIGHT, WIDTH, disc, done, instance, random_blobs, scene, write_coco

BLOBS = random_blobs(3)  # many parts, some with holes
MASKS = [disc(40, 40, 12), disc(80, 40, 20) & ~disc(80, 40, 9), BLOBS]
CATEGORIES = [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}]


def instances() -> list[Instance]:
    return [
        dataclasses.replace(instance(i, mask, 0.9 - i / 10), category=Category(1 + i % 2, ("ship", "plane")[i % 2]))
        for i, mask in enumerate(MASKS)
    ]


def write_yolo(path: Path, result: SceneResult, simplify: float = 0.0) -> list[str]:
    writer = WRITERS["yolo"]
    assert isinstance(writer, SceneWriter)
    return list(writer.write(path, result, OutputOptions(simplify=simplify)))


def fine_fill(line: str, scale: int = 8) -> np.ndarray:
    """A label as OpenCV fills it on a grid so fine that the pixels on the line itself do not count, (H, W) bool."""
    ring = np.array(line.split()[1:], np.float64).reshape(-1, 2) * (WIDTH, HEIGHT) * scale - 0.5
    canvas = np.zeros((HEIGHT * scale, WIDTH * scale), np.uint8)
    cv2.fillPoly(canvas, [np.round(ring * 256).astype(np.int32)], 1, shift=8)
    middle = scale // 2
    share = canvas.reshape(HEIGHT, scale, WIDTH, scale)[:, middle - 1 : middle + 1, :, middle - 1 : middle + 1]
    return np.asarray(share.mean((1, 3)) > 0.5)


def test_a_yolo_label_filled_is_the_mask_with_its_holes_and_parts(tmp_path: Path) -> None:
    assert write_yolo(tmp_path / "a.txt", scene(instances())) == []
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == [1, 2, 1]
    for line, mask in zip(lines, MASKS):
        numbers = np.array(line.split()[1:], float)
        assert ((numbers >= 0) & (numbers <= 1)).all()
        np.testing.assert_array_equal(fine_fill(line), mask)


def test_a_joined_ring_has_the_area_of_its_parts_less_the_holes() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    hole = np.array([[2, 2], [2, 5], [5, 5], [5, 2]], float)
    x, y = joined([square, hole, square + np.array([20, 0])]).T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == 100 - 9 + 100


def test_classes_without_a_number_are_0_and_told(tmp_path: Path) -> None:
    named = [dataclasses.replace(instance(0, MASKS[0]), category=Category(name="ship")), instance(1, MASKS[1])]
    [note] = write_yolo(tmp_path / "a.txt", scene(named))
    assert "1 instance written as class 0" in note
    assert [line[:2] for line in (tmp_path / "a.txt").read_text().splitlines()] == ["0 ", "0 "]


def test_supervision_loads_yolo_labels(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "data.yaml").write_text("names: [none, ship, plane]\n")
    write_yolo(tmp_path / "a.txt", scene(instances()[:2]), 0.5)
    loaded = sv.DetectionDataset.from_yolo(str(tmp_path), str(tmp_path), str(tmp_path / "data.yaml"))
    [(_, _, found)] = list(loaded)
    assert found.class_id.tolist() == [1, 2]
    for got, mask in zip(found.mask, MASKS):  # supervision rounds vertices to pixels and fills the line too
        assert (got & mask).sum() / (got | mask).sum() > 0.8


def test_instances_json_and_to_supervision_agree_in_supervision(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    write_coco(tmp_path / "instances.json", [done("a.png", instances())], categories=CATEGORIES)
    loaded = sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "instances.json"), force_masks=True)
    [(_, _, theirs)] = list(loaded)
    ours = to_supervision(instances())
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    np.testing.assert_array_equal(ours.mask, np.stack(MASKS))
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    assert ours.data["class_name"].tolist() == [loaded.classes[number] for number in theirs.class_id]
    assert ours.class_id.tolist() == [1, 2, 1]
    assert ours.confidence.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(ours[ours.confidence > 0.75]) == 2


def test_instances_without_mask_or_class_go_to_supervision() -> None:
    pytest.importorskip("supervision")
    empty = instance(0, MASKS[0]).with_mask(np.zeros((2, 2), bool))
    assert len(to_supervision([empty])) == 0
    found = to_supervision([empty, dataclasses.replace(instance(1, MASKS[0]), id="pier")])
    assert (found.class_id, found.data["instance"].tolist()) == (None, ["pier"])


def test_supervision_is_imported_only_when_called() -> None:
    code = "import sys; from resam_runtime import to_supervision; sys.exit('supervision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
