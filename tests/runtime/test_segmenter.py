"""Points in, instances out: in order, at scene resolution, wherever the tiles lie."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime import ResamError, Segmenter
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.masks import upsample
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.tiles.tiling import Tile

from .conftest import RADIUS, SIZE
from .engines import whole, write_engine


@pytest.fixture(scope="module")
def segmenter(engine: Path) -> Segmenter:
    return Segmenter(engine, device="cpu", threads=1)


def blank(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def disc(width: int, height: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(columns - x, rows - y) < radius


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def upsample_slowly(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, align_corners=False, pixel by pixel; height and width are what the grid stretches to."""
    size = logits.shape[0]
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            gy = min(max((y + 0.5) * size / height - 0.5, 0), size - 1)
            gx = min(max((x + 0.5) * size / width - 0.5, 0), size - 1)
            y0, x0 = int(gy), int(gx)
            y1, x1 = min(y0 + 1, size - 1), min(x0 + 1, size - 1)
            fy, fx = gy - y0, gx - x0
            top = logits[y0, x0] * (1 - fx) + logits[y0, x1] * fx
            bottom = logits[y1, x0] * (1 - fx) + logits[y1, x1] * fx
            result[y, x] = top * (1 - fy) + bottom * fy
    return result


@pytest.mark.parametrize("band", [1, 300, 1 << 16])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.7])
def test_cropped_upsampling_equals_full_upsampling(scale: float, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "BAND", band)
    chance = np.random.default_rng(7)
    logits = chance.normal(-2.5, 1.5, (8, 16, 16)).astype(np.float32)
    side = round(64 / scale)
    tile = Tile(100, 200, side, side - 5, 64 / side)
    for mask, cells in zip(logits, grid_boxes(logits)):
        crop, origin, values = scene_mask(mask, cells, tile, 64, keep_logits=True)
        assert values is not None
        full = upsample_slowly(mask, side, side)[: tile.height]
        expected = np.zeros(full.shape, bool)
        x, y = origin[0] - 100, origin[1] - 200
        expected[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        differs = expected != (full > 0)
        assert (np.abs(full[differs]) < 1e-5).all()
        np.testing.assert_allclose(values, full[y : y + crop.shape[0], x : x + crop.shape[1]], atol=1e-5, rtol=1e-3)


def test_upsampling_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(8).normal(-1, 2, (30, 32, 32)).astype(np.float32)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size=(128, 128), mode="bilinear", align_corners=False
    )[0].numpy()
    for mask, cells, wanted in zip(logits, grid_boxes(logits), full > 0):
        crop, (x, y), _ = scene_mask(mask, cells, Tile(0, 0, 128, 128), 128)
        got = np.zeros_like(wanted)
        got[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert iou(got, wanted) > 0.999


def test_an_empty_grid_gives_an_empty_mask() -> None:
    logits = np.full((1, 8, 8), -1.0, np.float32)
    assert grid_boxes(logits).tolist() == [[0, 0, 0, 0]]
    crop, origin, _ = scene_mask(logits[0], grid_boxes(logits)[0], Tile(0, 0, 64, 64), 64)
    assert (crop.shape, origin) == ((0, 0), (0, 0))


def test_instances_lie_around_their_points_in_order(segmenter: Segmenter) -> None:
    points = [(40.0, 44.0), (10.0, 12.0), (50.0, 9.0)]
    instances = segmenter(blank(64, 64), points)
    assert [item.index for item in instances] == [0, 1, 2]
    for item, (x, y) in zip(instances, points):
        assert iou(whole(item), disc(64, 64, x, y, RADIUS)) > 0.9
        np.testing.assert_allclose((item.box[:2] + item.box[2:]) / 2, (x, y), atol=0.6)
        assert item.points.tolist() == [[x, y]]
        assert item.score == pytest.approx(0.95)
        assert item.coarse_score == pytest.approx(0.9)
        assert item.logits is None


@pytest.mark.parametrize(("width", "height"), [(64, 64), (40, 25), (30, 64), (7, 3)])
def test_small_scenes_are_scaled_up_and_results_come_back_in_scene_pixels(
    segmenter: Segmenter, width: int, height: int
) -> None:
    (item,) = segmenter(blank(width, height), [(width / 3, height / 2)])
    expected = disc(width, height, width / 3, height / 2, RADIUS * max(width, height) / SIZE)
    assert item.scene_hw == (height, width)
    if expected.sum() > 20:
        assert iou(whole(item), expected) > 0.85


def test_large_scenes_are_tiled_and_every_prompt_is_answered_once(segmenter: Segmenter) -> None:
    width, height = 230, 170
    points = np.random.default_rng(2).uniform((8, 8), (width - 9, height - 9), (60, 2))
    instances = segmenter(blank(width, height), points)
    assert [item.index for item in instances] == list(range(60))
    for item, (x, y) in zip(instances, points):
        assert iou(whole(item), disc(width, height, x, y, RADIUS)) > 0.88


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_an_engine_of_another_scale_cuts_and_answers_in_scene_pixels(tmp_path: Path, scale: float) -> None:
    """The discs have 6 px in the tile, so in the scene 6 / scale; borders of tiles leave no trace."""
    write_engine(tmp_path / "scaled.resam", SIZE, 8, RADIUS, fit_within=round(SIZE / scale), scale=scale)
    segmenter = Segmenter(tmp_path / "scaled.resam", device="cpu", threads=1)
    assert {(tile.width, tile.scale) for tile in segmenter.tiles(300, 280)} == {(round(SIZE / scale), scale)}
    chance = np.random.default_rng(2)
    points = chance.uniform(20, 260, (40, 2))
    instances = segmenter(blank(300, 280), points)
    for instance, (x, y) in zip(instances, points):
        assert iou(whole(instance), disc(300, 280, x, y, RADIUS / scale)) > 0.85


def test_many_instances_are_split_into_batches_and_nothing_changes(engine: Path) -> None:
    points = np.random.default_rng(3).uniform(0, 63, (23, 2))
    once = Segmenter(engine, device="cpu", threads=1)(blank(64, 64), points)
    split = Segmenter(engine, device="cpu", threads=1, max_points=5)(blank(64, 64), points)
    for a, b in zip(once, split):
        np.testing.assert_array_equal(whole(a), whole(b))


def test_all_forms_of_points_mean_the_same(segmenter: Segmenter) -> None:
    image = blank(64, 64)
    forms: list[Any] = [
        [(20, 20), (40, 44)],
        np.array([(20, 20), (40, 44)], np.int64),
        np.array([[(20, 20)], [(40, 44)]], np.float32),
        [[(20, 20)], [(40, 44)]],
        [np.array([[20.0, 20.0]]), (40, 44)],
    ]
    expected = [whole(item) for item in segmenter(image, forms[0])]
    for form in forms[1:]:
        for item, mask in zip(segmenter(image, form), expected):
            np.testing.assert_array_equal(whole(item), mask)


def test_ragged_prompts_and_labels(segmenter: Segmenter) -> None:
    image = blank(64, 64)
    points = [[(20, 20), (30, 20)], [(50, 50)], [(10, 50), (50, 10), (30, 40)]]
    labels = [[1, 0], [1], [1, 0, 1]]
    instances = segmenter(image, points, labels)
    assert [item.labels.tolist() for item in instances] == labels
    assert [item.points.tolist() for item in instances] == [[list(map(float, p)) for p in own] for own in points]
    assert iou(whole(instances[0]), disc(64, 64, 20, 20, RADIUS)) > 0.9  # the negative point marks nothing
    both = disc(64, 64, 10, 50, RADIUS) | disc(64, 64, 30, 40, RADIUS)
    assert iou(whole(instances[2]), both) > 0.9
    dense = segmenter(image, np.array([[(20, 20), (0, 0)], [(50, 50), (30, 30)]]), np.array([[1, -1], [1, 1]]))
    assert [len(item.points) for item in dense] == [1, 2]


def test_no_points_at_all_give_no_instances(segmenter: Segmenter) -> None:
    for nothing in ([], np.empty((0, 2)), np.empty((0, 3, 2))):
        assert segmenter(blank(64, 64), nothing) == []


@pytest.mark.parametrize(
    ("points", "labels", "named"),
    [
        ([(5, 5), (5, 64.0)], None, r"instance 1: point \(5, 64\) lies outside the image of 64 x 64"),
        ([(5, 5), (np.nan, 5)], None, "instance 1: point 0 is not finite"),
        ([[(5, 5)], []], None, "instance 1: has no points"),
        ([[(5, 5)], [(1, 2, 3)]], None, "instance 1: expected its points"),
        ([[(5, 5)], [(1, 2), (3, 4)]], [[1], [1]], "instance 1: expected 2 labels"),
        ([[(5, 5)], "ab"], None, "instance 1"),
        ([(5, 5), (6, 6)], [1, 7], "instance 1: label 7"),
        ([[(5, 5)], [(6, 6), (7, 7)]], [[1], [1, 2]], "instance 1: label 2"),
        ([(5, 5)], [1, 1], "labels"),
        ([(5, 5)], 1, "labels"),
        ([(5, 5)], [-1], "instance 0: has no points"),
        ((5, 5), None, "points"),
        ("points", None, "points|instance"),
        (7, None, "points"),
        (None, [1], "labels without points"),
        ([], [1], "labels"),
    ],
)
def test_bad_points_name_the_instance(segmenter: Segmenter, points: Any, labels: Any, named: str) -> None:
    with pytest.raises(ResamError, match=named) as caught:
        segmenter(blank(64, 64), points, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), [[1]], None]
)
def test_other_images_are_refused(segmenter: Segmenter, image: Any) -> None:
    with pytest.raises(ResamError, match="image: expected"):
        segmenter(image, [(0, 0)])


def test_prompts_without_a_point_are_not_dropped_in_silence(segmenter: Segmenter) -> None:
    for points in ([[]], [[], []]):
        with pytest.raises(ResamError, match="instance 0: has no points"):
            segmenter(blank(100, 80), points)
    with pytest.raises(ResamError, match="points: expected"):
        segmenter(blank(100, 80), object())
    [boxed] = segmenter.embed(blank(100, 80)).prompt([[]], boxes=[(30, 30, 50, 50)])
    assert boxed.labels.tolist() == [2, 3]


def test_negative_points_alone_mark_nothing_but_may_come_with_a_box(segmenter: Segmenter) -> None:
    said = r"instance 2: no positive point; several points of one object go in as \[\[\.\.\.\]\]"
    for points in (np.array([(9, 9), (20, 20), (50, 50)]), [[(9, 9)], [(20, 20)], [(50, 50)]]):
        with pytest.raises(ResamError, match=said):
            segmenter(blank(64, 64), points, [1, 1, 0])
    embedding = segmenter.embed(blank(400, 300))
    with pytest.raises(ResamError, match="instance 0: no positive point"):
        embedding.prompt([[(5, 5), (395, 295)]], [[0, 0]])
    [boxed] = embedding.prompt([[(5, 5), (395, 295)]], [[0, 0]], boxes=[(100, 100, 140, 130)])
    assert not boxed.empty
    [one] = segmenter(blank(64, 64), [[(9, 9), (20, 20), (50, 50)]], [[1, 1, 0]])
    assert one.labels.tolist() == [1, 1, 0]


def test_points_on_the_very_edge_are_inside(segmenter: Segmenter) -> None:
    instances = segmenter(blank(64, 64), [(-0.5, -0.5), (63.5, 63.5)])
    assert not any(item.empty for item in instances)


def test_an_instance_without_a_pixel_keeps_its_place(segmenter: Segmenter) -> None:
    # The middle box holds no centre of a mask cell.
    instances = segmenter.embed(blank(64, 64)).prompt(boxes=[(5, 5, 20, 20), (31, 31, 32, 32), (40, 40, 60, 60)])
    assert [item.empty for item in instances] == [False, True, False]
    assert instances[1].box.tolist() == [0, 0, 0, 0]


def test_points_of_one_instance_in_far_tiles_fall_to_the_first_positive(segmenter: Segmenter) -> None:
    (item,) = segmenter(blank(300, 64), [[(10, 30), (290, 30)]])
    assert iou(whole(item), disc(300, 64, 10, 30, RADIUS)) > 0.9
    assert len(item.points) == 2


def test_exclusive_masks_do_not_overlap_and_lose_nothing(segmenter: Segmenter) -> None:
    image, points = blank(230, 170), np.random.default_rng(4).uniform((5, 5), (120, 90), (50, 2))
    shared, alone = segmenter(image, points), segmenter(image, points, exclusive=True)
    count = np.sum([whole(item) for item in alone], 0)
    assert count.max() == 1
    np.testing.assert_array_equal(count > 0, np.any([whole(item) for item in shared], 0))
    # The disc's logit falls with the distance from its point: the nearest point wins a pixel.
    owner = np.full(count.shape, -1)
    for item in alone:
        owner[whole(item)] = item.index
    rows, columns = np.nonzero(count)
    distance = np.hypot(columns[:, None] - points[:, 0], rows[:, None] - points[:, 1])
    assert (distance.argmin(1) == owner[rows, columns]).mean() > 0.97
    assert all(item.logits is None for item in alone)


def test_an_embedding_answers_like_a_call(segmenter: Segmenter) -> None:
    for width, height in ((64, 50), (200, 130)):
        image = blank(width, height)
        embedding = segmenter.embed(image)
        points = np.random.default_rng(5).uniform(0, 49, (9, 2))
        for a, b in zip(embedding.prompt(points), segmenter(image, points)):
            np.testing.assert_array_equal(whole(a), whole(b))
            assert a.score == b.score


def test_a_coarse_answer_comes_from_the_decoder(segmenter: Segmenter) -> None:
    (item,) = segmenter.embed(blank(64, 64)).prompt([(30, 30)], refine=False)
    assert item.score == item.coarse_score == pytest.approx(0.9)


@pytest.mark.parametrize("width", [64, 200])
def test_boxes_alone_and_with_points(segmenter: Segmenter, width: int) -> None:
    embedding = segmenter.embed(blank(width, 64))
    (item,) = embedding.prompt(boxes=[(10, 20, 39, 45)])
    np.testing.assert_allclose(item.box, (10, 20, 39, 45), atol=1.01)
    assert item.labels.tolist() == [2, 3]
    two = embedding.prompt(points=[[(50, 30), (55, 30)], [(5, 60)]], boxes=[(10, 20, 30, 40), (1, 2, 9, 9)])
    assert [item.labels.tolist() for item in two] == [[1, 1, 2, 3], [1, 2, 3]]
    assert whole(two[0])[30, [20, 50]].all()
    assert embedding.prompt(boxes=[]) == []


def test_a_box_wider_than_its_tile_is_cut_to_it(segmenter: Segmenter) -> None:
    (item,) = segmenter.embed(blank(300, 64)).prompt(boxes=[(5, 10, 290, 50)])
    assert not item.empty
    assert item.box[1] == pytest.approx(10, abs=1.01)


@pytest.mark.parametrize(
    ("boxes", "named"),
    [
        ([(0, 0, 5, 5), (9, 0, 5, 5)], "instance 1: its box ends before"),
        ([(0, 0, 5, 64)], "instance 0: box .* leaves the image"),
        ([(0, 0, np.inf, 5)], "instance 0: its box is not finite"),
        ([(0, 0, 5)], "boxes: expected"),
        (None, "neither points nor boxes"),
    ],
)
def test_bad_boxes_name_the_instance(segmenter: Segmenter, boxes: Any, named: str) -> None:
    with pytest.raises(ResamError, match=named):
        segmenter.embed(blank(64, 64)).prompt(boxes=boxes)


def test_points_and_boxes_must_be_as_many(segmenter: Segmenter) -> None:
    with pytest.raises(ResamError, match="2 boxes"):
        segmenter.embed(blank(64, 64)).prompt(points=[(5, 5)], boxes=[(0, 0, 5, 5), (0, 0, 5, 5)])


def test_the_engines_limits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "limited.resam"
    write_engine(path, max_points=4, max_points_per_instance=2)
    limited = Segmenter(path, device="cpu", threads=1)
    seen: list[int] = []
    run = limited.backend.run

    def spy(graph: str, inputs: Any, outputs: Any, keep: bool = False) -> Any:
        if graph == "loop":
            seen.append(len(inputs["point_coords"]))
        return run(graph, inputs, outputs, keep)

    limited.backend.run = spy  # type: ignore[method-assign]
    assert len(limited(blank(64, 64), np.full((9, 2), 30.0))) == 9
    assert max(seen) <= 4
    with pytest.raises(ResamError, match="instance 1: 3 points"):
        limited(blank(64, 64), [[(5, 5)], [(5, 5), (6, 6), (7, 7)]])
    # Padding does not count.
    padded = np.full((1, 5, 2), 9.0), np.array([[-1, 1, -1, -1, 1]])
    assert len(limited(blank(64, 64), *padded)[0].points) == 2


def test_threads_share_one_segmenter(segmenter: Segmenter) -> None:
    image = blank(200, 130)
    sets = [np.random.default_rng(seed).uniform(5, 120, (12, 2)) for seed in range(6)]
    alone = [[whole(item) for item in segmenter(image, points)] for points in sets]
    embedding = segmenter.embed(image)
    results: dict[tuple[int, int], list[np.ndarray]] = {}

    def work(number: int) -> None:
        for turn in range(3):
            answer = segmenter(image, sets[number]) if turn else embedding.prompt(sets[number])
            results[number, turn] = [whole(item) for item in answer]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 18
    for (number, _), masks in results.items():
        np.testing.assert_array_equal(masks, alone[number])


def test_an_open_engine_file_may_be_given(engine: Path) -> None:
    assert "discs.resam: ONNX Runtime" in Segmenter(EngineFile.open(engine), device="cpu").describe()


def test_the_parts_give_what_the_whole_gives(segmenter: Segmenter) -> None:
    image, points = blank(150, 90), np.random.default_rng(6).uniform(5, 85, (20, 2))
    prompts = segmenter.prompts(points, None, None, 150, 90)
    found = {}
    for tile, indices in segmenter.plan(prompts, 150, 90):
        window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        for item in segmenter.segment_tile(segmenter.prepare_tile(window, tile), tile, prompts, indices, (90, 150)):
            found[item.index] = item
    for item in segmenter(image, points):
        np.testing.assert_array_equal(whole(found[item.index]), whole(item))
    with pytest.raises(ResamError, match="tile: expected"):
        segmenter.prepare_tile(image, Tile(0, 0, 64, 64))


@pytest.mark.parametrize(
    "options",
    [
        {"max_points": 0},
        {"max_points": 2.5},
        {"views": 2.0},
        {"views": True},
        {"threads": 1.5},
        {"threads": "2"},
        {"device": 0},
        {"automatic": {}},
    ],
)
def test_impossible_options_are_refused(engine: Path, options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    shown = "dict" if value == {} else repr(value)
    with pytest.raises(ResamError, match=f"^{name}: expected .*{shown}$"):
        Segmenter(engine, **{"device": "cpu", **options})


def test_numpys_whole_numbers_will_do(engine: Path) -> None:
    numbers = {"max_points": np.int64(2), "views": np.uint8(1), "threads": np.int32(1)}
    segmenter = Segmenter(engine, device="cpu", **numbers)  # type: ignore[arg-type]
    assert len(segmenter(blank(64, 64), [(9, 9), (20, 20), (50, 50)])) == 3


def test_importing_the_package_loads_no_backend_and_no_image_library() -> None:
    code = (
        "import sys, resam_runtime; from resam_runtime import Segmenter, Instance, EngineFile, ResamError;"
        "print([m for m in ('cv2', 'onnxruntime', 'tensorrt', 'torch', 'rich', 'pycocotools', 'rasterio')"
        " if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
