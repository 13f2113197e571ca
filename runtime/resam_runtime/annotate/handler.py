"""What the server answers: the page's files, scene pieces, operations and previews over HTTP.

Every address but the page's own files begins with the server's session, a random word, so a page left open from an
earlier server learns that it must look anew. Scenes are addressed by their number in the listing, never by a path.
Against pages of other sites: only our own Origin may write, and nothing may be framed.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from resam_runtime.annotate.connections import Connections
from resam_runtime.annotate.images import PIECE, SceneImages, levels
from resam_runtime.annotate.operations import Conflict, Refused
from resam_runtime.annotate.preview import MaskPreview
from resam_runtime.annotate.store import PointsStore
from resam_runtime.common.checked import Malformed, list_of, number, parse_json, take
from resam_runtime.common.errors import ResamError

BODY_LIMIT = 1 << 20
"""Bytes of a request's body; an operation has some hundred."""
PREVIEW_LIMIT = 32
_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "classes.js": "text/javascript; charset=utf-8",
    "masks.js": "text/javascript; charset=utf-8",
    "panels.js": "text/javascript; charset=utf-8",
    "points.js": "text/javascript; charset=utf-8",
    "proposals.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Answer(Exception):
    """Ends a request with a status and one line."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Site(ABC, ThreadingHTTPServer):
    """What connections need of their server. session: a random word; closed: whether it answers no more."""

    images: SceneImages
    store: PointsStore
    preview: MaskPreview | None
    connections: Connections
    session: str
    closed: bool

    @abstractmethod
    def knows_host(self, header: str | None) -> bool:
        """Whether a Host header names this machine."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser to a `Site`."""

    server: Site
    protocol_version = "HTTP/1.1"
    server_version = "resam-annotate"
    sys_version = ""
    timeout = 60
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        self.server.connections.wait(self.connection)
        super().handle_one_request()

    def finish(self) -> None:
        self.server.connections.leave(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal stays quiet."""

    def _respond(self, act: Callable[[list[str]], None]) -> None:
        if self.server.closed:
            self.close_connection = True
            return
        self._body_left = self.headers.get("Content-Length") not in (None, "0") or "Transfer-Encoding" in self.headers
        try:
            self._check()
            act(self.path.partition("?")[0].lstrip("/").split("/"))
        except _Answer as answer:
            self._problem(answer.status, str(answer))
        except Conflict as error:
            self._problem(HTTPStatus.CONFLICT, str(error))
        except Refused as error:
            self._problem(HTTPStatus.BAD_REQUEST, str(error))
        except ResamError as error:
            self._problem(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            self._problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"defect in resam-annotate: {error!r}")

    def _check(self) -> None:
        host = self.headers.get("Host")
        if not self.server.knows_host(host):
            raise _Answer(HTTPStatus.FORBIDDEN, f"Host {str(host)[:80]!r} is not a name of this machine")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            raise _Answer(HTTPStatus.FORBIDDEN, "requests from other sites are refused")
        if self.headers.get("Sec-Fetch-Site") == "cross-site" and self.path.strip("/"):
            raise _Answer(HTTPStatus.FORBIDDEN, "requests from other sites are refused")

    def _get(self, path: list[str]) -> None:
        self.server.connections.work(self.connection)
        if len(path) == 1:
            name = path[0] or "index.html"
            if name not in _PAGE:
                raise _Answer(HTTPStatus.NOT_FOUND, "no such page")
            content = resources.files("resam_runtime.annotate").joinpath("page").joinpath(name).read_bytes()
            self._send(content, _PAGE[name], "no-cache")
            return
        if path == ["api", "folder"]:
            self._json(self._folder())
            return
        match self._session(path):
            case ["changes", since]:
                version, changed = self.server.store.changes(_number(since))
                entries = zip(self.server.images.names, self.server.store.summary())
                scenes = [
                    {"index": index, "version": changed[name], **summary}
                    for index, (name, summary) in enumerate(entries)
                    if name in changed
                ]
                self._json({"version": version, "scenes": scenes, "classes": self.server.store.classes()})
            case ["scene", number]:
                self._json(self._scene(self._index(number)))
            case ["uncertainty", number]:
                self._json({"uncertainty": self._finder().uncertainty(self._index(number))})
            case ["piece", number, level, column, row]:
                index = self._index(number)
                try:
                    content = self.server.images.piece(index, _number(level), _number(column), _number(row))
                except IndexError as error:
                    raise _Answer(HTTPStatus.NOT_FOUND, str(error)) from None
                self._send(content, "image/jpeg", "private, max-age=86400, immutable")
            case _:
                raise _Answer(HTTPStatus.NOT_FOUND, "no such address")

    def _post(self, path: list[str]) -> None:
        body = self._body()
        self.server.connections.work(self.connection)
        match self._session(path):
            case ["scene", number]:
                index = self._index(number)
                size = self.server.images.size(index)
                self._json(self.server.store.apply(self.server.images.names[index], size, body))
            case ["classes"]:
                name, key = body.get("name"), body.get("class")
                if not isinstance(name, str) or not (key is None or (isinstance(key, int) and key is not True)):
                    raise Refused("expected a name, and a class's number or null")
                made = self.server.store.name_class(name, key)
                store = self.server.store
                self._json({"class": made, "classes": store.classes(), "version": store.version})
            case ["proposals", number]:
                self._json(self._finder().proposals(self._index(number), _view(body.get("view"))))
            case ["masks", number]:
                index, wanted = self._index(number), body.get("instances")
                if self.server.preview is None:
                    raise _Answer(HTTPStatus.NOT_FOUND, "no engine")
                if not isinstance(wanted, list) or len(wanted) > PREVIEW_LIMIT:
                    raise Refused(f"expected at most {PREVIEW_LIMIT} instances")
                scene, version = self.server.store.scene(self.server.images.names[index])
                self._json({"version": version, "masks": self.server.preview.masks(index, scene, wanted)})
            case _:
                raise _Answer(HTTPStatus.NOT_FOUND, "no such address")

    def _finder(self) -> MaskPreview:
        if self.server.preview is None or not self.server.preview.proposes:
            raise _Answer(HTTPStatus.NOT_FOUND, "the engine has no prompter")
        return self.server.preview

    def _session(self, path: list[str]) -> list[str]:
        if path[0] != "api" or len(path) < 3:
            raise _Answer(HTTPStatus.NOT_FOUND, "no such address")
        if path[1] != self.server.session:
            raise _Answer(HTTPStatus.GONE, "the server was restarted")
        return path[2:]

    def _index(self, text: str) -> int:
        index = _number(text)
        if index >= len(self.server.images.names):
            raise _Answer(HTTPStatus.NOT_FOUND, f"no scene {index}")
        return index

    def _folder(self) -> dict[str, Any]:
        server = self.server
        summary = server.store.summary()
        return {
            "session": server.session,
            "version": server.store.version,
            "folder": server.images.root.resolve().name,
            "points": str(server.store.path),
            "engine": server.preview.describe() if server.preview else None,
            "proposes": server.preview is not None and server.preview.proposes,
            "classes": server.store.classes(),
            "scenes": [{"name": name, **entry} for name, entry in zip(server.images.names, summary)],
        }

    def _scene(self, index: int) -> dict[str, Any]:
        scene, version = self.server.store.scene(self.server.images.names[index])
        answer = {"index": index, "version": version, "done": bool(scene.get("done")), "instances": scene["instances"]}
        rejected = scene.get("rejected")
        answer["rejected"] = rejected if isinstance(rejected, list) else []
        try:
            width, height = self.server.images.size(index)
        except ResamError as error:
            return {**answer, "problem": str(error)}
        made_for = (scene.get("width", width), scene.get("height", height))
        if made_for != (width, height):
            problem = f"its points were made for {made_for[0]} x {made_for[1]} px, the image has {width} x {height}"
            return {**answer, "problem": problem}
        return {**answer, "width": width, "height": height, "piece": PIECE, "levels": levels(width, height)}

    def _body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":  # what no form of another site can send
            raise _Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length")
        if length is None or not length.isdigit():
            raise _Answer(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if not length.isascii():  # "²" is a digit to Python
            raise _Answer(HTTPStatus.BAD_REQUEST, "the Content-Length is not a number")
        if len(length) > 15 or int(length) > BODY_LIMIT:
            raise _Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_LIMIT} bytes")
        raw = self.rfile.read(int(length))
        self._body_left = False
        try:
            body = parse_json(raw)
        except Malformed:
            raise _Answer(HTTPStatus.BAD_REQUEST, "not JSON") from None
        if not isinstance(body, dict):
            raise _Answer(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return body

    def _problem(self, status: HTTPStatus, text: str) -> None:
        self._send(json.dumps({"problem": text}).encode(), "application/json", "no-store", status)

    def _json(self, data: Any) -> None:
        self._send(json.dumps(data).encode(), "application/json", "no-store")

    def _send(self, content: bytes, kind: str, cache: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": cache, **_POLICY}
        if self._body_left:  # an unread body would be taken for the next request
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _view(value: Any) -> list[float]:
    try:
        view: list[float] = take(value, list_of(number(), 4, 4))
        return view
    except Malformed as error:
        raise Refused(f"view: {error}") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise _Answer(HTTPStatus.NOT_FOUND, f"expected a number, got {text[:20]!r}")
    return int(text)
