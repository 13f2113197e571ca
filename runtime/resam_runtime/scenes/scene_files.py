"""Which files a run takes as scenes, what they are called, and where their outputs go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resam_runtime.common.errors import ResamError, one_line, system_error
from resam_runtime.scenes.remote import RemoteFile, remote_file
from resam_runtime.scenes.scene import SCENE_SUFFIXES
from resam_runtime.scenes.stac import is_catalogue, stac_scenes

STATE_FOLDER = ".resam"
"""Folder inside an output folder that holds a run's records; a folder with one is never searched for scenes."""


@dataclass(frozen=True)
class SceneFile:
    """A scene on disk or at a URL.

    name: unique in its run, as COCO's file_name. stem: its outputs' path without suffix. date: when it was taken, where
    a catalogue says so (see `SceneInfo`).
    """

    path: Path | RemoteFile
    name: str
    stem: str
    date: str | None = None

    @property
    def full_path(self) -> str:
        """The absolute path, with forward slashes; the name is its end."""
        path = self.path.place if isinstance(self.path, RemoteFile) else Path(os.path.abspath(self.path)).as_posix()
        return path if path.endswith(self.name) else f"/{self.name}"  # an item's name is not that of its asset

    @property
    def local(self) -> Path | None:
        """Its path; None of one at a URL, beside which no files are looked for."""
        return None if isinstance(self.path, RemoteFile) else self.path


def find_scenes(
    inputs: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], asset: str | None = None
) -> list[SceneFile]:
    """Scenes among files, folders (searched with their subfolders, links too), URLs, STAC catalogues and lists of those
    (`@list.txt`, a line each), sorted by name, each file once.

    A file is taken whatever its suffix, and also when it does not exist: it fails when its turn comes. In folders
    only image suffixes count; hidden files, and folders that a run wrote, do not. A scene's name is its path inside the
    folder given, the end of its URL or the id of its item, with as many parent folders (hosts, collections) in front as
    it takes to tell it from others. Only texts, as a user writes them, stand for URLs, catalogues and lists; a path is
    a file or a folder, whatever it is called. asset: the one of each STAC item that is the scene, see `stac`.
    Raises ResamError when there is no scene at all, and for lists, URLs and catalogues that cannot be read.
    """
    roots = [(root, isinstance(given, str)) for given in inputs for root in listed(given)]
    found: dict[str, int] = {}  # absolute path -> how many of its last parts make its name
    places: dict[str, tuple[Path | RemoteFile, str | None]] = {}  # those that are no such path: where they are, dates

    def add(path: Path | RemoteFile, place: str, date: str | None = None) -> None:
        stem, suffix = os.path.splitext(place)
        number = 1
        while places.setdefault(place, (path, date))[0] != path:  # they differ in what is not shown, or in nothing
            number += 1
            place = f"{stem}~{number}{suffix}"
        found.setdefault(place, 1)

    for root, written in roots:
        if written and is_catalogue(root):
            for scene in stac_scenes(root, asset):
                add(scene.path, f"/stac/{scene.name}", scene.date)
        elif isinstance(root, RemoteFile):
            add(root, root.place)
        elif root.is_dir():
            for path in walk_scenes(root, Path(out)):
                found.setdefault(os.path.abspath(path), len(path.relative_to(root).parts))
        else:
            found.setdefault(os.path.abspath(root), 1)
    if not found:
        searched = ", ".join(str(root) for root, _ in roots)
        raise ResamError(f"{searched}: no images found (looked for {' '.join(sorted(SCENE_SUFFIXES))})")
    names = _unique_names(found)
    stems = output_stems(list(names.values()))
    scenes = []
    for place, name in names.items():
        where, date = places.get(place, (Path(place), None))
        scenes.append(SceneFile(where, name, stems[name], date))
    return sorted(scenes, key=lambda scene: scene.name)


def listed(given: str | os.PathLike[str]) -> list[Path | RemoteFile]:
    """A file, a folder or a URL; of `@list.txt` those that are its lines, blank ones and comments (#) apart. Raises
    ResamError for a list that cannot be read, and a URL of a kind that is not."""
    if not isinstance(given, str):
        return [Path(given)]
    text = given
    if not text.startswith("@"):
        return [remote_file(text) or Path(text)]
    try:
        lines = Path(text[1:]).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise ResamError(f"{text[1:]}: not a list that can be read ({one_line(error)})") from None
    lines = [line.strip() for line in lines]
    return [remote_file(line) or Path(line) for line in lines if line and not line.startswith("#")]


def output_stems(names: Sequence[str]) -> dict[str, str]:
    """Scene name -> path of its outputs without their suffix: `sub/a.png` -> `sub/a`.

    Scenes that differ in suffix or case only keep their whole name (`a.png`, `a.tif`), so that none overwrites
    another, also on file systems that ignore case; so do names ending in .labels, taken by the labels rasters.
    """
    short = {name: _without_suffix(name) for name in names}
    count = Counter(stem.casefold() for stem in short.values())
    stems, taken = {}, set()
    for name in sorted(names):
        stem = short[name]
        if count[stem.casefold()] > 1 or stem.casefold().endswith(".labels"):
            stem = name
        number = 1
        unique = stem
        while unique.casefold() in taken or (unique != short[name] and unique.casefold() in count):
            number += 1
            unique = f"{stem}~{number}"
        taken.add(unique.casefold())
        stems[name] = unique
    return stems


def check_apart(inputs: Iterable[str | os.PathLike[str]], out: Path) -> None:
    """Raise ResamError if outputs would go into a folder of scenes itself, given or a given file's: overlays would be
    scenes of the next run."""
    for given in inputs:
        if isinstance(given, str) and (given.startswith("@") or remote_file(given)):
            continue
        folder = given if os.path.isdir(given) else Path(given).parent
        if os.path.isdir(folder) and os.path.exists(out) and os.path.samefile(folder, out):
            raise ResamError(f"{out}: outputs cannot go into the folder of the scenes itself; choose another with -o")


def check_exist(scenes: Sequence[SceneFile]) -> None:
    """Raise ResamError if none of the scenes exists; one that does may be done, and the others fail in their turn."""
    reason = ""
    for scene in scenes:
        if scene.local is None:
            return
        try:
            os.stat(scene.local)
            return
        except OSError as error:
            reason = reason or system_error(error)
    raise ResamError(reason + (f" (and {len(scenes) - 1} more that cannot be found)" if len(scenes) > 1 else ""))


def walk_scenes(folder: Path, out: Path, on_trouble: Callable[[str], None] | None = None) -> Iterator[Path]:
    """Image files in a folder and its subfolders, without hidden ones and those that runs wrote.

    Links to folders are followed, each folder once: one that links lead to in a circle, or to a place inside `folder`,
    which has a name of its own there, is not searched by them.
    on_trouble: told in one line of each folder that cannot be read, which then counts as empty; without it the first
    raises ResamError.
    """
    ours, root = os.path.realpath(out), os.path.realpath(folder)
    searched = {root}

    def unreadable(error: OSError) -> None:
        # A subfolder that vanished since it was listed held no scene; the folder asked for must be there.
        if isinstance(error, FileNotFoundError) and os.fspath(error.filename) != os.fspath(folder):
            return
        if on_trouble is None:
            raise ResamError(system_error(error))
        on_trouble(system_error(error))

    def wanted(path: str) -> bool:
        real = os.path.realpath(path)
        if real == ours or real in searched or os.path.isdir(os.path.join(path, STATE_FOLDER)):
            return False
        if os.path.islink(path) and real.startswith(os.path.join(root, "")):
            return False
        searched.add(real)
        return True

    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and wanted(os.path.join(parent, name)))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SCENE_SUFFIXES:
                yield Path(parent, name)


def _unique_names(depths: dict[str, int]) -> dict[str, str]:
    while True:
        names = {path: "/".join(Path(path).parts[-depth:]).lstrip("/") for path, depth in depths.items()}
        count = Counter(names.values())
        clash = [path for path, name in names.items() if count[name] > 1]
        if not clash:
            return names
        for path in clash:
            depths[path] = min(depths[path] + 1, len(Path(path).parts))


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix else name
