"""Dials peers: name, connection, opening. One call is one dial, in the thread of its caller.

A host name may have several endpoints (IP addresses with a port). Some of them do not answer, or
accept and stay silent, or do not know the secret. So a dial starts with the first and, each time
the others have had HEAD_START to answer or one has failed, adds the next. The first whose opening
is done wins, and the others are closed (RFC 8305, "Happy Eyeballs", carried on to the end of the
opening).
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Sequence

from ..address import Address
from ..codes import NORMAL, SAME_NODE
from ..errors import DialError, LinkClosed, ProtocolError
from ..settings import HEAD_START, MOST_ENDPOINTS, Settings
from ..wire.proof import HEADER, Handshake
from .credentials import Credentials
from .handshake import check_answer, request
from .opening import Opened, Opening, Openings, Steps
from .stream import Endpoint

logger = logging.getLogger("p2p_sync")


def resolve(address: Address) -> tuple[Endpoint, ...]:
    """Return the endpoints of `address`; raises DialError if there are none.

    This may block for as long as the resolver of the system likes.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DialError(f"its name is not known: {reason}") from None
    endpoints = dict.fromkeys((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found)
    return tuple(endpoints)[:MOST_ENDPOINTS]


class Dialer:
    """Opens connections to peers, until it is stopped. For any thread."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._timeout = settings.handshake_timeout
        self._credentials = credentials
        self._stopped = False  # each dial looks at it every HEAD_START

    def dial(
        self,
        address: Address,
        endpoints: Sequence[Endpoint],
        handshake: Callable[[str], Handshake],
        path: str = "/",
    ) -> Opened:
        """Return an open connection to one of the endpoints of `address`.

        `handshake` returns the handshake of a new connection with a fresh nonce, given the SHA-256
        of the certificate that the other side has shown (empty without TLS). Raises DialError with
        the reason, within `handshake_timeout` seconds.
        """
        deadline = time.monotonic() + self._timeout
        failure = DialError("it has no address")
        waiting = list(reversed(endpoints))
        next_at = 0.0  # when the next endpoint is tried, too
        openings = Openings()
        try:
            while waiting or openings:
                if self._stopped:
                    raise DialError("this node is stopping")
                if time.monotonic() >= next_at:
                    next_at = time.monotonic() + HEAD_START
                    if waiting:
                        connection = self._socket(address, waiting[-1])
                        openings.add(
                            _Dialling(connection, waiting.pop(), deadline, address, handshake, path)
                        )
                for opening, error in openings.wait(next_at):
                    if error is None:
                        return opening.opened
                    next_at = 0.0
                    reason = _failure(error, address)
                    if reason.oneself:
                        raise reason  # the caller has to know it before it tries the others
                    if reason.refused or not failure.refused:  # it says more than a silence
                        failure = reason
        except OSError as error:  # there are no descriptors
            raise _failure(error, address) from None
        finally:
            for opening in openings:
                openings.end(opening)
        raise failure

    def stop(self) -> None:
        """Give up all dials, within HEAD_START, and begin none any more."""
        self._stopped = True

    def _socket(self, address: Address, endpoint: Endpoint) -> socket.socket:
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        if address.secure:
            return self._credentials.dialling(connection, address.host)
        return connection


class _Dialling(Opening):
    """A connection that this side opens."""

    def __init__(
        self,
        connection: socket.socket,
        endpoint: Endpoint,
        deadline: float,
        address: Address,
        begin: Callable[[str], Handshake],
        path: str,
    ) -> None:
        super().__init__(connection, endpoint, deadline, dialled=True)
        self._connection = connection
        self._address = address
        self._begin = begin
        self._path = path

    def _open(self) -> Steps[None]:
        yield from self._connect()
        binding = yield from self._try(self.stream.shake_hands)
        key = secrets.token_bytes(16)
        self._handshake = handshake = self._begin(binding)
        try:
            self._write(request(self._address, self._path, key, handshake.header))
            head = yield from self._read_head()
        except LinkClosed as error:
            raise DialError(f"no WebSocket handshake: {error}") from None
        header = check_answer(head, key, self._address)
        try:
            handshake.read(header)
        except ValueError:
            reason = f"no WebSocket handshake: the header {HEADER} of its answer is wrong"
            raise DialError(reason) from None
        try:
            handshake.check()
            if handshake.node:
                self._say(handshake.proof())
                handshake.check_node()
                if handshake.has_secret:
                    yield from self._await_proof(handshake)
        except ProtocolError as error:
            yield from self._close(error)
            broke = "it broke the protocol: " if error.violation else ""
            oneself = self.remote if error.code == NORMAL else None
            twin = error.code == SAME_NODE
            raise DialError(broke + error.reason, not oneself, oneself, twin) from None

    def _connect(self) -> Steps[None]:
        """Connect; raises OSError if that fails."""
        error = self._connection.connect_ex(self.remote)
        if error == errno.EINPROGRESS:
            yield select.POLLOUT
            error = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))


def _failure(error: Exception, address: Address) -> DialError:
    """Return why a dial of `address` has failed; a fault of this node is logged, too."""
    if isinstance(error, DialError):
        return error
    if isinstance(error, LinkClosed):
        return DialError(str(error), refused=error.refused)
    if isinstance(error, OSError):
        return DialError(f"no connection: {error.strerror or error}")
    logger.error("dialling %s failed", address, exc_info=error)
    return DialError(f"this node failed: {error}")
