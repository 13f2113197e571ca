"""Data sets, points, views and tiles: what reaches a training step, and what never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resam.data.coco import CocoData, find_splits
from resam.data.prompts import PointOptions, draw_points, point_seed, scene_prompts
from resam.data.spread import spread
from resam.data.tiles import plan_samples, tile_arrays, tile_masks, tile_points
from resam.data.training_set import TrainingSet
from resam.data.views import OPERATIONS, strong_view
from resam_runtime.common.errors import ResamError
from resam_runtime.points import Prompt
from resam_runtime.tiles.tiling import Framing, Tile

from .conftest import TOY


def _write(folder: Path, annotations: list[dict[str, Any]], image: np.ndarray | None = None, /, **more: Any) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture = np.zeros((40, 60, 3), np.uint8) if image is None else image
    cv2.imwrite(str(folder / "images" / "a.png"), picture)
    height, width = picture.shape[:2]
    images = [{"id": 1, "file_name": "a.png", "width": width, "height": height}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ship"}]} | more
    (folder / "train.json").write_text(json.dumps(document))
    return folder / "train.json"


def _box(number: int, x: int, y: int, w: int, h: int, **more: Any) -> dict[str, Any]:
    ring = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": [ring], "iscrowd": 0} | more


def test_polygons_and_both_kinds_of_rle_are_read_and_crowds_are_skipped(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 5:15] = 1
    packed = coco_mask.encode(np.asfortranarray(truth))
    counts = [int(run) for run in np.diff(np.flatnonzero(np.diff(np.r_[0, truth.T.ravel(), 0])), prepend=0)]
    counts.append(40 * 60 - sum(counts))
    kinds = [
        _box(1, 5, 10, 10, 10),
        _box(2, 0, 0, 1, 1, segmentation={"size": [40, 60], "counts": packed["counts"].decode()}),
        _box(3, 0, 0, 1, 1, segmentation={"size": [40, 60], "counts": counts}),
        _box(4, 0, 0, 9, 9, iscrowd=1),
    ]
    data = CocoData.open(_write(tmp_path, kinds))
    scene = data.scenes[0]
    assert [instance.id for instance in scene.instances] == [1, 2, 3]
    for instance in scene.instances:
        assert np.array_equal(scene.mask(instance), truth.astype(bool))


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 60), 90, np.uint8),
        np.linspace(0, 60000, 2400).reshape(40, 60).astype(np.uint16),
        np.full((40, 60, 4), 90, np.uint8),
    ],
    ids=["gray", "16-bit", "RGBA"],
)
def test_any_image_becomes_rgb(tmp_path: Path, image: np.ndarray) -> None:
    pixels = CocoData.open(_write(tmp_path, [_box(1, 0, 0, 9, 9)], image)).scenes[0].read()
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert pixels.max() > 80


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1, "file_name": "b.png", "width": 60, "height": 40}]}, r"b\.png: no such image"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "expected a file_name, width and height"),
        ({"images": [{"id": number, "file_name": "a.png", "width": 60, "height": 40} for number in (1, 7)]},
         r"train\.json: the images 1 and 7 have the same file_name, 'a\.png'; make them one image"),
        ({"annotations": [_box(1, 0, 0, 9, 9, image_id=7)]}, "no image has the id 7"),
        ({"annotations": [_box(1, 0, 0, 9, 9), _box(1, 9, 9, 9, 9)]}, "share the id 1"),
        ({"annotations": 3}, "expected a list"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_named_with_its_cause(tmp_path: Path, more: dict[str, Any], cause: str) -> None:
    path = _write(tmp_path, [_box(1, 0, 0, 9, 9)], None, **more)
    with pytest.raises(ResamError, match=cause):
        CocoData.open(path)


@pytest.mark.parametrize(
    ("name", "where", "annotations"),
    [
        ("images/1a2b-x.png", "images/1a2b-x.png", "result.json"),  # Label Studio
        ("x.png", "images/x.png", "train.json"),
        ("x.png", "x.png", "train.json"),
        ("photos/x.png", "photos/x.png", "annotations/train.json"),
        ("images/x.png", "images/x.png", "annotations/train.json"),
        ("sub\\x.png", "images/sub/x.png", "train.json"),  # programs of Windows
        (".\\images\\x.png", "images/x.png", "train.json"),
        ("back\\slash.png", "images/back\\slash.png", "train.json"),  # a file's very name, where that can be
    ],
)
def test_images_are_found_where_other_tools_say_they_are(
    name: str, where: str, annotations: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for path in (tmp_path / where, tmp_path / annotations):
        path.parent.mkdir(exist_ok=True, parents=True)
    cv2.imwrite(str(tmp_path / where), np.full((40, 60, 3), 7, np.uint8))
    images = [{"id": 1, "file_name": name, "width": 60, "height": 40}]
    (tmp_path / annotations).write_text(json.dumps({"images": images, "annotations": [_box(1, 5, 5, 9, 9)]}))
    [scene] = CocoData.open(tmp_path / annotations).scenes
    assert scene.name == name
    assert (scene.read() == 7).all()


def test_an_image_that_is_nowhere_is_named_without_an_option_that_not_every_command_has(tmp_path: Path) -> None:
    path = _write(tmp_path, [], None, images=[{"id": 1, "file_name": "b.png", "width": 60, "height": 40}])
    with pytest.raises(ResamError, match="no such image") as caught:
        CocoData.open(path)
    assert "--" not in str(caught.value)


def test_annotations_with_a_box_only_are_skipped_and_counted(tmp_path: Path) -> None:
    box = {"bbox": [1, 1, 5, 5]}
    boxes = [_box(2, 0, 0, 1, 1, segmentation=nothing, **box) for nothing in ([],)]
    boxes += [{"id": 3, "image_id": 1, "category_id": 1, **box}]
    data = CocoData.open(_write(tmp_path, [_box(1, 5, 5, 9, 9), *boxes]))
    said: list[str] = []
    [prompts] = scene_prompts(data, PointOptions(), note=said.append)
    assert [prompt.id for prompt in prompts] == [1]
    assert said == [f"skipped: 2 instances of {data.path} with a box and no mask"]
    only_boxes = CocoData.open(_write(tmp_path, boxes))
    with pytest.raises(ResamError, match="annotation 2: no segmentation"):
        scene_prompts(only_boxes, PointOptions())


def test_ids_and_sizes_written_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    image = {"id": 1.0, "file_name": "a.png", "width": 60.0, "height": 40.0}
    more = {"image_id": 1.0, "category_id": 3.0, "points": [[9, 9]]}
    boxes = [_box(0, 0, 0, 9, 9, id=1.0, **more), _box(2, 9, 9, 9, 9, instance=7.0, **more)]
    path = _write(tmp_path, boxes, None, images=[image], categories=[{"id": 3.0, "name": "ship"}])
    data = CocoData.open(path)
    [scene] = data.scenes
    assert [(repr(one.id), repr(one.category)) for one in scene.instances] == [("1", "3"), ("7", "3")]
    assert (repr(scene.width), data.categories[3]) == ("60", "ship")
    [own] = scene_prompts(data, PointOptions(keypoints=True))
    assert [(repr(prompt.id), prompt.category) for prompt in own] == [("1", (3, "ship")), ("7", (3, "ship"))]


def test_what_is_no_json_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"images": [')
    with pytest.raises(ResamError, match=r"train\.json: not JSON"):
        CocoData.open(tmp_path / "train.json")
    with pytest.raises(ResamError, match=r"none\.json: No such file"):
        CocoData.open(tmp_path / "none.json")
    with pytest.raises(ResamError, match="no such folder"):
        find_splits(tmp_path / "nowhere")
    (tmp_path / "train.json").unlink()
    with pytest.raises(ResamError, match=r"no train\.json"):
        find_splits(tmp_path)


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, [_box(1, 0, 0, 9, 9)])
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((41, 60, 3), np.uint8))
    with pytest.raises(ResamError, match=r"60 x 41 px, but the annotations were made for 60 x 40"):
        CocoData.open(path).scenes[0].read()


def test_points_lie_on_the_mask_and_negatives_off_it() -> None:
    mask = np.random.default_rng(0).random((30, 50)) < 0.1
    for seed in range(20):
        coords, labels = draw_points(mask, 3, 2, [seed])
        assert labels.tolist() == [1, 1, 1, 0, 0]
        assert mask[coords[:, 1].astype(int), coords[:, 0].astype(int)].tolist() == [True, True, True, False, False]
        assert len({tuple(point) for point in coords}) == 5


def test_every_pixel_of_a_mask_can_be_drawn() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    seen = {tuple(draw_points(mask, 1, 0, point_seed("ab" * 32, i, 1))[0][0].tolist()) for i in range(200)}
    assert seen == {(x, y) for x in (2.0, 3.0, 4.0) for y in (1.0, 2.0)}


def test_a_mask_smaller_than_the_number_of_points_gives_what_it_has() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    coords, labels = draw_points(mask, 3, 0, [1])
    assert coords.tolist() == [[2.0, 2.0]]
    assert labels.tolist() == [1]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_instance_ever_shows_more_than_its_points_across_epochs(scenes: CocoData, number: int) -> None:
    shown: dict[Any, set[tuple[float, float]]] = {}
    samples = TrainingSet(scenes, PointOptions(number), TOY, Framing(64), seed=4)
    for epoch in range(4):
        samples.start_epoch(epoch)
        for index in samples.order(epoch):
            sample = samples.samples[index]
            views = samples.load(index, epoch)
            for row, which in enumerate(sample.prompts):
                prompt = samples.prompts[sample.scene][which]
                real = views.weak.labels[row] == 1
                shown.setdefault(prompt.id, set()).update(map(tuple, prompt.coords.tolist()))
                assert real.sum() <= number
    assert len(shown) == scenes.count
    assert max(len(points) for points in shown.values()) == number
    again = scene_prompts(scenes, PointOptions(number), epoch=9)
    assert all({*map(tuple, prompt.coords.tolist())} == shown[prompt.id] for own in again for prompt in own)


def test_resampled_points_do_change_with_the_epoch(scenes: CocoData) -> None:
    first, second = (scene_prompts(scenes, PointOptions(1, resample=True), epoch) for epoch in (0, 1))
    same = [np.array_equal(a.coords, b.coords) for own, other in zip(first, second) for a, b in zip(own, other)]
    assert np.mean(same) < 0.2


def test_points_only_training_never_decodes_a_mask_after_the_draw(
    scenes: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
    monkeypatch.setattr("resam.data.coco.decode_segmentation", lambda *_: pytest.fail("a true mask was read"))
    for epoch in range(2):
        samples.start_epoch(epoch)
        assert all(samples.load(index, epoch).given is None for index in samples.order(epoch))


def test_points_come_from_a_points_file_or_keypoints(tmp_path: Path) -> None:
    annotations = [_box(1, 5, 5, 9, 9, keypoints=[7, 8, 2, 0, 0, 0]), _box(2, 30, 5, 9, 9, keypoints=[33, 9, 1])]
    data = CocoData.open(_write(tmp_path, annotations))
    [own] = scene_prompts(data, PointOptions(keypoints=True))
    assert [prompt.coords.tolist() for prompt in own] == [[[7, 8]], [[33, 9]]]
    (tmp_path / "p.csv").write_text("scene,instance,x,y,label\na.png,2,31,6,1\na.png,2,1,1,0\n")
    [own] = scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))
    assert [(prompt.id, prompt.coords.tolist(), prompt.labels.tolist()) for prompt in own] == [
        (2, [[31, 6], [1, 1]], [1, 0])
    ]


def test_a_point_outside_its_image_is_named(tmp_path: Path) -> None:
    data = CocoData.open(_write(tmp_path, [_box(1, 5, 5, 9, 9)]))
    (tmp_path / "p.csv").write_text("scene,instance,x,y\na.png,1,60,6\n")
    with pytest.raises(ResamError, match=r"p\.csv: a\.png: instance 1: point 60, 6 lies outside"):
        scene_prompts(data, PointOptions(file=tmp_path / "p.csv"))


def test_every_instance_is_in_exactly_one_sample_and_its_points_in_the_tile() -> None:
    rng = np.random.default_rng(0)
    prompts = [
        [Prompt(rng.uniform(0, (299, 199), (3, 2)).astype(np.float32), np.array([1, 1, 0], np.int32), i) for i in range(50)],  # noqa: E501
        [],
        [Prompt(np.array([[3.0, 4.0]], np.float32), np.ones(1, np.int32), 7)],
    ]  # fmt: skip
    samples = plan_samples([(300, 200), (300, 200), (50, 60)], prompts, 64, Framing(64))
    seen = [(sample.scene, i) for sample in samples for i in sample.prompts]
    assert sorted(seen) == [(0, i) for i in range(50)] + [(2, 0)]
    for sample in samples:
        _, labels = tile_points([prompts[sample.scene][i] for i in sample.prompts], sample.tile)
        assert (labels == 1).any(axis=1).all()  # each keeps a positive point


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("tile", [Tile(20, 10, 64, 64), Tile(0, 0, 100, 80, 0.64), Tile(0, 0, 30, 24, 64 / 30)])
def test_points_masks_and_pixels_of_a_tile_stay_together(tile: Tile, mirror: tuple[bool, bool]) -> None:
    image, mask = np.full((80, 100, 3), 20, np.uint8), np.zeros((80, 100), bool)
    x, y = tile.x + tile.width // 3, tile.y + tile.height // 4
    image[y - 3 : y + 4, x - 3 : x + 4], mask[y - 3 : y + 4, x - 3 : x + 4] = 220, True
    window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    prompt = Prompt(np.array([[x, y]], np.float32), np.ones(1, np.int32), 1)
    arrays = tile_arrays(window, tile, [prompt], 64, mirror)
    truth = tile_masks([mask], tile, 32, 64, mirror)[0]
    bright = np.stack(np.nonzero(arrays.image[..., 0] > 180))[::-1].mean(axis=1)
    ys, xs = np.nonzero(truth > 0.5)
    centre = (np.array([xs.mean(), ys.mean()]) + 0.5) * 2 - 0.5
    assert np.abs(arrays.coords[0, 0] - bright).max() < 0.8
    assert np.abs(arrays.coords[0, 0] - centre).max() < 1.2
    covered = 49 * tile.scale**2 / 4  # of cells
    assert truth.sum() == pytest.approx(covered, rel=0.05)


def test_strong_views_change_colours_but_nothing_else() -> None:
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), (0, 0), 3)
    image[:, 40:] = (124, 116, 104)
    strong = strong_view(image, np.random.default_rng(1), (64, 40), 1.0)
    assert np.array_equal(strong[:, 40:], image[:, 40:])
    assert not np.array_equal(strong[:, :40], image[:, :40])
    assert np.array_equal(strong, strong_view(image, np.random.default_rng(1), (64, 40), 1.0))
    assert np.array_equal(strong_view(image, rng, probability=0.0), image)
    for operation in OPERATIONS:
        out = operation(image, np.random.default_rng(2))
        assert out.dtype == np.uint8
        assert out.shape == image.shape


def test_a_sample_does_not_depend_on_the_order_of_loading(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), seed=1)
    forward = [samples.load(i, 2) for i in range(len(samples))]
    backward = [samples.load(i, 2) for i in reversed(range(len(samples)))][::-1]
    for a, b in zip(forward, backward):
        assert np.array_equal(a.strong, b.strong)
        assert np.array_equal(a.weak.coords, b.weak.coords)
    assert sorted(samples.order(0)) == list(range(len(samples)))
    assert samples.order(0) != samples.order(1)


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 5), (5, 5), (7, 3), (1000, 16), (9, 1)])
def test_a_few_of_many_are_spread_evenly(count: int, most: int) -> None:
    chosen = spread(count, most)
    assert len(chosen) == min(count, most)
    steps = np.diff(chosen)
    assert (steps >= 1).all()
    assert chosen[:1] == [0] * bool(count)
    if len(chosen) > 1:
        assert chosen[-1] == count - 1
        assert steps.max() - steps.min() <= 1
