"""A run on a Ray cluster of two nodes: what one process makes, to the byte, also where workers are lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.run.on_ray import RayCluster
from resam_runtime.run.options import RunOptions
from resam_runtime.run.records import RunFolder
from resam_runtime.run.scene_prompts import PointsSource
from resam_runtime.scenes.remote import RemoteFile
from resam_runtime.scenes.scene_files import SceneFile, find_scenes

from .run_helpers import make_engine, make_folder, resam_run, summary_of

pytestmark = pytest.mark.slow
FORMATS = ("--format", "coco,geojson,labels")


@pytest.fixture(scope="module", autouse=True)
def _ray() -> None:
    pytest.importorskip("ray")  # not where tests are collected: it takes a second


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("images"), 6)
    (folder / "poisoned.png").write_bytes(b"junk")
    return folder


def test_a_cluster_makes_what_one_process_does(cluster: Any, engine: Path, images: Path, tmp_path: Path) -> None:
    assert resam_run("--engine", engine, images, "-o", tmp_path / "one", *FORMATS).code == 1
    result = resam_run("--engine", engine, images, "-o", tmp_path / "ray", *FORMATS, "--ray", cluster.address)
    assert (result.code, "Ray, at most 2 workers" in result.stdout) == (1, True), result.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
    assert names == sorted(path.name for path in (tmp_path / "ray").iterdir() if path.is_file())
    for name in names:
        if name != "summary.json":
            assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    made, expected = summary_of(tmp_path / "ray"), summary_of(tmp_path / "one")
    assert made["totals"] == expected["totals"]
    [failed] = [scene for scene in made["scenes"] if scene["status"] == "failed"]
    assert failed["name"] == "poisoned.png"
    again = resam_run("--engine", engine, images, "-o", tmp_path / "ray", *FORMATS, "--resume")
    assert again.code == 1, "one process resumes what a cluster began"


def test_a_worker_lost_in_the_middle_loses_nothing(cluster: Any, engine: Path, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images", 48)
    assert resam_run("--engine", engine, images, "-o", tmp_path / "one", *FORMATS).code == 0
    killed: list[int] = []

    def kill_one() -> None:
        state = tmp_path / "ray/.resam/scenes"
        while not done.is_set() and not (state.is_dir() and any(state.glob("[!.]*.json"))):
            time.sleep(0.02)
        for pid in _workers()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    done = threading.Event()
    killer = threading.Thread(target=kill_one)
    killer.start()
    result = resam_run("--engine", engine, images, "-o", tmp_path / "ray", *FORMATS, "--ray", cluster.address)
    done.set()
    killer.join()
    assert killed, "while the run went on"
    assert result.code == 0, result.stderr
    assert (tmp_path / "ray/instances.json").read_bytes() == (tmp_path / "one/instances.json").read_bytes()
    assert len(list((tmp_path / "ray").glob("*.geojson"))) == 48


def _workers() -> list[int]:
    """Processes of actors that hold a segmenter, of clusters that this process started."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"MapWorker" in (folder / "cmdline").read_bytes():
                named.append(pid)

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in named if ours(pid)]


class _Deadly(RemoteFile):
    """Ends the process that unpacks it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_scene_that_kills_its_workers_fails_alone(cluster: Any, engine: Path, tmp_path: Path) -> None:
    scenes = find_scenes([make_folder(tmp_path / "images", 3)], tmp_path)
    deadly = SceneFile(_Deadly("https://a.org/deadly.tif"), "deadly.tif", "deadly")
    with (
        RayCluster(EngineFile.open(engine), cluster.address) as ray,
        RunFolder.open(tmp_path / "out", {}, "new") as out,
    ):
        ray.process_scenes([deadly, *scenes], out, PointsSource(), RunOptions())
        records = {record.name: record for record in out.records()}
    assert {name for name, record in records.items() if record.failed} == {"deadly.tif"}
    assert "its worker was lost every time" in str(records["deadly.tif"].reason)
    assert len(records) == 4
