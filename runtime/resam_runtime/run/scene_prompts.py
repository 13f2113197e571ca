"""Which prompts a scene has: from one points file for all, from the file beside it, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import sha256_file
from resam_runtime.engine.manifest import Manifest
from resam_runtime.points import PointsFile, Prompt, Skipped, check_prompts, find_points
from resam_runtime.scenes.scene import RASTER_SUFFIXES
from resam_runtime.scenes.scene_files import SceneFile
from resam_runtime.scenes.scene_info import SceneInfo


@dataclass(frozen=True)
class ScenePrompts:
    """The prompts of a scene.

    prompts: those that can be decoded. skipped: the others. by_place: ids of those that belong to the scene by their
    place on the map. lacking: why there are none, for a scene that came without points. search: whether instances are
    to be found without points instead.
    """

    prompts: Sequence[Prompt] = ()
    skipped: Sequence[Skipped] = ()
    by_place: Sequence[str | int | None] = ()
    lacking: str | None = None
    search: bool = False


def searched(manifest: Manifest, points: PointsSource, automatic: bool) -> bool:
    """Whether scenes that come without points are searched for instances: where that is asked for, and by an engine
    that has a prompter, unless one file says of all scenes what is to be segmented."""
    return automatic or (manifest.prompter is not None and points.file is None)


class PointsSource:
    """Where the prompts of scenes come from: one file for all, or a file beside each.

    shared: names that several scenes of the run end in, see `shared_names`. boxes: as for `PointsFile.open`.
    """

    def __init__(
        self, file: PointsFile | None = None, shared: frozenset[str] = frozenset(), boxes: bool = False
    ) -> None:
        self.file = file
        self.shared = shared
        self._boxes = boxes

    def find(self, scene: SceneFile) -> PointsFile | None:
        """The points file for a scene, None if it has none. Raises ResamError."""
        if self.file is not None:
            return self.file
        path = None if scene.local is None else find_points(scene.local)
        return None if path is None else PointsFile.open(path, self._boxes)

    def prompts(self, file: SceneFile, scene: SceneInfo, limit: int | None, search: bool) -> ScenePrompts:
        """The prompts of a scene. limit: points that the engine takes for each instance. search: see `searched`. Raises
        ResamError."""

        def without(why: str) -> ScenePrompts:
            return ScenePrompts(search=True) if search else ScenePrompts(lacking=why)

        found, beside = self.find(file), self.file is None
        if found is None:
            return without("no points file beside it")
        # a file beside a scene says by its place which one it means
        called = found.match(scene.name, () if beside else self.shared, file.full_path)
        placeless = scene.georeference is None and file.path.suffix.lower() not in RASTER_SUFFIXES
        if placeless and not beside and found.by_place and called is None:
            # a quicklook beside GeoTIFFs, say: it cannot be where the points are
            return without(f"no points for it in {found.path.name}: it is not georeferenced")
        prompts = found.prompts(scene, called or "")
        by_place = [prompt.id for prompt in prompts if prompt.by_place]
        if not prompts and beside and len(found) and called is None:
            if found.by_place:
                raise ResamError(
                    f"{found.path}: none of its points lies in {scene.name}; check its coordinates and its crs"
                )
            raise ResamError(f"{found.path}: holds points for {', '.join(found.scenes[:3])}, none for {scene.name}")
        if not prompts and not beside:
            if called is None:
                return without(f"no points for it in {found.path.name}")
            return ScenePrompts(lacking=f"no points for it in {found.path.name}")
        kept, skipped = check_prompts(prompts, scene.width, scene.height)
        if limit is not None:
            over = [prompt for prompt in kept if len(prompt.tokens[1]) > limit]
            kept = [prompt for prompt in kept if len(prompt.tokens[1]) <= limit]
            skipped += [
                Skipped(prompt.id, f"{len(prompt.tokens[1])} points, the engine takes {limit} per instance")
                for prompt in over
            ]
        return ScenePrompts(kept, skipped, by_place)

    def signature(self, scene: SceneFile) -> dict[str, Any]:
        """What tells whether a scene or the points beside it have changed: the file's size and time, the points'
        digest. What lies at a URL counts as unchanged."""
        if scene.local is None:
            return {"url": str(scene.path)}
        try:
            status = scene.local.stat()
            signature: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        except OSError:
            signature = {"size": None, "mtime_ns": None}
        try:
            beside = None if self.file is not None else find_points(scene.local)
            signature["points"] = None if beside is None else sha256_file(beside)
        except (ResamError, OSError):
            signature["points"] = "unreadable"
        return signature
