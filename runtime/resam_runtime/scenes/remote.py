"""Scenes that lie on a web server or in an object store, read by range requests through GDAL's virtual files.

Only a URL that the user wrote, or the catalogue that the user named, becomes a `RemoteFile`; GDAL may open that one
address and no other (`gdal`, `quiet_gdal`). Credentials are GDAL's to find: in its environment variables, a
configuration file, or the machine's role. A URL may hold some too, in its query: that part is never shown.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from resam_runtime.common.errors import ResamError, printable

SCHEMES = {"https": "/vsicurl/https://", "http": "/vsicurl/http://", "s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""What a URL begins with -> the same in GDAL's words."""
_URL = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<host>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(#.*)?")
_QUERY = re.compile(r"((?:https?|s3|gs|az)://[^\s?'\"]*)\?[^\s'\"]*", re.I)
_USER = re.compile(r"((?:https?|s3|gs|az)://)[^/\s@'\"]*@", re.I)
_STATUS = re.compile(r"HTTP (?:response code|error code ?): ?(\d{3})")
_REASONS = {401: "not allowed", 403: "forbidden", 404: "not found", 410: "gone", 429: "too many requests"}

_FIXED: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_USE_HEAD": "NO"}
_TUNED: dict[str, Any] = {
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,  # the directory of a COG, at once
    "VSI_CACHE": "YES",
    "VSI_CACHE_SIZE": 16 << 20,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
}


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL. address: as given, with what must not be shown. trouble: why it cannot be read at all."""

    address: str = field(repr=False)
    trouble: str | None = None

    @property
    def shown(self) -> str:
        """The URL without its query."""
        return redacted(self.address.partition("#")[0])

    @property
    def place(self) -> str:
        """Scheme, host and path as an absolute path: /https/example.com/north/a.tif; its end is a scene's name."""
        scheme, _, rest = self.shown.partition("://")
        parts = [_plain(part) for part in (scheme, *rest.split("/"))]
        return "/" + "/".join(part for part in parts if part)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.place).suffix

    @property
    def vsi(self) -> str:
        """What GDAL calls it."""
        scheme, _, rest = self.address.partition("#")[0].partition("://")
        return SCHEMES[scheme.lower()] + rest

    @property
    def settings(self) -> dict[str, Any]:
        """GDAL's, around all that is done with it: this file and no other, few requests, bounded retries.

        What is tuned is the user's where an environment variable of that name is set.
        """
        tuned = {name: value for name, value in _TUNED.items() if name not in os.environ}
        return {**tuned, **_FIXED, "CPL_VSIL_CURL_ALLOWED_FILENAME": self.vsi, "CPL_VSIL_CURL_NON_CACHED": self.vsi}

    def clean(self, text: str) -> str:
        """What GDAL says, without the URL's query or any part of it: libtiff shows what follows the last slash."""
        _, _, query = self.address.partition("?")
        text = re.sub(r"\?[^\s'\"]*", "", redacted(text)) if query else redacted(text)
        for part in sorted({part for part in re.split(r"[/?&=#]", query) if len(part) > 2}, key=len, reverse=True):
            text = text.replace(part, "...")
        return " ".join(text.split())[:200]

    def reason(self, text: str) -> str:
        """The same of a failure, in fewer words where they are known."""
        status = _STATUS.search(text)
        if status is None:
            return "not found, or no raster" if "not recognized as" in text else self.clean(text)
        code = int(status[1])
        return f"{_REASONS.get(code, 'the server refused' if code < 500 else 'the server failed')} (HTTP {code})"

    def __str__(self) -> str:
        return self.shown


def remote_file(text: str) -> RemoteFile | None:
    """The file at a URL; None for a text that is none. Raises ResamError for a URL that is not read."""
    match = _URL.fullmatch(text)
    if match is None:
        return None
    shown = printable(redacted(text.partition("?")[0]))[:200]
    if match["scheme"].lower() not in SCHEMES:
        raise ResamError(f"{shown}: not read from there; {', '.join(f'{one}://' for one in SCHEMES)} are")
    if "@" in match["host"]:
        raise ResamError(f"{shown}: a password in a URL ends up in logs; leave it to GDAL's environment variables")
    if not match["host"] or not (match["path"] or "").strip("/"):
        raise ResamError(f"{shown}: names no file")
    web = match["scheme"].lower() in ("http", "https")
    if re.search(r"[\s\\\"'<>\x00-\x1f\x7f]", text) or (match["query"] and not web):
        raise ResamError(f"{shown}: not a URL of a file (write blanks as %20)")
    return RemoteFile(text)


def redacted(text: str) -> str:
    """The text without queries, users and passwords of URLs: they may be keys."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1", text))


def _plain(part: str) -> str:
    """Part of a URL's path as part of a name: no slash, no way out of a folder."""
    return plain_part(unquote(part, errors="replace"))


def plain_part(text: str) -> str:
    """Any text as one part of a path inside an output folder: what would be hidden or lead out of it is changed."""
    text = re.sub(r"[/\\:*?\"<>|\x00-\x1f\x7f\ufffd]", "_", text)[:200]
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), text)
