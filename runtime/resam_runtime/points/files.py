"""A points file on disk, and the prompts it holds for a scene."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.checked import Malformed
from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import has_rasterio
from resam_runtime.points.entry import PIXELS, Entry, Parsed
from resam_runtime.points.file_kinds import SUFFIXES, parse_points
from resam_runtime.points.kind_labelme import is_labelme
from resam_runtime.points.prompts import Prompt, ScenePoints, inside_image
from resam_runtime.scenes.georeference import Coordinates, reproject_some
from resam_runtime.scenes.scene_info import SceneInfo

_FAR = 1e30
_MAPS = frozenset({".shp", ".gpkg", ".kml", ".gml", ".fgb", ".gdb", ".dbf", ".shx"})
"""Files of points that other programs keep."""


def find_points(scene_path: str | os.PathLike[str]) -> Path | None:
    """The points file beside a scene, NAME and one of the `SUFFIXES`; NAME with or without the scene's own suffix.

    The full name goes first (`a.png.points.json` before `a.points.json`), labelme's NAME.json last. Raises ResamError
    when two kinds of file compete, since one of them would be ignored in silence.
    """
    scene_path = Path(scene_path)
    for name in (scene_path.name, scene_path.stem):
        # os.path's isfile: Path's raises where the longer name is too long for a file
        found = [path for suffix in SUFFIXES if os.path.isfile(path := scene_path.with_name(name + suffix))]
        if len(found) > 1:
            raise ResamError(f"{scene_path}: both {found[0].name} and {found[1].name} hold its points; keep one")
        if found:
            return found[0]
    labelme = scene_path.with_suffix(".json")
    return labelme if os.path.isfile(labelme) and is_labelme(labelme) else None


def read_points(path: str | os.PathLike[str], scene: SceneInfo | None = None) -> ScenePoints:
    """Prompts of one scene from a points file, in the file's order; see `PointsFile.prompts`."""
    return PointsFile.open(path).prompts(scene)


class PointsFile:
    """A parsed points file. `path`, `digest` (SHA-256 of its bytes), `scenes` that it names, COCO `categories`."""

    def __init__(self, path: Path, digest: str, parsed: Parsed) -> None:
        self.path, self.digest = path, digest
        self.scenes = list(dict.fromkeys(parsed.scenes))
        self.categories: list[dict[str, Any]] = parsed.categories
        self._crs, self._sizes_wh = parsed.crs, parsed.sizes_wh
        self._entries: Mapping[str | None, Sequence[Entry]] = parsed.by_scene()
        self._names = {*self.scenes, *(name for name in self._entries if name is not None)}

    @classmethod
    def open(cls, path: str | os.PathLike[str], boxes: bool = False) -> PointsFile:
        """Read and check a whole file. boxes: take the `bbox` of COCO annotations as box prompts.

        Raises ResamError, one line with file and cause, for anything malformed."""
        path = Path(path)
        if path.suffix.lower() in _MAPS:
            raise ResamError(
                f"{path}: no points file; export its points as GeoJSON (ogr2ogr points.geojson {path.name})"
            )
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            text = data.decode("utf-8-sig")
            del data  # it may be large
            parsed = parse_points(text, path, boxes)
        except OSError as error:
            raise ResamError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ResamError(f"{path}: not UTF-8 text") from None
        except Malformed as error:
            raise ResamError(f"{path}: {error}") from None
        return cls(path, digest, parsed)

    def __len__(self) -> int:
        """Number of instances."""
        return sum(len(entries) for entries in self._entries.values())

    @property
    def on_map(self) -> bool:
        """Whether the coordinates are a map's, so that scenes need a georeference."""
        return self._crs != PIXELS

    @property
    def by_place(self) -> bool:
        """Whether some points name no scene but a place on the map, and belong to every scene that they lie in."""
        return bool(self.placed_ids)

    @property
    def placed_ids(self) -> set[str | int | None]:
        """The ids of the instances that belong to scenes by their place; no two of them share one."""
        return {entry.id for entry in self._entries.get(None, [])} if self.on_map else set()

    @property
    def names_no_scene(self) -> bool:
        """Whether some points are pixels of a scene that is not named: fit for a file beside one scene only."""
        return self._crs == PIXELS and None in self._entries

    def check_named(self, scenes: int) -> None:
        """`ResamError` where points do not say which of several scenes they belong to: they would go to all of them."""
        if self.names_no_scene and scenes > 1:
            raise ResamError(
                f"{self.path}: points do not say which of {scenes} scenes they belong to; add the scene's file name"
            )

    def match(self, scene_name: str, shared: Collection[str] = (), path: str | None = None) -> str | None:
        """The name by which this file calls a scene: the longest that its path ends in; None if there is none.

        path: the scene's, of which its name in the run is the end (default: the name). shared: names that the paths of
        several scenes of the run end in, see `shared_names`; only a scene of that very name is called so. Raises
        ResamError when only such a name fits.
        """
        for name in path_ends(path or scene_name):
            if name not in self._names or (name in shared and len(name) > len(scene_name)):
                continue
            if name in shared and name != scene_name:
                raise ResamError(f"{self.path}: {name!r} fits several scenes; write the path, {scene_name!r}")
            return name
        return None

    def prompts(self, scene: SceneInfo | None = None, called: str | None = None) -> ScenePoints:
        """Prompts of one scene in pixel coordinates, in the file's order; empty where the file has none.

        scene: None where it does not matter, for a file in pixels beside its scene. called: what this file calls the
        scene, "" for nothing at all; None: what `match` says of its name alone.
        Raises ResamError for points made for another size, and map coordinates on a scene without georeference.
        """
        if scene is not None:
            called = self.match(scene.name) if called is None else called
            made_for = self._sizes_wh.get(called or "")
            if made_for is not None and made_for != scene.size_wh:
                raise ResamError(
                    f"{self.path}: its points were made for {made_for[0]} x {made_for[1]} px, "
                    f"{scene.name} has {scene.width} x {scene.height}"
                )
        named = list(self._entries.get(called, [])) if called else []
        unnamed = list(self._entries.get(None, []))
        if scene is None and not unnamed and len(self._entries) == 1:
            named = list(next(iter(self._entries.values())))
        prompts = [
            _prompt(entry, coords, _box(outline, scene)) for entry, coords, outline in self._pixels(named, scene)
        ]
        for entry, coords, outline in self._pixels(unnamed, scene):
            box = _box(outline, scene)
            if self.on_map and scene is not None:
                inside = inside_image(coords, *scene.size_wh)
                positive = np.asarray(entry.labels, bool)
                # Negative points alone lie somewhere too: `check_prompts` says what the instance lacks.
                here = inside[positive if positive.any() else ~positive].any()
                if box is not None and not here:
                    here = inside_image(outline.min(0) / 2 + outline.max(0) / 2, *scene.size_wh).any()
                if not here:
                    continue
                # A negative point of a neighbour says nothing here. A positive one stays: `check_prompts` says why such
                # an instance gets no mask, as it does for the other kinds of file.
                use = inside | positive
                entry = replace(entry, labels=[v for v, i in zip(entry.labels, use) if i])
                coords = coords[use]
            prompts.append(_prompt(entry, coords, box, by_place=self.on_map))
        return prompts

    def _pixels(self, entries: list[Entry], scene: SceneInfo | None) -> list[tuple[Entry, Coordinates, Coordinates]]:
        """Each entry with its points, and the outline of its box, in pixels of the scene."""
        flat = np.array([point for one in entries for point in (*one.coords, *one.outline)], np.float64).reshape(-1, 2)
        if self.on_map and len(flat):
            place = None if scene is None else scene.georeference
            if scene is None or place is None:
                hint = "" if has_rasterio() else " (or rasterio is not installed: pip install 'resam[geo]')"
                name = "the scene" if scene is None else scene.name
                raise ResamError(f"{self.path}: holds map coordinates, but {name} is not georeferenced{hint}")
            try:
                flat = reproject_some(flat, self._crs, place.crs)
                if has_rasterio():
                    flat = place.near(flat, scene.size_wh)
                flat = place.to_pixel(flat)
            except ResamError as error:
                raise ResamError(f"{self.path}: {error}") from None
        cuts = np.cumsum([count for one in entries for count in (len(one.coords), len(one.outline))])
        parts = np.split(flat, cuts)
        return list(zip(entries, parts[:-1:2], parts[1::2]))


def shared_names(paths: Iterable[str]) -> frozenset[str]:
    """File names, and longer ends of paths, that several of the scenes have: they do not tell one from the others.

    paths: the scenes', or their names where these are all that is known of them.
    """
    alike: dict[str, list[str]] = {}
    for path in paths:
        alike.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    count = Counter(end for group in alike.values() if len(group) > 1 for path in group for end in path_ends(path))
    return frozenset(name for name, times in count.items() if times > 1)


def path_ends(path: str) -> Iterator[str]:
    """The path and what is left of it without its first folder, its first two ...: the longest first."""
    yield path
    while "/" in path:
        path = path.split("/", 1)[1]
        yield path


def _box(outline: Coordinates, scene: SceneInfo | None) -> Coordinates | None:
    """The outer pixels (4,) of a box whose edges are the bounds of an outline (K, 2), as far as the scene reaches: a
    detector's box may leave it a little. None where there is no outline."""
    if not len(outline):
        return None
    low, high = outline.min(0) + 0.5, outline.max(0) - 0.5
    low, high = (
        np.minimum(low, (low + high) / 2),
        np.maximum(high, (low + high) / 2),
    )  # of less than a pixel: its middle
    if scene is not None and (high >= -0.5).all() and (low < np.array(scene.size_wh) - 0.5).all():
        last = np.array(scene.size_wh) - 1
        low, high = np.clip(low, 0, last), np.clip(high, 0, last)
    return np.concatenate([low, high])


def _prompt(entry: Entry, coords: Coordinates, box: Coordinates | None, by_place: bool = False) -> Prompt:
    # A number that float32 cannot hold lies outside every scene, and still does when it is cut.
    cut, corners = (None if one is None else np.clip(one, -_FAR, _FAR).astype(np.float32) for one in (coords, box))
    assert cut is not None
    return Prompt(cut, np.asarray(entry.labels, np.int32), entry.id, entry.category, by_place, corners)
