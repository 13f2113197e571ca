"""A web server with ranges that counts what it sends, and may refuse, stall or drop connections."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Content = Callable[[int, int], bytes]


class Files:
    """What is served. sizes, contents: of each path; drop: how many answers of a path are cut short; status: of paths
    that are refused. requests and sent (bytes) are counted per path."""

    def __init__(self) -> None:
        self.url = ""
        self.sizes: dict[str, int] = {}
        self.contents: dict[str, Content] = {}
        self.drop: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.queries: set[str] = set()

    def add(self, path: str, data: bytes, **more: int) -> str:
        """Serve bytes at a path; returns the URL."""
        self.sizes[path], self.contents[path] = len(data), lambda first, last: data[first : last + 1]
        for name, value in more.items():
            getattr(self, name)[path] = value
        return self.url + path


@contextlib.contextmanager
def file_server() -> Iterator[Files]:
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            files.queries.add(query)
            files.requests[path] = files.requests.get(path, 0) + 1
            if path in files.status or path not in files.sizes:
                self.send_error(files.status.get(path, 404))
                return
            size = files.sizes[path]
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
            body = files.contents[path](first, min(last, size - 1))
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
            self.end_headers()
            with contextlib.suppress(OSError):
                if files.drop.get(path, 0) > 0:
                    files.drop[path] -= 1
                    self.wfile.write(body[: len(body) // 2])
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(body)
                files.sent[path] = files.sent.get(path, 0) + len(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
