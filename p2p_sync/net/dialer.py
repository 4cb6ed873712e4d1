"""Dials peers: name, connection, handshake. One call is one dial.

A host name may have several endpoints (IP addresses with a port), of which some do not answer, or
accept and stay silent. So a dial starts with the first and, each time the others have had
HEAD_START to answer or one has failed, adds the next; the first whose handshakes are all done wins,
and the others are cut (RFC 8305, "Happy Eyeballs", carried on to the end of the handshakes).
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from typing import TypeAlias

from ..address import Address
from ..errors import CertificateRefused, DialError, LinkClosed
from ..settings import Settings
from .stream import Stream
from .tls import Secured, Tls, end, streamable
from .websocket import shake_hands

logger = logging.getLogger("p2p_sync")

Endpoint = tuple[str, int]

# How long the endpoints that a dial has begun to try have to answer before the next is tried, too.
# RFC 8305 recommends this for connecting. Seconds.
HEAD_START = 0.25
# Endpoints of one name that are considered.
_MOST_ENDPOINTS = 64

# A connection after the opening handshake, its endpoint, and the binding for proofs.
Connected: TypeAlias = tuple[Stream, Endpoint, str]


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


class Dialer:
    """Opens connections to peers, and can give all of them up at once. For any thread."""

    def __init__(self, settings: Settings, tls: Tls) -> None:
        self._settings = settings
        self._tls = tls
        self._lock = threading.Lock()  # guards the two below
        self._races: set[_Race] = set()
        self._stopped = False

    def dial(self, address: Address, endpoints: tuple[Endpoint, ...], path: str = "/") -> Connected:
        """Return a connection after the opening handshake, the end that answered, and the binding
        for proofs.

        Raises DialError with the reason, within `handshake_timeout` seconds.
        """
        deadline = time.monotonic() + self._settings.handshake_timeout
        race = _Race()
        with self._lock:
            if self._stopped:
                raise DialError("this node is stopping")
            self._races.add(race)
        try:
            return self._run(race, address, endpoints, path, deadline)
        finally:
            race.end()
            with self._lock:
                self._races.discard(race)

    def stop(self) -> None:
        """Give up all dials, now and from now on."""
        with self._lock:
            self._stopped = True
            races = list(self._races)
        for race in races:
            race.end()

    def _run(
        self,
        race: _Race,
        address: Address,
        endpoints: tuple[Endpoint, ...],
        path: str,
        deadline: float,
    ) -> Connected:
        """Try the endpoints until one answers or all have failed."""
        failure = DialError("it has no address")
        waiting = list(endpoints)
        running = 0
        while waiting or running:
            if waiting:
                arguments = race, address, waiting.pop(0), path, deadline
                if not waiting and not running:
                    self._try(*arguments)  # the only one needs no thread of its own
                else:
                    thread = threading.Thread(
                        target=self._try, args=arguments, name=f"try {address}", daemon=True
                    )
                    try:
                        thread.start()
                    except RuntimeError as error:  # there can be no more threads
                        raise DialError(f"no connection: {error}") from None
                running += 1
            outcome = race.wait(HEAD_START if waiting else None)
            if outcome is None:
                continue
            if not isinstance(outcome, DialError):
                return outcome
            running -= 1
            if outcome.refused or not failure.refused:  # an answer says more than a silence
                failure = outcome
        raise failure

    def _try(
        self, race: _Race, address: Address, endpoint: Endpoint, path: str, deadline: float
    ) -> None:
        """Connect to one endpoint and shake hands; report to the race how that ends, whatever
        happens, since the dial waits for it."""
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        connection: socket.socket | None = None
        binding = ""
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
            if address.secure:
                connection = self._tls.dialling(connection, address.host)
            race.begin(connection)
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.connect(endpoint)
            streaming = streamable(connection)
            if isinstance(streaming, Secured):
                binding = streaming.shake_hands(deadline)
            stream = Stream(streaming, self._settings.handshake_timeout)
            shake_hands(stream, address, path, max(0.01, deadline - time.monotonic()))
            if race.won(connection, (stream, endpoint, binding)):
                return
            failure = DialError("another endpoint was faster")
        except TimeoutError:
            failure = DialError("it did not answer in time")
        except LinkClosed as error:
            failure = DialError(str(error), refused=isinstance(error, CertificateRefused))
        except OSError as error:
            failure = DialError(f"no connection: {error.strerror or error}")
        except DialError as error:
            failure = error
        except Exception as error:
            logger.exception("dialling %s failed", address)
            failure = DialError(f"this node failed: {error}")
        race.lost(connection, failure)
        if connection:
            connection.close()


class _Race:
    """The connections that one dial tries, of which at most one wins. For any thread."""

    def __init__(self) -> None:
        self._outcomes: queue.SimpleQueue[Connected | DialError] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the two below
        self._running: set[socket.socket] = set()
        self._over = False

    def begin(self, connection: socket.socket) -> None:
        """Take part with a connection that is not open yet; raises DialError if it is over."""
        with self._lock:
            if self._over:
                raise DialError("this node is stopping")
            self._running.add(connection)

    def won(self, connection: socket.socket, outcome: Connected) -> bool:
        """Return whether this connection is the first, which from now on is the dial's."""
        with self._lock:
            if self._over:
                return False
            self._over = True
            self._running.discard(connection)
        self._outcomes.put(outcome)
        return True

    def lost(self, connection: socket.socket | None, failure: DialError) -> None:
        """Give a connection up, for its owner to close; None: there was not even a socket."""
        with self._lock:
            if connection:
                self._running.discard(connection)
        self._outcomes.put(failure)

    def wait(self, timeout: float | None) -> Connected | DialError | None:
        """Return how the next connection has ended; None if none has within `timeout` seconds."""
        try:
            return self._outcomes.get(timeout=timeout)
        except queue.Empty:
            return None

    def end(self) -> None:
        """Cut all connections that have not won, and let none begin."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for connection in running:
            end(connection)
