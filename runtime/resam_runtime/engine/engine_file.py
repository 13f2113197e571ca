"""The engine file: one ZIP of stored entries, `manifest.json` first, then the graphs.

Stored entries make the file readable by `unzip` and the graphs readable in place through `mmap`: opening
a file of several gigabytes copies nothing. Every graph carries its SHA-256, and the manifest is covered by
its ZIP checksum, so that a damaged file is refused instead of run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import atomic_write, sha256_file
from resam_runtime.engine.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest

MANIFEST_LIMIT = 4 << 20  # bytes; real manifests have a few kilobytes
_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same graphs give the same file, byte for byte


class EngineFile:
    """An engine file opened for reading: `.path`, `.manifest`, and `.graph(name)`, a view of the graph's bytes.

    Nothing is copied: the views lie in a read-only memory map, which lives as long as any of them.
    """

    def __init__(self, path: Path, manifest: Manifest, views: Mapping[str, memoryview]) -> None:
        """Use `EngineFile.open`; this takes what it has already checked."""
        self.path = path
        self.manifest = manifest
        self._views = dict(views)

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> EngineFile:
        """Open and check an engine file.

        `verify=False` skips the graphs' digests (about a second per gigabyte) and nothing else. Raises
        `ResamError` with one line when the file is missing, truncated, no ZIP, of another format version,
        damaged, or when a graph is missing, exchanged with another, compressed, or not the one the manifest
        describes.
        """
        path = Path(path)
        with _open(path) as source:
            data = _map(path, source)
            entries = _entries(path, source, data)
        manifest = Manifest.from_json(_read_manifest(path, data, entries), str(path))
        views = {}
        for name, spec in manifest.graphs.items():
            if spec.file not in entries:
                raise ResamError(f"{path}: graph {name} ({spec.file}) is missing; copy or export the engine again")
            views[name] = _entry_view(path, data, entries[spec.file])
        if verify:
            _check_digests(path, manifest, views)
        return cls(path, manifest, views)

    def graph(self, name: str) -> memoryview:
        """The bytes of graph `name` ("encoder", "decoder" or "loop"), read-only, not copied."""
        if name not in self._views:
            raise ResamError(f"{self.path}: no graph {name!r}; there are {', '.join(self._views)}")
        return self._views[name]


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


def _open(path: Path) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for a writer
            raise ResamError(f"{path}: a pipe or a device, not an engine file; name a .resam or .plan file")
        return open(path, "rb")
    except FileNotFoundError:
        raise ResamError(f"{path}: no such engine file; check the path or make one with resam-export") from None
    except IsADirectoryError:
        raise ResamError(f"{path}: a folder, not an engine file; name the .resam or .plan file in it") from None
    except (OSError, ValueError) as error:
        raise ResamError(f"{path}: cannot be read ({one_line(error)}); check the file and its permissions") from None


def _map(path: Path, source: BinaryIO) -> mmap.mmap:
    try:
        if os.fstat(source.fileno()).st_size == 0:
            raise ResamError(f"{path}: the file is empty; copy or export the engine again")
        return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ResamError(f"{path}: cannot be mapped ({one_line(error)}); expected a regular file") from None


def _entries(path: Path, source: BinaryIO, data: mmap.mmap) -> dict[str, zipfile.ZipInfo]:
    """The ZIP directory, by name. zipfile is lenient and its errors are many; all mean a damaged file."""
    if data[:4] != b"PK\x03\x04":
        raise ResamError(f"{path}: not an engine file (no ZIP begins here); expected what resam-export writes")
    try:
        with zipfile.ZipFile(source) as archive:
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


def _entry_view(path: Path, data: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored entry, found through its local header, checked to lie inside the file."""
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise ResamError(
            f"{path}: {name} is compressed or encrypted; an engine's entries are stored (zip -0): export it again"
        )
    start = info.header_offset
    if not 0 <= start <= len(data) - 30 or data[start : start + 4] != b"PK\x03\x04":
        raise ResamError(f"{path}: damaged (no entry where {name} should begin); copy or export the engine again")
    name_length, extra_length = struct.unpack("<HH", data[start + 26 : start + 30])
    begin = start + 30 + name_length + extra_length
    end = begin + info.file_size
    if data[start + 30 : start + 30 + name_length] != name.encode():
        raise ResamError(f"{path}: damaged (the entry {name} bears another name); copy or export the engine again")
    if info.file_size < 0 or end > len(data):
        raise ResamError(f"{path}: truncated ({name} should end at byte {end} of {len(data)}); copy or export it again")
    return memoryview(data)[begin:end]


def _read_manifest(path: Path, data: mmap.mmap, entries: Mapping[str, zipfile.ZipInfo]) -> Any:
    info = entries[MANIFEST_NAME]
    if info.file_size > MANIFEST_LIMIT:
        raise ResamError(f"{path}: {MANIFEST_NAME} claims {info.file_size} bytes; damaged, export the engine again")
    text = bytes(_entry_view(path, data, info))
    if zlib.crc32(text) != info.CRC:
        raise ResamError(f"{path}: {MANIFEST_NAME} is damaged (checksum); copy or export the engine again")
    try:
        manifest = json.loads(text.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ResamError(f"{path}: {MANIFEST_NAME} is no JSON ({one_line(error)}); export the engine again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ResamError(f"{path}: {MANIFEST_NAME} names no format version; not an engine file of resam")
    if version != FORMAT_VERSION:
        raise ResamError(
            f"{path}: engine format {version}, but this resam reads format {FORMAT_VERSION}; "
            + ("update resam" if version > FORMAT_VERSION else "export the engine again")
        )
    return manifest


def _check_digests(path: Path, manifest: Manifest, views: Mapping[str, memoryview]) -> None:
    found = {name: hashlib.sha256(view).hexdigest() for name, view in views.items()}
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


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result
