"""One scene without a run: `process_scene` gives the files and the record that `resam-run` would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resam_runtime.common.checked import Malformed
from resam_runtime.run.options import RunOptions
from resam_runtime.run.process_scene import process_scene
from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.segment.segmenter import Segmenter
from resam_runtime.writers import WRITERS, Record
from resam_runtime.writers.record import annotation

from .run_helpers import make_engine, make_folder, resam_run


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


def test_a_scene_processed_alone_is_what_a_run_makes_of_it(engine: Path, tmp_path: Path) -> None:
    images, formats = make_folder(tmp_path / "images"), frozenset(WRITERS)
    assert resam_run("--engine", engine, images, "-o", tmp_path / "run", "--format", ",".join(formats)).code == 0
    saved = [json.loads(path.read_text()) for path in (tmp_path / "run/.resam/scenes").iterdir()]
    segmenter = Segmenter(engine, "cpu", 1)
    for expected in saved:
        record = process_scene(
            segmenter, images / expected["name"], tmp_path / "one", options=RunOptions(formats=formats)
        )
        made = record.to_json()
        assert made.pop("seconds").keys() == expected.pop("seconds").keys()
        assert made == expected
        assert len(record.annotations) == 4
        for name in record.outputs:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert not (tmp_path / "one/.resam").exists(), "the record is the caller's to save"


def test_a_scene_that_fails_gives_a_record_that_says_why(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    record = process_scene(Segmenter(engine, "cpu", 1), tmp_path / "a.png", tmp_path / "out")
    assert record.failed
    assert "a.png: not a readable image" in str(record.reason)
    assert (record.scene, list(record.outputs)) == (None, [])
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


@pytest.fixture
def record() -> Record:
    from resam_runtime.masks.instance import Instance
    from resam_runtime.points import Skipped

    place = Georeference((2.0, 0.0, 500000.0, 0.0, -2.0, 5000000.0), "EPSG:32633")
    point, label = np.ones((1, 2), np.float32), np.ones(1, np.int32)
    item = annotation(Instance(0, 0.5, 0.4, np.ones((2, 3), bool), (4, 5), point, label, (20, 30)))
    return Record(
        name="north/a.tif",
        stem="north/a",
        source={"size": 7, "mtime_ns": 1, "points": None},
        scene=SceneInfo("north/a.tif", 30, 20, place, True),
        points=1,
        annotations=[item],
        by_place=[1, "ship", None],
        skipped=[Skipped("ship", "its mask is empty")],
        outputs=["north/a.geojson"],
        seconds={"read": 0.5},
        notes=["a note"],
    )


def test_a_record_comes_back_from_its_file(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", 2),
        ("status", "half"),
        ("name", None),
        ("width", "30"),
        ("annotations", {}),
        ("annotations", [7]),
        ("annotations", [{"category_id": 1}]),
        ("outputs", "a.geojson"),
        ("outputs", [1]),
        ("skipped", [["ship", "reason"]]),
        ("seconds", {"read": "long"}),
        ("by_place", None),
        ("by_place", [1.5]),
        ("width", 0),
        ("transform", [1, 2, 3]),
        ("crs", 4326),
        ("notes", [None]),
    ],
)
def test_a_damaged_record_is_none(record: Record, member: str, value: Any) -> None:
    with pytest.raises(Malformed, match="expected"):
        Record.from_json({**record.to_json(), member: value})
