"""COCO data sets: which scenes there are, and what is annotated in them. Pixels and masks are read when asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_runtime.common.checked import Malformed, parse_json, take
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.rle import decode_segmentation
from resam_runtime.points import PointsFile, Prompt, shared_names
from resam_runtime.points.values import no_shared_file, own_name, scene_name, take_id
from resam_runtime.scenes.scene import Scene, open_scene
from resam_runtime.scenes.scene_files import STATE_FOLDER, SceneFile, find_scenes
from resam_runtime.scenes.scene_info import SceneInfo
from resam_runtime.tiles.tiling import Tile

SPLITS = ("train", "val", "test")
"""Of a data set. Their number and order are part of the seeds of synthetic scenes."""
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's classes of instances: the true area, in pixels of the scene, from which on and below which."""


@dataclass(frozen=True, eq=False)
class CocoInstance:
    """One annotation. `annotation` is the file's own object, but for ids such as 1.0; see `CocoScene.mask`.

    id: what a points file calls the instance, so that points find their mask: the annotation's `instance` where it has
    one, as in what `resam-run` writes, else its `id`. No two of a scene share it.
    """

    id: str | int
    category: int | None
    annotation: Mapping[str, Any]

    @property
    def box_only(self) -> bool:
        """Whether a box is all that is drawn of it, as some annotations of many a data set are."""
        return not self.annotation.get("segmentation") and bool(self.annotation.get("bbox"))


@dataclass(frozen=True, eq=False)
class CocoScene:
    """One image of a data set: its name in the file, where it lies, its size in pixels, its instances."""

    name: str
    path: Path
    width: int
    height: int
    instances: tuple[CocoInstance, ...]

    @property
    def full_path(self) -> str:
        """The absolute path, with forward slashes; the name is its end, as points files may have it."""
        return (Path.cwd() / self.path).as_posix().replace("\\", "/")

    def mask(self, instance: CocoInstance) -> NDArray[np.bool_]:
        """The true mask of one of its instances, (height, width). `ResamError` where it has none that can be read."""
        return decode_segmentation(instance.annotation, self.height, self.width)

    def read(self, tile: Tile | None = None) -> NDArray[np.uint8]:
        """The pixels of a window (the whole scene for None), (h, w, 3) uint8 RGB.

        Gray, 16-bit and RGBA files become RGB as `resam_runtime.scenes` does it. Raises `ResamError` for a file that
        cannot be read, or has another size than the annotations say.
        """
        tile = tile or Tile(0, 0, self.width, self.height)
        with self._open() as scene:
            return scene.read(tile.x, tile.y, tile.width, tile.height)

    def points(self, file: PointsFile, shared: Collection[str] = ()) -> list[Prompt]:
        """A points file's prompts for this scene, in pixels; shared: as `PointsFile.match` has it.

        Raises `ResamError` as `PointsFile.prompts` and `read`.
        """
        info = SceneInfo(scene_name(self.name) or self.name, self.width, self.height)
        if file.on_map:
            with self._open() as scene:
                info = replace(info, georeference=scene.info.georeference)
        return file.prompts(info, file.match(info.name, shared, self.full_path) or "")

    def metres_per_pixel(self) -> float | None:
        """Side of a pixel on the ground; None where the image does not say. Raises `ResamError` as `read`."""
        with self._open() as scene:
            return scene.info.metres_per_pixel

    def check(self) -> None:
        """`ResamError`, as from `read`, for a file that cannot be read or has another size; quicker for large rasters,
        of which only the header is looked at."""
        with self._open():
            pass

    def _open(self) -> Scene:
        scene = open_scene(self.path)
        if (scene.width, scene.height) != (self.width, self.height):
            scene.close()
            raise ResamError(
                f"{self.path}: {scene.width} x {scene.height} px, but the annotations were made for "
                f"{self.width} x {self.height}"
            )
        return scene


@dataclass(frozen=True, eq=False)
class CocoData:
    """A COCO annotation file and its folder of images. digest: SHA-256 of the file's bytes."""

    path: Path
    digest: str
    scenes: tuple[CocoScene, ...]
    categories: Mapping[int, str]

    @property
    def count(self) -> int:
        """Instances in all scenes."""
        return sum(len(scene.instances) for scene in self.scenes)

    @classmethod
    def open(cls, path: str | Path, images: str | Path | None = None) -> CocoData:
        """Read an annotation file; crowd annotations are skipped, scenes without instances stay.

        images: the folder that `file_name` counts from; by default the folder `images` beside the file or beside its
        folder, the file's own folder or the one around it, whichever has the image. Raises `ResamError` (file and
        cause) for a file that is missing or malformed, lists no images, or names one that is not there, or one twice.
        """
        path = Path(path)
        data, digest = _parse(path)
        folders = _image_folders(path, images)
        listed = _objects(path, data, "images")
        if not listed:
            raise ResamError(f"{path}: lists no images; expected a COCO file with images, annotations and categories")
        for member in ("images", "annotations", "categories"):
            _take_ids(path, data, member)
        owned: dict[Any, list[CocoInstance]] = {image.get("id"): [] for image in listed}
        if len(owned) != len(listed):
            raise ResamError(f"{path}: two images share an id")
        seen: set[Any] = set()
        taken: set[tuple[Any, str | int]] = set()
        for number, annotation in enumerate(_objects(path, data, "annotations"), 1):
            own, image = annotation.get("id", number), annotation.get("image_id")
            if image not in owned:
                raise ResamError(f"{path}: annotation {own}: no image has the id {image!r}")
            if own in seen:
                raise ResamError(f"{path}: two annotations share the id {own}")
            seen.add(own)
            if (crowd := annotation.get("iscrowd")) not in (None, 0, 1):
                raise ResamError(f"{path}: annotation {own}: iscrowd: expected 0 or 1, got {str(crowd)[:40]!r}")
            if crowd:
                continue
            name = own_name(annotation)
            name = own if name is None else name
            if (image, name) in taken:
                raise ResamError(
                    f"{path}: annotation {own}: its image has another one that is called {name!r}; "
                    "change or remove the member 'instance'"
                )
            taken.add((image, name))
            owned[image].append(CocoInstance(name, annotation.get("category_id"), annotation))
        scenes = tuple(_scene(path, folders, image, owned[image.get("id")]) for image in listed)
        try:
            no_shared_file(zip(owned, (scene.name for scene in scenes)))
        except Malformed as error:
            raise ResamError(f"{path}: {error}") from None
        categories = _objects(path, data, "categories")
        names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories if "id" in entry}
        return cls(path, digest, scenes, names)


def scenes_of_points(points: str | Path, images: str | Path) -> CocoData:
    """The scenes that a points file names, without annotations: what there is when somebody has drawn points only.

    images: the folder to look in for the scenes that are named, as resam-run does; where points name no scene, all its
    images are looked at. Scenes without points are left out. Raises `ResamError` for a points file that cannot be read
    or does not say to which scene its points belong, and for an image that is not there.
    """
    file, folder = PointsFile.open(points), Path(images)
    if not folder.is_dir():
        raise ResamError(f"{images}: no such folder of images")
    # of any suffix, and hidden ones too; os.path's isfile: Path's raises for a name that is too long
    written = [folder / name for name in file.scenes if os.path.isfile(folder / name)]
    images_there = find_scenes([folder, *written], folder / STATE_FOLDER)
    shared = shared_names(scene.full_path for scene in images_there)
    # points that name no scene may be any image's
    found = images_there if file.by_place or file.names_no_scene else _named(file, images_there, shared, folder)
    file.check_named(len(found))
    scenes = []
    for scene in found:
        assert isinstance(scene.path, Path)  # a folder's own
        with open_scene(scene.path) as opened:
            info = replace(opened.info, name=scene.name)
        if file.prompts(info, file.match(scene.name, shared, scene.full_path) or ""):
            scenes.append(CocoScene(scene.name, scene.path, info.width, info.height, ()))
    if not scenes:
        raise ResamError(f"{file.path}: has points for no scene; draw some with resam-annotate")
    return CocoData(file.path, file.digest, tuple(scenes), {})


def _named(file: PointsFile, scenes: Sequence[SceneFile], shared: Collection[str], folder: Path) -> list[SceneFile]:
    """The scenes that a points file names, in its order. Raises `ResamError` for a name that is none's or several's."""
    called: dict[str | None, SceneFile] = {}
    for scene in scenes:
        with contextlib.suppress(ResamError):  # a name that several have: it may be meant for the one that is called so
            called[file.match(scene.name, shared, scene.full_path)] = scene
    for name in file.scenes:
        if name not in called:
            for scene in scenes:
                if scene.full_path.endswith(f"/{name}"):
                    file.match(scene.name, shared, scene.full_path)  # says so where several have it
            raise ResamError(f"{folder}: has no image {name!r}, but {file.path.name} has points for it; see --images")
    return [called[name] for name in file.scenes]


def find_splits(folder: str | Path, training: bool = True) -> dict[str, Path]:
    """The annotation files `train.json`, `val.json`, `test.json` of a data folder (or of its `annotations` folder).

    Raises `ResamError` where there is no training split and `training` wants one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResamError(f"{folder}: no such folder; expected train.json and images/ in it")
    for place in (folder, folder / "annotations"):
        found = {split: place / f"{split}.json" for split in SPLITS if (place / f"{split}.json").is_file()}
        if "train" in found or (found and not training):
            return found
    if not training:
        return {}
    raise ResamError(f"{folder}: holds no train.json; give the annotation file with --annotations")


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    try:
        content = path.read_bytes()
        data = parse_json(content)
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None
    except Malformed as error:
        raise ResamError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise ResamError(f"{path}: expected a COCO object with images and annotations, got {type(data).__name__}")
    return data, hashlib.sha256(content).hexdigest()


def _image_folders(path: Path, images: str | Path | None) -> list[Path]:
    if images is not None:
        if not Path(images).is_dir():
            raise ResamError(f"{images}: no such folder of images")
        return [Path(images)]
    beside, around = path.parent, path.parent.parent
    return [folder for folder in (beside / "images", around / "images", beside, around) if folder.is_dir()]


def _objects(path: Path, data: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    value = data.get(member) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ResamError(f"{path}: {member}: expected a list of objects")
    return value


def _take_ids(path: Path, data: Mapping[str, Any], member: str) -> None:
    """Put whole numbers, also where 1.0 is written, and texts in place of a member's ids."""
    for entry in _objects(path, data, member):
        for key in ("id", "image_id", "category_id"):
            if entry.get(key) is not None:
                try:
                    entry[key] = take_id(entry[key], f"{member}: {key}")
                except Malformed as error:
                    raise ResamError(f"{path}: {error}") from None


def _scene(
    path: Path, folders: Sequence[Path], image: Mapping[str, Any], instances: Iterable[CocoInstance]
) -> CocoScene:
    try:
        name = image.get("file_name")
        width, height = take(image.get("width"), int), take(image.get("height"), int)
    except Malformed:
        name = None
    if not isinstance(name, str) or min(width, height) < 1:
        raise ResamError(f"{path}: image {image.get('id')!r}: expected a file_name, width and height")
    # os.path's isfile: Path's raises for a name that is too long
    written = [name, scene_name(name) or name]  # by programs of Windows with backslashes
    places = [folder / one for one in dict.fromkeys(written) for folder in folders]
    file = next((place for place in places if os.path.isfile(place)), None)
    if file is None:
        raise ResamError(
            f"{places[0]}: no such image, but {path.name} lists it; file names are relative to images/ beside "
            f"{path.name}, or to its own folder"
        )
    return CocoScene(name, file, width, height, tuple(instances))
