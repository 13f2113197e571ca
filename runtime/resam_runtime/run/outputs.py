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
    # A scene that is a link is two files: the link, and what it points to.
    paths = [scene.local for scene in scenes if scene.local is not None]
    sources = {_place(path) for path in paths} | {os.path.realpath(path) for path in paths}
    for scene in scenes:
        for name in output_names(scene.stem, formats):
            if _place(out / name) in sources:
                raise ResamError(f"{out / name}: is a scene and would be overwritten; choose another folder with -o")


def _place(path: Path) -> str:
    """The path without links, but for its last part: what a rename onto it would replace."""
    return os.path.join(os.path.realpath(path.parent), path.name)
