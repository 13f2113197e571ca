"""A points file on disk, and the prompts it holds for a scene."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import has_rasterio
from resam_runtime.points.parse import PIXELS, Entry, Parsed, parse_csv, parse_json
from resam_runtime.points.prompts import Prompt, ScenePoints, inside_image
from resam_runtime.points.values import Malformed
from resam_runtime.scenes.georeference import Affine, map_to_pixel, near_scene, reproject_some

_FAR = 1e30
SUFFIXES = (".points.json", ".points.csv", ".points.geojson")


def find_points(scene_path: str | os.PathLike[str]) -> Path | None:
    """The points file beside a scene: `NAME.points.json`, `NAME.points.csv` or `NAME.points.geojson`, NAME with or
    without its suffix.

    The full name goes first (`a.png.points.json` before `a.points.json`). Raises ResamError when two kinds of file
    compete, since one of them would be ignored in silence.
    """
    scene_path = Path(scene_path)
    for name in (scene_path.name, scene_path.stem):
        # os.path's isfile: Path's raises where the longer name is too long for a file
        found = [path for suffix in SUFFIXES if os.path.isfile(path := scene_path.with_name(name + suffix))]
        if len(found) > 1:
            raise ResamError(f"{scene_path}: both {found[0].name} and {found[1].name} hold its points; keep one")
        if found:
            return found[0]
    return None


def read_points(
    path: str | os.PathLike[str],
    scene_name: str | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    transform: Affine | None = None,
    crs: str | None = None,
) -> ScenePoints:
    """Prompts of one scene from a points file, in the file's order; see `PointsFile.prompts`."""
    return PointsFile.open(path).prompts(scene_name, width=width, height=height, transform=transform, crs=crs)


class PointsFile:
    """A parsed points file. `path`, `digest` (SHA-256 of its bytes), `scenes` that it names, COCO `categories`."""

    def __init__(self, path: Path, digest: str, parsed: Parsed) -> None:
        self.path, self.digest = path, digest
        self.scenes = list(dict.fromkeys(parsed.scenes))
        self.categories: list[dict[str, Any]] = parsed.categories
        self._crs, self._sizes = parsed.crs, parsed.sizes
        self._entries: dict[str | None, list[Entry]] = {}
        for entry in parsed.entries:
            self._entries.setdefault(entry.scene, []).append(entry)
        self._names = {*self.scenes, *(name for name in self._entries if name is not None)}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PointsFile:
        """Read and check a whole file. Raises ResamError, one line with file and cause, for anything malformed."""
        path = Path(path)
        try:
            data = path.read_bytes()
            text = data.decode("utf-8-sig")
            parsed = parse_csv(text) if path.suffix.lower() == ".csv" else parse_json(text)
        except OSError as error:
            raise ResamError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ResamError(f"{path}: not UTF-8 text") from None
        except Malformed as error:
            raise ResamError(f"{path}: {error}") from None
        return cls(path, hashlib.sha256(data).hexdigest(), parsed)

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

    def prompts(
        self,
        scene_name: str | None = None,
        *,
        width: int | None = None,
        height: int | None = None,
        transform: Affine | None = None,
        crs: str | None = None,
        shared: Collection[str] = (),
        path: str | None = None,
    ) -> ScenePoints:
        """Prompts of one scene in pixel coordinates, in the file's order; empty where the file has none.

        width, height: the scene's, checked against the size that the points were made for, and needed to find the
        points without a scene's name that lie in it, and the longitudes of a scene beyond the antimeridian. transform,
        crs: the scene's, needed for map coordinates. shared, path: see `match`.
        Raises ResamError for points made for another size, and map coordinates on a scene without georeference.
        """
        called = None if scene_name is None else self.match(scene_name, shared, path)
        return self.prompts_called(called, scene_name, width=width, height=height, transform=transform, crs=crs)

    def prompts_called(
        self,
        called: str | None,
        scene_name: str | None,
        *,
        width: int | None = None,
        height: int | None = None,
        transform: Affine | None = None,
        crs: str | None = None,
    ) -> ScenePoints:
        """As `prompts`, of a scene of which is known what `match` says that this file calls it."""
        made_for = self._sizes.get(called or "")
        if made_for is not None and width is not None and height is not None and made_for != (width, height):
            raise ResamError(
                f"{self.path}: its points were made for {made_for[0]} x {made_for[1]} px, "
                f"{scene_name or 'the scene'} has {width} x {height}"
            )
        named = self._entries.get(called, []) if called is not None else []
        unnamed = self._entries.get(None, [])
        if scene_name is None and not unnamed and len(self._entries) == 1:
            named = next(iter(self._entries.values()))
        size = None if width is None or height is None else (width, height)
        prompts = [_prompt(entry, coords) for entry, coords in self._pixels(named, transform, crs, size, scene_name)]
        for entry, coords in self._pixels(unnamed, transform, crs, size, scene_name):
            if self._crs != PIXELS and width is not None and height is not None:
                inside = inside_image(coords, width, height)
                positive = np.asarray(entry.labels, bool)
                # Negative points alone lie somewhere too: `check_prompts` says what the instance lacks.
                if not inside[positive if positive.any() else ~positive].any():
                    continue
                # A negative point of a neighbour says nothing here. A positive one stays: `check_prompts` says why such
                # an instance gets no mask, as it does for the other kinds of file.
                use = inside | positive
                entry = Entry(entry.scene, entry.id, entry.coords, [v for v, i in zip(entry.labels, use) if i])
                coords = coords[use]
            prompts.append(_prompt(entry, coords, by_place=self.on_map))
        return prompts

    def _pixels(
        self,
        entries: list[Entry],
        transform: Affine | None,
        crs: str | None,
        size: tuple[int, int] | None,
        scene_name: str | None,
    ) -> list[tuple[Entry, np.ndarray[Any, np.dtype[np.float64]]]]:
        flat = np.array([point for entry in entries for point in entry.coords], np.float64).reshape(-1, 2)
        if self._crs != PIXELS and len(flat):
            if transform is None or crs is None:
                hint = "" if has_rasterio() else " (or rasterio is not installed: pip install 'resam[geo]')"
                raise ResamError(
                    f"{self.path}: holds map coordinates, but {scene_name or 'the scene'} is not georeferenced{hint}"
                )
            try:
                flat = reproject_some(flat, self._crs, crs)
                if size is not None and has_rasterio():
                    flat = near_scene(flat, crs, transform, *size)
                flat = map_to_pixel(transform, flat)
            except ResamError as error:
                raise ResamError(f"{self.path}: {error}") from None
        ends = np.cumsum([len(entry.coords) for entry in entries])
        return [(entry, flat[end - len(entry.coords) : end]) for entry, end in zip(entries, ends)]


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


def _prompt(entry: Entry, coords: np.ndarray[Any, np.dtype[np.float64]], by_place: bool = False) -> Prompt:
    # A number that float32 cannot hold lies outside every scene, and still does when it is cut.
    cut = np.clip(coords, -_FAR, _FAR).astype(np.float32)
    return Prompt(cut, np.asarray(entry.labels, np.int32), entry.id, entry.category, by_place)
