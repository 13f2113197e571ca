"""What GDAL gets to see of a scene: the file, and of the files beside it those that were looked at first.

To GDAL a few lines of XML are a raster, whatever the suffix, and may name other files, devices and URLs; so may the
files beside a raster, and its own metadata. A raster from outside is to decide nothing but its own pixels and place:

* its first bytes decide on the driver, out of a short list; of those only VRT names other files (see `vrt`);
* files beside it are seen where they are regular files of the kinds below, in a folder made for that;
* metadata that name another file as its overviews are refused;
* no network, and no code inside a raster. A scene that lies on the network (`remote`) is one file at one address, which
  GDAL may open and no other: its suffix decides on the driver, none of which is one that names other files.

What GDAL says on the way goes to the caller, not to the console.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import open_regular
from resam_runtime.scenes.georeference import world_files
from resam_runtime.scenes.headers import file_header
from resam_runtime.scenes.quiet_gdal import quiet_gdal
from resam_runtime.scenes.remote import RemoteFile

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGINE = b"EHFA_HEADER_TAG"
_JPEG_2000 = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID")
_DRIVERS: dict[bytes, tuple[str, ...]] = {
    **dict.fromkeys(_TIFF, ("GTiff",)),
    b"\0\0\0\x0cjP  \r\n\x87\n": _JPEG_2000,
    b"\xff\x4f\xff\x51": _JPEG_2000,
    _IMAGINE: ("HFA",),
    b"NITF": ("NITF",),
    b"NSIF": ("NITF",),
    b"\x89PNG\r\n\x1a\n": ("PNG",),
    b"\xff\xd8\xff": ("JPEG",),
    b"BM": ("BMP",),
    b"P5": ("PNM",),
    b"P6": ("PNM",),
    b"<VRTDataset": ("VRT",),
}
"""First bytes of a file -> the drivers that may open it, of which one is there."""
_LINKED = {
    "{name}.ovr": _TIFF,
    "{name}.msk": _TIFF,
    "{name}.msk.ovr": _TIFF,
    "{name}.aux": (_IMAGINE,),
    "{stem}.aux": (_IMAGINE,),
    "{stem}.rrd": (_IMAGINE,),
    "{stem}.ige": (b"ERDAS_IMG_EXTERNAL_RASTER",),
}
"""Rasters beside a raster, and what they must begin with."""
_COPIED = ("{name}.aux.xml", "{name}.xml", "{stem}.tab", "{stem}_RPC.TXT", "{stem}_rpc.txt", "{stem}.RPB", "{stem}.rpb")
_HEADERS = ("{stem}.hdr", "{name}.hdr")  # of ENVI's rasters, which are bare pixels
_REMOTE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".jp2", ".j2k"), _JPEG_2000),
    ".png": ("PNG",),
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG",)),
}
"""Suffixes of files on the network -> the drivers that may open them; GTiff all others."""
_TEXT_LIMIT = 16 << 20
_DEEPEST = 8  # VRT in VRT
_BLOCK_LIMIT = 800_000_000  # bytes


@dataclass(eq=False)
class GdalFile:
    """An open rasterio dataset, what GDAL or we have to say of it, and the folder of links that it may need."""

    dataset: Any
    notes: list[str]
    view: tempfile.TemporaryDirectory[str] | None = None
    remote: RemoteFile | None = None

    def calls(self, messages: list[str] | None = None) -> AbstractContextManager[None]:
        """Around every call that may read of it: `quiet_gdal`, with what the file needs."""
        return quiet_gdal(messages) if self.remote is None else _remotely(self.remote, messages)

    def cause(self, error: BaseException) -> str:
        """What lies behind an error of reading it."""
        return cause(error) if self.remote is None else self.remote.reason(str(_root(error)))

    def close(self) -> None:
        """Close the dataset. Closing twice is fine."""
        with self.calls():
            self.dataset.close()
        if self.view is not None:
            self.view.cleanup()


def open_dataset(path: Path) -> GdalFile:
    """Open a raster by what it holds, to read its pixels when they are asked for.

    Raises `ResamError`, one line with the file, for what is no raster of a known kind or cannot be opened.
    """
    path = Path(os.path.abspath(path))
    notes: list[str] = []
    view = None
    try:
        driver = _driver(path)
        header = file_header(path)
        if header is not None and not header.by_windows:
            header.check_decodable(path)
        place = os.fspath(path)
        if driver in ("VRT", "ENVI") or _beside(path):
            view = tempfile.TemporaryDirectory(prefix="resam-")
            try:
                place = _View(view.name, notes).add(path)
            except ResamError as error:  # of a source, perhaps
                said = str(error)
                raise ResamError(said if said.startswith(f"{path}: ") else f"{path}: {said}") from None
        opened = GdalFile(_open(place, driver, notes, alone=view is None), notes, view)
        if _leads_elsewhere(opened.dataset) and view is not None and driver != "VRT":
            opened.close()
            notes.append("files beside it refer to other files, which are not read")
            opened = GdalFile(_open(os.fspath(path), driver, notes, alone=True), notes)
        _check(opened, path)
        return opened
    except BaseException as error:
        if view is not None:
            view.cleanup()
        import rasterio

        if isinstance(error, UnicodeEncodeError):
            raise ResamError(f"{path}: GDAL cannot read a file whose name is not UTF-8; rename it") from None
        if isinstance(error, rasterio.errors.RasterioError | OSError):
            raise ResamError(f"{path}: cannot be read ({cause(error)})") from None
        raise


def open_remote(remote: RemoteFile) -> GdalFile:
    """As `open_dataset`, of a file at a URL. Raises `ResamError`."""
    import rasterio

    if remote.trouble is not None:
        raise ResamError(remote.trouble)
    driver = next((name for name in _REMOTE.get(remote.suffix.lower(), ("GTiff",)) if name in _registered()), "GTiff")
    notes: list[str] = []
    try:
        with _remotely(remote, notes):
            opened = GdalFile(rasterio.open(remote.vsi, driver=driver), notes, remote=remote)
        _check(opened, remote)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise ResamError(f"{remote}: cannot be read ({remote.reason(str(_root(error)))})") from None
    return opened


def _check(opened: GdalFile, path: Path | RemoteFile) -> None:
    """Close it and raise ResamError where it leads to other files, or cannot be decoded in parts."""
    if _leads_elsewhere(opened.dataset):
        opened.close()
        raise ResamError(f"{path}: its metadata name another file as its overviews; remove OVERVIEW_FILE")
    if (size := _largest_block(opened.dataset)) > _BLOCK_LIMIT:
        opened.close()
        raise ResamError(f"{path}: has blocks of {size >> 20} MiB, too large to decode; write it with smaller tiles")


def cause(error: BaseException) -> str:
    """What lies behind an error of rasterio's. "Read failed. See previous exception for details.": so let us."""
    return one_line(_root(error))


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _remotely(remote: RemoteFile, messages: list[str] | None) -> AbstractContextManager[None]:
    return quiet_gdal(messages, remote.clean, **remote.settings)


class _View:
    """Makes a folder in which a raster lies with those files beside it that GDAL may read."""

    def __init__(self, folder: str, notes: list[str]) -> None:
        self._folder, self._notes, self._count = Path(folder), notes, 0

    def add(self, path: Path, depth: int = 0) -> str:
        """Put a raster there; returns where it is."""
        driver = _driver(path)
        self._count += 1
        place = self._folder / str(self._count) / path.name
        place.parent.mkdir()
        if driver == "VRT":
            if depth == _DEEPEST:
                raise ResamError(f"{path}: VRT files that refer to each other in a circle")
            from resam_runtime.scenes.vrt import rewritten_vrt  # brings XML, which few runs need

            place.write_text(rewritten_vrt(path, lambda source: self.add(source, depth + 1)), encoding="utf-8")
        else:
            place.symlink_to(path)
        for beside in [*_beside(path), *(_headers(path) if driver == "ENVI" else ())]:
            try:
                self._add_beside(beside, place.with_name(beside.name))
            except OSError as error:
                self._notes.append(f"{beside.name}: {error.strerror or error}: it is not read")
        return os.fspath(place)

    def _add_beside(self, path: Path, place: Path) -> None:
        magics = next((kinds for name, kinds in _LINKED.items() if path.name.endswith(name.rpartition("}")[2])), None)
        if magics is None:
            with open_regular(path) as file:
                place.write_bytes(file.read(_TEXT_LIMIT))
            return
        with open_regular(path) as file:
            begins = file.read(32)
        if not begins.startswith(magics):
            raise OSError("not a raster of the kind that its name says")
        place.symlink_to(path)
        if begins.startswith(_TIFF):
            dataset = _open(os.fspath(path), "GTiff", [], alone=True)
            leads, _ = _leads_elsewhere(dataset), dataset.close()
            if leads:
                place.unlink()
                raise OSError("names another file as its overviews")


def _open(place: str, driver: str, messages: list[str], alone: bool) -> Any:
    import rasterio

    options: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"} if alone else {}
    with quiet_gdal(messages, **options):
        dataset = rasterio.open(place, driver=driver)
    messages[:] = [text.removeprefix(f"{os.path.basename(place)}: ") for text in messages]
    return dataset


def _leads_elsewhere(dataset: Any) -> bool:
    with quiet_gdal():
        return any(key.upper() == "OVERVIEW_FILE" for key in dataset.tags(ns="OVERVIEWS"))


def _largest_block(dataset: Any) -> int:
    """Bytes of what is decoded at once."""
    import numpy as np

    with quiet_gdal():
        together = dataset.count if str(dataset.profile.get("interleave", "")).lower() == "pixel" else 1
        sizes = [
            rows * columns * (np.dtype(kind).itemsize if kind in np.sctypeDict else 8)
            for (rows, columns), kind in zip(dataset.block_shapes, dataset.dtypes)
        ]
    return int(max(sizes, default=0) * together)


def _driver(path: Path) -> str:
    with open_regular(path) as file:
        begins = file.read(1024)
    text = begins.lstrip() if path.suffix.lower() == ".vrt" else b""
    for magic, drivers in _DRIVERS.items():
        if text.startswith(magic) if magic.startswith(b"<") else begins.startswith(magic):
            return (
                drivers[0]
                if len(drivers) == 1
                else next((name for name in drivers if name in _registered()), drivers[0])
            )
    if any(True for _ in _headers(path)):
        return "ENVI"
    raise ResamError(f"{path}: not a supported raster, or damaged; convert it to GeoTIFF with gdal_translate")


@functools.cache
def _registered() -> frozenset[str]:
    import rasterio

    with rasterio.Env() as env:
        return frozenset(env.drivers())


def _headers(path: Path) -> Iterator[Path]:
    for name in _named(path, _HEADERS):
        with contextlib.suppress(OSError), open_regular(path.with_name(name)) as file:
            if file.read(4) == b"ENVI":
                yield path.with_name(name)


def _beside(path: Path) -> list[Path]:
    """The files beside a raster that GDAL would look for."""
    names = [*_named(path, (*_LINKED, *_COPIED)), *world_files(path)]
    return [path.with_name(name) for name in dict.fromkeys(names) if os.path.lexists(path.with_name(name))]


def _named(path: Path, patterns: tuple[str, ...]) -> list[str]:
    return [pattern.format(name=path.name, stem=path.stem) for pattern in patterns]
