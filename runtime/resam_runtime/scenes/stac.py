"""Scenes of a STAC catalogue: an item, an item collection (of a search, say) or stac-geoparquet; a file or on the web.

Of each item one asset is the scene (https://github.com/radiantearth/stac-spec, version 1). Other catalogues, pages that
follow and links are not followed. An asset may lie on the web or in an object store; with a catalogue that is a file
here, in its folder and those below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from resam_runtime.common.checked import Malformed, kind, parse_json
from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.extras import needs_extra
from resam_runtime.common.files import read_regular
from resam_runtime.scenes.dates import utc
from resam_runtime.scenes.remote import RemoteFile, plain_part, redacted, remote_file

SUFFIXES = frozenset({".json", ".geojson", ".parquet"})
_MOST = 1 << 30  # bytes of a catalogue
_TRIES, _TIMEOUT = 3, 30.0
_RASTERS = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/png", "image/jpeg", "application/vnd.nitf")
_RGB = {"red", "green", "blue"}
_ASSET = kind(
    {
        "href": str,
        "type": str | None,
        "roles": list[str] | None,
        "eo:bands": list[dict] | None,
        "bands": list[dict] | None,
    }
)
_ITEM = kind({"id": str, "collection": str | None, "properties": dict | None, "assets": dict})


@dataclass(frozen=True)
class StacScene:
    """An item's scene. name: its id with the suffix of its asset, behind its collection; date: see `SceneInfo`."""

    path: Path | RemoteFile
    name: str
    date: str | None


def is_catalogue(source: Path | RemoteFile) -> bool:
    """Whether it is read as a catalogue: by its suffix, or as what a STAC API gives: items, items/ID, search."""
    if source.suffix.lower() in SUFFIXES:
        return True
    parts = PurePosixPath(source.place).parts if isinstance(source, RemoteFile) else ()
    return "items" in parts[-2:] or "search" in parts[-1:]


def stac_scenes(source: Path | RemoteFile, asset: str | None) -> Iterator[StacScene]:
    """The scenes of a catalogue, in its order. asset: the name of the one to be taken.

    An item that has no such asset gives a scene that fails and says so. Raises ResamError for what is no catalogue.
    """
    content = _fetched(source) if isinstance(source, RemoteFile) else _read(source)
    for item in _parquet(source, content) if source.suffix.lower() == ".parquet" else _json(source, content):
        try:
            known = _ITEM(item)
        except Malformed as error:
            raise ResamError(f"{source}: not a STAC item ({error})") from None
        properties = known["properties"] or {}
        date = utc(properties.get("datetime")) or utc(properties.get("start_datetime"))
        name = plain_part(known["id"]) or "_"
        path: Path | RemoteFile
        try:
            path = _placed(source, _chosen(known["assets"], asset))
            suffix = path.suffix if len(path.suffix) <= 5 else ""
        except (ResamError, Malformed) as error:
            path, suffix = RemoteFile("", trouble=f"{source}: item {known['id'][:100]}: {error}"), ""
        yield StacScene(path, f"{plain_part(known['collection'] or 'items')}/{name}{suffix}", date)


def _chosen(assets: Mapping[str, Any], wanted: str | None) -> str:
    """The href of an item's scene: the asset asked for, else the one called or with the role `visual`, else the first
    raster with the role `data` that has red, green and blue, else the first with that role."""
    if wanted is not None:
        if assets.get(wanted) is None:
            raise ResamError(f"has no asset {wanted!r}, but {', '.join(list(assets)[:8]) or 'none'}")
        return str(_ASSET(assets[wanted])["href"])
    known = {name: _ASSET(asset) for name, asset in assets.items() if asset is not None}
    rasters = {name: one for name, one in known.items() if (one["type"] or "image/tiff").startswith(_RASTERS)}
    data = [one for one in rasters.values() if "data" in (one["roles"] or ())]
    candidates = [one for name, one in rasters.items() if name == "visual" or "visual" in (one["roles"] or ())]
    for one in [*candidates, *(one for one in data if _colours(one)), *data]:
        return str(one["href"])
    raise ResamError(f"no asset with the role data or visual; choose one with --asset: {', '.join(list(assets)[:8])}")


def _colours(asset: Mapping[str, Any]) -> bool:
    bands: Sequence[Mapping[str, Any]] = asset["eo:bands"] or asset["bands"] or ()
    return {str(band.get("common_name") or band.get("eo:common_name")) for band in bands} >= _RGB


def _placed(source: Path | RemoteFile, href: str) -> Path | RemoteFile:
    """Where an asset is. Raises ResamError for a place that a catalogue may not name."""
    if isinstance(source, RemoteFile):
        base = source.address.partition("?")[0]
        scheme, _, rest = base.partition("://")  # urljoin knows no s3
        joined = href if "://" in href else urljoin(f"https://{rest}", href).replace("https", scheme, 1)
        remote = remote_file(joined)
        if remote is None:
            raise ResamError(f"an asset that is no URL: {redacted(href)[:80]!r}")
        return remote
    if remote := remote_file(href):
        return remote
    path = source.parent / href
    inside = os.path.join(os.path.realpath(source.parent), "")
    if "\0" in href or not os.path.realpath(path).startswith(inside):
        raise ResamError(f"an asset outside the catalogue's folder: {href[:80]!r}")
    return path


def _json(source: Path | RemoteFile, content: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        data = parse_json(content)
    except Malformed as error:
        raise ResamError(f"{source}: not JSON ({error})") from None
    what = data.get("type") if isinstance(data, dict) else None
    if what == "Feature":
        yield data
    elif what == "FeatureCollection" and isinstance(data.get("features"), list):
        yield from data["features"]
    else:
        hint = "; give its items" if what in ("Catalog", "Collection") else ""
        raise ResamError(f"{source}: neither an image nor a STAC item or item collection{hint}")


def _parquet(source: Path | RemoteFile, content: bytes) -> Iterator[Mapping[str, Any]]:
    with needs_extra("stac-geoparquet", "geo"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        columns = [
            name
            for name in ("id", "collection", "datetime", "start_datetime", "assets")
            if name in file.schema_arrow.names
        ]
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                dates = {name: row.get(name) for name in ("datetime", "start_datetime")}
                texts = {
                    name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in dates.items()
                }
                yield {**row, "properties": texts}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ResamError(f"{source}: not stac-geoparquet ({one_line(error)})") from None


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MOST)
    except OSError as error:
        raise ResamError(f"{path}: {error.strerror or error}") from None


def _fetched(source: RemoteFile) -> bytes:
    if urlsplit(source.address).scheme.lower() not in ("http", "https"):
        raise ResamError(f"{source}: a catalogue is read from a file or the web; copy it here")
    from urllib.error import HTTPError, URLError  # here: they bring TLS and e-mail, 50 ms of a run that has no URLs
    from urllib.request import Request, urlopen

    for left in reversed(range(_TRIES)):
        try:
            request = Request(source.address, headers={"Accept": "application/geo+json, application/json, */*"})
            with urlopen(request, timeout=_TIMEOUT) as answer:
                content: bytes = answer.read(_MOST + 1)
            if len(content) > _MOST:
                raise ResamError(f"{source}: has more than {_MOST} bytes; split it")
            return content
        except HTTPError as error:
            reason, again = source.reason(f"HTTP response code: {error.code}"), error.code >= 500 or error.code == 429
        except (URLError, OSError, ValueError) as error:  # ValueError: what http.client cannot read
            reason, again = redacted(one_line(error)), True
        if not again or not left:
            break
        time.sleep(1.0)
    raise ResamError(f"{source}: cannot be read ({reason})")
