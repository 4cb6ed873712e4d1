"""Makes events of what the mesh goes through: each once, and only what lasts.

A link that turns out to be a second one to the same node, or was opened to look whether a node is
still there, joins nobody. An address that keeps failing is told of once for each reason.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple

from ..codes import GOING_AWAY, NORMAL, TRY_AGAIN_LATER
from ..core.peertable import key_of
from ..core.verdict import numbered
from ..disk.log import Log
from ..errors import DialError
from ..net.link import Link
from ..wire.logframes import Have, LogFrame
from .events import CAUGHT_UP, CLOCK, DIAL_FAILED, JOINED, LEFT, REFUSED, Events
from .state import State

logger = logging.getLogger("p2p_sync")

# Lagging behind is ordinary while messages arrive; its end is an event after a peer's opening
# words, or where it took as long as this, or brought as much. Seconds, messages.
_LONG = 2.0
_MANY = 1000

# Addresses whose failures are remembered.
_MAX_ADDRESSES = 2000


class _Joined(NamedTuple):
    """A peer that has joined."""

    name: str  # the node's id, or where an original is
    where: str  # its address, as far as it is known
    key: str


class Reporter:
    """Called by the mesh and the writer, in any thread, with no lock held."""

    def __init__(self, events: Events, state: State, log: Log) -> None:
        self._events = events
        self._state = state
        self._log = log
        self._lock = threading.Lock()  # guards all below
        self._joined: dict[int, _Joined] = {}  # by link
        self._failed: dict[str, set[str]] = {}  # an address -> the reasons that were told
        # Since when this node lags (0: it does not), what it held then, and after an opening.
        self._lags = 0.0
        self._held = 0
        self._opening = False

    def heard(self, link: Link) -> None:
        """Take note of a peer that goes on talking after it has introduced itself."""
        if link.number in self._joined:  # one look, for it is asked for each frame
            return
        with self._state.overlay() as overlay:
            peer = overlay.peers.get(link.number)
            if peer is None or not peer.introduced or peer.leaving:
                return
            address = peer.dialled or peer.address
            node = peer.node
        where = address or str(link)
        joined = _Joined(node or where, where, key_of(where))
        with self._lock:
            known = any(joined.name == other.name for other in self._joined.values())
            self._joined[link.number] = joined
            self._failed.pop(where, None)
        if not known:
            kind = f"node {node[:8]}" if node else "an original node"
            way = "dialled" if link.dialled else "it dialled this node"
            self._events.add(JOINED, f"{where} joined: {kind}, {way}", joined.key)

    def closed(self, link: Link, reason: str) -> None:
        """Take note of a link that has ended; the mesh has forgotten it."""
        with self._state.overlay() as overlay:
            peers = [
                (peer.link, peer.node, None if peer.introduced else peer.dialled)
                for peer in overlay.peers.values()
                if not peer.leaving
            ]
        with self._lock:
            joined = self._joined.pop(link.number, None)
            # Another link to it has taken over, though nothing may have come by it yet.
            others = [
                number
                for number, node, dialled in peers
                if joined and (node == joined.name or dialled == joined.where)
            ]
            if joined and others:
                self._joined.setdefault(others[0], joined)
        where = link.dialled or str(link)
        if joined and not others:
            self._events.add(LEFT, f"{joined.where} left: {reason}", joined.key)
        elif not joined and link.code not in (None, NORMAL, GOING_AWAY, TRY_AGAIN_LATER):
            self._fail(REFUSED, where, reason, f"{where} and this node do not link: {reason}")

    def dial_failed(self, address: str, error: DialError) -> None:
        """Take note of a dial that came to nothing."""
        kind = REFUSED if error.refused else DIAL_FAILED
        self._fail(kind, address, str(error), f"dialling {address} failed: {error}")

    def asked_for(self, address: str) -> None:
        """Somebody adds `address` by hand and wants to know what comes of it."""
        with self._lock:
            self._failed.pop(address, None)

    def clock(self, text: str) -> None:
        """Take note of a clock that is wrong, or is not any more."""
        logger.warning("%s", text)
        self._events.add(CLOCK, text)

    def told(self, frame: LogFrame) -> None:
        """Take note of what a peer said that it holds, once the state has taken it."""
        if not isinstance(frame, Have):
            return
        lags = self._state.behind() > 0
        held = self._log.count()[0]
        with self._lock:
            if lags and not self._lags:
                self._lags, self._held, self._opening = time.monotonic(), held, False
            self._opening = self._opening or (lags and frame.last)

    def stored(self) -> None:
        """Take note of messages that have come to be on disk."""
        if not self._lags or self._state.behind():
            return
        count = self._log.count()[0]
        with self._lock:
            began, self._lags = self._lags, 0.0
            spent, more = time.monotonic() - began, count - self._held
            tell = began and (self._opening or spent >= _LONG or more >= _MANY)
        if tell and more:
            text = f"caught up: {numbered(more, 'message')} in {spent:.1f} s"
            self._events.add(CAUGHT_UP, text)

    def _fail(self, kind: str, address: str, reason: str, text: str) -> None:
        with self._lock:
            if len(self._failed) >= _MAX_ADDRESSES and address not in self._failed:
                self._failed.pop(next(iter(self._failed)))
            reasons = self._failed.setdefault(address, set())
            known = reason in reasons
            if len(reasons) < 10:
                reasons.add(reason)
            else:
                known = True
        if not known:
            self._events.add(kind, text, key_of(address))
