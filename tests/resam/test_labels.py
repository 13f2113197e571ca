"""Labels of the right size: what is made of a consensus, of examples and of sizes that a person says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions, scene_prompts
from resam.data.taught import SoftMask
from resam.data.training_set import TrainingSet
from resam.model.object_size import agreement, likely_area
from resam.training.checkpoints import Adapter
from resam.training.labels import make_labels, sized
from resam.training.options import TrainOptions
from resam.training.preparation import draw_examples, known_sizes, object_sizes
from resam.training.run import run
from resam.training.run_data import RunData
from resam.training.sizes import ObjectSizes, Size, SizeExample, example_sizes, parse_sizes, said_sizes
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY


def _hill(side: int = 32) -> np.ndarray:
    """Probabilities that fall from the middle outwards."""
    rows, columns = np.mgrid[:side, :side]
    return np.exp(-np.hypot(rows - 15, columns - 15) / 6).astype(np.float32)


def _agreement(p: np.ndarray) -> float:
    return float(p[p > 0.5].sum() / ((p > 0.5).sum() + p[p <= 0.5].sum()))


@pytest.mark.parametrize("area", [20, 100, 400])
def test_a_mask_of_known_size_has_it_and_keeps_the_order_of_its_cells(area: int) -> None:
    p = _hill()
    mask = sized(p, area)
    assert abs(mask.sum() - area) <= 16  # cells at one distance come together
    assert p[mask > 0].min() > p[mask == 0].max()


def test_a_size_does_not_reach_where_the_views_saw_nothing() -> None:
    p = np.zeros((32, 32), np.float32)
    p[10:14, 10:14] = 0.9
    assert sized(p, 500).sum() == 16


def test_agreement_is_the_overlap_that_the_probabilities_expect() -> None:
    p = torch.zeros(8, 8)
    p[2:4, 2:4] = 1
    assert agreement(p) == pytest.approx(1)
    p[4, 2:4] = 0.5
    assert agreement(p) == pytest.approx(4 / 5)
    assert agreement(torch.stack((p * 0.3, p))).tolist() == pytest.approx([0, 4 / 5])


def test_labels_are_sized_where_a_size_is_known_and_soft_elsewhere() -> None:
    consensus = {(0, 0): SoftMask.of(_hill()), (0, 1): SoftMask.of(_hill())}
    labels = make_labels(consensus, True, lambda key: Size(100, 0.01) if key == (0, 0) else None)
    assert set(np.unique(labels.masks[0, 0].full())) == {0, 1}
    assert labels.masks[0, 0].full().sum() == pytest.approx(100, abs=16)
    assert labels.masks[0, 1] is consensus[0, 1]
    assert labels.weights == {(0, 1): pytest.approx(_agreement(consensus[0, 1].full()))}
    plain = make_labels(consensus, False, lambda key: None)
    assert np.array_equal(plain.masks[0, 0].full() > 0.5, _hill() > 0.5)
    assert not plain.weights


def test_the_likely_area_is_the_mean_of_two_normal_densities() -> None:
    p, known = _hill(), np.log2(700 / 32)
    own, doubt = np.log2((p > 0.5).sum() / 32), 3 * (1 - _agreement(p)) ** 1.5
    place = np.linspace(-10, 20, 300_001)
    density = np.exp(-((place - own) ** 2) / doubt**2 / 2 - (place - known) ** 2 / 0.8**2 / 2)
    sure = (p > 0.5).astype(np.float32)
    masks = torch.from_numpy(np.stack((p, sure, p * 0.1)))
    found = likely_area(masks, torch.full((3,), float(known)), 0.8)
    assert found[0] == pytest.approx((place * density).sum() / density.sum(), abs=1e-3)
    assert found[1] == pytest.approx(np.log2(sure.sum() / 32), abs=1e-5)
    assert found[2] > np.log2(300 / 32)  # no cell of it is likely: as is known


def test_sizes_are_read_as_a_person_writes_them() -> None:
    assert parse_sizes("ship=30x6m, tank=12.5m,storage tank=400px") == {
        "ship": (180, "m"), "tank": (156.25, "m"), "storage tank": (160000, "px"),
    }  # fmt: skip
    for text in ("ship", "ship=30", "ship=axbm", "=3m", "ship=0m"):
        with pytest.raises(ResamError, match=r"sizes: "):
            parse_sizes(text)


def test_a_class_that_is_not_there_and_metres_without_a_place_are_named(scenes: CocoData) -> None:
    with pytest.raises(ResamError, match=r"no class 'boat' in .*it has plane, ship"):
        said_sizes("boat=3px", scenes, {"ship", "plane"})
    with pytest.raises(ResamError, match="no georeference that says how large a pixel is; give px"):
        said_sizes("ship=3m", scenes, {"ship"})
    with pytest.raises(ResamError, match="all in m or all in px"):
        said_sizes("ship=3m,plane=4px", scenes, {"ship", "plane"})
    assert said_sizes("ship=3x4px", scenes, {"ship"}).size(0, "ship") == Size(12)


def test_examples_that_agree_give_a_class_its_size_and_those_that_vary_an_image(scenes: CocoData) -> None:
    notes: list[str] = []
    areas = [("ship", 0, 100), ("ship", 1, 200), ("ship", 2, 50)]
    areas += [("house", 0, 40), ("house", 1, 1600), ("house", 1, 400)]
    found = example_sizes([SizeExample(scene, name, area) for name, scene, area in areas], [], scenes, notes.append)
    ship, house = found.size(3, "ship"), found.size(1, "house")
    assert ship is not None
    assert house is not None
    assert (ship.area, ship.spread) == pytest.approx((100, (4 / 3) ** 0.5))  # 0, 1, -1 powers of two
    assert (house.area, house.spread) == pytest.approx((800, ((2 + 2) / 3 * 1.5) ** 0.5))  # 1, -1 beside two of s = 1
    assert found.size(0, "house") == Size(pytest.approx(40), pytest.approx(2**0.5))
    assert found.size(3, "house") is None
    assert any("ship: 3 examples of about 10 px a side" in note for note in notes)
    assert any("house: 3 examples" in note and "sizes vary" in note for note in notes)


def test_examples_that_agree_by_chance_give_none_where_masks_without_doubt_vary(scenes: CocoData) -> None:
    examples = [SizeExample(scene, "house", area) for scene, area in ((0, 100), (1, 130), (2, 90))]
    varied = [SizeExample(0, "house", area) for area in (20, 60, 180, 540, 1620)]
    alike = [SizeExample(0, "house", area) for area in (300, 400, 500)]
    assert example_sizes(examples, varied, scenes, print).size(3, "house") is None
    found = example_sizes(examples, alike, scenes, print).size(3, "house")
    assert found is not None
    assert found.area == pytest.approx((100 * 130 * 90) ** (1 / 3))


def test_metres_count_where_scenes_differ_in_scale() -> None:
    sizes = ObjectSizes([0.5, 2.0], "m", {"ship": Size(100.0)})
    assert (sizes.size(0, "ship"), sizes.size(1, "ship")) == (Size(400), Size(25))


def test_a_size_reaches_the_grid_of_the_tile(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64, 0.5))
    name = samples.class_of(0, 0)
    known = known_sizes(samples, object_sizes(samples, {}, TrainOptions(sizes=f"{name}=20x10px"), print))
    assert known((0, 0)) == Size(200 * (0.5 / 2) ** 2)  # half a tile pixel each, two of them a cell's side


def test_examples_are_drawn_once_and_are_true_boxes(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64))
    boxes = draw_examples(samples, 2, by_image=False)
    assert boxes.keys() == draw_examples(samples, 2, by_image=False).keys()
    classes: dict[str, int] = {}
    for (scene, prompt), box in boxes.items():
        name = samples.class_of(scene, prompt)
        classes[name] = classes.get(name, 0) + 1
        instance = next(i for i in scenes.scenes[scene].instances if i.id == samples.prompts[scene][prompt].id)
        rows, columns = np.nonzero(scenes.scenes[scene].mask(instance))
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert set(classes.values()) <= {1, 2}
    assert {scene for scene, _ in draw_examples(samples, 1, by_image=True)} == set(range(4))


def test_the_student_sees_one_click_of_three_and_not_always_the_same(scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(points=3), TOY, Framing(64), asked=1)
    seen = set()
    for epoch in range(6):
        view = samples.load(0, epoch)
        assert view.asked is not None
        assert (view.weak.labels == 1).sum(1).max() == 3
        assert ((view.asked == 1).sum(1) == np.minimum(1, (view.weak.labels == 1).sum(1))).all()
        assert ((view.asked == 1) <= (view.weak.labels == 1)).all()
        seen.add(tuple((view.asked == 1).argmax(1)))
    assert len(seen) > 1
    assert TrainingSet(scenes, PointOptions(points=3), TOY, Framing(64)).load(0, 0).asked is None


def test_a_box_in_a_points_file_is_an_example_and_asks_where_there_is_no_point(
    scenes: CocoData, tmp_path: Path
) -> None:
    scene = scenes.scenes[0]
    instances = [{"points": [[20, 20]], "box": [10, 12, 30, 40]}, {"box": [50, 50, 70, 66]}, {"points": [[90, 90]]}]
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"scenes": {scene.name: {"instances": instances}}}))
    samples = TrainingSet(scenes, PointOptions(file=file), TOY, Framing(128, 0.5))
    assert {key: box.tolist() for key, box in samples.boxes.items()} == {
        (0, 0): [10, 12, 30, 40], (0, 1): [50, 50, 70, 66],
    }  # fmt: skip
    assert samples.with_box(0, 0).labels.tolist() == [1, 2, 3]
    assert samples.with_box(0, 1).labels.tolist() == [2, 3]
    assert samples.prompts[0][0].labels.tolist() == [1]
    for epoch in range(8):  # mirrored or not, the first corner lies above and left of the second
        view = samples.load(0, epoch)
        first, last = view.weak.coords[1, :2]
        assert (first < last).all()
    assert dataclasses.replace(samples.prompts[0][2]).box is None


def test_presets_stand_on_others_and_ask_with_as_many_negatives() -> None:
    from resam.training.options import read_options

    paper, first = read_options("nwpu", points=3), read_options("nwpu-v1", points=3)
    assert (paper.start, paper.queue, paper.learning_rate, paper.epochs) == (6, 128, 5e-4, 10)
    assert (first.start, first.queue, first.learning_rate, first.requery) == (6, 32, 1e-4, "box")
    assert (read_options("hrsid-v1").epochs, read_options("hrsid").epochs) == (5, 10)
    assert (paper.point_options().negatives, paper.test_points.negatives) == (3, 3)


def test_an_instance_has_as_many_negative_points_outside_it(scenes: CocoData) -> None:
    prompts = scene_prompts(scenes, PointOptions(2, 2))[0]
    masks = {instance.id: scenes.scenes[0].mask(instance) for instance in scenes.scenes[0].instances}
    for prompt in prompts:
        on = [bool(masks[prompt.id][int(y), int(x)]) for x, y in prompt.coords]  # type: ignore[index]
        assert on == (prompt.labels == 1).tolist()
        assert (prompt.labels == 0).sum() == 2


def test_an_adapter_says_which_sizes_its_labels_had(base_file: Path, scenes: CocoData, tmp_path: Path) -> None:
    name = TrainingSet(scenes, PointOptions(), TOY, Framing(64)).class_of(0, 0)
    options = TrainOptions(epochs=1, base=str(base_file), rank=2, pseudo="consensus", sizes=f"{name}=20x10px")
    run(tmp_path / "run", options, RunData(dataclasses.replace(scenes, scenes=scenes.scenes[:1])))
    assert Adapter.open(tmp_path / "run").provenance["sizes"] == {"unit": "px2", "areas": {name: 200}}


def test_a_size_of_no_class_is_told_before_anything_is_made(base_file: Path, scenes: CocoData, tmp_path: Path) -> None:
    options = TrainOptions(epochs=1, base=str(base_file), rank=2, pseudo="consensus", sizes="boat=3px")
    with pytest.raises(ResamError, match="no class 'boat'"):
        run(tmp_path / "run", options, RunData(scenes), record={})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ResamError, match="expected NAME=LENGTHxWIDTH"):
        TrainOptions(sizes="boat")
