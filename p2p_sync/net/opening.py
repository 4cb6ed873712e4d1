"""How a connection is opened, from TCP's handshake to the moment when it can become a link.

    dialling                             accepting
    TLS, if the address is wss           <->  TLS, if the node has a certificate
    a GET with a header                  -->
                                         <--  101 with one, or an HTTP error (handshake.py)
    a proof                              -->
                                         <--  a proof, where there is a secret (wire/proof.py)

Both sides take the same steps, so they share this file; listener.py and dialer.py have the order of
their own side. An Opening is one connection. It goes as far as it can, and then returns the event
that it has to wait for. Openings wait for the events of many connections in one thread: those that
others open at the listener, or the endpoints that one dial tries at the same time.

A side that refuses the other says why before it ends, so both have the reason in their logs. A
stranger costs little: it has a deadline, few and short frames, no thread, and no place among the
links.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..address import host_and_port, site
from ..codes import GOING_AWAY, NORMAL, UNSUPPORTED_DATA
from ..errors import LinkClosed, ProtocolError
from ..settings import (
    LINGER,
    MAX_HANDSHAKE_BYTES,
    MAX_OPENING_BYTES,
    MOST_FRAMES,
    MOST_IGNORED,
)
from ..wire.frames import Proof, decode, encode
from ..wire.proof import Handshake
from . import websocket as frames
from .stream import Endpoint, Stream
from .tls import Blocked

T = TypeVar("T")

Steps: TypeAlias = Generator[int, None, T]
"""Yields the events (of select.poll) that it waits for, and returns a T at the end."""


@dataclass(frozen=True)
class Opened:
    """An open connection. It belongs to the object that it is given to.

    `remote` is the IP address and port of the other end. `node` is the id of the node there, which
    has proved its key, and `start` the number of its start; None: it is an original node.
    """

    stream: Stream
    remote: Endpoint
    node: str | None = None
    start: int = 0


class Opening:
    """One connection until it is open. Used by one thread at a time, and never waits."""

    def __init__(
        self, connection: socket.socket, remote: Endpoint, deadline: float, dialled: bool
    ) -> None:
        """Take over `connection`, which must be open by `deadline` (on the monotonic clock)."""
        self.remote = remote
        self.site = site(remote[0])
        self.deadline = deadline
        self.turned_down = False  # refused; it has a moment left to read why
        self.stream = Stream(connection)
        self.descriptor = connection.fileno()
        self.event = 0 if dialled else select.POLLIN  # what it waits for
        self._dialled = dialled
        self._handshake: Handshake | None = None
        self._steps = self._open()

    def __str__(self) -> str:
        return host_and_port(self.remote)

    @property
    def opened(self) -> Opened:
        """The connection, once it is open."""
        assert self._handshake is not None
        return Opened(self.stream, self.remote, self._handshake.node, self._handshake.start)

    def go_on(self, late: bool = False) -> bool:
        """Go on as far as possible with what has arrived; return whether the connection is open.

        If not, it waits for `event`. `late`: the deadline has come. Raises LinkClosed or DialError
        if the connection fails.
        """
        self.stream.fills = 1  # so that none of many keeps the others waiting
        try:
            if late:
                self.event = self._steps.throw(LinkClosed("it did not answer in time"))
            else:
                self.event = next(self._steps)
        except StopIteration:
            return True
        return False

    def _open(self) -> Steps[None]:
        """The steps of this side."""
        raise NotImplementedError

    # -- the steps that both sides have ---------------------------------------------------------

    def _try(self, call: Callable[[], T]) -> Steps[T]:
        """Return what `call` returns, once it does not have to wait any more."""
        while True:
            try:
                return call()
            except Blocked as blocked:
                yield blocked.event

    def _read_head(self) -> Steps[bytes | None]:
        """Return the head of the other side's HTTP; None if it is too long."""
        return (
            yield from self._try(lambda: self.stream.read_until(b"\r\n\r\n", MAX_HANDSHAKE_BYTES))
        )

    def _await_proof(self, handshake: Handshake) -> Steps[None]:
        """Wait for the other side's proof, check and answer it.

        Raises ProtocolError if it is wrong, and LinkClosed if that side closes the connection.
        """
        reader = frames.FrameReader(self.stream, not self._dialled, MAX_OPENING_BYTES)
        for _ in range(MOST_FRAMES):
            received = yield from self._try(reader.read)
            if received is None or received.opcode == frames.PONG:
                continue
            if received.opcode == frames.PING:
                self._write(self._format(frames.PONG, received.data))
            elif received.opcode == frames.CLOSE:
                yield from self._say_last(self._format(frames.CLOSE, received.data[:2]))
                code, reason = frames.explain_close(received.data)
                raise LinkClosed(reason, refused=code not in (None, NORMAL, GOING_AWAY))
            elif received.text is None:
                raise ProtocolError(UNSUPPORTED_DATA, "a message must be text, not binary")
            else:
                if answer := handshake.receive(decode(received.text)):
                    self._say(answer)
                return
        raise LinkClosed("it sent many frames and no proof")

    def _say_last(self, data: bytes) -> Steps[None]:
        """Write `data` as the last thing, and give the other side some time to read it.

        Closing a socket with unread bytes would discard it.
        """
        self.turned_down = True
        self.deadline = min(self.deadline, time.monotonic() + LINGER)
        with contextlib.suppress(LinkClosed):
            self._write(data)
            self.stream.end()
            while self.stream.received < MOST_IGNORED:
                yield from self._try(self.stream.read_some)

    def _close(self, error: ProtocolError) -> Steps[None]:
        """Say what is wrong in a CLOSE, as the last thing."""
        payload = frames.close_payload(error.code, error.reason)
        yield from self._say_last(self._format(frames.CLOSE, payload))

    def _say(self, proof: Proof) -> None:
        self._write(self._format(frames.TEXT, encode(proof).encode("utf-8")))

    def _format(self, opcode: int, payload: bytes) -> bytes:
        return frames.format_frame(opcode, payload, masked=self._dialled)

    def _write(self, data: bytes) -> None:
        """Write a little: there is always room for it unless the other side reads nothing."""
        self.stream.write(data, 0.0)


class Openings:
    """Connections that are being opened in one thread, the oldest first."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._openings: dict[int, Opening] = {}  # by descriptor
        self._fresh: list[int] = []  # those that have not begun, and so wait for no event

    def __iter__(self) -> Iterator[Opening]:
        return iter(list(self._openings.values()))

    def __len__(self) -> int:
        return len(self._openings)

    def watch(self, source: socket.socket, watched: bool = True) -> None:
        """Let `wait` return when `source` can be read; not `watched`: no longer."""
        self._poll.register(source, select.POLLIN if watched else 0)

    def add(self, opening: Opening) -> None:
        """Serve an opening, too."""
        self._openings[opening.descriptor] = opening
        if opening.event:
            self._poll.register(opening.descriptor, opening.event)
        else:
            # Not polled yet: a socket that is not connected would be reported as hung up.
            self._fresh.append(opening.descriptor)

    def end(self, opening: Opening) -> None:
        """Close the connection of an opening, and forget it."""
        self._forget(opening)
        opening.stream.close()

    def wait(self, until: float) -> Iterator[tuple[Opening, Exception | None]]:
        """Wait for events until the time `until` on the monotonic clock, and go on with the
        openings that they concern. Yield each that is done: it is open, or closed by an error."""
        ready, self._fresh = self._fresh, []
        until = 0.0 if ready else min([until, *(opening.deadline for opening in self)])
        events = self._poll.poll(max(0.0, until - time.monotonic()) * 1000)
        ready += [descriptor for descriptor, _ in events]
        for descriptor in ready:
            if opening := self._openings.get(descriptor):
                yield from self._go_on(opening)
        now = time.monotonic()
        for opening in self:
            if now >= opening.deadline:
                yield from self._go_on(opening, late=True)

    def _go_on(
        self, opening: Opening, late: bool = False
    ) -> Iterator[tuple[Opening, Exception | None]]:
        before = opening.event
        try:
            is_open = opening.go_on(late)
        except Exception as error:
            self.end(opening)
            yield opening, error
            return
        if is_open:
            self._forget(opening)
            yield opening, None
        elif opening.event != before:
            self._poll.register(opening.descriptor, opening.event)  # or change what is waited for

    def _forget(self, opening: Opening) -> None:
        del self._openings[opening.descriptor]
        if opening.descriptor in self._fresh:
            self._fresh.remove(opening.descriptor)
        elif opening.event:
            self._poll.unregister(opening.descriptor)
