"""Serves the page over HTTP: the one door to waitress.

waitress reads requests and writes what is buffered of answers in its main thread; a request has
a worker once it has arrived whole. So a sender that dribbles holds no worker, but a connection,
of which there are not many: waitress closes those where nothing arrives at all, `_Channel` those
where too little does, and those where an answer is not taken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import waitress
from waitress import wasyncore
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask
from waitress.utilities import BadRequest

from ..config import MAX_MESSAGE_BYTES
from ..errors import StartError
from .guard import MAX_LINES, Application

# Tells by its head how many bytes of a request's body are to be kept.
Room = Callable[[Mapping[str, Any]], int]

# Begins what a request asks for, and calls back once the application can answer without having to
# wait: with True where that will be quick. Returns False where it has begun nothing.
Begin = Callable[[dict[str, Any], Callable[[bool], object]], bool]

# Enough that requests which wait leave room for those which do not.
_THREADS = 32
_CONNECTIONS = 100

# A request line that holds the largest message with each byte percent-encoded, and headers.
_MAX_HEAD_BYTES = 3 * MAX_MESSAGE_BYTES + 64 * 1024

# The size of a chunk with its extensions, and what may follow the last chunk. Bytes.
_MAX_CHUNK_HEAD = 16 * 1024

# The part of a body that is kept in memory; what is larger is kept in a file. Bytes.
_BODY_IN_MEMORY = 64 * 1024

# A connection where nothing arrives is closed after this, give or take the second. Seconds.
_IDLE = 30
_IDLE_CHECK = 5

# A head has to arrive within this, a body at this rate from then on. Seconds, bytes a second.
_ARRIVAL = 20.0
_LEAST_RATE = 1024

# An answer of which nothing has been taken for this long is given up. Seconds.
_STUCK = 20.0

_STOP_TIMEOUT = 0.5


class HttpServer:
    """Listens from the start on; serves in the thread that calls `run`."""

    def __init__(self, host: str, port: int) -> None:
        """Bind `host` and `port`; raises StartError where they cannot be had."""
        self._sockets: dict[int, Any] = {}
        self._application: Any = None
        self._begin: Begin = lambda head, then: False
        self._ending = False
        self._loop: int | None = None  # the thread that is in `run`
        self._begun: deque[tuple[_Channel, bool]] = deque()  # and can be answered now
        try:
            self._server = waitress.create_server(
                self._call,
                map=self._sockets,
                host=host,
                port=port,
                threads=_THREADS,
                asyncore_use_poll=True,
                connection_limit=_CONNECTIONS,
                channel_timeout=_IDLE,
                cleanup_interval=_IDLE_CHECK,
                inbuf_overflow=_BODY_IN_MEMORY,
                max_request_header_size=_MAX_HEAD_BYTES,
                max_request_body_size=MAX_LINES + 1,
                clear_untrusted_proxy_headers=False,  # the guard asks for them
                ident="p2p_sync",
            )
        except (OSError, ValueError) as error:
            wasyncore.close_all(self._sockets)
            reason = getattr(error, "strerror", None) or error
            way_out = "choose a PORT above 1023" if port < 1024 else "choose another PORT"
            raise StartError(
                f"the HTTP port {port} on {host} cannot be had ({reason}); {way_out}"
            ) from None

    def run(self, application: Application, room: Room, begin: Begin | None = None) -> None:
        """Serve the WSGI `application` until `end` is called.

        Of each body no more is kept than `room` says; the application learns its whole length.
        What `begin` has begun needs no worker.
        """
        self._application = application
        self._begin = begin or self._begin
        self._loop = threading.get_ident()
        for item in self._sockets.values():
            if isinstance(item, BaseWSGIServer):
                item.channel_class = partial(_Channel, room)
                item.add_task = self._add_task
                item.pull_trigger = partial(self._wake, item.trigger)
        while self._sockets and not self._ending:
            wasyncore.poll2(1, self._sockets)
            self._answer()

    def end(self) -> None:
        """Let `run` return. For any thread, and for what handles a signal."""
        self._ending = True
        for item in list(self._sockets.values()):
            if isinstance(item, BaseWSGIServer):
                item.trigger.pull_trigger()

    def stop(self) -> None:
        """Let requests that are being answered end, for a moment, and close all."""
        while self._begun:  # no worker would take them any more, and none has to wait
            self._begun.popleft()[0].service()
        self._server.task_dispatcher.shutdown(timeout=_STOP_TIMEOUT)
        wasyncore.close_all(self._sockets, ignore_all=True)

    def _add_task(self, channel: _Channel) -> None:
        """Begin the next request of `channel`, or have a worker answer it."""
        request = channel.requests[0]
        if threading.get_ident() == self._loop and not request.error:
            request.task = WSGITask(channel, request)
            if self._begin(request.task.get_environment(), partial(self._answerable, channel)):
                return
        self._server.task_dispatcher.add_task(channel)

    def _answerable(self, channel: _Channel, quick: bool) -> None:
        """What `channel` has begun is done; called by any thread."""
        first = not self._begun
        self._begun.append((channel, quick))
        if first or len(self._begun) == 1:  # else the loop has been woken already
            with suppress(OSError):  # there is no loop any more
                channel.server.pull_trigger()

    def _answer(self) -> None:
        """Answer what is done; in the loop's thread."""
        while self._begun:
            channel, quick = self._begun.popleft()
            if quick and not channel.total_outbufs_len:  # which it might have to wait for
                channel.service()
            else:
                self._server.task_dispatcher.add_task(channel)

    def _wake(self, trigger: Any) -> None:
        """Make the loop look again at what there is to read and write."""
        if threading.get_ident() != self._loop:
            trigger.pull_trigger()

    def _call(self, environ: Any, start_response: Any) -> Any:
        return self._application(environ, start_response)


class _Channel(HTTPChannel):
    """A connection that is closed where a request or an answer does not move."""

    def __init__(self, room: Room, *arguments: Any, **options: Any) -> None:
        self.parser_class = partial(_Parser, room)
        self.task_class = _task
        super().__init__(*arguments, **options)

    def readable(self) -> bool:
        """Asked by the loop, once a second at least."""
        if self._is_overdue():
            # Marking it to be closed would not do: waitress waits until it can be written to.
            self.handle_close()
            return False
        return bool(super().readable())

    def _is_overdue(self) -> bool:
        if self.total_outbufs_len:
            return bool(time.time() - self.last_activity > _STUCK)  # waitress's own clock
        if self.request is None or self.requests:
            return False
        allowed = _ARRIVAL + self.request.body_bytes_received / _LEAST_RATE
        return bool(time.monotonic() - self.request.begun > allowed)


def _task(channel: _Channel, request: _Parser) -> WSGITask:
    """Return the task that answers a request, made when that came."""
    task, request.task = request.task, None  # each knows the other: no garbage in circles
    return task or WSGITask(channel, request)


class _Parser(HTTPRequestParser):
    """A request as it arrives."""

    error: Any = None
    task: WSGITask | None = None

    def __init__(self, room: Room, adjustments: Any) -> None:
        super().__init__(adjustments)
        self.begun = time.monotonic()
        self._room = room

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # of an address or a number, which waitress does not expect
            raise ParsingError("the request cannot be read") from None
        if self.body_rcv is not None:
            head: dict[str, Any] = {f"HTTP_{name}": value for name, value in self.headers.items()}
            head |= {"PATH_INFO": self.path, "QUERY_STRING": self.query}
            head["CONTENT_TYPE"] = self.headers.get("CONTENT_TYPE", "")
            head["CONTENT_LENGTH"] = self.content_length
            self.body_rcv.buf = _Body(self.adj.inbuf_overflow, self._room(head))

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        if self.chunked and not self.error:
            body = self.body_rcv
            # waitress gathers both in memory without a limit of its own.
            if max(len(body.control_line), len(body.trailer)) > _MAX_CHUNK_HEAD:
                self.error = BadRequest("a chunk's head, or the trailer, is too long")
                self.completed = True
        return consumed


class _Body(OverflowableBuffer):
    """Keeps what there is room for; of a longer body the length is all that is needed."""

    def __init__(self, overflow: int, room: int) -> None:
        super().__init__(overflow)
        self._room = room
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes) -> None:
        self._length += len(data)
        if self._length <= self._room:
            super().append(data)
