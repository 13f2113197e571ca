"""The engine file: one ZIP of stored entries, `manifest.json` first, then the graphs.

Stored entries make the file readable by `unzip`, and a graph one read of it. It is read and not mapped: a file that is
cut while it is mapped ends the process. Every graph carries its SHA-256, and the manifest is covered by its ZIP
checksum, so that a damaged file is refused instead of run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resam_runtime.common.checked import Malformed, parse_json
from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import NotRegular, atomic_write, open_regular, sha256_file
from resam_runtime.engine.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest
from resam_runtime.engine.shipped import engine_path

MANIFEST_LIMIT = 4 << 20  # bytes; real manifests have a few kilobytes
_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same graphs give the same file, byte for byte


class EngineFile:
    """An engine file opened for reading: `.path`, `.manifest`, and `.graph(name)`, a graph's bytes.

    The file stays open for as long as this lives; one that takes its place by its name is not seen.
    """

    def __init__(self, path: Path, manifest: Manifest, source: _Source, entries: Mapping[str, range]) -> None:
        """Use `EngineFile.open`; this takes what it has already checked."""
        self.path = path
        self.manifest = manifest
        self._source = source
        self._entries = dict(entries)

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> EngineFile:
        """Open and check an engine file: a path, or the name of a shipped one ("tiny").

        `verify=False` skips the graphs' digests (about a second per gigabyte) and nothing else. Raises
        `ResamError` with one line when the file is missing, truncated, no ZIP, of another format version,
        damaged, or when a graph is missing, exchanged with another, compressed, or not the one the manifest
        describes.
        """
        path = engine_path(path)
        source = _Source(path)
        listed = _entries(path, source)
        manifest = Manifest.from_json(_read_manifest(path, source, listed), str(path))
        entries = {}
        for name, spec in manifest.graphs.items():
            if spec.file not in listed:
                raise ResamError(f"{path}: graph {name} ({spec.file}) is missing; copy or export the engine again")
            entries[name] = _entry_range(path, source, listed[spec.file])
        if verify:
            _check_digests(path, manifest, source, entries)
        return cls(path, manifest, source, entries)

    def graph(self, name: str) -> bytes:
        """The bytes of graph `name` ("encoder", "decoder" or "loop"), read from the file.

        Raises `ResamError` for a file that has changed since it was opened.
        """
        return self._source.read(self._range(name))

    def size(self, name: str) -> int:
        """The number of a graph's bytes."""
        return len(self._range(name))

    def _range(self, name: str) -> range:
        if name not in self._entries:
            raise ResamError(f"{self.path}: no graph {name!r}; there are {', '.join(self._entries)}")
        return self._entries[name]


class _Source:
    """A regular file that is open for reading, and has not been written to since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = open_regular(path)
        except FileNotFoundError:
            raise ResamError(f"{path}: no such engine file; check the path or make one with resam-export") from None
        except IsADirectoryError:
            raise ResamError(f"{path}: a folder, not an engine file; name the .resam or .plan file in it") from None
        except NotRegular:
            raise ResamError(f"{path}: a pipe or a device, not an engine file; name a .resam or .plan file") from None
        except (OSError, ValueError) as error:
            raise ResamError(
                f"{path}: cannot be read ({one_line(error)}); check the file and its permissions"
            ) from None
        weakref.finalize(self, self.file.close)
        self._lock = threading.Lock()
        self._state = self._now()
        self.length = self._state[0]
        if not self.length:
            raise ResamError(f"{path}: the file is empty; copy or export the engine again")

    def read(self, wanted: range) -> bytes:
        """The bytes at these places. Raises `ResamError`."""
        return b"".join(self.blocks(wanted, max(1, len(wanted))))

    def blocks(self, wanted: range, size: int = 1 << 22) -> Iterator[bytes]:
        """As `read`, a few at a time."""
        at = wanted.start
        while at < wanted.stop:
            try:
                with self._lock:
                    self.file.seek(at)
                    block = self.file.read(min(size, wanted.stop - at))
            except OSError as error:
                raise ResamError(f"{self.path}: cannot be read ({one_line(error)})") from None
            if not block:
                break
            yield block
            at += len(block)
        if at < wanted.stop or self._now() != self._state:
            raise ResamError(f"{self.path}: changed while it was being read; try again once it is complete")

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self.file.fileno())
        return found.st_size, found.st_mtime_ns


def write_engine_file(
    path: str | os.PathLike[str], manifest: Manifest, graphs: Mapping[str, bytes | os.PathLike[str]]
) -> Manifest:
    """Write an engine file, whole or not at all; return the manifest as written, digests filled in.

    `graphs` maps each graph's name to its bytes or to a file that holds them (streamed, for graphs of
    gigabytes). The digests in `manifest` may be empty. Raises `ResamError` for a manifest that `EngineFile`
    would not read back, and for graphs that are not exactly the manifest's.
    """
    if set(graphs) != set(manifest.graphs):
        given, named = ", ".join(sorted(graphs)), ", ".join(sorted(manifest.graphs))
        raise ResamError(f"{path}: the manifest names the graphs {named}, but {given} were given")
    specs = {}
    for name, spec in manifest.graphs.items():
        source = graphs[name]
        digest = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)
        specs[name] = dataclasses.replace(spec, sha256=digest)
    text = json.dumps(dataclasses.replace(manifest, graphs=specs).to_json(), indent=1, allow_nan=False) + "\n"
    checked = Manifest.from_json(json.loads(text), str(path))
    if len(text.encode()) > MANIFEST_LIMIT:
        raise ResamError(f"{path}: the manifest is larger than {MANIFEST_LIMIT} bytes; shorten its provenance")
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry_info(MANIFEST_NAME), text)
        for name, spec in checked.graphs.items():
            source = graphs[name]
            size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
            info = _entry_info(spec.file)
            info.file_size = size
            with archive.open(info, "w", force_zip64=size >= 1 << 31) as entry:
                if isinstance(source, bytes):
                    entry.write(source)
                else:
                    with open(source, "rb") as stream:
                        while block := stream.read(1 << 22):
                            entry.write(block)
    return checked


def _entry_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_ENTRY_DATE)
    info.compress_type = zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    return info


def _entries(path: Path, source: _Source) -> dict[str, zipfile.ZipInfo]:
    """The ZIP directory, by name. zipfile is lenient and its errors are many; all mean a damaged file."""
    if source.read(range(min(4, source.length))) != b"PK\x03\x04":
        raise ResamError(f"{path}: not an engine file (not a ZIP archive); give a file written by resam-export")
    try:
        with zipfile.ZipFile(source.file) as archive:
            listed = archive.infolist()
    except Exception as error:
        raise ResamError(
            f"{path}: truncated or damaged (its ZIP directory cannot be read: {one_line(error)}); "
            "copy or export the engine again"
        ) from None
    entries = {info.filename: info for info in listed}
    if len(entries) != len(listed):
        raise ResamError(f"{path}: damaged (an entry appears twice); copy or export the engine again")
    if not listed or listed[0].filename != MANIFEST_NAME or listed[0].header_offset != 0:
        raise ResamError(f"{path}: not an engine file ({MANIFEST_NAME} does not come first); export the engine again")
    return entries


def _entry_range(path: Path, source: _Source, info: zipfile.ZipInfo) -> range:
    """Where the bytes of a stored entry lie, found through its local header, checked to be inside the file."""
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise ResamError(
            f"{path}: {name} is compressed or encrypted; an engine's entries are stored (zip -0): export it again"
        )
    start = info.header_offset
    header = source.read(range(start, start + 30)) if 0 <= start <= source.length - 30 else b""
    if header[:4] != b"PK\x03\x04":
        raise ResamError(f"{path}: damaged (no entry where {name} should begin); copy or export the engine again")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    begin = start + 30 + name_length + extra_length
    end = begin + info.file_size
    if info.file_size < 0 or end > source.length:
        raise ResamError(
            f"{path}: truncated ({name} should end at byte {end} of {source.length}); copy or export it again"
        )
    if source.read(range(start + 30, start + 30 + name_length)) != name.encode():
        raise ResamError(f"{path}: damaged (the entry {name} has another name); copy or export the engine again")
    return range(begin, end)


def _read_manifest(path: Path, source: _Source, entries: Mapping[str, zipfile.ZipInfo]) -> Any:
    info = entries[MANIFEST_NAME]
    if info.file_size > MANIFEST_LIMIT:
        raise ResamError(f"{path}: {MANIFEST_NAME} claims {info.file_size} bytes; damaged, export the engine again")
    text = source.read(_entry_range(path, source, info))
    if zlib.crc32(text) != info.CRC:
        raise ResamError(f"{path}: {MANIFEST_NAME} is damaged (checksum); copy or export the engine again")
    try:
        manifest = parse_json(text)
    except Malformed as error:
        raise ResamError(f"{path}: {MANIFEST_NAME} is {error}; export the engine again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ResamError(f"{path}: {MANIFEST_NAME} states no format version; not a resam engine file")
    if version != FORMAT_VERSION:
        raise ResamError(
            f"{path}: engine format {version}, but this resam reads format {FORMAT_VERSION}; "
            + ("update resam" if version > FORMAT_VERSION else "export the engine again")
        )
    return manifest


def _check_digests(path: Path, manifest: Manifest, source: _Source, entries: Mapping[str, range]) -> None:
    found = {}
    for name, entry in entries.items():
        digest = hashlib.sha256()
        for block in source.blocks(entry):
            digest.update(block)
        found[name] = digest.hexdigest()
    wanted = {spec.sha256: name for name, spec in manifest.graphs.items()}
    for name, spec in manifest.graphs.items():
        if found[name] == spec.sha256:
            continue
        other = wanted.get(found[name])
        if other is not None:
            raise ResamError(f"{path}: the graphs are swapped ({spec.file} holds the {other}); export the engine again")
        raise ResamError(
            f"{path}: graph {name} is damaged (SHA-256 {found[name][:12]}.., the manifest says {spec.sha256[:12]}..); "
            "copy or export the engine again"
        )
