"""Which files a run takes as scenes, what they are called, and where their outputs go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resam_runtime.common.errors import ResamError, system_error
from resam_runtime.scenes.scene import SCENE_SUFFIXES

STATE_FOLDER = ".resam"
"""Folder inside an output folder that holds a run's records; a folder with one is never searched for scenes."""


@dataclass(frozen=True)
class SceneFile:
    """A scene on disk. name: unique in its run, as COCO's file_name; stem: its outputs' path without suffix."""

    path: Path
    name: str
    stem: str

    @property
    def full_path(self) -> str:
        """The absolute path, with forward slashes; the name is its end."""
        return Path(os.path.abspath(self.path)).as_posix()


def find_scenes(inputs: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> list[SceneFile]:
    """Scenes among files and folders (searched with their subfolders, links too), sorted by name, each file once.

    A file is taken whatever its suffix, and also when it does not exist: it fails when its turn comes. In folders
    only image suffixes count; hidden files, and folders that a run wrote, do not. A scene's name is its path inside the
    folder given, with as many parent folders in front as it takes to tell it from others.
    Raises ResamError when there is no scene at all.
    """
    roots = [Path(given) for given in inputs]
    found: dict[str, int] = {}  # absolute path -> how many of its last parts make its name
    for given in roots:
        if given.is_dir():
            for path in walk_scenes(given, Path(out)):
                found.setdefault(os.path.abspath(path), len(path.relative_to(given).parts))
        else:
            found.setdefault(os.path.abspath(given), 1)
    if not found:
        searched = ", ".join(str(given) for given in roots)
        raise ResamError(f"{searched}: no images found (looked for {' '.join(sorted(SCENE_SUFFIXES))})")
    names = _unique_names(found)
    stems = output_stems(list(names.values()))
    return sorted((SceneFile(Path(p), name, stems[name]) for p, name in names.items()), key=lambda scene: scene.name)


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
        folder = given if os.path.isdir(given) else Path(given).parent
        if os.path.isdir(folder) and os.path.exists(out) and os.path.samefile(folder, out):
            raise ResamError(f"{out}: outputs cannot go into the folder of the scenes itself; choose another with -o")


def check_exist(scenes: Sequence[SceneFile]) -> None:
    """Raise ResamError if none of the scenes exists; one that does may be done, and the others fail in their turn."""
    reason = ""
    for scene in scenes:
        try:
            os.stat(scene.path)
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
