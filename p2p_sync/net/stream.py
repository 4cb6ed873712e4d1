"""One TCP connection, plain or TLS: buffered reads and whole writes, which end in bounded time.

A stream belongs to an opening first (see opening.py): one thread uses it, and nothing waits, since
that thread may serve hundreds of openings. What would have to wait raises Blocked with the event to
wait for. Then it belongs to a link, which sets its `patience`: one thread reads, another writes,
and both wait. The reader gives up when nothing has come for `patience` seconds, or a frame comes
too slowly; the writer when a write does not move. `cut` may be called by any thread and wakes both.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from ..errors import LinkClosed
from ..settings import LEAST_RATE, READ_SIZE
from .tls import Blocked, Secured, secured

Endpoint: TypeAlias = tuple[str, int]
"""An IP address and a port."""


def plain_endpoint(address: Any) -> Endpoint:
    """Return the host and port of a socket's address; IPv4 in IPv6 becomes IPv4."""
    if not isinstance(address, tuple):
        return "", 0  # a socket pair of the tests has none
    host, port = address[:2]
    return host.removeprefix("::ffff:") if "." in host else host, port


class Stream:
    """A connected socket, which it owns and closes."""

    def __init__(self, connection: socket.socket, patience: float | None = None) -> None:
        """Take over `connection`, whose TLS (see Credentials) has not shaken hands yet.

        Reads give up when nothing has come for `patience` seconds. None: they do not wait; they
        raise Blocked, lose nothing, and can be tried again.
        """
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # a socket pair of the tests has no such option
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = secured(connection)
        self._pending = getattr(self._connection, "pending", None)
        self.local = plain_endpoint(connection.getsockname())
        self._buffer = bytearray()
        self._taken = 0
        self.patience = patience
        self.fills = 0  # how often a read that does not wait may fill the buffer
        # From when on LEAST_RATE counts, and how many bytes had been received when the frame began.
        self._pace = (float("inf"), 0)
        # Called by the reader before it takes more from the network; it may sleep.
        self.before_fill: Callable[[], object] | None = None
        self._cut = False
        self.received = 0  # bytes, counted by the reader
        self.sent = 0  # bytes, counted by the writer

    # -- the opening's thread -------------------------------------------------------------------

    def shake_hands(self) -> str:
        """Go on with the handshake of TLS; return the SHA-256 of the certificate that was shown.

        Returns "" without TLS. Raises Blocked, and LinkClosed if the handshake fails.
        """
        return self._connection.shake_hands() if isinstance(self._connection, Secured) else ""

    # -- the reader's thread --------------------------------------------------------------------

    def wait_readable(self, timeout: float) -> bool:
        """Return whether there is something to read (or the end) within `timeout` seconds."""
        ready = self._buffer or (self._pending and self._pending())
        return bool(ready) or self._wait_for(select.POLLIN, timeout)

    def wait(self, patience: float) -> None:
        """Wait up to `patience` seconds until a frame begins, which must arrive at LEAST_RATE once
        as much time has passed again. Raises LinkClosed if none begins."""
        if not self.wait_readable(patience):
            raise LinkClosed("nothing came from it in time", "silent")
        self._pace = (time.monotonic() + patience, self.received)

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes.

        Raises LinkClosed at the end of the stream, or when it gives up; what was read of the
        `count` bytes is then lost.
        """
        buffer = self._buffer
        while len(buffer) - self._taken < count:
            if self._taken:
                del buffer[: self._taken]
                self._taken = 0
            self._fill()
        start = self._taken
        self._taken += count
        data = bytes(memoryview(buffer)[start : self._taken])
        if self._taken == len(buffer):
            buffer.clear()
            self._taken = 0
        return data

    def read_some(self) -> bytes:
        """Return at least one byte; raises LinkClosed as `read` does."""
        if not self._buffer:
            self._fill()
        return self.read(len(self._buffer) - self._taken)

    def read_until(self, end: bytes, limit: int) -> bytes | None:
        """Return everything up to `end`, included; None if it is not within `limit` bytes.

        Raises LinkClosed as `read` does.
        """
        while (found := self._buffer.find(end, self._taken)) < 0:
            if len(self._buffer) - self._taken > limit:
                return None
            self._fill()
        length = found + len(end) - self._taken
        return self.read(length) if length <= limit else None

    def _fill(self) -> None:
        if self.before_fill:
            self.before_fill()
        if self.patience is None and not self.fills:
            raise Blocked(select.POLLIN)
        while True:
            if self._cut:  # else what is in the kernel's buffer would still be read
                raise LinkClosed("the connection was cut")
            try:
                data = self._connection.recv(READ_SIZE)
            except BlockingIOError as blocked:
                event = getattr(blocked, "event", select.POLLIN)
                if self.patience is None:
                    raise Blocked(event) from None
                self._wait_for_more(event, self.patience)
                continue
            except OSError as error:
                raise LinkClosed(f"the connection was cut: {error.strerror or error}") from None
            if not data:
                raise LinkClosed("the connection was cut")
            self._buffer += data
            self.received += len(data)
            self.fills -= 1
            return

    def _wait_for_more(self, event: int, patience: float) -> None:
        """Wait for `event`; raises LinkClosed if nothing comes in time."""
        since, count = self._pace
        slow = since + (self.received - count) / LEAST_RATE - time.monotonic()
        if self._wait_for(event, min(patience, slow)):
            return
        if slow < patience:
            raise LinkClosed("it takes too long over a frame", "slow")
        raise LinkClosed("nothing came from it in time", "silent")

    # -- the writer's thread --------------------------------------------------------------------

    def write(self, data: bytes, timeout: float) -> None:
        """Write all of `data`.

        Raises LinkClosed when the connection ends or no byte could be written for `timeout`
        seconds; part of `data` may then be on the wire, so nothing may be written after it.
        """
        view = memoryview(data)
        while view:
            try:
                count = self._connection.send(view)
            except BlockingIOError as blocked:
                if not self._wait_for(getattr(blocked, "event", select.POLLOUT), timeout):
                    how = f"it stopped reading for {timeout:g} s" if timeout else "it reads nothing"
                    raise LinkClosed(how, "deaf") from None
                continue
            except OSError as error:
                raise LinkClosed(f"the connection was cut: {error.strerror or error}") from None
            self.sent += count
            view = view[count:]

    # -- any thread -----------------------------------------------------------------------------

    def end(self) -> None:
        """Let the other side know that nothing more will be written."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection at once, and wake the threads that read or write."""
        self._cut = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket. Only when no other thread uses the stream any more."""
        self.cut()
        self._connection.close()

    # -- shared ---------------------------------------------------------------------------------

    def _wait_for(self, event: int, timeout: float) -> bool:
        """Return whether `event` (of select.poll) has come within `timeout` seconds."""
        descriptor = self._connection.fileno()
        if descriptor < 0:
            raise LinkClosed("the connection was cut")
        poll = select.poll()
        poll.register(descriptor, event)
        return bool(poll.poll(max(0.0, timeout) * 1000))
