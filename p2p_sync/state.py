"""The shared state of a node: sockets, addresses and messages, behind one lock.

Every method may be called by any thread. None blocks, sends or calls back: what is to be done is
returned, and done by the caller after the lock is free.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import hearings
from .link import Link
from .overlay import Overlay
from .protocol import Message


@dataclass
class _Socket:
    """A link, and how far its sender has come in the arrivals."""

    link: Link
    sent: int


class State:
    """What one node holds."""

    def __init__(self, origin: str, overlay: Overlay, clock: Callable[[], float]) -> None:
        """`origin` is that of the messages committed here; `clock` is the time of day, seconds."""
        self.origin = origin
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._arrived = threading.Condition(self._lock)
        self._relinked = threading.Condition(self._lock)
        self._overlay = overlay
        self._sockets: dict[int, _Socket] = {}
        self._arrivals: list[Message] = []
        self._ordered: list[Message] = []
        self._held: set[tuple[str, int]] = set()
        self._seq = 0
        self._time = 0
        self._stopped = False

    @contextmanager
    def overlay(self) -> Iterator[Overlay]:
        """Hold the lock and lend the overlay's rules; whoever waits for a change is woken."""
        with self._lock:
            yield self._overlay
            self._relinked.notify_all()

    @property
    def sockets(self) -> list[Link]:
        """The links that are open now."""
        with self._lock:
            return [socket.link for socket in self._sockets.values()]

    @property
    def addresses(self) -> dict[str, bool]:
        """The addresses known, each with whether it was given by hand."""
        with self._lock:
            known = self._overlay.book.known.values()
            return {entry.address: entry.by_hand for entry in known if not entry.oneself}

    @property
    def messages(self) -> list[Message]:
        """The messages shown, in the order that is the same on every node."""
        with self._lock:
            ordered = self._ordered[:]
        return hearings.shown(ordered)

    def count(self) -> int:
        """Return the number of connected sockets, a node of ours counted once."""
        with self._lock:
            return self._overlay.count()

    # -- links ----------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> bool:
        """Add `link`; False when the node has stopped meanwhile."""
        with self._lock:
            if not self._stopped:
                self._sockets[link.number] = _Socket(link, len(self._arrivals))
            return not self._stopped

    def link_closed(self, link: Link) -> None:
        """Remove `link`, if it is still there."""
        with self._lock:
            self._sockets.pop(link.number, None)
            self._relinked.notify_all()

    def next_message(self, link: Link) -> Message | None:
        """Return the next message that the peer on `link` is to be sent, None with none now.

        Each node sends what it committed itself since the link's opening; what it heard from an
        original node goes to nodes of ours alone. Called by the link's sender only.
        """
        with self._lock:
            peer = self._overlay.peers.get(link.number)
            socket = self._sockets.get(link.number)
            if peer is None or socket is None or not peer.introduced:
                return None
            while socket.sent < len(self._arrivals):
                message = self._arrivals[socket.sent]
                socket.sent += 1
                if message.origin == self.origin and (peer.ours or not message.heard):
                    return message
            return None

    # -- messages -------------------------------------------------------------------------------

    def commit(self, data: str, heard: bool = False) -> Message:
        """Add a message of this node's own and return it."""
        with self._lock:
            self._seq += 1
            self._time = max(self._time, int(self._clock() * 1000))
            message = Message(self.origin, self._seq, self._time, data, heard)
            self._add(message)
            return message

    def add(self, message: Message) -> bool:
        """Add a message of another node; False if it is held already."""
        with self._lock:
            if (message.origin, message.seq) in self._held:
                return False
            self._add(message)
            return True

    def _add(self, message: Message) -> None:
        self._held.add((message.origin, message.seq))
        self._arrivals.append(message)
        bisect.insort(self._ordered, message, key=lambda m: m.order)
        self._arrived.notify_all()

    # -- waiting --------------------------------------------------------------------------------

    def arrivals(self, after: int) -> list[Message] | None:
        """Wait for messages beyond the first `after`, in order of arrival; None after `stop`."""
        with self._lock:
            self._arrived.wait_for(lambda: self._stopped or len(self._arrivals) > after)
            return self._arrivals[after:] or None

    def due(self) -> list[str] | None:
        """Wait until there are addresses to dial, and return them; None after `stop`."""
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                due = self._overlay.due(now)
                if due:
                    return due
                self._relinked.wait(self._overlay.pause(now))
            return None

    def wait_unlinked(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the last link to end; return whether it has."""
        with self._lock:
            return self._relinked.wait_for(lambda: not self._sockets, timeout)

    def stop(self) -> None:
        """Wake all who wait, and let no further link in."""
        with self._lock:
            self._stopped = True
            self._arrived.notify_all()
            self._relinked.notify_all()
