"""Corruptions grow with severity, are the same for every engine, and their tables pair instances."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resam.synthetic import write_dataset
from resam.synthetic.scenes import generate_scene
from resam_benchmarks.robustness import curves as robustness
from resam_benchmarks.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from resam_benchmarks.robustness.curves import robustness_page, tables_of


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption_departs_further_from_the_scene_with_severity(kind: str) -> None:
    image = generate_scene(3, 256).image
    given = image.copy()
    distances = []
    for severity in SEVERITIES:
        changed = corrupt(image, kind, severity, seed=1)
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert np.array_equal(changed, corrupt(image, kind, severity, seed=1)), "seeded"
        distances.append(float(np.sqrt(np.mean((changed.astype(float) - image) ** 2))))
    assert distances == sorted(distances)
    assert distances[0] > 0.5
    assert distances[4] > 1.5 * distances[0]
    assert np.array_equal(corrupt(image, kind, 0), image)
    assert np.array_equal(image, given), "the clean scene was changed"
    assert f"{CORRUPTIONS[kind].levels[0]:g}" in CORRUPTIONS[kind].describe()


class Recorder:
    """Stands for an engine: finds nothing, and keeps what it was shown."""

    shown: dict[str, list[Any]] = {}  # noqa: RUF012

    def __init__(self, path: str, device: str | None = None, threads: int | None = None) -> None:
        self.name = path

    def describe(self) -> str:
        return self.name

    def __call__(self, image: Any, coords: Any, labels: Any) -> list[Any]:
        self.shown.setdefault(self.name, []).append((image.tobytes(), coords.tobytes()))
        return [SimpleNamespace(mask=np.zeros((0, 0), bool), origin=(0, 0)) for _ in coords]


def test_every_engine_sees_the_same_pictures_and_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", 1, 0, 2, 5, size=128)
    rivals = [SimpleNamespace(name=name, options={"path": name}) for name in ("base", "adapted")]
    monkeypatch.setattr(robustness, "Segmenter", Recorder)
    monkeypatch.setattr(robustness, "engine_rivals", lambda *_: rivals)
    Recorder.shown.clear()
    found = robustness.measure([], tmp_path / "data")
    assert Recorder.shown["base"] == Recorder.shown["adapted"]
    assert len(Recorder.shown["base"]) == 2 * (1 + 5 * 5)
    assert len({picture for picture, _ in Recorder.shown["base"]}) == 2 * (1 + 5 * 5)
    assert len(found["data"]["scenes"]) == 2
    assert found["seeds"] == {"corruptions": 0}


def made_up(lost: dict[str, float]) -> dict[str, Any]:
    """Two engines on eight scenes of three instances; noise costs each what `lost` says, nothing else costs
    anything."""
    rng = np.random.default_rng(0)
    scenes, clean = np.repeat(np.arange(8), 3), rng.uniform(0.5, 0.9, 24)
    engines = {}
    for name, cost in lost.items():
        rows = [[[int(s), float(v - cost * (kind == "noise") * (level > 0))] for s, v in zip(scenes, clean)]
                for kind in CORRUPTIONS for level in range(6)]  # fmt: skip
        engines[name] = {kind: rows[6 * i : 6 * i + 6] for i, kind in enumerate(CORRUPTIONS)}
    return {
        "engines": engines, "data": {"name": "<made> & up", "scenes": ["a"] * 8, "points": 1, "digest": "0" * 64},
        "machine": {"processor": "some", "cores": 2}, "versions": {}, "commit": None, "seeds": {"corruptions": 0},
        "created": "2030", "command": "resam-bench", "descriptions": dict.fromkeys(lost, "somewhere"),
    }  # fmt: skip


def test_what_an_engine_loses_is_paired_and_told_from_noise() -> None:
    levels, losses, more = tables_of(made_up({"base": 0.1, "adapted": 0.15}))
    assert [row[0] for row in levels.rows] == ["base", "adapted"]
    assert losses.rows[0][1].startswith("0.100")
    assert losses.rows[1][1].startswith("0.150")
    assert more.title == "Lost more than base"
    assert more.rows[0][1].startswith("+0.050 [")
    assert more.rows[0][2] == "+0.000, inside the noise"
    assert len(tables_of(made_up({"only": 0.1}))) == 2
    page = robustness_page(made_up({"<b>": 0.1}))
    assert "<b>" not in page
    assert "&lt;made&gt; &amp; up" in page
