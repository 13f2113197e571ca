"""`resam-export --for x-anylabeling`: what samexporter and X-AnyLabeling make of the files are our coarse masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml
from click.testing import CliRunner, Result

from resam_export import cli
from resam_runtime import Segmenter
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.masks.crops import mask_iou
from resam_runtime.masks.instance import Instance

from ..runtime.engines import write_engine

SCENE = Path(__file__).parents[2] / "samples" / "suburb.jpg"


def export_for(source: str | Path, folder: Path, *more: str) -> Result:
    arguments = [str(source), "--for", "x-anylabeling", "-o", str(folder), *more]
    return CliRunner().invoke(cli.export, arguments)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped engine, for which a scene of any size is one tile, as an image is one to the other tools."""
    path, engine = tmp_path_factory.mktemp("engine") / "tiny.resam", EngineFile.open("tiny")
    manifest = dataclasses.replace(engine.manifest, fit_within=4096)
    write_engine_file(path, manifest, {name: engine.graph(name) for name in manifest.graphs})
    return path


@pytest.fixture(scope="module")
def written(tiny: Path) -> Path:
    folder = tiny.parent / "labelling"
    result = export_for(tiny, folder)
    assert result.exit_code == 0, result.output
    return folder


def scene(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 BGR of a sample, from its upper left corner."""
    image = cv2.imread(str(SCENE))
    scale = max(height / image.shape[0], width / image.shape[1])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.ascontiguousarray(image[:height, :width])


PROMPTS: list[list[dict[str, Any]]] = [  # in fractions of the width and the height
    [{"type": "point", "data": [0.31, 0.44], "label": 1}],
    [{"type": "point", "data": [0.72, 0.2], "label": 1}],
    [{"type": "point", "data": [0.5, 0.6], "label": 1}, {"type": "point", "data": [0.1, 0.9], "label": 0}],
    [{"type": "rectangle", "data": [0.3, 0.3, 0.55, 0.62]}],
]


def of_size(marks: list[dict[str, Any]], height: int, width: int) -> list[dict[str, Any]]:
    size = (width, height)
    return [{**mark, "data": [float(round(v * size[i % 2])) for i, v in enumerate(mark["data"])]} for mark in marks]


def coarse_masks(engine: Path, image: np.ndarray, prompts: list[list[dict[str, Any]]]) -> list[Instance]:
    """Our coarse mask of each prompt: one pass of the decoder."""
    embedding = Segmenter(engine, device="cpu", threads=1).embed(np.ascontiguousarray(image[..., ::-1]))
    found = []
    for marks in prompts:
        clicks = [mark for mark in marks if mark["type"] == "point"]
        boxes = [mark["data"] for mark in marks if mark["type"] == "rectangle"]
        points = [[mark["data"] for mark in clicks]] if clicks else None
        labels = [[mark["label"] for mark in clicks]] if clicks else None
        found += embedding.prompt(points, labels, boxes or None, refine=False)
    return found


def samexporter(folder: Path, name: str) -> Any:
    module = pytest.importorskip("samexporter.sam_onnx", reason="pip install --no-deps samexporter")
    encoder, decoder = (str(folder / f"{name}.{part}.onnx") for part in ("encoder", "decoder"))
    return module.SegmentAnythingONNX(encoder, decoder, providers="cpu")


# A small image is first enlarged to 1024 px there, and then averaged down to the tiny engine's tile.
@pytest.mark.parametrize(("size", "least"), [((683, 1024), 0.97), ((1400, 900), 0.95), ((180, 250), 0.9)], ids=str)
def test_samexporter_gives_our_coarse_masks(tiny: Path, written: Path, size: tuple[int, int], least: float) -> None:
    image, prompts = scene(*size), [of_size(prompt, *size) for prompt in PROMPTS]
    model = samexporter(written, "tiny")
    embedding = model.encode(image)
    theirs = [model.predict_masks(embedding, marks)[0, 0] > 0 for marks in prompts]
    assert {mask.shape for mask in theirs} == {size}
    pairs = zip(coarse_masks(tiny, image, prompts), theirs, strict=True)
    alike = [mask_iou(ours.mask, ours.origin, mask, (0, 0)) for ours, mask in pairs]
    assert min(alike) > least, alike


def test_x_anylabeling_gives_our_coarse_masks(tiny: Path, written: Path) -> None:
    """Its own arithmetic, from `services/auto_labeling/sam_onnx.py`: a canvas of 684 x 1024, and masks of its size."""
    size = (1140, 1708)
    image, prompts = scene(*size), [of_size(prompt, *size) for prompt in PROMPTS]
    run = {part: onnxruntime.InferenceSession(written / f"tiny.{part}.onnx").run for part in ("encoder", "decoder")}
    scale = min(1024 / size[1], 684 / size[0])
    canvas = cv2.warpAffine(image[..., ::-1], np.diag([scale, scale, 1])[:2], (1024, 684))
    (embedding,) = run["encoder"](None, {"input_image": canvas.astype(np.float32)})
    alike = []
    for marks, ours in zip(prompts, coarse_masks(tiny, image, prompts), strict=True):
        points = [xy for mark in marks for xy in np.reshape(mark["data"], (-1, 2))]
        labels = [label for mark in marks for label in ([mark["label"]] if "label" in mark else [2, 3])]
        feeds = {
            "image_embeddings": embedding,
            "point_coords": np.array([[*(xy * scale for xy in points), np.zeros(2)]], np.float32),
            "point_labels": np.array([[*labels, -1]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array((684, 1024), np.float32),
        }
        masks, scores, small = run["decoder"](None, feeds)
        assert (masks.shape, scores.shape, small.shape) == ((1, 1, 684, 1024), (1, 1), (1, 1, 128, 128))
        back = cv2.warpAffine(masks[0, 0], np.diag([1 / scale, 1 / scale, 1])[:2], size[::-1])
        alike.append(mask_iou(ours.mask, ours.origin, back > 0, (0, 0)))
    assert min(alike) > 0.95, alike


@pytest.mark.parametrize("tile", [256, 1024])
def test_a_click_means_the_same_place_at_any_size(tmp_path: Path, tile: int) -> None:
    """An engine whose masks are known: discs of 40 tile pixels around a point, in images of any shape."""
    write_engine(tmp_path / "discs.resam", image_size=tile, radius=40 * tile / 256)
    assert export_for(tmp_path / "discs.resam", tmp_path).exit_code == 0
    model = samexporter(tmp_path, "discs")
    for height, width in [(200, 400), (1024, 768), (1300, 650)]:
        embedding = model.encode(np.zeros((height, width, 3), np.uint8))
        x, y = 0.4 * width, 0.55 * height
        mask = model.predict_masks(embedding, [{"type": "point", "data": [x, y], "label": 1}])[0, 0] > 0
        rows, columns = np.mgrid[:height, :width]
        radius = 40 / 256 * max(height, width)
        disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        assert np.count_nonzero(mask & disc) / np.count_nonzero(mask | disc) > 0.98
        assert np.hypot(*(np.argwhere(mask).mean(0) - (y, x))) < 0.01 * max(height, width) / 4


def test_the_configuration_names_the_files(written: Path) -> None:
    configuration = yaml.safe_load((written / "tiny.yaml").read_text())
    assert configuration["type"] == "segment_anything"
    for part in ("encoder", "decoder"):
        assert (written / configuration[f"{part}_model_path"]).is_file()
    # what the class reads without a default
    assert {"name", "display_name", "input_size", "max_width", "max_height"} <= configuration.keys()
    assert {path.name for path in written.iterdir()} == {"tiny.encoder.onnx", "tiny.decoder.onnx", "tiny.yaml"}


def test_what_cannot_be_written_is_one_line(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    odd = tmp_path / "odd.resam"
    write_engine(odd, image_size=96)
    refused = {
        "needs -o DIR": CliRunner().invoke(cli.export, [str(tiny), "--for", "x-anylabeling"]),
        "several files; give a folder": export_for(tiny, tmp_path / "file"),
        "give a folder": export_for(tiny, tmp_path / "one.resam"),
        "--max-points is for plans": export_for(tiny, tmp_path / "out", "--max-points", "3"),
        "holds finished graphs": export_for(tiny, tmp_path / "out", "--int8"),
        "compiled plans; give the .resam": export_for("model.plan", tmp_path / "out"),
        "no such engine file": export_for("absent.resam", tmp_path / "out"),
        "its tile of 96 px is no half": export_for(odd, tmp_path / "out"),
    }
    for reason, result in refused.items():
        assert result.exit_code == 2, reason
        assert reason in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--size", "ship=30x6m"), ("--edges",)])
def test_what_decides_graphs_is_not_passed_over_for_finished_ones(tmp_path: Path, option: tuple[str, ...]) -> None:
    write_engine(tmp_path / "discs.resam")
    result = export_for(tmp_path / "discs.resam", tmp_path / "out", *option)
    assert result.exit_code == 2
    assert f"{option[0]} goes with an adapter" in result.stderr
