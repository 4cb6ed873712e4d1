"""How a connection is opened, from TCP's handshake to the moment when it can become a link.

    dialling                                     accepting
    TLS, if the address is wss           <->  TLS, if the node has a certificate
    a GET with a key                     -->
                                         <--  101, or an HTTP error with a sentence (handshake.py)
    proofs, if the network has a secret  <->  proofs (wire/proof.py)

Both sides do the same, so they share what is here; listener.py and dialer.py have the order of
their own side. A step goes as far as it can and then yields the event that it has to wait for. So
the listener serves all connections that strangers open in one thread, and a dial, which has a
thread of its own, just waits for these events.

A side that turns the other down says why before it ends, so the reason is in the log of both. A
stranger costs little: it has a deadline, few and short frames, no thread, and no place among the
links.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..codes import GOING_AWAY, NORMAL, OTHER_PROTOCOL, UNSUPPORTED_DATA
from ..errors import LinkClosed, ProtocolError
from ..settings import MAX_HANDSHAKE_BYTES
from ..wire.frames import Proof, Sockets, decode, encode
from ..wire.proof import MAX_OPENING_BYTES, Challenge
from . import websocket as frames
from .stream import Endpoint, Stream
from .tls import Blocked

# Frames, fragments among them, that one side may send before it has proved the secret.
_MOST_FRAMES = 64
# How long a connection that is turned down has to read why (seconds), and what it may send in that
# time (bytes).
_LINGER = 1.0
_MOST_IGNORED = 4 * 1024 * 1024

T = TypeVar("T")

Steps: TypeAlias = Generator[int, None, T]
"""What yields the event (of select.poll) that it waits for, and returns a T in the end."""


@dataclass(frozen=True)
class Opened:
    """A connection that is open; it belongs to the one that it is given to.

    `remote` is the other end's IP address and port, `proved` the id of the node there, if it has
    proved that it knows the secret of the network (None: the network has none).
    """

    stream: Stream
    remote: Endpoint
    proved: str | None = None


class Opening:
    """One connection until it is open. Used by one thread at a time."""

    def __init__(
        self, connection: socket.socket, remote: Endpoint, deadline: float, dialled: bool
    ) -> None:
        """Take over `connection`, which is to be open by `deadline` (on the monotonic clock)."""
        self.remote = remote
        self.deadline = deadline
        self.stream = Stream(connection, patience=0.0)
        self._dialled = dialled
        self._proved: str | None = None
        self._steps = self._open()

    def __str__(self) -> str:
        host, port = self.remote
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def opened(self) -> Opened:
        """The connection, once it is open."""
        return Opened(self.stream, self.remote, self._proved)

    def go_on(self) -> int | None:
        """Go on as far as possible with what has arrived.

        Returns the event (of select.poll) to wait for; None: the connection is open. Raises
        LinkClosed where it does not come about.
        """
        self.stream.allow(1)  # so that none of many keeps the others waiting
        event = next(self._steps, None)
        if event is None:
            self.stream.allow(None)
        return event

    def finish(self) -> None:
        """Go on and wait until the connection is open or the deadline has come."""
        while (event := self.go_on()) is not None:
            if not self.stream.wait_for(event, self.deadline - time.monotonic()):
                self._steps.throw(LinkClosed("it did not answer in time"))

    def _open(self) -> Steps[None]:
        """The steps of this side."""
        raise NotImplementedError

    # -- the steps that both sides have ---------------------------------------------------------

    def _try(self, call: Callable[[], T]) -> Steps[T]:
        """Return what `call` returns, once it needs not wait any more."""
        while True:
            try:
                return call()
            except Blocked as blocked:
                yield blocked.event

    def _read_head(self) -> Steps[bytes | None]:
        """Return the head of the other side's HTTP; None where it is too long."""
        return (
            yield from self._try(lambda: self.stream.read_until(b"\r\n\r\n", MAX_HANDSHAKE_BYTES))
        )

    def _prove(self, challenge: Challenge) -> Steps[None]:
        """Have the other side prove that it knows the secret, and prove it, too.

        Raises ProtocolError where it does not, and LinkClosed where it closes the connection.
        """
        self._say(challenge.open())
        reader = frames.FrameReader(self.stream, not self._dialled, MAX_OPENING_BYTES)
        for _ in range(_MOST_FRAMES):
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
                self._say(self._answers(challenge, received.text))
                if challenge.proved:
                    self._proved = challenge.proved
                    return
        raise LinkClosed("it sent many frames and no proof")

    def _answers(self, challenge: Challenge, text: str) -> list[Sockets | Proof]:
        try:
            return challenge.receive(decode(text))
        except ProtocolError as error:
            # The side that dialled finds the same in this node's first frame, and knows then which
            # protocol this node speaks, or that it has dialled itself.
            if error.code in (OTHER_PROTOCOL, NORMAL) and not self._dialled:
                self._say([challenge.opening])
            raise

    def _say_last(self, data: bytes) -> Steps[None]:
        """Write `data` and nothing more, and leave it some time to be read.

        An end with bytes unread would destroy it on its way.
        """
        self.deadline = min(self.deadline, time.monotonic() + _LINGER)
        with contextlib.suppress(LinkClosed):
            self._write(data)
            self.stream.end()
            while self.stream.received < _MOST_IGNORED:
                yield from self._try(self.stream.read_some)

    def _close(self, error: ProtocolError) -> Steps[None]:
        """Tell the other side what is wrong, as `_say_last` does."""
        payload = frames.close_payload(error.code, error.reason)
        yield from self._say_last(self._format(frames.CLOSE, payload))

    def _say(self, messages: list[Sockets | Proof]) -> None:
        for message in messages:
            self._write(self._format(frames.TEXT, encode(message).encode("utf-8")))

    def _format(self, opcode: int, payload: bytes) -> bytes:
        return frames.format_frame(opcode, payload, masked=self._dialled)

    def _write(self, data: bytes) -> None:
        """Write a little, for which there is always room unless the other side reads nothing."""
        if self.stream.write_some(data):
            raise LinkClosed("it reads nothing")
