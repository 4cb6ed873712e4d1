"""Streams: answers that go on for as long as their client reads, and hold no thread.

A worker answers the request, see app.py, and leaves its connection to the thread `streams`. The
queues are the log and the list of events: a stream is a place in these, so a slow client costs a
place and no buffer. Each piece is made once for all streams with the same query and place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..address import is_loopback
from ..errors import Busy, LogError, NotRunning
from ..node.node import Node
from ..settings import (
    API_STREAM_PAUSE,
    HTTP_STREAM_BREATH,
    HTTP_STREAM_PIECES,
    HTTP_STREAM_UNSENT,
    HTTP_STREAMS,
)
from .answers import Head
from .places import LOCAL

logger = logging.getLogger("p2p_sync")


class Piece(NamedTuple):
    """A part of a stream, and the place after it."""

    data: bytes
    at: Any
    more: bool = False  # there may be more to read at once


class Form(NamedTuple):
    """How a stream is written."""

    kind: str  # the media type
    opening: bytes  # what comes first, to send the head of the answer
    beat: bytes  # what comes while there is nothing else


class Query(Protocol):
    """What a stream shows. Queries that show the same are equal."""

    @property
    def form(self) -> Form:
        """How it is written."""

    def look(self, now: float) -> float:
        """See whether there is something new that nobody reports, `now` on the monotonic clock.
        Return when to look again."""

    def read(self, at: Any) -> Piece:
        """Return what follows a place, or a part of it. Raises LogError."""


class Outlet(Protocol):
    """The connection of a stream. For any thread."""

    group: int
    connected: bool
    drained: Callable[[], object]

    @property
    def unsent(self) -> Any:
        """How many bytes wait until the client takes them."""

    def push(self, data: bytes) -> None:
        """Send some more; a client that has gone gets nothing."""

    def end(self) -> None:
        """End the answer."""


class Live(NamedTuple):
    """An answer that goes on. `begin` is called once, with the outlet."""

    kind: str
    begin: Callable[[Outlet], None]


class _Stream:
    """One open stream, and how far it is."""

    def __init__(self, outlet: Outlet, query: Query, at: Any) -> None:
        self.outlet = outlet
        self.query = query
        self.at = at
        self.current = False  # it has all that there is, as far as is known
        self.served = 0.0  # when, on the monotonic clock
        self.begun = self.ended = False  # by this node

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.outlet.connected and not self.ended

    @property
    def has_room(self) -> bool:
        """Whether the client has taken most of what was sent."""
        return int(self.outlet.unsent) <= HTTP_STREAM_UNSENT


_Pieces: TypeAlias = dict[tuple[Query, Any], Piece]
"""What was made of a query at a place."""


class Streams:
    """The open streams of one node. For any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()  # guards the next two
        self._open: list[_Stream] = []
        self._running = False  # there is the thread
        self._news = threading.Event()
        # When the thread sees to news at the earliest, to what nobody reports, and to signs of
        # life; on the monotonic clock.
        self._news_at = self._look_at = self._beat_at = 0.0
        self._lacking: _Pieces = {}  # the last pieces that streams behind have got

    def count(self) -> int:
        """Return how many streams are open."""
        return sum(stream.is_open for stream in [*self._open])

    def live(self, query: Query, at: Any, head: Head) -> Live:
        """Return the answer that shows `query` from the place `at` on; raises Busy if there are too
        many on connections of this machine, or of others, as `head` says."""
        local = is_loopback(str(head.get("REMOTE_ADDR", "")))
        outlets = [stream.outlet for stream in [*self._open] if stream.is_open]
        alike = [outlet for outlet in outlets if (outlet.group == LOCAL) == local]
        if len(alike) >= HTTP_STREAMS:
            raise Busy(f"{HTTP_STREAMS} streams are open already; close one, or try again later")
        return Live(query.form.kind, lambda outlet: self._begin(_Stream(outlet, query, at)))

    def _begin(self, stream: _Stream) -> None:
        stream.outlet.drained = self._news.set
        with self._lock:
            self._open.append(stream)
            first, self._running = not self._running, True
        self._news.set()
        if first:
            try:
                threading.Thread(target=self._run, name="streams", daemon=True).start()
            except RuntimeError:  # there can be no more threads
                self._end()
                raise

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        """Write to the streams until there is none, or the node stops."""
        self._beat_at = time.monotonic() + API_STREAM_PAUSE
        try:
            with self._node.watched(self._news.set):
                while self._has_any():
                    self._step()
        except NotRunning:
            self._end()
        except Exception:
            logger.exception("streams have failed, and are ended")
            self._end()

    def _has_any(self) -> bool:
        """Forget streams whose clients have gone. Return False, and let the thread end, with none
        left."""
        with self._lock:
            self._open = [stream for stream in self._open if stream.is_open]
            self._running = bool(self._open)
            return self._running

    def _end(self) -> None:
        with self._lock:
            streams, self._open, self._running = self._open, [], False
        for stream in streams:
            stream.outlet.end()

    def _step(self) -> None:
        """Send news to the streams that had all before, and one piece to another. So nobody who
        reads a long log holds up the others."""
        now = time.monotonic()
        is_news = self._news.is_set()
        if now >= (self._news_at if is_news else min(self._look_at, self._beat_at)):
            self._news.clear()
            self._news_at = now + HTTP_STREAM_BREATH
            self._send_news(now)
        behind = [stream for stream in self._open if not stream.current and stream.has_room]
        if behind:
            self._write(min(behind, key=lambda stream: stream.served), self._lacking, now)
            if len(self._lacking) > HTTP_STREAM_PIECES:
                del self._lacking[next(iter(self._lacking))]
            return
        self._lacking.clear()
        if self._news.is_set():
            time.sleep(max(0.0, self._news_at - time.monotonic()))
        else:
            self._news.wait(max(0.0, min(self._look_at, self._beat_at) - time.monotonic()))

    def _send_news(self, now: float) -> None:
        is_beat = now >= self._beat_at
        if is_beat:
            self._beat_at = now + API_STREAM_PAUSE
        self._look_at = min(query.look(now) for query in {each.query for each in self._open})
        pieces: _Pieces = {}
        for stream in self._open:
            if stream.current and stream.has_room:
                self._write(stream, pieces, now, is_beat)
            else:
                stream.current = False

    def _write(self, stream: _Stream, pieces: _Pieces, now: float, is_beat: bool = False) -> None:
        query, key = stream.query, (stream.query, stream.at)
        try:
            piece = pieces.get(key) or query.read(stream.at)
        except LogError as error:  # a client that asks again gets the error
            logger.warning("ended a stream: %s", error)
            stream.outlet.end()
            stream.ended = True
            return
        pieces[key] = piece
        data = piece.data or (query.form.beat if is_beat else b"")
        if not stream.begun:
            data, stream.begun = query.form.opening + data, True
        if data:
            stream.outlet.push(data)
        stream.at, stream.served, stream.current = piece.at, now, not piece.more
