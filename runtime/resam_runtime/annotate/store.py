"""The points file that windows edit: the file is the truth, read before and written after every operation.

Several windows, several servers and a text editor may work on one file. An operation takes a lock on the folder, reads
the file again if it is not the one last seen, applies itself to what it finds and writes the whole file to a temporary
name that replaces the old one. Only then is it acknowledged; a crash loses nothing that was.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resam_runtime.annotate.operations import Refused, SceneData, apply_operation
from resam_runtime.common.checked import LARGEST, is_number, parse_json, take
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import TEMPORARY, atomic_write, read_regular
from resam_runtime.points import PointsFile
from resam_runtime.points.values import instance_ids, scene_name

ClassKey = int | str
"""What an instance's `category` holds: the number of one of the file's `categories`, or a name."""

Signature = tuple[int, int, int]
_REMEMBERED = 4096
"""Answers kept for windows that ask again because the first answer was lost."""


class PointsStore:
    """The points of some scenes in one points JSON file. Safe to call from several threads.

    `version` counts changes of any scene, those that others made to the file included.
    """

    def __init__(self, path: str | os.PathLike[str], scene_names: Sequence[str]) -> None:
        """Open a points file, or prepare to write one that is not there yet.

        scene_names: every scene that may be edited. Raises `ResamError` for a file that is not points JSON for several
        scenes (it is never overwritten) and for a place that cannot be written. A symbolic link is followed: `path` is
        the file itself.
        """
        if Path(path).suffix.lower() != ".json":
            raise ResamError(f"{path}: expected a name ending in .json; points are written as JSON")
        self.path = Path(os.path.realpath(path))  # a rename would replace the link
        if self.path.is_dir():
            raise ResamError(f"{self.path}: is a folder; name a file")
        _check_writable(self.path)
        _remove_leftovers(self.path)
        self.version = 0
        self.scene_names = list(scene_names)
        self._short = Counter(name.rsplit("/", 1)[-1] for name in scene_names)
        self._changed: dict[str, int] = {}  # scene -> version of its last change
        self._next_id: dict[str, int] = {}  # ids of removed instances are not given again
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._texts: dict[str, tuple[Any, str]] = {}
        self._used: dict[ClassKey, None] = {}  # classes of instances, whether the file lists them or not
        self._document: dict[str, Any] = {"format": "resam-points", "version": 1, "scenes": {}}
        self._signature: Signature | None = None
        self._mutex = threading.RLock()
        with self._mutex:
            self._refresh()

    def scene(self, name: str) -> tuple[SceneData, int]:
        """A scene's points as JSON data (not to be changed) and the version of its last change."""
        with self._mutex:
            return self._scene(name), self._changed.get(name, 0)

    def summary(self) -> list[dict[str, Any]]:
        """Per scene, in order: {"instances": count, "done": bool}."""
        with self._mutex:
            scenes = [self._scene(name) for name in self.scene_names]
            return [{"instances": len(s["instances"]), "done": bool(s.get("done"))} for s in scenes]

    def classes(self) -> list[dict[str, Any]]:
        """The classes of the file's instances and those that it lists: [{"id": `ClassKey`, "name": text}]."""
        with self._mutex:
            listed = {one["id"]: str(one.get("name", one["id"])) for one in self._document.get("categories") or []}
            return [{"id": key, "name": listed.get(key, str(key))} for key in {**listed, **self._used}]

    def name_class(self, name: str, key: int | None = None) -> ClassKey:
        """Give a class a name, or make one of that name, where there is none yet; returns what instances of it hold.

        Raises `Refused` for a name that is none or another's, `ResamError` as `apply`.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= 100:
            raise Refused("expected a name of 1 to 100 characters")
        with self._mutex, _folder_lock(self.path.parent):
            self._refresh()
            known = {str(one["name"]): one["id"] for one in self.classes()}
            if name in known:
                if key not in (None, known[name]):
                    raise Refused(f"there is a class {name!r} already")
                found: ClassKey = known[name]
                return found
            listed = list(self._document.get("categories") or [])
            numbers = [one["id"] for one in listed] + [used for used in self._used if isinstance(used, int)]
            number = max(0, *numbers, 0) + 1 if key is None else key
            if key is not None and key not in numbers:
                raise Refused(f"there is no class {key}")
            old = next((one for one in listed if one["id"] == number), {"id": number})
            listed = [one for one in listed if one is not old] + [{**old, "name": name}]
            categories = sorted(listed, key=lambda one: one["id"])
            scenes = self._document["scenes"]
            rest = {name: value for name, value in self._document.items() if name not in ("scenes", "categories")}
            self._write({**rest, "categories": categories, "scenes": scenes})
            self.version += 1
            return number

    def changes(self, since: int) -> tuple[int, dict[str, int]]:
        """The version now, and per scene changed after `since` its own. Raises `ResamError` when the file went bad."""
        with self._mutex:
            self._refresh()
            return self.version, {name: version for name, version in self._changed.items() if version > since}

    def apply(self, name: str, size: tuple[int, int], operation: dict[str, Any]) -> dict[str, Any]:
        """Apply an operation to a scene of size (width, height), on disk when this returns.

        operation: see `operations.apply_operation`; its "key", any text, makes a repetition harmless. Returns
        {"version", "previous": the scene's version before, "instance", "value", "place", "done", "instances": count}.
        Raises `Refused` or `Conflict` when it makes no sense here, `ResamError` when the file cannot be read or
        written; nothing has changed then.
        """
        key = operation.get("key")
        with self._mutex, _folder_lock(self.path.parent):
            if isinstance(key, str) and key in self._answers:
                return self._answers[key]
            self._refresh()
            before = self._scene(name)
            made_for = (before.get("width"), before.get("height"))
            if made_for not in (size, (None, None)):
                raise Refused(f"its points were made for {made_for[0]} x {made_for[1]} px, not {size[0]} x {size[1]}")
            sized = {"width": size[0], "height": size[1], **before}
            change = apply_operation(sized, operation, self._fresh_id(name, before))
            previous = self._changed.get(name, 0)
            if change.scene is not sized:
                scenes = {**self._document["scenes"], self._file_key(name): change.scene}
                self._write({**self._document, "scenes": scenes})
                self._use(change.value)
                self._mark(name)
            answer = {
                "version": self._changed.get(name, 0),
                "previous": previous,
                "instance": change.instance,
                "value": change.value,
                "place": change.place,
                "done": bool(change.scene.get("done")),
                "instances": len(change.scene["instances"]),
            }
            if isinstance(key, str):
                self._answers[key] = answer
                while len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
            return answer

    def _file_key(self, name: str) -> str:
        """The name by which the file calls a scene: its path, or its file name where that fits one scene only."""
        scenes, short = self._document["scenes"], name.rsplit("/", 1)[-1]
        return short if name not in scenes and short in scenes and self._short[short] == 1 else name

    def _scene(self, name: str) -> SceneData:
        scene: SceneData = self._document["scenes"].get(self._file_key(name), {"instances": []})
        return scene

    def _fresh_id(self, name: str, scene: SceneData) -> int:
        used = [instance["id"] for instance in scene["instances"] if isinstance(instance["id"], int)]
        self._next_id[name] = max(self._next_id.get(name, 1), *(number + 1 for number in used), 1)
        return self._next_id[name]

    def _use(self, instance: dict[str, Any] | None) -> None:
        if instance is not None and instance.get("category") is not None:
            self._used[instance["category"]] = None

    def _mark(self, name: str) -> None:
        self.version += 1
        self._changed[name] = self.version
        self._fresh_id(name, self._scene(name))

    def _refresh(self) -> None:
        """Read the file if it is not the one last seen. A file that vanished is written anew with the next change."""
        try:
            signature = _signature(os.stat(self.path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResamError(f"{self.path}: {error.strerror or error}") from None
        if signature == self._signature:
            return
        document = _read(self.path)
        before = [self._scene(name) for name in self.scene_names]
        self._document, self._signature = document, signature
        for scene in document["scenes"].values():
            for instance in scene["instances"]:
                self._use(instance)
        for name, old in zip(self.scene_names, before):
            if self._scene(name) != old:
                self._mark(name)

    def _write(self, document: dict[str, Any]) -> None:
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_text(self._serialise(document), encoding="utf-8")
                # the rename keeps all three, so this is what the file will look like
                signature = _signature(temporary.stat())
        except OSError as error:
            raise ResamError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        self._document, self._signature = document, signature

    def _serialise(self, document: dict[str, Any]) -> str:
        """One line per instance, so that two versions of a file can be compared; unchanged scenes are not redone."""
        lines = []
        for key, scene in document["scenes"].items():
            known = self._texts.get(key)
            if known is None or known[0] is not scene:
                head = _line({name: value for name, value in scene.items() if name != "instances"})[1:-1]
                rows = ",\n    ".join(_line(instance) for instance in scene["instances"])
                body = f"[\n    {rows}\n  ]" if rows else "[]"
                text = f'  {json.dumps(key)}: {{{head}{", " if head else ""}"instances": {body}}}'
                self._texts[key] = known = (scene, text)
            lines.append(known[1])
        head = _line({name: value for name, value in document.items() if name != "scenes"})[1:-1]
        return "{" + head + ', "scenes": {\n' + ",\n".join(lines) + "\n}}\n"


def _read(path: Path) -> dict[str, Any]:
    """A points JSON file as data, checked by the parser that every command uses, ids and numbers made uniform."""
    PointsFile.open(path)  # raises for whatever the other commands would refuse
    document = parse_json(read_regular(path).decode("utf-8-sig"))
    if "scenes" not in document:
        what = "points of one scene without its name" if "instances" in document else "GeoJSON or COCO"
        raise ResamError(f"{path}: holds {what}, not a points file for several scenes; name another with -o")
    scenes = {}
    for key, scene in document["scenes"].items():
        name = scene_name(key) or ""
        if name in scenes:
            raise ResamError(f"{path}: names scene {name!r} twice; merge the two")
        instances = _instances(scene.get("instances") or [])
        for instance in instances:
            if isinstance(instance["id"], int) and abs(instance["id"]) > LARGEST:
                raise ResamError(
                    f"{path}: scene {name!r}: no browser can hold the id {instance['id']}; write it as a text"
                )
        scenes[name] = {**scene, "instances": instances}
    return {"format": "resam-points", "version": 1, **document, "scenes": scenes}


def _instances(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instances with one id each: what has none gets what readers give it; what repeats one a free number."""
    taken: set[tuple[type, Any]] = set()
    ids = [int(name) if isinstance(name, float) else name for name in instance_ids(values)]
    free = max([len(values), *(name for name in ids if isinstance(name, int))])
    instances = []
    for name, value in zip(ids, values):
        if (type(name), name) in taken:
            free += 1
            name = int(free)
        taken.add((type(name), name))
        points = [[float(x) for x in point] for point in value.get("points") or []]
        labels = value.get("labels")
        labels = [1] * len(points) if labels is None else [int(label) for label in labels]
        whole = {**value, "id": name, "points": points, "labels": labels}
        if is_number(value.get("category")):  # 2.0 is 2
            whole["category"] = take(value["category"], int)
        instances.append(whole)
    return instances


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ResamError(f"{path}: cannot be written ({error.strerror or error}); name another file with -o") from None


def _remove_leftovers(path: Path) -> None:
    """Remove what a server that was killed may have left of a write. All that write here at this moment wait."""
    with _folder_lock(path.parent):
        for leftover in path.parent.iterdir():
            if leftover.suffix == path.suffix and TEMPORARY.fullmatch(leftover.name):
                with contextlib.suppress(OSError):
                    leftover.unlink()


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Keep other servers on this machine from writing in `folder`. Where folders cannot be locked, nobody is kept."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
