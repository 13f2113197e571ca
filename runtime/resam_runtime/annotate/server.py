"""The local server behind the page: where it listens, and by which names it is known.

Against pages of other sites: only an address or a name of this machine is accepted as Host (a name that an attacker
points at 127.0.0.1 is not); what else is refused `handler` says.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

from resam_runtime.annotate.connections import Connections
from resam_runtime.annotate.handler import Handler, Site
from resam_runtime.annotate.images import SceneImages
from resam_runtime.annotate.preview import MaskPreview
from resam_runtime.annotate.store import PointsStore
from resam_runtime.common.errors import ResamError


def usual_port(points: Path) -> int:
    """The port at which a points file is served, 20000 to 31999: below those that systems give to outgoing connections.

    The same after every start, so that a window still open finds the server again.
    """
    return 20_000 + zlib.crc32(os.fsencode(points)) % 12_000


class AnnotateServer(Site):
    """Serves one folder of scenes and one points file; `serve_forever` until `shutdown`.

    port: None for the points file's usual one, or any free one where that is taken; 0 for any free one. preview: None
    without an engine. Raises `ResamError` when the address cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True
    # Connections that wait to be accepted. Python's 5 are fewer than a browser's tabs open, and one too many waits
    # a second or more, until its system tries again.
    request_queue_size = 128

    def __init__(
        self, host: str, port: int | None, images: SceneImages, store: PointsStore, preview: MaskPreview | None = None
    ) -> None:
        self._any_port = port is None
        port = usual_port(store.path) if port is None else port
        self.images, self.store, self.preview = images, store, preview
        self.session = secrets.token_hex(8)
        self.closed = False
        self.connections = Connections()
        try:
            info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family = info[0][0]
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ResamError(f"{host}:{port}: cannot listen there ({why}); choose another --host or --port") from None
        self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        self.own_names = {"localhost", host.lower()}
        if not self.loopback:
            own = socket.gethostname().lower()
            # The name that others find by multicast DNS, whatever domain our own name has.
            self.own_names |= {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
            # The full name is known to the name server, which may take seconds off line: nothing waits for it.
            threading.Thread(target=self._learn_full_name, name="full name", daemon=True).start()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def server_bind(self) -> None:
        """Bind without the reverse look-up of our own name, which may take seconds off line."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(self.server_address)
        except OSError:
            if not self._any_port:
                raise
            self.socket.bind((str(self.server_address[0]), 0))
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def server_close(self) -> None:
        """Let go of the address; connections that browsers keep open get no more answers."""
        self.closed = True
        super().server_close()

    def _learn_full_name(self) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            self.own_names.add(socket.getfqdn().lower())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a browser that hangs up is no news, and our own defects answer 500 with their text."""

    def knows_host(self, header: str | None) -> bool:
        """Whether a Host header names this machine: an IP address, or one of its names. The port may be forwarded."""
        host = (header or "").lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].removesuffix(".")
        if host in self.own_names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback
