"""Serves the application over HTTP.

Three things happen to a request before a worker thread answers it: places.py closes its connection
if it does not arrive in time, the rules that `run` is given say how much of its body is kept, and a
plain commit is begun (see plain.py), so that it needs no worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from .. import settings
from ..errors import StartError
from .answers import Answer, Fields, Head, refusal
from .bodies import Body
from .engine import Channel, Engine, Request
from .guard import Application
from .places import KNOWN, OTHERS, surplus

logger = logging.getLogger("p2p_sync")

Begin = Callable[[Head, Callable[[], object]], Callable[[], Answer] | None]
"""Begins what a request asks for; see plain.py."""


class HttpServer:
    """Listens from the start on; serves in the thread that calls `run`, the loop."""

    def __init__(self, host: str, port: int, directory: str | None = None) -> None:
        """Listen on `host` and `port`; raises StartError if that is impossible.

        `directory` has room for large bodies while they arrive; None: the system's temporary one.
        """
        self._directory = directory
        self._application: Any = None
        self._room: Callable[[Head], int] = lambda head: 0
        self._begin: Begin = lambda head, then: None
        self._known: Callable[[Head], bool] = lambda head: False
        self._ending = False
        self._loop = 0  # the thread that is in `run`
        self._ready: deque[Channel] = deque()  # their first request has an answer
        self._changed = False  # a group of connections may have become too large
        self._paused = 0.0  # until then no connections are accepted, by the monotonic clock
        self._logged = -settings.ACCEPT_LOGGED
        try:
            self._engine = Engine(
                self,
                host=host,
                port=port,
                threads=settings.HTTP_THREADS,
                asyncore_use_poll=True,
                # Never reached: see places.py.
                connection_limit=4 * settings.HTTP_CONNECTIONS + 2 * settings.HTTP_STREAMS,
                # Longer than any step of a clock: switches off waitress's own limit.
                channel_timeout=10**12,
                cleanup_interval=10**12,
                # Keeps answers in memory, and out of a temporary directory, which may be full.
                outbuf_overflow=2**40,
                max_request_header_size=settings.HTTP_MAX_HEAD_BYTES,
                max_request_body_size=settings.HTTP_MAX_BULK_BODY + 1,
                clear_untrusted_proxy_headers=False,  # the guard asks for them
                ident="p2p_sync",
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            way_out = "choose a PORT above 1023" if port < 1024 else "choose another PORT"
            raise StartError(
                f"the HTTP port {port} on {host} cannot be used ({reason}); {way_out}"
            ) from None

    def run(
        self,
        application: Application,
        room: Callable[[Head], int],
        begin: Begin | None = None,
        known: Callable[[Head], bool] | None = None,
    ) -> None:
        """Serve the WSGI `application` until `end` is called.

        `room` returns how many bytes of a request's body are worth keeping; the application learns
        its whole length. What `begin` begins needs no worker. Clients that are `known` have
        connections of their own.
        """
        self._application, self._room = application, room
        self._begin, self._known = begin or self._begin, known or self._known
        self._loop = threading.get_ident()
        while not self._ending:
            self._engine.poll()
            self._answer()
            if self._changed:
                self._changed = False
                for channel in surplus(self._engine.channels()):
                    channel.drop()

    def end(self) -> None:
        """Let `run` return. For any thread, and for what handles a signal."""
        self._ending = True
        self._engine.interrupt()

    def stop(self) -> None:
        """Let requests that are being answered end, for a moment, and close all."""
        while self._ready:  # no worker would take them any more, and none has to wait
            self._ready.popleft().service()
        self._engine.close()

    # -- what the engine asks; `body` and the two about accepting only in the loop ---------------

    def call(self, environ: Any, start_response: Any) -> Any:
        """Have the application answer; in a worker."""
        return self._application(environ, start_response)

    def body(self, head: Head) -> Body:
        """Return what keeps the body of a request."""
        return Body(self._room(head), self._directory)

    def arrived(self, channel: Channel) -> None:
        """Begin the next request of `channel`, or have a worker answer it.

        A worker that finds a further request on its connection does not begin that: the loop could
        answer it before `ready` is set.
        """
        request = channel.waiting[0]
        if threading.get_ident() == self._loop and not request.failure:
            if channel.group == OTHERS and self._known(request.head):
                channel.group = KNOWN
                self._changed = True
            request.ready = self._begin(request.head, lambda: self._is_ready(channel))
        if not request.ready:
            self._engine.dispatch(channel)

    def answer(self, request: Request) -> tuple[str, Fields, bytes] | None:
        """Return the answer to a request that needs no application."""
        if failure := request.failure:
            answer = refusal(request.head, HTTPStatus(failure.code), failure.body).safe()
        elif request.ready:
            answer = request.ready()
        else:
            return None
        status, fields, body = answer
        return f"{status.value} {status.phrase}", [*fields], body

    def may_accept(self, readable: Callable[[], bool]) -> bool:
        """Return whether the port accepts connections now."""
        return time.monotonic() >= self._paused and readable()

    def accept(self, accept: Callable[[], Any]) -> Any:
        """Accept a connection. If that fails, accept none for a moment: the loop must not spin."""
        try:
            self._changed = True
            return accept()
        except OSError as error:
            now = time.monotonic()
            self._paused = now + settings.ACCEPT_PAUSE
            if now - self._logged >= settings.ACCEPT_LOGGED:
                self._logged = now
                logger.error(
                    "HTTP connections cannot be accepted for the moment: %s", error.strerror
                )
            return None

    # -- answers that are ready ------------------------------------------------------------------

    def _is_ready(self, channel: Channel) -> None:
        """Called by any thread; wakes the loop, unless it has been woken already."""
        self._ready.append(channel)
        if len(self._ready) == 1:
            with suppress(OSError):  # there is no loop any more
                self._engine.wake()

    def _answer(self) -> None:
        while self._ready:
            channel = self._ready.popleft()
            if channel.unsent:  # it might have to wait
                self._engine.dispatch(channel)
            else:
                channel.service()
