from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import resam.synthetic.dataset as dataset_module
from resam.synthetic import CATEGORIES, KINDS, SyntheticScene, generate_scene, write_dataset
from resam.synthetic.__main__ import main
from resam.synthetic.canvas import Canvas, Frame, Thing, coverage
from resam.synthetic.raster import UNIT, wind
from resam_runtime.common.errors import ResamError

# Of generate_scene(7, 256, "parking"): the same on every machine; a change of the generator changes it and VERSION.
PINNED_IMAGE = "b65b7e01916b0732"
PINNED_MASKS = "f26a460e1f4bd02c"


@pytest.fixture(scope="module")
def scenes() -> dict[str, SyntheticScene]:
    return {kind: generate_scene(seed, kind=kind) for seed, kind in enumerate(KINDS, start=40)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("synthetic") / "scenes", train=10, val=2, test=2, seed=3, size=160)


def full(scene: SyntheticScene, number: int) -> np.ndarray:
    x, y, crop = scene.masks[number]
    mask = np.zeros(scene.image.shape[:2], bool)
    mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return mask


def digests(scene: SyntheticScene) -> tuple[str, str]:
    masks = hashlib.sha256()
    for (x, y, crop), category in zip(scene.masks, scene.categories):
        masks.update(f"{x},{y},{crop.shape},{category};".encode() + crop.tobytes())
    return hashlib.sha256(scene.image.tobytes()).hexdigest()[:16], masks.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- scenes
def test_a_seed_gives_the_same_bytes_on_every_machine():
    assert digests(generate_scene(7, 256, "parking")) == (PINNED_IMAGE, PINNED_MASKS)


def test_a_scene_does_not_depend_on_what_was_generated_before():
    first = digests(generate_scene(11, 192))
    generate_scene(12, 192)
    assert digests(generate_scene(11, 192)) == first
    assert digests(generate_scene(12, 192)) != first


def test_seeds_reach_every_kind():
    from resam.synthetic.chance import Chance

    assert {Chance(seed, 0).pick(KINDS) for seed in range(120)} == set(KINDS)


def test_every_kind_holds_three_to_forty_instances_of_its_categories(scenes):
    expected = {
        "sea": {"ship"},
        "harbour": {"ship"},
        "urban": {"building"},
        "suburb": {"building"},
        "parking": {"vehicle"},
        "tanks": {"storage tank"},
        "airport": {"aircraft"},
        "rural": {"building", "vehicle"},
        "sar_sea": {"ship"},
        "sar_harbour": {"ship"},
    }
    assert set(scenes) == set(expected)
    for kind, scene in scenes.items():
        assert scene.kind == kind
        assert scene.image.shape == (512, 512, 3)
        assert scene.image.dtype == np.uint8
        assert len(scene.categories) == len(scene.masks)
        assert 3 <= len(scene.masks) <= 40, kind
        assert set(scene.categories) & expected[kind], kind
        assert set(scene.categories) <= set(CATEGORIES)


def test_masks_are_tight_crops_inside_the_image_and_never_overlap(scenes):
    for kind, scene in scenes.items():
        count = np.zeros(scene.image.shape[:2], int)
        for x, y, crop in scene.masks:
            height, width = crop.shape
            assert crop.dtype == bool
            assert x >= 0
            assert y >= 0
            assert x + width <= 512, kind
            assert y + height <= 512, kind
            assert crop.any(axis=0)[[0, -1]].all(), "not tight"
            assert crop.any(axis=1)[[0, -1]].all(), "not tight"
            count[y : y + height, x : x + width] += crop
        assert count.max() == 1, kind


def test_instances_are_8_to_150_px_long(scenes):
    lengths = []
    for scene in scenes.values():
        for x, y, crop in scene.masks:
            cut = x == 0 or y == 0 or x + crop.shape[1] == 512 or y + crop.shape[0] == 512
            if not cut:
                points = np.argwhere(crop).astype(np.float32)
                lengths.append(max(cv2.minAreaRect(points)[1]) + 1)
    assert min(lengths) >= 7
    assert max(lengths) <= 165
    assert np.percentile(lengths, 90) > 3 * np.percentile(lengths, 10), "many scales"


@pytest.mark.parametrize("kind", ["harbour", "suburb", "parking", "tanks", "sar_harbour"])
def test_dense_kinds_hold_neighbours_one_to_three_pixels_apart(kind):
    pairs = 0
    for seed in (40, 41, 42):
        scene = generate_scene(seed, kind=kind)
        for i, (x, y, crop) in enumerate(scene.masks):
            near = np.s_[max(0, y - 5) : y + crop.shape[0] + 5, max(0, x - 5) : x + crop.shape[1] + 5]
            away = (~full(scene, i)[near]).view(np.uint8)
            distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for j in range(i + 1, len(scene.masks)):
                other = full(scene, j)[near]
                # centre to centre, less one pixel: the pixels in between
                pairs += bool(other.any()) and float(distance[other].min()) - 1 <= 3.5
    assert pairs >= 4


def test_mask_edges_agree_with_the_picture():
    """Moving a mask by two pixels in any direction must make inside and outside look more alike."""
    agree, total = 0, 0
    for seed, kind in enumerate(("sea", "harbour", "airport", "tanks", "sar_sea", "urban"), start=60):
        scene = generate_scene(seed, kind=kind)
        image = cv2.GaussianBlur(scene.image, (3, 3), 0.8).astype(np.float64)
        occupied = np.zeros((512, 512), bool)
        for i in range(len(scene.masks)):
            occupied |= full(scene, i)
        for i, (x, y, crop) in enumerate(scene.masks):
            if crop.sum() < 60:
                continue
            near = slice(max(0, y - 6), y + crop.shape[0] + 6), slice(max(0, x - 6), x + crop.shape[1] + 6)
            mask = full(scene, i)[near]
            part, others = image[near], occupied[near] & ~mask
            here = _ring_contrast(part, mask, others)
            moved = [
                _ring_contrast(part, np.roll(mask, shift, (0, 1)), others)
                for shift in ((2, 0), (-2, 0), (0, 2), (0, -2))
            ]
            total += 1
            agree += here > np.mean(moved) and here > 4
    assert total > 60
    assert agree / total > 0.9


def _ring_contrast(image: np.ndarray, mask: np.ndarray, others: np.ndarray) -> float:
    """Mean over the mask's edge pixels of |colour - mean colour of their neighbours outside|."""
    kernel = np.ones((3, 3), np.uint8)
    cells = mask.view(np.uint8)
    inner = mask & ~cv2.erode(cells, kernel, borderValue=1).astype(bool)
    outer = cv2.dilate(cells, kernel).astype(bool) & ~mask & ~others
    if not outer.any() or not inner.any():
        return 0.0
    # The outer neighbours of each inner pixel: box sums of picture and count.
    count = cv2.boxFilter(outer.astype(np.float64), -1, (3, 3), normalize=False)
    total = cv2.boxFilter(image * outer[..., None], -1, (3, 3), normalize=False)
    use = inner & (count > 0)
    return float(np.abs(image[use] - total[use] / count[use][:, None]).mean())


def test_radar_scenes_are_grey_and_speckled_and_ships_bright():
    scene = generate_scene(43, kind="sar_sea")
    image = scene.image.astype(np.float64)
    assert (np.ptp(scene.image, axis=2) <= 2).all()
    ships = np.zeros((512, 512), bool)
    for i in range(len(scene.masks)):
        ships |= full(scene, i)
    assert image[ships].mean() > 3 * image[~ships].mean()
    sea = image[..., 0][~ships]
    assert sea.std() > 0.15 * sea.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_work(kind):
    scene = generate_scene(5, 144, kind)
    assert scene.image.shape == (144, 144, 3)
    assert len(scene.masks) >= 1


def test_a_larger_scene_holds_more():
    assert 40 < len(generate_scene(5, 896, "parking").masks) <= 40 * (896 / 512) ** 2


def test_wrong_arguments_are_refused():
    for arguments in ((-1,), (0, 32), (0, 512, "moon")):
        with pytest.raises(ValueError, match="must"):
            generate_scene(*arguments)


# ------------------------------------------------------------------------------------------------------------ drawing
def test_coverage_of_a_rectangle_is_its_area_in_each_pixel():
    share = coverage([Frame(0, 0).box(1.0, 0.5, 3.75, 2.5)], (0, 0, 6, 4))
    expected = np.outer([0, 1, 1, 0], [0, 0.5, 1, 1, 0.25, 0])
    # The outline counts as inside: at most half a sample, an eighth of a pixel, on each side.
    assert np.abs(share - expected).max() <= 0.26
    assert abs(share.sum() - 2 * 2.75) <= 0.125 * 2 * (2 + 2.75) + 0.1


def test_winding_fill_agrees_with_a_point_in_polygon_test():
    rng = np.random.default_rng(2)
    for _ in range(20):
        turns = np.sort(rng.random(9)) * 2 * np.pi
        reach = rng.uniform(4, 18, 9)
        star = np.rint(np.stack([20 + reach * np.cos(turns), 20 + reach * np.sin(turns)], 1) * UNIT).astype(np.int64)
        got = wind([star[::-1] if rng.random() < 0.5 else star], 40, 40)
        contour = star.astype(np.float32)[:, None]
        for y, x in np.ndindex(40, 40):
            signed = cv2.pointPolygonTest(contour, (float(x * UNIT), float(y * UNIT)), True)
            if abs(signed) > 1e-3:
                assert got[y, x] == (signed > 0)


def test_overlapping_polygons_of_either_orientation_form_a_union():
    square = np.array([(0, 0), (10, 0), (10, 10), (0, 10)], np.int64) * UNIT
    other = (square + 5 * UNIT)[::-1]
    assert wind([square, other], 20, 20).sum() == 100 + 100 - 25


def test_what_is_drawn_later_takes_the_pixels():
    canvas = Canvas(np.full((20, 20, 3), 80, np.float32), np.zeros((20, 20), np.float32))
    white = np.full(3, 255, np.float32)
    canvas.draw(Thing("ship", [Frame(0, 0).box(2, 2, 12, 12)], white))
    canvas.draw(Thing("vehicle", [Frame(0, 0).box(8, 8, 16, 16)], white))
    canvas.draw(Thing(None, [Frame(0, 0).box(0, 0, 4, 4)], white))
    assert canvas.owner[10, 10] == 2
    assert canvas.owner[6, 6] == 1
    assert canvas.owner[3, 3] == 0


# ----------------------------------------------------------------------------------------------------------- data set
def test_a_split_without_scenes_has_no_file(tmp_path: Path):
    folder = write_dataset(tmp_path / "scenes", train=1, val=0, test=0, seed=3, size=96)
    assert sorted(path.name for path in folder.iterdir()) == ["images", "train.json"]


def test_pycocotools_reads_the_data_set(written: Path):
    assert sorted(path.name for path in written.iterdir()) == ["images", "test.json", "train.json", "val.json"]
    for split, count in (("train", 10), ("val", 2), ("test", 2)):
        coco = COCO(str(written / f"{split}.json"))
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
        assert coco.dataset["info"]["seed"] == 3
        assert coco.dataset["info"]["generator_version"] >= 1
        for image in coco.imgs.values():
            pixels = cv2.imread(str(written / "images" / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation["area"]
            assert list(coco_mask.toBbox(annotation["segmentation"])) == annotation["bbox"]


def test_the_data_set_holds_the_generated_scenes(written: Path):
    coco = COCO(str(written / "val.json"))
    scene = generate_scene(dataset_module.scene_seed(3, "val", 1), 160, KINDS[1])
    image = next(image for image in coco.imgs.values() if KINDS[1] in image["file_name"])
    stored = cv2.imread(str(written / "images" / image["file_name"]))[..., ::-1]
    assert (stored == scene.image).all()
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    assert [CATEGORIES[a["category_id"] - 1] for a in annotations] == scene.categories
    for i, annotation in enumerate(annotations):
        assert (coco.annToMask(annotation).astype(bool) == full(scene, i)).all()


def test_splits_and_seeds_share_no_scene():
    seeds = {
        dataset_module.scene_seed(seed, split, number)
        for seed in range(4)
        for split in dataset_module.SPLITS
        for number in range(50)
    }
    assert len(seeds) == 4 * 3 * 50


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ResamError, match="not an empty folder"):
        write_dataset(tmp_path, train=1, val=0, test=0, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "scenes", train=2, val=0, test=0, size=96, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_data_set_and_refuses_with_one_line(tmp_path: Path):
    arguments = [str(tmp_path / "scenes"), "--train", "1", "--val", "1", "--test", "0", "--size", "96"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "scenes" / "val.json").read_text())["images"]) == 1
    assert not (tmp_path / "scenes" / "test.json").exists()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1
    wrong = CliRunner().invoke(main, [str(tmp_path / "none"), "--train", "0"])
    assert wrong.exit_code == 2
    assert not (tmp_path / "none").exists()
