"""What a run has done so far: the folder `.resam` inside its output folder.

`run.json` says what the run was asked to do (engine, points, options); `scenes/*.json` hold one record per scene,
written after the scene's own outputs. A scene whose record is there is done; everything else is derived from records,
so a run may be killed at any moment and resumed. `writing.json` names the outputs in hand: what a run that was killed
leaves of them is no one else's. Anybody may have put these files there: they decide about no file outside the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from resam_runtime.common.checked import Kind, Malformed, kind, parse_json, shown, whole
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import TEMPORARY, atomic_write, open_regular, read_regular
from resam_runtime.run.spool import RecordSpool
from resam_runtime.scenes.scene_files import STATE_FOLDER
from resam_runtime.writers import run_writers
from resam_runtime.writers.record import FORMAT, Record, plain_name

Mode = Literal["new", "resume", "overwrite"]
_FORMAT = whole(FORMAT, FORMAT)
_REQUEST = kind({"format": _FORMAT, "request": dict, "run": dict | None})
_WRITING = kind({"format": _FORMAT, "outputs": [plain_name]})


class Earlier(NamedTuple):
    """What an earlier run's record says of a scene, as far as it tells whether that is done; see `Record`."""

    stem: str
    failed: bool
    source: Mapping[str, Any]
    outputs: tuple[str, ...]


class RunFolder:
    """An output folder taken by one run. Use as a context manager: it holds a lock while open.

    earlier: what records said when the folder was taken, by the names of their scenes.
    """

    def __init__(self, out: Path, lock: IO[bytes] | None) -> None:
        self.out = out
        self._state = out / STATE_FOLDER
        self._lock = lock
        self._lead_inside: dict[str, bool] = {}
        self.earlier: dict[str, Earlier] = {}
        self._ours: set[str] | None = set()  # outputs that this run or an earlier one wrote; None: all there may be

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        request: Mapping[str, Any],
        mode: Mode,
        outputs: Iterable[str] = (),
        run: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Take an output folder for a run that is asked for `request` (plain JSON data).

        new: the folder must hold no earlier run, nor any of the `outputs` (paths inside it) to be written. resume: an
        earlier run, if there is one, must have had the same request; else as new. overwrite: what an earlier run wrote
        is removed first. run: kept beside the request, for those who merge runs. Raises ResamError, one line, when
        that is not so, when another run holds the folder, and when it cannot be written.
        """
        out = Path(out)
        state = out / STATE_FOLDER
        try:
            state.joinpath("scenes").mkdir(parents=True, exist_ok=True)
            if not _inside(out, state / "scenes" / "any.json"):
                raise ResamError(f"{state}: leads out of the folder; remove the link")
            folder = cls(out, _lock(state / "lock", out))
        except OSError as error:
            raise ResamError(
                f"{out}: cannot write there ({error.strerror or error}); choose a folder with -o"
            ) from None
        try:
            folder._begin(dict(request), mode, outputs, run)
        except OSError as error:
            folder.close()
            raise ResamError(
                f"{out}: cannot write there ({error.strerror or error}); choose a folder with -o"
            ) from None
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, name: str) -> Record | None:
        """The record of a scene, None if it has none (or a damaged one: then the scene is simply done again)."""
        return self._read_record(self._path(name))

    def save(self, record: Record) -> None:
        """Write a scene's record, whole or not at all. Raises OSError."""
        write_json(self._path(record.name), record.to_json())

    def records(self) -> Iterator[Record]:
        """All records, in no particular order."""
        for path in sorted(self._state.joinpath("scenes").glob("[!.]*.json")):
            record = self._read_record(path)
            if record is not None:
                yield record

    def spool(self, names: Iterable[str]) -> RecordSpool:
        """The records of scenes, in this order, those that there are. Raises OSError."""
        records = (record for name in names if (record := self.record(name)) is not None)
        return RecordSpool(records, self._state)

    def has_outputs(self, record: Record | Earlier) -> bool:
        """Whether the files that a record lists are there."""
        # os.path's isfile: Path's raises where a folder cannot be read, before Python 3.14
        return all(os.path.isfile(os.path.join(self.out, name)) for name in record.outputs)

    def remove_outputs(self, record: Record) -> None:
        """Remove the files that a record lists, and the record first: a half-removed scene is done again."""
        self._path(record.name).unlink(missing_ok=True)
        self._remove(record.outputs)

    def _remove(self, outputs: Iterable[str]) -> None:
        for path in map(self.out.joinpath, outputs):
            if _inside(self.out, path) and (os.path.islink(path) or not os.path.isdir(path)):
                path.unlink(missing_ok=True)

    def claim(self, name: str, outputs: Iterable[str]) -> None:
        """Note that a scene's outputs are about to be written or removed: should that be cut short, they are known as
        the run's own. Raises ResamError where one of them is there already and someone else's, OSError."""
        outputs, earlier = list(outputs), self.record(name)
        for path in map(self.out.joinpath, outputs):
            if not _inside(self.out, path):
                raise ResamError(f"{path}: leads out of {self.out}; remove the link, or choose another -o")
        # a damaged record may have listed any of them
        if self._ours is not None and (earlier is not None or not os.path.exists(self._path(name))):
            for output in outputs:
                path = self.out / output  # a folder cannot be overwritten: the system says so in its turn
                if output not in self._ours and os.path.lexists(path) and not os.path.isdir(path):
                    raise ResamError(f"{path}: exists, and is not this run's; move it, or choose another -o")
            self._ours.update(outputs)
        self._mark([*outputs, *(() if earlier is None else earlier.outputs)])

    def _mark(self, outputs: list[str]) -> None:
        # a note for who is killed: not waited for, since the disk is then well, and it is written for every scene
        write_json(self._state / "writing.json", {"format": FORMAT, "outputs": outputs}, flush=False)

    def _path(self, name: str) -> Path:
        # a name may hold slashes and be longer than a file name may be
        return self._state / "scenes" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"

    def _begin(
        self, request: dict[str, Any], mode: Mode, outputs: Iterable[str], run: Mapping[str, Any] | None
    ) -> None:
        path = self._state / "run.json"
        earlier = _read(path, _REQUEST)
        if earlier is None and os.path.lexists(path) and mode != "overwrite":
            raise ResamError(f"{path}: damaged; use --overwrite")
        begun = earlier is not None or any(self.records())
        if begun and mode == "new":
            raise ResamError(f"{self.out}: holds an earlier run; use --resume or --overwrite")
        if not begun and mode != "overwrite":
            for name in ("instances.json", "summary.json", *outputs):  # what is there is someone else's
                if os.path.lexists(self.out / name):
                    raise ResamError(f"{self.out / name}: exists; choose another folder with -o, or --overwrite")
        if begun and mode == "resume":
            difference = _difference((earlier or {}).get("request", {}), request)
            if difference:
                raise ResamError(f"{self.out}: cannot resume: {difference}; use the same, or --overwrite")
        for folder in {self.out, self._state, self._state / "scenes", *self._output_folders()}:
            for leftover in folder.iterdir():
                if TEMPORARY.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)
        if begun:
            for record in self.records():
                self.earlier[record.name] = Earlier(record.stem, record.failed, record.source, tuple(record.outputs))
            self._ours = {name for earlier in self.earlier.values() for name in earlier.outputs}
            cut_short = set((_read(self._state / "writing.json", _WRITING) or {}).get("outputs", [])) - self._ours
            with contextlib.suppress(OSError):
                self._remove(sorted(cut_short))
        if mode == "overwrite":
            self._mark(sorted(self._ours or ()))
            self._ours = None
            for record in self.records():
                self.remove_outputs(record)
            self.earlier = {}
            formats = (earlier or {}).get("request", {}).get("--format")
            written = run_writers(
                [name for name in formats if isinstance(name, str)] if isinstance(formats, list) else []
            )
            for name in ("instances.json", "summary.json", *(writer.files for writer in written)):
                (self.out / name).unlink(missing_ok=True)
        if not begun or mode == "overwrite":
            write_json(path, {"format": FORMAT, "request": request, "run": run})

    def _read_record(self, path: Path) -> Record | None:
        with contextlib.suppress(OSError, Malformed):
            record = Record.from_json(parse_json(read_regular(path)))
            if all(self._leads_inside(name) for name in record.outputs):
                return record
        return None

    def _leads_inside(self, name: str) -> bool:
        """As `_inside`, of an output's name, asked once for each folder: what removes or writes files asks again."""
        folder = os.path.dirname(name)
        if folder not in self._lead_inside:
            self._lead_inside[folder] = _inside(self.out, self.out / name)
        return self._lead_inside[folder]

    def _output_folders(self) -> set[Path]:
        """Folders that outputs of this run may lie in: those under the output folder, but for hidden ones and those of
        other runs, which may be at work."""
        folders = set()
        for parent, names, _ in os.walk(self.out):
            names[:] = [
                name
                for name in names
                if not name.startswith(".") and not os.path.isdir(os.path.join(parent, name, STATE_FOLDER))
            ]
            folders.add(Path(parent))
        return folders


def read_request(out: Path) -> dict[str, Any] | None:
    """What `RunFolder.open` was told by the run in an output folder, its `request` and `run`; None without one."""
    return _read(out / STATE_FOLDER / "run.json", _REQUEST)


def write_json(path: Path, data: Any, flush: bool = True) -> None:
    """Write plain data as compact JSON, whole or not at all, the same bytes for the same data. flush: as for
    `atomic_write`. Raises OSError."""
    with atomic_write(path, flush) as temporary:
        temporary.write_text(json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n", encoding="ascii")


def _inside(out: Path, path: Path) -> bool:
    """Whether a path that begins with `out` leads, links resolved, to a place in it; its last part is looked at as it
    is, since a link there is removed or replaced itself."""
    folder, parent = os.path.realpath(out), os.path.realpath(path.parent)
    return os.path.commonpath([folder, parent]) == folder


def _read(path: Path, take: Kind) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, Malformed):
        data: dict[str, Any] = take(parse_json(read_regular(path)))
        return data
    return None


def _difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two requests, in words; empty if nothing does."""
    for key, what in (("engine", "the earlier run used another engine"), ("points", "the points have changed")):
        if earlier.get(key) != now.get(key):
            return what
    for key in sorted(set(earlier) | set(now)):
        if earlier.get(key) != now.get(key):
            return f"the earlier run had {key} {_show(earlier.get(key))}, this one {_show(now.get(key))}"
    return ""


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else shown(value)


def _lock(path: Path, out: Path) -> IO[bytes] | None:
    try:
        import fcntl
    except ImportError:  # not on this system: two runs into one folder are then the user's to avoid
        return None
    handle = open_regular(path, "ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ResamError(f"{out}: another run is writing there; wait for it, or choose a folder with -o") from None
    except OSError:  # a file system without locks
        handle.close()
        return None
    return handle
