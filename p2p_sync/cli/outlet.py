"""Standard error, written by a thread of its own, so that nothing that logs waits for its reader.

A pipe that nobody reads, a terminal stopped by Ctrl-S and a full disk all look the same: the thread
waits, lines queue up, and lines that do not fit are dropped and counted.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from ..settings import LOG_BACKLOG, LOG_RETRY


class Outlet:
    """A bounded queue of text, and the thread that writes it. For any thread, and for signal
    handlers; only `drain` waits."""

    def __init__(self, descriptor: int = 2, room: int = LOG_BACKLOG) -> None:
        """Write to `descriptor`; at most `room` bytes wait."""
        self.dropped = 0  # lines, so far
        self.note: Callable[[int], str] = lambda count: f"{count} lines were dropped"
        self._descriptor = descriptor
        self._room = room
        # Guards all below. Reentrant, since a signal handler may log while its thread is in here.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[bytes] = deque()  # the first one is being written
        self._size = 0
        self._unsaid = 0  # lines dropped since the last note
        self._failing = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Queue `line`, without its line end; drop it if there is no room.

        After a drop, lines are accepted again once half of the room is free, so that notes about
        dropped lines stay rare.
        """
        with self._changed:
            if self._unsaid or self._size >= self._room:
                self._unsaid += 1
                self.dropped += 1
            else:
                self._add(line)

    def drain(self, timeout: float) -> None:
        """Wait until everything is written, for `timeout` seconds at most, and not at all while
        writing fails."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failing, timeout)

    def _add(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        self._waiting.append(data)
        self._size += len(data)
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            self._write(data)
            with self._changed:
                self._waiting.popleft()
                self._size -= len(data)
                if self._unsaid and self._size <= self._room // 2:
                    count, self._unsaid = self._unsaid, 0
                    self._add(self.note(count))
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        """Write all of `data`, however long that takes."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
                self._failing = False
            except BlockingIOError:  # another process made the pipe non-blocking
                select.select([], [self._descriptor], [], LOG_RETRY)
            except OSError:
                with self._changed:
                    self._failing = True
                    self._changed.notify_all()
                time.sleep(LOG_RETRY)
