"""Where a scene's outputs go, and what is said when they cannot be written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from resam_runtime.common.errors import ResamError
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.writers import scene_writers


class OutputError(ResamError):
    """The output folder cannot be written any more: a full disk, most likely. What is done is kept."""


@contextlib.contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """The system's errors in the block become an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{out}: cannot write ({error.strerror or error}); what is done is kept, use --resume"
        ) from error


def output_names(stem: str, formats: Collection[str], scene: SceneInfo | None = None) -> list[str]:
    """Paths inside the output folder of a scene's own files; without the scene all that they may be."""
    return [
        stem + suffix
        for writer in scene_writers(formats)
        for suffix in (writer.suffixes if scene is None else (writer.suffix(scene),))
    ]


def check_outputs(scenes: Sequence[SceneFile], out: Path, formats: Collection[str]) -> None:
    """Raise ResamError if an output would overwrite a scene, by whatever path either is reached."""
    folders: dict[str, str] = {}  # each asked for once, without its links

    def place(path: str) -> str:
        """The path without links, but for its last part: what a rename onto it would replace."""
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.join(folders[folder], name)

    sources = set()
    for scene in scenes:
        if scene.local is not None:
            path = os.path.abspath(scene.local)
            sources.add(place(path))
            if os.path.islink(path):  # two files: the link, and what it points to
                sources.add(os.path.realpath(path))
    for scene in scenes:
        for name in output_names(scene.stem, formats):
            if place(os.path.join(out, name)) in sources:
                raise ResamError(f"{out / name}: is a scene and would be overwritten; choose another folder with -o")
