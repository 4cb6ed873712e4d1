"""Serves the application over HTTP: the one door to waitress.

waitress reads requests and writes buffered answers in its main thread, the loop; a worker answers a
request once all of it has arrived. So a slow sender holds no worker, but it holds a connection.
`_Channel` closes a connection where nothing arrives, where a request or an answer does not move,
and `HttpServer` closes the oldest idle one where there are too many, so that there is always room.

All durations are measured with the monotonic clock. waitress uses the system's clock for its own
limit of idle connections, which is therefore switched off.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, get_header_lines
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, Error

from ..address import is_loopback, site
from ..errors import StartError
from ..settings import (
    ACCEPT_LOGGED,
    ACCEPT_PAUSE,
    HTTP_ARRIVAL,
    HTTP_BODY_IN_MEMORY,
    HTTP_CONNECTIONS,
    HTTP_CONNECTIONS_PER_HOST,
    HTTP_IDLE,
    HTTP_IDLE_CHECK,
    HTTP_LEAST_RATE,
    HTTP_MAX_BULK_BODY,
    HTTP_MAX_CHUNK_HEAD,
    HTTP_MAX_HEAD_BYTES,
    HTTP_STOP_TIMEOUT,
    HTTP_STUCK,
    HTTP_THREADS,
)
from .guard import SAFE_HEADERS, Application
from .problems import NONE_STORED, failure, is_bulk

logger = logging.getLogger("p2p_sync")

# Returns by the head of a request how many bytes of its body are worth keeping.
Room = Callable[[Mapping[str, Any]], int]

# Returns by the head of a request whether its sender may use this node.
Known = Callable[[Mapping[str, Any]], bool]

# Begins what a request asks for, and calls back once the application can answer without having to
# wait: with True where that will be quick. Returns False where it has begun nothing.
Begin = Callable[[dict[str, Any], Callable[[bool], object]], bool]


class HttpServer:
    """Listens from the start on; serves in the thread that calls `run`."""

    def __init__(self, host: str, port: int, directory: str | None = None) -> None:
        """Bind `host` and `port`; raises StartError where they cannot be had.

        `directory` has room for large bodies while they arrive; None: the system's temporary one.
        """
        self._directory = directory
        self._sockets: dict[int, Any] = {}
        self._application: Any = None
        self._begin: Begin = lambda head, then: False
        self._ending = False
        self._loop: int | None = None  # the thread that is in `run`
        self._begun: deque[tuple[_Channel, bool]] = deque()  # and can be answered now
        self._known: Known = lambda head: False
        self._changed = False  # a group of connections may have become too large
        self._paused = 0.0  # until then no connections are accepted, by the monotonic clock
        self._logged = -ACCEPT_LOGGED
        try:
            self._server = waitress.create_server(
                self._call,
                map=self._sockets,
                host=host,
                port=port,
                threads=HTTP_THREADS,
                asyncore_use_poll=True,
                connection_limit=4 * HTTP_CONNECTIONS,  # never reached: there are three groups
                # Longer than any step of a clock: switches off waitress's own limit.
                channel_timeout=10**12,
                cleanup_interval=10**12,
                # Keeps answers in memory, and out of a temporary directory, which may be full.
                outbuf_overflow=2**40,
                max_request_header_size=HTTP_MAX_HEAD_BYTES,
                max_request_body_size=HTTP_MAX_BULK_BODY + 1,
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

    def run(
        self,
        application: Application,
        room: Room,
        begin: Begin | None = None,
        known: Known | None = None,
    ) -> None:
        """Serve the WSGI `application` until `end` is called.

        Of each body no more is kept than `room` says; the application learns its whole length.
        What `begin` has begun needs no worker. Clients that are `known` have connections of their
        own.
        """
        self._application = application
        self._begin = begin or self._begin
        self._known = known or self._known
        self._loop = threading.get_ident()
        for item in self._sockets.values():
            if isinstance(item, BaseWSGIServer):
                item.channel_class = partial(_Channel, room, self._directory)
                item.add_task = self._add_task
                item.pull_trigger = partial(self._wake, item.trigger)
                item.accept = partial(self._accept, item.accept)
                item.readable = partial(self._may_accept, item.readable)
        while self._sockets and not self._ending:
            wasyncore.poll2(HTTP_IDLE_CHECK, self._sockets)
            self._answer()
            if self._changed:
                self._changed = False
                self._make_room()

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
        dispatcher = self._server.task_dispatcher
        dispatcher.set_thread_count(0)
        with dispatcher.thread_exit_cv:  # its own way of waiting goes by the system's clock
            dispatcher.thread_exit_cv.wait_for(lambda: not dispatcher.threads, HTTP_STOP_TIMEOUT)
        dispatcher.shutdown(timeout=-(10**12))
        wasyncore.close_all(self._sockets, ignore_all=True)

    def _add_task(self, channel: _Channel) -> None:
        """Begin the next request of `channel`, or have a worker answer it."""
        request = channel.requests[0]
        if threading.get_ident() == self._loop and not request.error:
            request.task = WSGITask(channel, request)
            head = request.task.get_environment()
            if channel.group == _OTHERS and self._known(head):
                channel.group = _KNOWN
                self._changed = True
            if self._begin(head, partial(self._answerable, channel)):
                return
        self._server.task_dispatcher.add_task(channel)

    # -- accepting connections; in the loop's thread ---------------------------------------------

    def _may_accept(self, readable: Callable[[], bool]) -> bool:
        return time.monotonic() >= self._paused and readable()

    def _accept(self, accept: Callable[[], Any]) -> Any:
        """Accept a connection; where that fails, accept none for a moment, and do not spin."""
        try:
            accepted = accept()
        except OSError as error:
            now = time.monotonic()
            self._paused = now + ACCEPT_PAUSE
            if now - self._logged >= ACCEPT_LOGGED:
                self._logged = now
                logger.error(
                    "HTTP connections cannot be accepted for the moment: %s", error.strerror
                )
            return None
        self._changed = True
        return accepted

    def _make_room(self) -> None:
        """Close connections of groups and hosts that have too many."""
        channels = [item for item in self._sockets.values() if isinstance(item, _Channel)]
        for group in (_LOCAL, _KNOWN, _OTHERS):
            members = [channel for channel in channels if channel.group == group]
            if group == _OTHERS:
                for host in {channel.host for channel in members}:
                    close_surplus([c for c in members if c.host == host], HTTP_CONNECTIONS_PER_HOST)
                members = [channel for channel in members if channel.connected]
            close_surplus(members, HTTP_CONNECTIONS)

    # -- answering -------------------------------------------------------------------------------

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


_LOCAL, _KNOWN, _OTHERS = range(3)  # the groups of connections


class _Channel(HTTPChannel):
    """A connection that is closed where a request or an answer does not move."""

    def __init__(self, room: Room, directory: str | None, *arguments: Any, **options: Any) -> None:
        self.parser_class = partial(_Parser, room, directory)
        self.task_class = _task
        self.error_task_class = _ErrorTask
        # When the connection was accepted; when an answer was last given, at first the same; and
        # when the client last took some of one. Monotonic.
        self.accepted = self.answered = self._taken = time.monotonic()
        super().__init__(*arguments, **options)
        self.group = _LOCAL if is_loopback(self.addr[0]) else _OTHERS
        self.host = site(self.addr[0])

    @property
    def busy(self) -> bool:
        """Whether it carries a request that gets an answer, or the answer.

        Strangers get short answers alone, so of theirs only the first counts: those that go on
        asking, or do not read, only hold places.
        """
        request = self.request
        answering = self.requests or self.total_outbufs_len
        if self.group == _OTHERS and self.answered > self.accepted:
            answering = False
        return bool(answering or (request and request.wanted))

    @property
    def rank(self) -> float:
        """The connection with the lowest makes room first."""
        return self.accepted if self.group == _OTHERS else self.answered

    def readable(self) -> bool:
        """Asked by the loop, each `HTTP_IDLE_CHECK` at least."""
        now = time.monotonic()
        if not self.total_outbufs_len:
            self._taken = now
        if self._is_overdue(now):
            # Marking it to be closed would not do: waitress waits until it can be written to.
            self.handle_close()
            return False
        return bool(super().readable())

    def write_soon(self, data: Any) -> int:
        self.answered = time.monotonic()
        return int(super().write_soon(data))

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = int(super().send(data, do_close))
        if sent:
            self._taken = time.monotonic()
        return sent

    def _is_overdue(self, now: float) -> bool:
        if self.total_outbufs_len:
            return now - self._taken > HTTP_STUCK
        if self.requests:
            return False
        request = self.request
        if request is not None and request.headers_finished:
            allowed = HTTP_ARRIVAL + request.body_bytes_received / HTTP_LEAST_RATE
            return bool(now - request.begun > allowed)
        # Line ends before a request begin a new one each, but give it no more time.
        return now - self.answered > HTTP_IDLE or (
            request is not None and bool(now - request.begun > HTTP_ARRIVAL)
        )


def close_surplus(channels: list[_Channel], most: int) -> None:
    """Close idle ones of `channels` until there are no more than `most`.

    The one that has waited longest since its last answer goes first, of the host that has most; of
    strangers the one that came first. The newest is spared while there is another, for its request
    is on its way.
    """
    surplus = len(channels) - most
    idle = sorted(
        (channel for channel in channels if not channel.busy), key=lambda channel: channel.rank
    )
    while surplus > 0 and idle:
        hosts = Counter(channel.host for channel in channels)
        oldest = max(idle[:-1] or idle, key=lambda channel: hosts[channel.host])
        oldest.handle_close()
        idle.remove(oldest)
        channels.remove(oldest)
        surplus -= 1


def _task(channel: _Channel, request: _Parser) -> WSGITask:
    """Return the task that answers a request, made when that came."""
    task, request.task = request.task, None  # each knows the other: no garbage in circles
    return task or WSGITask(channel, request)


class _ErrorTask(ErrorTask):
    """Answers a request that is not even handed to the application, as all others are answered."""

    def execute(self) -> None:
        request = self.request
        status = HTTPStatus(request.error.code)
        accept = request.headers.get("ACCEPT", "")
        path = getattr(request, "path", "")
        bulk = is_bulk(
            getattr(request, "command", ""), path, request.headers.get("CONTENT_TYPE", "")
        )
        more = NONE_STORED if bulk else {}
        kind, body = failure(path, accept, status, request.error.body, **more)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.extend([("Content-Type", kind), *SAFE_HEADERS])
        self.set_close_on_finish()
        request.headers.pop("CONNECTION", None)  # whatever it asks for, this ends the connection
        self.content_length = len(body)
        self.write(body)


class _NoRoom(Error):
    """The answer where a body could not be kept while it arrived."""

    code = HTTPStatus.INSUFFICIENT_STORAGE.value


class _Parser(HTTPRequestParser):
    """A request as it arrives."""

    error: Any = None
    task: WSGITask | None = None
    wanted = False  # its head has been accepted, and its body is kept

    def __init__(self, room: Room, directory: str | None, adjustments: Any) -> None:
        super().__init__(adjustments)
        self.begun = time.monotonic()
        self._room = room
        self._directory = directory

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # of an address or a number, which waitress does not expect
            raise ParsingError("the request cannot be read") from None
        self._check_framing(header_plus)
        if self.body_rcv is not None:
            head: dict[str, Any] = {f"HTTP_{name}": value for name, value in self.headers.items()}
            path = "/" + self.path.lstrip("/") if self.path.startswith("/") else self.path
            head |= {"PATH_INFO": path, "QUERY_STRING": self.query}
            head["REQUEST_URI"] = self.request_uri
            head["CONTENT_TYPE"] = self.headers.get("CONTENT_TYPE", "")
            head["CONTENT_LENGTH"] = self.content_length
            room = self._room(head)
            self.wanted = room > 0
            self.body_rcv.buf = _Body(room, self._directory)

    def _check_framing(self, header_plus: bytes) -> None:
        """Raise ParsingError where two readers could disagree on where the request ends."""
        if b"transfer-encoding" not in header_plus.lower():
            return
        lines = get_header_lines(header_plus.partition(b"\r\n")[2])
        fields = [line.partition(b":") for line in lines]
        codings = [value for name, _, value in fields if name.lower() == b"transfer-encoding"]
        if codings and (
            self.version != "1.1"
            or "CONTENT_LENGTH" in self.headers
            or [coding.strip(b" \t").lower() for coding in codings] != [b"chunked"]
        ):
            raise ParsingError(
                "a body has either a Content-Length or one Transfer-Encoding: chunked, not both"
            )

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        body = self.body_rcv
        # waitress gathers both in memory without a limit of its own.
        overlong = (
            self.chunked and max(len(body.control_line), len(body.trailer)) > HTTP_MAX_CHUNK_HEAD
        )
        if overlong and not self.error:
            self.error = BadRequest("a chunk's head, or the trailer, is too long")
            self.completed = True
        if body is not None and self.completed and not self.error and (why := body.buf.seal()):
            self.error = _NoRoom(
                f"the body could not be kept while it arrived ({why}), and nothing of it is "
                "stored; send smaller pieces, or make room on the disk of the data directory"
            )
        return consumed


class _Body:
    """Keeps a body as it arrives, as waitress's own buffers do: a large one in a file.

    What there is no room for is counted, and not kept. A file that cannot be written is given up;
    the rest of the body is still read, for a client that is cut off gets no answer.
    """

    def __init__(self, room: int, directory: str | None) -> None:
        self._room = room
        self._directory = directory
        self._length = 0
        self._file: IO[bytes] = BytesIO()
        self._failure = ""

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > self._room or self._failure:
            return
        try:
            if isinstance(self._file, BytesIO) and self._length > HTTP_BODY_IN_MEMORY:
                begun, self._file = self._file, self._spool()
                self._file.write(begun.getvalue())
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def seal(self) -> str:
        """End the body; returns why it could not be kept, nothing where it was."""
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)
        return self._failure

    def getfile(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        with suppress(OSError):  # what is not written yet could not be
            self._file.close()

    def _spool(self) -> IO[bytes]:
        return TemporaryFile(dir=self._directory)

    def _fail(self, error: OSError) -> None:
        self._failure = error.strerror or str(error)
        self.close()
        self._file = BytesIO()
