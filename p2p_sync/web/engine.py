"""The one door to waitress. Most names here are private to it: setup.cfg pins its minor version,
and a test checks that each one exists. Its loop accepts connections, reads requests and sends
answers; workers call the application. `owner` is the HttpServer, which decides."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any

import waitress
from waitress import channel, parser, server, task, wasyncore

from ..settings import HTTP_IDLE_CHECK, HTTP_MAX_CHUNK_HEAD, HTTP_STOP_TIMEOUT
from .answers import LIVE
from .bodies import LONG_CHUNK_HEAD, check_framing, sentence
from .guard import head_of
from .places import Place


class Engine:
    def __init__(self, owner: Any, **adjustments: Any) -> None:
        self._map: dict[int, Any] = {}
        made = waitress.create_server(owner.call, map=self._map, **adjustments)
        made.adj.owner = owner
        self._workers, self._loop = made.task_dispatcher, 0
        self.dispatch = self._workers.add_task
        for item in [x for x in self._map.values() if isinstance(x, server.BaseWSGIServer)]:
            item.channel_class, item.add_task, item.pull_trigger = Channel, owner.arrived, self.wake
            item.accept = partial(owner.accept, item.accept)
            item.readable = partial(owner.may_accept, item.readable)
            self.interrupt = item.trigger.pull_trigger  # also for what handles a signal

    def poll(self) -> None:
        self._loop = threading.get_ident()
        wasyncore.poll2(HTTP_IDLE_CHECK, self._map)

    def wake(self) -> None:
        if threading.get_ident() != self._loop:
            self.interrupt()

    def channels(self) -> list[Channel]:
        return [item for item in self._map.values() if isinstance(item, Channel)]

    def close(self) -> None:
        self._workers.set_thread_count(0)
        with (done := self._workers.thread_exit_cv):  # `shutdown` goes by the system's clock
            done.wait_for(lambda: not self._workers.threads, HTTP_STOP_TIMEOUT)
        for item in self.channels():
            if item.live and not item.close_when_flushed:
                item.end()
        wasyncore.close_all(self._map, ignore_all=True)


class Request(parser.HTTPRequestParser):
    in_body, size = map(property, map(attrgetter, ("headers_finished", "body_bytes_received")))
    failure, error, head = property(attrgetter("error")), None, head_of({}, "", "", "", "", 0)

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.begun, self.body = time.monotonic(), None
        self.ready: Any = None  # gives the answer that the owner has begun

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
            given = self.command, self.request_uri, self.path, self.query, self.content_length
            self.head = head_of(self.headers, *given)
            check_framing(header_plus, self.version)
        except ValueError as error:  # waitress does not expect its own, of an address or a number
            raise parser.ParsingError(sentence(error)) from None
        if self.body_rcv is not None:
            self.body_rcv.buf = self.body = self.adj.owner.body(self.head)

    def received(self, data: bytes) -> int:
        consumed, rcv = int(super().received(data)), self.body_rcv
        # waitress gathers both in memory without a limit of its own.
        if self.chunked and max(len(rcv.control_line), len(rcv.trailer)) > HTTP_MAX_CHUNK_HEAD:
            self.error, self.completed = self.error or LONG_CHUNK_HEAD, True
        if self.body is not None and self.completed and not self.error:
            self.error = self.body.seal()
        return consumed


class _GoesOn(BaseException):
    """An answer goes on without a worker. waitress catches no BaseException, so its request stays
    the first of its channel, as if a worker went on."""

    def __init__(self, reply: Reply, begin: Any) -> None:
        self.reply, self.begin = reply, begin


class Reply(task.WSGITask):
    def finish(self) -> None:
        environ = self.environ or {}
        if begin := environ.get(LIVE):
            raise _GoesOn(self, begin)
        self.write(b"")
        if environ.get("REQUEST_METHOD") != "HEAD":  # else waitress ends a body that there is not
            super().finish()

    def end(self) -> None:
        super().finish()

    def execute(self) -> None:
        if (answer := self.channel.adj.owner.answer(self.request)) is None:
            super().execute()
            return
        self.complete = True
        self.status, self.response_headers, body = answer
        if self.request.error:
            self.request.headers.pop("CONNECTION", None)  # whatever it asks for, this is the end
            self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Channel(Place, channel.HTTPChannel):
    parser_class, task_class, error_task_class = Request, Reply, Reply
    waiting, arriving = map(property, map(attrgetter, ("requests", "request")))
    unsent = property(attrgetter("total_outbufs_len"))
    drained = staticmethod(lambda: None)  # called when a live answer was taken
    drop = channel.HTTPChannel.handle_close  # marked only, it would wait until it can be written to

    def __init__(self, server: Any, sock: Any, addr: Any, *rest: Any, **options: Any) -> None:
        Place.__init__(self, addr[0])
        channel.HTTPChannel.__init__(self, server, sock, addr, *rest, **options)

    def readable(self) -> bool:
        if self.is_overdue(time.monotonic()):
            self.drop()
        return self.connected and bool(self.live or super().readable())

    def received(self, data: bytes) -> bool:
        return not self.live and bool(super().received(data))  # nothing else is answered

    def handle_write(self) -> None:
        super().handle_write()
        if self.live and not self.unsent:
            self.drained()

    def service(self) -> None:
        try:
            super().service()
        except _GoesOn as answer:
            self.live = answer.reply
            answer.begin(self)

    def push(self, data: bytes) -> None:
        if not self.unsent:  # begin a new buffer: what was sent of the last one takes memory
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        with suppress(channel.ClientDisconnected, OSError):
            self.live.write(data)

    def end(self) -> None:
        with suppress(channel.ClientDisconnected, OSError):
            self.live.end()
            self.close_when_flushed = True
            self.server.pull_trigger()

    def write_soon(self, data: Any) -> int:
        self.answered = time.monotonic()
        return int(super().write_soon(data))

    def send(self, data: bytes, do_close: bool = True) -> int:
        if sent := super().send(data, do_close):
            self.taken = time.monotonic()
        return int(sent)
