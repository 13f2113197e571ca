"""The files of a scene say what its instances are, by independent computation."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resam_runtime.common.errors import ResamError
from resam_runtime.masks.instance import Category, Instance
from resam_runtime.masks.outlines import meeting, misplaced, valid_polygons
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers import WRITERS, OutputOptions, Record, RunInfo, RunWriter, SceneResult, SceneWriter
from resam_runtime.writers.coco import smallest_budget
from resam_runtime.writers.geojson import feature_collection
from resam_runtime.writers.labels import LabelsWriter
from resam_runtime.writers.overlay import draw_overlay, nice_length
from resam_runtime.writers.record import annotation

WIDTH, HEIGHT = 120, 90
UTM = "EPSG:32633"
TRANSFORM = (2.0, 0.0, 500000.0, 0.0, -2.0, 5000000.0)
PLACE = Georeference(TRANSFORM, UTM)


def instance(index: int, mask: np.ndarray, score: float = 0.5) -> Instance:
    """From a mask of the whole scene."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = int(rows[0]), int(columns[0])
    return Instance(
        index=index,
        score=score,
        coarse_score=score / 2,
        mask=mask[y : rows[-1] + 1, x : columns[-1] + 1],
        origin=(x, y),
        points=np.array([[x + 1, y + 1]], np.float32),
        labels=np.array([1], np.int32),
        scene_hw=mask.shape,  # type: ignore[arg-type]
    )


def disc(x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray(np.hypot(xs - x, ys - y) <= radius)


def random_blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0) > 0.51)


def scene(
    instances: list[Instance], place: Georeference | None = None, overview: np.ndarray | None = None
) -> SceneResult:
    if overview is None:
        overview = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    return SceneResult(SceneInfo("a.tif", WIDTH, HEIGHT, place), instances, overview)


def write(name: str, path: Path, result: SceneResult) -> None:
    writer = WRITERS[name]
    assert isinstance(writer, SceneWriter)
    writer.write(path, result, OutputOptions())


def write_coco(
    path: Path,
    records: list[Record],
    info: dict[str, Any] | None = None,
    categories: list[dict[str, Any]] | None = None,
    budget: int | None = None,
) -> int:
    writer = WRITERS["coco"]
    assert isinstance(writer, RunWriter)
    return writer.write(path, records, RunInfo(info or {}, categories or []), OutputOptions(budget=budget))


def classed(index: int, category: int | None, score: float = 0.5) -> Instance:
    given = None if category is None else Category(category)
    return dataclasses.replace(instance(index, MASKS[0], score), category=given)


def done(name: str, instances: list[Instance]) -> Record:
    items = [annotation(one) for one in instances]
    return Record(name, name, scene=SceneInfo(name, WIDTH, HEIGHT), annotations=items)


MASKS = [disc(30, 30, 12), disc(30, 30, 12) & ~disc(30, 30, 6), random_blobs(3)]


# --- COCO --------------------------------------------------------------------------------------------------------


def record(name: str, count: int, seed: int = 0) -> Record:
    generator = np.random.default_rng(seed)
    return done(
        name,
        [
            instance(i, disc(*generator.integers(15, 70, 2), generator.integers(3, 14)), float(generator.random()))
            for i in range(count)
        ],
    )


def test_an_annotation_decodes_to_its_mask() -> None:
    for mask in MASKS:
        item = annotation(dataclasses.replace(instance(0, mask), id="ship-7", category=Category(4)))
        assert (coco_mask.decode(item["segmentation"]).astype(bool) == mask).all()
        ys, xs = np.nonzero(mask)
        assert item["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert item["area"] == mask.sum()
        assert (item["instance"], item["category_id"]) == ("ship-7", 4)


def test_a_prompt_comes_back_to_the_last_bit() -> None:
    """Half a centipixel off is another mask; rounded up at the edge it even lies outside the image."""
    x, y = np.float32(119.497), np.float32(33.333332)
    one = dataclasses.replace(instance(0, MASKS[0]), points=np.array([[x, y]], np.float32))
    [[back_x, back_y]] = json.loads(json.dumps(annotation(one)))["points"]
    assert (np.float32(back_x), np.float32(back_y)) == (x, y)
    assert back_x < WIDTH - 0.5


def test_instances_json_loads_as_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    records = [record("a.png", 3), record("b.png", 0), record("c.png", 2, 1)]
    assert write_coco(tmp_path / "i.json", records, {"description": "x"}) == 0
    loaded = COCO(str(tmp_path / "i.json"))
    assert [image["file_name"] for image in loaded.loadImgs(loaded.getImgIds())] == ["a.png", "b.png", "c.png"]
    assert [len(loaded.getAnnIds(imgIds=number)) for number in (1, 2, 3)] == [3, 0, 2]
    assert sorted(loaded.getAnnIds()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("budget", [None, 10_000])
def test_an_instance_without_a_category_is_not_counted_as_one_of_the_users(tmp_path: Path, budget: int | None) -> None:
    ship, tank = {"id": 1, "name": "ship"}, {"id": 2, "name": "tank"}
    records = [done("a.png", [classed(i, category) for i, category in enumerate((1, None))])]
    path = tmp_path / "i.json"
    for given, wanted in (([ship, tank], 3), ([tank], 3), ([ship, {"id": 7, "name": "instance"}], 7)):
        write_coco(path, records, {}, given, budget)
        data = json.loads(path.read_text())
        assert [item["category_id"] for item in data["annotations"]] == [1, wanted]
        names = {one["id"]: one["name"] for one in data["categories"]}
        assert names[data["annotations"][1]["category_id"]] == "instance"


@pytest.mark.parametrize("budget", [None, 10_000])
def test_a_category_that_is_only_a_number_is_not_that_of_instances_without_one(
    tmp_path: Path, budget: int | None
) -> None:
    """The points say `category: 1` and name none."""
    records = [done("a.png", [classed(i, category) for i, category in enumerate((1, None, 12))])]
    path = tmp_path / "i.json"
    write_coco(path, records, budget=budget)
    data = json.loads(path.read_text())
    names = [(one["id"], one["name"]) for one in data["categories"]]
    assert names == [(1, "1"), (2, "instance"), (12, "12")]
    assert [item["category_id"] for item in data["annotations"]] == [1, 2, 12]


def test_many_categories_do_not_break_the_budget(tmp_path: Path) -> None:
    categories = [{"id": number, "name": str(number)} for number in range(1, 1000)]
    records, path = [record("a.png", 6)], tmp_path / "i.json"
    write_coco(path, records, {}, categories)
    least, whole = smallest_budget(RunInfo({}, categories)), path.stat().st_size
    for budget in range(least, whole + 40, 7):
        write_coco(path, records, {}, categories, budget)
        assert path.stat().st_size <= budget


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_result_is_valid_json(tmp_path: Path, count: int) -> None:
    write_coco(tmp_path / "i.json", [record("a.png", 0)][:count])
    assert json.loads((tmp_path / "i.json").read_text())["annotations"] == []


def test_a_budget_is_never_exceeded_and_keeps_the_best(tmp_path: Path) -> None:
    records = [record(name, 6, seed) for seed, name in enumerate(["a.png", "b.png", "c.png"])]
    info = {"description": "x"}
    path = tmp_path / "i.json"
    write_coco(path, records, info)
    full = json.loads(path.read_text())
    whole = path.stat().st_size
    least = smallest_budget(RunInfo(info))
    for budget in [*range(least, whole + 40, 97), whole, whole + 40]:
        left_out = write_coco(path, records, info, budget=budget)
        data = json.loads(path.read_text())
        assert path.stat().st_size <= budget
        kept = {item["id"] for item in data["annotations"]}
        assert left_out == len(full["annotations"]) - len(kept)
        assert all(item in full["annotations"] for item in data["annotations"])
        assert {item["image_id"] for item in data["annotations"]} == {image["id"] for image in data["images"]}
        # what was left out did not fit beside the better ones
        for item in full["annotations"]:
            if item["id"] not in kept:
                better = [one for one in data["annotations"] if one["score"] > item["score"]]
                images = {one["image_id"] for one in [*better, item]}
                lines = [one for one in full["images"] if one["id"] in images] + [*better, item]
                cost = sum(len(json.dumps(line, separators=(",", ":"))) + 2 for line in lines)
                assert least + cost > budget
    assert left_out == 0


@pytest.mark.parametrize("given", [[], [{"id": 5, "name": "ship"}], [{"id": 0, "name": "instance"}]])
def test_categories_that_the_points_do_not_list_take_their_share_of_the_budget(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    """How many those are is known once all scenes are done: too late to refuse the budget."""
    categories = [*range(1, 10), 1234, *[None] * 4]
    records = [done("a.png", [classed(i, one, i / 20) for i, one in enumerate(categories)])]
    path = tmp_path / "i.json"
    assert write_coco(path, records, {}, given) == 0
    whole, least = path.stat().st_size, smallest_budget(RunInfo({}, given))
    for budget in range(least, whole + 1, 11):
        left_out = write_coco(path, records, {}, given, budget)
        data = json.loads(path.read_text())
        assert path.stat().st_size <= budget
        assert left_out == len(categories) - len(data["annotations"])
        listed = [one["id"] for one in data["categories"]]
        assert set(listed) >= {one["category_id"] for one in data["annotations"]}
        assert len(set(listed)) == len(listed)
        if budget == least:
            assert (data["annotations"], data["categories"]) == ([], given or [{"id": 1, "name": "instance"}])
    assert left_out <= 1, "the whole, but for the byte on the safe side"


# --- GeoJSON -----------------------------------------------------------------------------------------------------


def signed_area(ring: list[list[float]]) -> float:
    """Positive: counter-clockwise with y up."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def polygons(feature: dict[str, Any]) -> list[list[list[list[float]]]]:
    geometry = feature["geometry"]
    assert geometry["type"] in ("Polygon", "MultiPolygon")
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else list(geometry["coordinates"])


@pytest.mark.parametrize("crs", ["pixel", "wgs84", "source"])
@pytest.mark.parametrize("simplify", [0.0, 1.0])
def test_rings_are_closed_and_run_as_rfc_7946_wants(crs: Any, simplify: float) -> None:
    if crs != "pixel":
        pytest.importorskip("rasterio")
    place = None if crs == "pixel" else PLACE
    choice = "wgs84" if crs == "pixel" else crs
    data = feature_collection(scene([instance(i, m) for i, m in enumerate(MASKS)], place), choice, simplify)
    assert len(data["features"]) == 3
    for feature in data["features"]:
        for outer, *holes in polygons(feature):
            for ring in (outer, *holes):
                assert ring[0] == ring[-1]
                assert len(ring) >= 4
            assert signed_area(outer) > 0
            assert all(signed_area(hole) < 0 for hole in holes)
    assert [len(polygon) for polygon in polygons(data["features"][1])] == [2], "the ring-shaped mask has a hole"
    assert ("crs" in data) == (crs == "source")
    assert data["resam"]["coordinates"] == {"pixel": "pixel", "wgs84": "WGS 84", "source": "map"}[crs]


def test_unsimplified_polygons_have_exactly_their_masks_area() -> None:
    data = feature_collection(scene([instance(i, m) for i, m in enumerate(MASKS)]), simplify=0)
    for feature, mask in zip(data["features"], MASKS):
        assert sum(signed_area(ring) for polygon in polygons(feature) for ring in polygon) == mask.sum()


def test_map_coordinates_burn_back_to_the_mask() -> None:
    features = pytest.importorskip("rasterio.features")
    import rasterio

    data = feature_collection(scene([instance(0, MASKS[2])], PLACE), "source", 0)
    burnt = features.rasterize(
        [data["features"][0]["geometry"]], (HEIGHT, WIDTH), transform=rasterio.Affine(*TRANSFORM), dtype="uint8"
    )
    assert (burnt.astype(bool) == MASKS[2]).all()


def test_wgs84_is_what_proj_says() -> None:
    warp = pytest.importorskip("rasterio.warp")
    data = feature_collection(scene([instance(0, MASKS[0])], PLACE), "wgs84", 0)
    ring = np.array(polygons(data["features"][0])[0][0])
    xs, ys = warp.transform("EPSG:4326", UTM, ring[:, 0], ring[:, 1])
    pixels = PLACE.to_pixel(np.stack([xs, ys], 1))
    assert np.abs(pixels - np.round(pixels * 2) / 2).max() < 0.02, "pixel edges lie at halves"
    assert pixels.min(0).tolist() == pytest.approx([17.5, 17.5], abs=0.02)


@pytest.mark.parametrize("pixel", [0.004, 0.05, 0.5, 30.0])
@pytest.mark.parametrize("choice", ["wgs84", "source"])
def test_coordinates_have_as_many_digits_as_their_pixels_need(pixel: float, choice: Any) -> None:
    """Seven decimals of a degree are a centimetre: less than a pixel of a drone's picture."""
    warp = pytest.importorskip("rasterio.warp")
    place = Georeference((pixel, 0.0, 500000.0, 0.0, -pixel, 5000000.0), UTM)
    data = feature_collection(scene([instance(0, MASKS[0])], place), choice, 0)
    xs, ys = np.array(polygons(data["features"][0])[0][0]).T
    if choice == "wgs84":
        xs, ys = map(np.array, warp.transform("EPSG:4326", UTM, xs, ys))
    pixels = place.to_pixel(np.stack([xs, ys], 1))
    assert np.abs(pixels * 2 - np.round(pixels * 2)).max() < 0.2, "within a tenth of a pixel of its edges"
    text = json.dumps(data["features"][0]["geometry"])
    assert len(text) < 24 * 2 * len(pixels), "and not as many as a float has"


def test_a_crs_without_a_place_on_earth_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    drawn = scene([instance(0, MASKS[0])], Georeference(TRANSFORM, local))
    with pytest.raises(ResamError, match=r"no transformation from .* to OGC:CRS84; see --crs source"):
        feature_collection(drawn)
    assert feature_collection(drawn, "source")["crs"]["properties"]["name"] == local


@pytest.mark.parametrize("seed", range(12))
def test_simplified_polygons_stay_valid(seed: int) -> None:
    for tolerance in (0.5, 1.0, 2.5):
        for rings in valid_polygons(random_blobs(seed), (0, 0), tolerance):
            if len(rings[0]) < 60:
                assert simple_the_slow_way([ring.tolist() for ring in rings]) or tolerance == 0


def simple_the_slow_way(rings: list[list[list[float]]]) -> bool:
    """No two segments cross in a point inner to both."""
    segments = [(ring[i], ring[(i + 1) % len(ring)]) for ring in rings for i in range(len(ring))]

    def turn(p: list[float], q: list[float], r: list[float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return not any(
        turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
        for i, (a, b) in enumerate(segments)
        for c, d in segments[:i]
    )


def test_a_bow_tie_is_not_simple() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    inside = np.array([[1, 1], [1, 2], [2, 2], [2, 1]], float)
    assert meeting([square], [0]) == set()
    assert meeting([square, inside], [0, 0]) == set()
    assert meeting([square + 9, square[[0, 2, 1, 3]]], [0, 1]) == {1}
    assert meeting([square, inside + np.array([2, 0])], [0, 1]) == {0, 1}


def test_rings_that_lie_in_the_wrong_ring_are_misplaced() -> None:
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], float)
    hole, island = square / 3 + 3, square / 9 + 4
    assert misplaced([square, hole, island], [0, 0, 1]) == set()
    assert misplaced([square, island], [0, 1]) == {0, 1}, "a part within a part"
    assert misplaced([square, hole + 20], [0, 0]) == {0}, "a hole outside"
    assert misplaced([square, hole, island], [0, 0, 0]) == {0}, "a hole within a hole"


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5, 6.0])
def test_the_parts_of_a_simplified_mask_share_no_pixel_and_hold_no_others_holes(tolerance: float) -> None:
    """Each pixel centre of a fine raster lies in at most one polygon, and no polygon's hole lies outside of it."""
    for seed in range(15):
        noise = np.random.default_rng(seed).random((40, 44)).astype(np.float32)
        mask = cv2.GaussianBlur(noise, (0, 0), 0.6 + seed % 3) > np.median(noise)
        covered = np.zeros((40 * 8, 44 * 8), np.int32)
        for outer, *holes in valid_polygons(mask, (0, 0), tolerance):
            filled = [burn(ring, covered.shape) for ring in (outer, *holes)]
            assert not (~filled[0] & np.any(filled[1:], axis=0)).any() if holes else True
            covered += filled[0] & ~np.any(filled[1:], axis=0) if holes else filled[0]
        assert covered.max() <= 1, seed


def burn(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Points of a raster of 1/8 px inside a ring; none lies on a line between half-integers by its odd offset."""
    y, x = ((np.arange(length) + 0.4137) / 8 - 0.5 for length in shape)
    crossed = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0)):
        rows = np.flatnonzero((y0 > y) != (y1 > y))
        if len(rows):
            crossed[rows] ^= (x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0))[:, None] > x
    return crossed


def test_geojson_of_no_instances_is_valid(tmp_path: Path) -> None:
    write("geojson", tmp_path / "a.geojson", scene([]))
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


# --- labels ------------------------------------------------------------------------------------------------------


def painted(instances: list[Instance]) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), int)
    for one in sorted(instances, key=lambda one: one.score):
        x, y = one.origin
        labels[y : y + one.mask.shape[0], x : x + one.mask.shape[1]][one.mask] = one.index + 1
    return labels


def test_labels_hold_instance_numbers_with_the_best_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.setattr("resam_runtime.writers.labels._STRIP", 32)
    instances = [
        instance(0, disc(30, 30, 12), 0.9),
        instance(4, disc(40, 35, 12), 0.4),
        instance(300, disc(80, 60, 20), 0.8),
    ]
    write("labels", tmp_path / "a.png", scene(instances))
    png = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16
    np.testing.assert_array_equal(png, painted(instances))
    write("labels", tmp_path / "a.tif", scene(instances, PLACE))
    with rasterio.open(tmp_path / "a.tif") as tif:
        np.testing.assert_array_equal(tif.read(1), painted(instances))
        assert tif.crs.to_epsg() == 32633
        assert tuple(tif.transform[:6]) == TRANSFORM


def test_more_instances_than_a_png_can_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResamError, match="do not fit 16 bits"):
        write("labels", tmp_path / "a.png", scene([instance(70000, disc(30, 30, 5))]))
    assert not (tmp_path / "a.png").exists()


# --- overlay -----------------------------------------------------------------------------------------------------


def test_an_overlay_marks_instances_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    plain = draw_overlay(scene([]))
    assert (plain == 90).all()
    picture = draw_overlay(scene([instance(0, disc(60, 60, 20), 0.87)]))
    factor = picture.shape[1] // WIDTH
    assert picture.shape == (HEIGHT * factor, WIDTH * factor, 3)
    assert max(picture.shape) >= 900, "small scenes are enlarged"
    changed = (picture != plain).any(2)
    xs = np.nonzero(changed)[1]
    assert xs.min() >= 35 * factor
    assert changed[60 * factor, 60 * factor], "filled"
    assert not changed[: 20 * factor].any()
    write("overlay", tmp_path / "a.png", scene([]))
    assert cv2.imread(str(tmp_path / "a.png")).shape == picture.shape


def test_an_overlay_of_a_shrunk_overview_places_instances_right() -> None:
    small = np.full((HEIGHT // 3, WIDTH // 3, 3), 90, np.uint8)
    picture = draw_overlay(scene([instance(0, disc(60, 60, 20))], overview=small))
    changed = (picture != 90).any(2)
    ys, xs = np.nonzero(changed)
    scale = picture.shape[1] / WIDTH
    assert np.median(xs) / scale == pytest.approx(60, abs=2)
    assert np.median(ys) / scale == pytest.approx(60, abs=2)


def test_only_georeferenced_overlays_carry_a_scale_bar() -> None:
    pytest.importorskip("rasterio")
    assert (draw_overlay(scene([])) == 90).all()
    assert (draw_overlay(scene([], PLACE)) != 90).any()


def test_scale_bars_have_round_lengths() -> None:
    assert [nice_length(value) for value in (1, 1.9, 2, 4.99, 7, 99, 0.3)] == [1, 1, 2, 2, 5, 50, pytest.approx(0.2)]


def test_ground_size_of_a_pixel() -> None:
    pytest.importorskip("rasterio")
    assert Georeference(TRANSFORM, UTM).metres_per_pixel((100, 100)) == pytest.approx(
        2 / 0.9996, rel=1e-5
    )  # UTM's middle meridian
    degrees = (1e-5, 0.0, 15.0, 0.0, -1e-5, 60.0)  # where a degree is 55.80 km long
    assert Georeference(degrees, "EPSG:4326").metres_per_pixel((100, 100)) == pytest.approx(0.5580, rel=1e-4)
    feet = (1.0, 0.0, 2e6, 0.0, -1.0, 7e5)
    assert Georeference(feet, "EPSG:2263").metres_per_pixel((10, 10)) == pytest.approx(0.3048, rel=1e-3)


@pytest.mark.parametrize("name", ["EPSG:3857", "ESRI:102100", "EPSG:3395", "+proj=merc +lat_ts=0 +datum=WGS84"])
def test_a_metre_of_mercator_is_half_a_metre_of_ground_at_60_degrees(name: str) -> None:
    warp = pytest.importorskip("rasterio.warp")
    if name.startswith("+"):
        name = pytest.importorskip("rasterio.crs").CRS.from_string(name).to_wkt()
    (x,), (y,) = warp.transform("OGC:CRS84", name, [15], [60])
    assert Georeference((1.0, 0.0, x, 0.0, -1.0, y), name).metres_per_pixel((100, 100)) == pytest.approx(0.5, rel=5e-3)


def test_the_ground_of_another_planet_has_the_size_that_its_map_says() -> None:
    mars = pytest.importorskip("rasterio.crs").CRS.from_string("+proj=eqc +R=3396190 +units=m").to_wkt()
    assert Georeference((2.0, 0.0, 1000.0, 0.0, -2.0, 1000.0), mars).metres_per_pixel((100, 100)) == pytest.approx(2)


def test_pixels_and_map_coordinates_are_inverse() -> None:
    rotated = Georeference((1.5, 0.4, 1000.0, 0.3, -1.2, 2000.0), UTM)
    points = np.array([[0, 0], [17.25, 3.5], [-4, 99]])
    np.testing.assert_allclose(rotated.to_pixel(rotated.to_map(points)), points, atol=1e-9)
    np.testing.assert_allclose(PLACE.to_map([[0, 0]]), [[500001, 4999999]])


def test_an_instance_beyond_the_globe_is_left_out_and_told_and_the_others_are_kept() -> None:
    disc = "+proj=geos +h=35786023 +a=6378137 +b=6356752.3 +units=m"  # a whole side of the Earth, and space around it
    crs = pytest.importorskip("rasterio.crs").CRS.from_string(disc).to_wkt()
    place = Georeference((1e5, 0, -6e6, 0, -1e5, 4.5e6), crs)
    off, on = np.zeros((90, 120), bool), np.zeros((90, 120), bool)
    off[5:10, :8] = on[40:50, 60:70] = True
    result = SceneResult(SceneInfo("a.tif", 120, 90, place, True), [instance(0, off), instance(1, on)])
    notes: list[str] = []
    [feature] = feature_collection(result, notes=notes)["features"]
    assert feature["properties"]["instance"] == 2
    assert notes == ["geojson: 1 instance left out, partly beyond the edge of the map: 1; --crs source keeps them"]
    assert len(feature_collection(result, "source", notes=notes)["features"]) == 2
    assert len(notes) == 1


def test_an_instance_without_a_pixel_of_its_own_in_the_labels_is_told(tmp_path: Path) -> None:
    small, large = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    small[10:20, 10:20], large[5:30, 5:30] = True, True
    result = SceneResult(SceneInfo("a.png", WIDTH, HEIGHT), [instance(0, small, 0.5), instance(1, large, 0.9)])
    writer = LabelsWriter()
    for name in ("a.labels.png", "a.labels.tif"):
        notes = writer.write(tmp_path / name, result, OutputOptions())
        assert notes == ["labels: 1 instance hidden by better ones: 1"]
    better = SceneResult(result.scene, [instance(0, small, 0.95), instance(1, large, 0.9)])
    assert writer.write(tmp_path / "b.labels.png", better, OutputOptions()) == ()
