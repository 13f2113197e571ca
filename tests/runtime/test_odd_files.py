"""Names, links and folders that are unusual and legal: no scene is lost to them, and no file of anyone overwritten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from resam_runtime.annotate.images import list_scenes
from resam_runtime.common.errors import ResamError, printable
from resam_runtime.common.files import atomic_write
from resam_runtime.scenes.scene_files import walk_scenes

from .run_helpers import draw_scene, instances_of, make_engine, resam_run, start_run, summary_of, write_points


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engine") / "model.resam")


def add_scene(path: Path, seed: int = 0) -> None:
    """A scene under any name; OpenCV would not write to each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.parent / "plain.png"
    centres = draw_scene(plain, seed)
    plain.rename(path)
    write_points(path, centres)


def test_a_name_that_is_not_utf8_is_a_name(engine: Path, tmp_path: Path) -> None:
    try:
        add_scene(tmp_path / "images" / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    add_scene(tmp_path / "images" / "good.png")
    process = start_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out")
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    assert "8 instances in 2 scenes" in stdout
    assert os.fsdecode(b"caf\xe9.png") in [image["file_name"] for image in instances_of(tmp_path / "out")["images"]]


def test_messages_are_one_line_whatever_a_name_holds(engine: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    add_scene(images / "good.png")
    (images / "torn\nline.png").write_text("x")
    result = resam_run("--engine", engine, images, "-o", tmp_path / "out", "--automatic")
    assert result.code == 1
    assert len(result.stderr.splitlines()) == 1
    assert r"torn\nline.png: not a readable image" in result.stderr
    assert printable("a\nb\x1b[31m\udce9é") == r"a\nb\x1b[31m\udce9é"


def test_a_name_as_long_as_names_may_be_is_written(engine: Path, tmp_path: Path) -> None:
    name = "n" * 237  # and .geojson, .points.json: 12 bytes more; a temporary name used to add 14 to that
    add_scene(tmp_path / "images" / f"{name}.png")
    assert resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / f"{name}.geojson").is_file()


def test_an_output_that_cannot_have_its_name_fails_its_scene_alone(engine: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    add_scene(images / "a.png")
    add_scene(images / "a.geojson" / "x.png")  # a.png's polygons would go where this one's folder is
    add_scene(images / "z.png")
    result = resam_run("--engine", engine, images, "-o", out)
    assert result.code == 1
    assert result.stderr == f"failed: a.png: {out / 'a.geojson'}: Is a directory\n"
    assert [scene["status"] for scene in summary_of(out)["scenes"]] == ["done", "failed", "done"]
    assert not (out / "a.png").exists(), "of a scene that failed nothing stays"
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_a_scene_is_not_overwritten_through_a_link(engine: Path, tmp_path: Path) -> None:
    add_scene(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "real" / "a.png")
    shutil.copy(tmp_path / "real" / "a.points.json", tmp_path / "links" / "a.points.json")
    before = (tmp_path / "real" / "a.png").read_bytes()
    for images, said in (("link", "folder of the scenes itself"), ("links", "is a scene and would be overwritten")):
        result = resam_run("--engine", engine, tmp_path / images, "-o", tmp_path / "real")
        assert result.code == 2
        assert said in result.stderr
    assert (tmp_path / "real" / "a.png").read_bytes() == before
    watched = resam_run("--engine", engine, "--watch", tmp_path / "link", "-o", tmp_path / "real")
    assert watched.code == 2
    assert "outputs cannot go into the folder of the scenes itself" in watched.stderr


def test_links_to_folders_are_followed_and_each_folder_is_searched_once(engine: Path, tmp_path: Path) -> None:
    images, archive, out = tmp_path / "images", tmp_path / "archive", tmp_path / "out"
    for path in (images / "b" / "1.png", archive / "2.png", archive / "deep" / "3.png"):
        add_scene(path)
    links = {"a": images / "b", "north": archive, "again": archive / "deep", "up": tmp_path, "out": out}
    for name, target in links.items():
        (images / name).symlink_to(target)
    (archive / "back").symlink_to(images)
    for _ in range(2):
        assert resam_run("--engine", engine, images, "-o", out, "--overwrite").code == 0
        names = [scene["name"] for scene in summary_of(out)["scenes"]]
        assert names == ["again/3.png", "b/1.png", "north/2.png"]
        assert list_scenes(images) == (images, names)


def test_overlays_never_lie_among_the_scenes_of_the_next_run(engine: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    centres = draw_scene(images / "a.jpg", 0)
    write_points(images / "a.jpg", centres)
    before = sorted(images.iterdir())
    result = resam_run("--engine", engine, images, "-o", images)
    assert result.code == 2
    assert result.stderr == (
        f"error: {images}: outputs cannot go into the folder of the scenes itself; choose another with -o\n"
    )
    assert sorted(images.iterdir()) == before
    for _ in range(2):  # inside it is another matter
        result = resam_run("--engine", engine, images, "-o", images / "out", "--overwrite")
        assert (result.code, summary_of(images / "out")["totals"]["scenes"]) == (0, 1)


def test_a_file_of_someone_else_is_not_overwritten(engine: Path, tmp_path: Path) -> None:
    add_scene(tmp_path / "images" / "a.jpg")
    mine = tmp_path / "mine" / "a.png"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = resam_run("--engine", engine, tmp_path / "images" / "a.jpg", "-o", mine.parent)
    assert (result.code, result.stderr) == (
        2,
        f"error: {mine}: exists; choose another folder with -o, or --overwrite\n",
    )
    assert mine.read_text() == "mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "instances.json").write_text("mine")  # --resume with nothing to resume is no permission
    again = resam_run("--engine", engine, tmp_path / "images" / "a.jpg", "-o", tmp_path / "out", "--resume")
    assert again.code == 2
    assert (tmp_path / "out" / "instances.json").read_text() == "mine"


def test_a_folder_that_vanishes_while_it_is_searched_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"1")
    search = walk_scenes(tmp_path, tmp_path / "out")
    assert next(search).name == "1.png"
    shutil.rmtree(tmp_path / "b")  # a producer that cleans up
    assert list(search) == []
    with pytest.raises(ResamError, match="No such file"):
        list(walk_scenes(tmp_path / "nowhere", tmp_path / "out"))


def test_outputs_are_as_open_to_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--simplify", "nan", "not a number"),
        ("--budget", "²", "not a number of bytes"),
        ("--budget", "9" * 5000, "not a number of bytes"),
        ("--bands", "²", "not a band number"),
    ],
)
def test_numbers_that_are_none_are_refused(engine: Path, tmp_path: Path, option: str, value: str, said: str) -> None:
    add_scene(tmp_path / "images" / "a.png")
    result = resam_run("--engine", engine, tmp_path / "images", "-o", tmp_path / "out", option, value)
    assert result.code == 2
    assert said in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
