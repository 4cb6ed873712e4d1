"""Dials peers: name, connection, opening. One call is one dial.

A host name may have several endpoints (IP addresses with a port). Some of them do not answer, or
accept and stay silent, or do not know the secret. So a dial starts with the first and, each time
the others have had HEAD_START to answer or one has failed, adds the next. The first whose opening
is done wins, and the others are cut (RFC 8305, "Happy Eyeballs", carried on to the end of the
opening).
"""

from __future__ import annotations

import logging
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable

from ..address import Address
from ..codes import NORMAL
from ..errors import DialError, LinkClosed, ProtocolError
from ..settings import Settings
from ..wire.proof import Challenge
from .credentials import Credentials
from .handshake import check_answer, request
from .opening import Opened, Opening, Steps
from .stream import Endpoint
from .tls import end

logger = logging.getLogger("p2p_sync")

# How long the endpoints that a dial has begun to try have to answer before the next is tried, too.
# RFC 8305 recommends this for connecting. Seconds.
HEAD_START = 0.25
# Endpoints of one name that are considered.
_MOST_ENDPOINTS = 64


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
    return tuple(endpoints)[:_MOST_ENDPOINTS]


def _open_network(_binding: str) -> Challenge | None:
    return None


class Dialer:
    """Opens connections to peers, and can give all of them up at once. For any thread."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._timeout = settings.handshake_timeout
        self._credentials = credentials
        self._lock = threading.Lock()  # guards the two below
        self._dials: set[_Dial] = set()
        self._stopped = False

    def dial(
        self,
        address: Address,
        endpoints: tuple[Endpoint, ...],
        challenge: Callable[[str], Challenge | None] = _open_network,
        path: str = "/",
    ) -> Opened:
        """Return an open connection to one of the endpoints of `address`.

        `challenge` returns what both sides of a connection have to prove, given the SHA-256 of the
        certificate that the other one has shown (empty without TLS); None: nothing. Threads of the
        dial call it. Raises DialError with the reason within `handshake_timeout` seconds.
        """
        dial = _Dial(address, challenge, path, self._credentials, self._timeout)
        with self._lock:
            if self._stopped:
                raise DialError("this node is stopping")
            self._dials.add(dial)
        try:
            return dial.run(endpoints)
        finally:
            dial.end()
            with self._lock:
                self._dials.discard(dial)

    def stop(self) -> None:
        """Give up all dials, now and from now on."""
        with self._lock:
            self._stopped = True
            dials = list(self._dials)
        for dial in dials:
            dial.end()


class _Dial:
    """One dial: the connections that it tries, of which at most one wins. For any thread."""

    def __init__(
        self,
        address: Address,
        challenge: Callable[[str], Challenge | None],
        path: str,
        credentials: Credentials,
        timeout: float,
    ) -> None:
        self.address = address
        self.challenge = challenge
        self.path = path
        self.deadline = time.monotonic() + timeout
        self._credentials = credentials
        self._outcomes: queue.SimpleQueue[Opened | DialError] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the two below
        self._tried: set[socket.socket] = set()
        self._over = False

    def run(self, endpoints: tuple[Endpoint, ...]) -> Opened:
        """Try the endpoints until one wins or all have failed; raises DialError then."""
        failure = DialError("it has no address")
        waiting = list(endpoints)
        running = 0
        while waiting or running:
            if waiting:
                self._begin(waiting.pop(0), alone=not waiting and not running)
                running += 1
            try:
                outcome = self._outcomes.get(timeout=HEAD_START if waiting else None)
            except queue.Empty:
                continue
            if isinstance(outcome, Opened):
                return outcome
            if outcome.oneself:
                raise outcome  # the caller has to know it before it tries the others
            running -= 1
            if outcome.refused or not failure.refused:  # an answer says more than a silence
                failure = outcome
        raise failure

    def end(self) -> None:
        """Cut all connections that have not won, and let none begin."""
        with self._lock:
            self._over = True
            tried = list(self._tried)
        for connection in tried:
            end(connection)

    def _begin(self, endpoint: Endpoint, alone: bool) -> None:
        if alone:
            self._try(endpoint)  # the only one needs no thread of its own
            return
        name = f"try {self.address}"
        try:
            threading.Thread(target=self._try, args=(endpoint,), name=name, daemon=True).start()
        except RuntimeError as error:  # there can be no more threads
            raise DialError(f"no connection: {error}") from None

    def _try(self, endpoint: Endpoint) -> None:
        """Open a connection to one endpoint; report how that ends, whatever happens, since the
        dial waits for it."""
        connection: socket.socket | None = None
        outcome: Opened | DialError
        try:
            connection = self._socket(endpoint)
            connection.settimeout(max(0.01, self.deadline - time.monotonic()))
            connection.connect(endpoint)
            opening = _Dialling(self, connection, endpoint)
            opening.finish()
            outcome = opening.opened
        except TimeoutError:
            outcome = DialError("it did not answer in time")
        except LinkClosed as error:
            outcome = DialError(str(error), refused=error.refused)
        except OSError as error:
            outcome = DialError(f"no connection: {error.strerror or error}")
        except DialError as error:
            outcome = error
        except Exception as error:
            logger.exception("dialling %s failed", self.address)
            outcome = DialError(f"this node failed: {error}")
        self._report(connection, outcome)

    def _socket(self, endpoint: Endpoint) -> socket.socket:
        """Return a socket to connect, which `end` cuts; raises DialError if the dial is over."""
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        if self.address.secure:
            connection = self._credentials.dialling(connection, self.address.host)
        with self._lock:
            if not self._over:
                self._tried.add(connection)
                return connection
        connection.close()
        raise DialError("this node is stopping")

    def _report(self, connection: socket.socket | None, outcome: Opened | DialError) -> None:
        """The first connection that is open wins, and is the caller's; all others are closed."""
        with self._lock:
            if connection:
                self._tried.discard(connection)
            late = self._over and isinstance(outcome, Opened)
            self._over = self._over or isinstance(outcome, Opened)
        if connection and (late or isinstance(outcome, DialError)):
            connection.close()
        self._outcomes.put(DialError("another endpoint was faster") if late else outcome)


class _Dialling(Opening):
    """A connection that this side opens."""

    def __init__(self, dial: _Dial, connection: socket.socket, endpoint: Endpoint) -> None:
        self._dial = dial
        super().__init__(connection, endpoint, dial.deadline, dialled=True)

    def _open(self) -> Steps[None]:
        dial = self._dial
        binding = yield from self._try(self.stream.shake_hands)
        key = secrets.token_bytes(16)
        try:
            self._write(request(dial.address, dial.path, key))
            head = yield from self._read_head()
        except LinkClosed as error:
            raise DialError(f"no WebSocket handshake: {error}") from None
        check_answer(head, key, dial.address)
        try:
            if challenge := dial.challenge(binding):
                yield from self._prove(challenge)
        except ProtocolError as error:
            yield from self._close(error)
            broke = "it broke the protocol: " if error.violation else ""
            oneself = self.remote if error.code == NORMAL else None
            raise DialError(broke + error.reason, refused=not oneself, oneself=oneself) from None
