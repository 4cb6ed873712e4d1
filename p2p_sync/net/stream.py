"""One TCP connection: buffered reads and whole writes, each with a deadline.

A reader thread and a writer thread may use one stream at the same time; `cut` may be called by
any thread and wakes both.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from ..errors import LinkClosed
from .tls import Blocked, Secured

Connection: TypeAlias = socket.socket | Secured

_READ_SIZE = 64 * 1024

# At which what is paced has to come. Bytes a second.
LEAST_RATE = 1024


def plain_endpoint(address: Any) -> tuple[str, int]:
    """Return the host and port of a socket's address; IPv4 in IPv6 is told as IPv4."""
    if not isinstance(address, tuple):
        return "", 0  # a socket pair of the tests has none
    host, port = address[:2]
    return host.removeprefix("::ffff:") if "." in host else host, port


class Stream:
    """A connected socket, which it owns and closes.

    The reader gives up when nothing has come for `patience` seconds, and, where `deadline` (on
    the monotonic clock) is set, when that is reached.
    """

    def __init__(self, connection: Connection, patience: float) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # a socket pair of the tests has no such option
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._pending = getattr(connection, "pending", None)
        self.local = plain_endpoint(connection.getsockname())
        self._buffer = bytearray()
        self._taken = 0
        self.patience = patience
        self.deadline: float | None = None
        self._pace: tuple[float, int] | None = None  # since when, and from what count of bytes on
        self._fills: int | None = None  # how often the buffer may be filled before Blocked
        # Called by the reader before it takes more from the network; it may sleep.
        self.before_fill: Callable[[], object] | None = None
        self._cut = False
        self.received = 0  # bytes, counted by the reader
        self.sent = 0  # bytes, counted by the writer

    # -- the reader's thread --------------------------------------------------------------------

    def allow(self, fills: int | None) -> None:
        """Let reads take from the network `fills` times at most, and never wait: then they raise
        Blocked, lose nothing, and can be tried again. None: let them wait, as at first."""
        self._fills = fills

    def wait_readable(self, timeout: float) -> bool:
        """Return whether there is something to read (or the end) within `timeout` seconds."""
        ready = self._buffer or (self._pending and self._pending())
        return bool(ready) or self._wait(select.POLLIN, timeout)

    def wait(self) -> None:
        """Wait until there is something to read; raises LinkClosed when it gives up."""
        patience, fault = self._time_left()
        if not self.wait_readable(patience):
            raise LinkClosed("nothing came from it in time", fault)

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
        """Return all up to and with `end`; None where it has not come within `limit` bytes.

        Raises LinkClosed as `read` does.
        """
        while (found := self._buffer.find(end, self._taken)) < 0:
            if len(self._buffer) - self._taken > limit:
                return None
            self._fill()
        length = found + len(end) - self._taken
        return self.read(length) if length <= limit else None

    def pace(self, grace: float) -> None:
        """From now on what is read has to come, after `grace` seconds, at LEAST_RATE; 0: or not."""
        self._pace = (time.monotonic() + grace, self.received) if grace else None

    def _fill(self) -> None:
        if self.before_fill:
            self.before_fill()
        if self._fills == 0:
            raise Blocked(select.POLLIN)
        while True:
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise LinkClosed("it took too long")
            if self._cut:  # else what is in the kernel's buffer would still be read
                raise LinkClosed("the connection was cut")
            try:
                data = self._connection.recv(_READ_SIZE)
            except BlockingIOError as blocked:
                event = getattr(blocked, "event", select.POLLIN)
                if self._fills is not None:
                    raise Blocked(event) from None
                patience, fault = self._time_left()
                if not self._wait(event, patience):
                    if fault == "slow":
                        raise LinkClosed("it takes too long over a frame", fault) from None
                    raise LinkClosed("nothing came from it in time", fault) from None
                continue
            except OSError as error:
                raise LinkClosed(f"the connection was cut: {error.strerror or error}") from None
            if not data:
                raise LinkClosed("the connection was cut")
            self._buffer += data
            self.received += len(data)
            if self._fills is not None:
                self._fills -= 1
            return

    def _time_left(self) -> tuple[float, str]:
        """Return how long to wait for more, and what it is when nothing comes."""
        left, fault = self.patience, "silent"
        if self.deadline is not None:
            left = min(left, self.deadline - time.monotonic())
        if self._pace is not None:
            since, count = self._pace
            slow = since + (self.received - count) / LEAST_RATE - time.monotonic()
            if slow < left:
                left, fault = slow, "slow"
        return left, fault

    # -- the writer's thread --------------------------------------------------------------------

    def write(self, data: bytes, timeout: float) -> None:
        """Write all of `data`.

        Raises LinkClosed when the connection ends or no byte could be written for `timeout`
        seconds; part of `data` may then be on the wire, so nothing may be written after it.
        """
        view = memoryview(data)
        while view:
            try:
                view = self._send(view)
            except BlockingIOError as blocked:
                if not self._wait(getattr(blocked, "event", select.POLLOUT), timeout):
                    raise LinkClosed(f"it took nothing for {timeout:g} s", "deaf") from None

    def write_some(self, data: bytes) -> bytes:
        """Write what of `data` can be written without waiting, and return the rest.

        Raises LinkClosed when the connection has ended.
        """
        view = memoryview(data)
        with contextlib.suppress(BlockingIOError):
            while view:
                view = self._send(view)
        return bytes(view)

    def _send(self, view: memoryview) -> memoryview:
        """Write some, and return the rest; raises BlockingIOError where that has to wait."""
        try:
            count = self._connection.send(view)
        except BlockingIOError:
            raise
        except OSError as error:
            raise LinkClosed(f"the connection was cut: {error.strerror or error}") from None
        self.sent += count
        return view[count:]

    # -- any thread -----------------------------------------------------------------------------

    def end(self) -> None:
        """Tell the other side that nothing more will be written."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection at once, and wake whoever reads or writes."""
        self._cut = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket. Only when no other thread uses the stream any more."""
        self.cut()
        self._connection.close()

    def _wait(self, event: int, timeout: float) -> bool:
        descriptor = self._connection.fileno()
        if descriptor < 0:
            raise LinkClosed("the connection was cut")
        poll = select.poll()
        poll.register(descriptor, event)
        return bool(poll.poll(max(0.0, timeout) * 1000))
