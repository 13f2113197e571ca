"""How many connections a server keeps: those that ask nothing give way to those that do."""

from __future__ import annotations

import contextlib
import socket
import threading

MOST = 64
"""Connections at once; a browser keeps six."""


class Connections:
    """The open connections of a server. Safe to call from several threads.

    One that has sent no whole request waits. Past `most`, the one that has waited longest is shut: whoever opens many
    and says nothing, or half of something, keeps nobody out and no threads alive.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._waiting: dict[socket.socket, None] = {}  # the one that has waited longest first
        self._working: set[socket.socket] = set()
        self._lock = threading.Lock()

    def wait(self, connection: socket.socket) -> None:
        """A connection is new, or its request is answered."""
        with self._lock:
            self._working.discard(connection)
            self._waiting.pop(connection, None)
            self._waiting[connection] = None
            while len(self._waiting) + len(self._working) > self._most:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with contextlib.suppress(OSError):  # its thread reads the end, and closes it
                    oldest.shutdown(socket.SHUT_RDWR)

    def work(self, connection: socket.socket) -> None:
        """A connection has sent a whole request."""
        with self._lock:
            if connection in self._waiting:
                del self._waiting[connection]
                self._working.add(connection)

    def leave(self, connection: socket.socket) -> None:
        """A connection is closed."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._working.discard(connection)
