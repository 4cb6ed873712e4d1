"""Dials peers: name, connection, handshake. One call, one dial, in the caller's thread."""

from __future__ import annotations

import socket
import threading
import time

from .address import Address
from .config import Settings
from .errors import CertificateRefused, DialError, LinkClosed
from .frames import shake_hands
from .stream import Stream
from .tls import Secured, Tls, end, streamable

Endpoint = tuple[str, int]


def resolve(address: Address) -> tuple[Endpoint, ...]:
    """Return the IP addresses and ports behind `address`; raises DialError with none."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DialError(f"its name is not known: {reason}") from None
    return tuple(dict.fromkeys((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found))


class Dialer:
    """Opens connections to peers, and can give all of them up at once. For any thread."""

    def __init__(self, settings: Settings, tls: Tls) -> None:
        self._settings = settings
        self._tls = tls
        self._lock = threading.Lock()  # guards the two below
        self._under_way: set[socket.socket] = set()
        self._stopped = False

    def dial(
        self, address: Address, endpoints: tuple[Endpoint, ...], path: str = "/"
    ) -> tuple[Stream, Endpoint, str]:
        """Return a connection after the opening handshake, the end that answered, and the binding
        for proofs.

        Raises DialError with the reason, within `handshake_timeout` seconds.
        """
        deadline = time.monotonic() + self._settings.handshake_timeout
        failure = DialError("it has no address")
        for endpoint in endpoints:
            family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            binding = ""
            if address.secure:
                connection = self._tls.dialling(connection, address.host)
            try:
                self._begin(connection)
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                connection.connect(endpoint)
                streaming = streamable(connection)
                if isinstance(streaming, Secured):
                    binding = streaming.shake_hands(deadline)
                stream = Stream(streaming, self._settings.handshake_timeout)
                shake_hands(stream, address, path, max(0.01, deadline - time.monotonic()))
                return stream, endpoint, binding
            except TimeoutError:
                failure = DialError("it did not answer in time")
            except LinkClosed as error:
                refused = isinstance(error, CertificateRefused)
                failure = DialError(str(error), refused=refused)
            except OSError as error:
                failure = DialError(f"no connection: {error.strerror or error}")
            except DialError as error:
                failure = error
            finally:
                with self._lock:
                    self._under_way.discard(connection)
            connection.close()
        raise failure

    def stop(self) -> None:
        """Give up all dials, now and from now on."""
        with self._lock:
            self._stopped = True
            under_way = list(self._under_way)
        for connection in under_way:
            end(connection)

    def _begin(self, connection: socket.socket) -> None:
        with self._lock:
            if self._stopped:
                raise DialError("this node is stopping")
            self._under_way.add(connection)
