"""A bounded queue between two threads that can always be ended from either side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The other side has gone: no item will be taken any more."""


class Channel(Generic[Item]):
    """At most `size` items wait; `put` blocks while it is full, iteration blocks while it is empty.

    finish(): the producer has no more; the consumer gets what waits, then iteration ends. abort(): either side gives
    up; what waits is dropped, `put` raises Closed and iteration ends. So no thread waits for one that has gone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._finished = self._aborted = False

    def put(self, item: Item) -> None:
        """Add an item, waiting for room. Raises Closed once the channel is aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._items) < self._size)
            if self._aborted:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished or self._aborted)
                if self._aborted or not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def finish(self) -> None:
        """No more items will come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Drop what waits and free both sides."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()
