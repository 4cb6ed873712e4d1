"""A link over one end of a socket pair, without a node: what its owner is told, and has sent."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

from p2p_sync.net.link import Link
from p2p_sync.net.opening import Opened
from p2p_sync.net.stream import Stream
from p2p_sync.settings import NEVER, Settings
from tests.harness.support import DEADLINE


class Keeper:
    """The owner of a link: it has `texts` sent, and keeps what happens."""

    def __init__(self, *texts: str) -> None:
        self.texts: deque[str | bytes] = deque(texts)
        self.askers: set[str] = set()  # threads that asked for texts
        self.messages: list[str | bytes] = []
        self.received_at = 0.0  # of the newest message
        self.ends: list[str] = []  # why the link has ended

    def received(self, link: Link, message: str | bytes) -> bool:
        self.messages.append(message)
        self.received_at = time.monotonic()
        return True

    def waiting(self, link: Link) -> None: ...

    def silent(self, link: Link) -> None: ...

    def measured(self, link: Link) -> None: ...

    def closed(self, link: Link, reason: str) -> None:
        self.ends.append(reason)

    def next_messages(self, link: Link) -> tuple[list[str | bytes], float]:
        self.askers.add(threading.current_thread().name)
        return [self.texts.popleft() for _ in range(len(self.texts))], NEVER


class Served:
    """A link over `end`, read by a thread of its own; `dialled` is the address, if it dialled."""

    def __init__(self, end: socket.socket, owner: Keeper, dialled: str | None = None) -> None:
        opened = Opened(Stream(end, 60.0), ("127.0.0.1", 1))
        self.link = Link(opened, owner, Settings(), dialled)
        self._thread = threading.Thread(target=self.link.run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the link has ended."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
