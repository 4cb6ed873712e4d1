"""Bounds the requests that hold a thread for long, so that some are left for all others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import P2PSyncError
from ..settings import HTTP_WAITING


class Busy(P2PSyncError):
    """As many requests wait or stream as may at a time."""


class Slots:
    """Of these each request that waits or streams takes one."""

    def __init__(self, count: int = HTTP_WAITING) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._count = count

    def take(self) -> None:
        """Take a slot, to be given back by `free`; raises Busy where there is none."""
        if not self._free.acquire(blocking=False):
            raise Busy(f"{self._count} requests wait or stream already; try again in a moment")

    def free(self) -> None:
        """Give a slot back."""
        self._free.release()

    @contextmanager
    def held(self, needed: bool = True) -> Iterator[None]:
        """Hold a slot for the block, if one is needed."""
        if needed:
            self.take()
        try:
            yield
        finally:
            if needed:
                self.free()
