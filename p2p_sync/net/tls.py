"""TLS on the peer port: the one door to ssl.

The side that accepts shows a certificate; the side that dials always verifies its name and its
chain. TLS never falls back to plaintext: every failure raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import DialError, LinkClosed, StartError

_OLDEST = ssl.TLSVersion.TLSv1_2


class Blocked(BlockingIOError):
    """TLS has to wait for `event` (of select.poll), whichever way the data goes."""

    def __init__(self, event: int) -> None:
        super().__init__()
        self.event = event


class Secured:
    """A non-blocking TLS connection that one thread reads while another writes."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # one call into TLS at a time; none of them blocks

    def shake_hands(self) -> str:
        """Go on with the handshake; return the SHA-256 of the certificate that was shown.

        Raises Blocked if it has to wait for the other side, and LinkClosed if it fails; that
        is a refusal where the certificate of the other end is not the right one.
        """
        connection = self._connection
        try:
            with self._lock, _blocking():
                connection.do_handshake()
        except Blocked:
            raise
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not accepted: {error.verify_message}"
            raise LinkClosed(why, refused=True) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
            raise LinkClosed(f"no TLS handshake: {reason or error}") from None
        if isinstance(connection.context, ServerContext):
            return connection.context.binding
        return _digest(connection.getpeercert(binary_form=True))

    def recv(self, count: int) -> bytes:
        """Return some bytes, none at the end."""
        with self._lock, _blocking():
            return self._connection.recv(count)

    def send(self, data: memoryview) -> int:
        """Send some bytes; return how many."""
        with self._lock, _blocking():
            return self._connection.send(data)

    def pending(self) -> int:
        """Return how many bytes can be read without waiting for the network."""
        with self._lock:
            return self._connection.pending()

    def shutdown(self, how: int) -> None:
        """End one direction or both, as a plain socket would: an SSLSocket's own way would drop its
        TLS state and go on in plaintext."""
        socket.socket.shutdown(self._connection, how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)  # fileno, close


def secured(connection: socket.socket) -> socket.socket | Secured:
    """Return what reads and writes `connection`, which does not block."""
    return Secured(connection) if isinstance(connection, ssl.SSLSocket) else connection


@contextlib.contextmanager
def _blocking() -> Iterator[None]:
    try:
        yield
    except ssl.SSLWantReadError:
        raise Blocked(select.POLLIN) from None
    except ssl.SSLWantWriteError:
        raise Blocked(select.POLLOUT) from None


def shake_hands(
    context: ssl.SSLContext, connection: socket.socket, host: str, seconds: float
) -> ssl.SSLSocket:
    """Return a blocking TLS connection to `host` in place of one without TLS, which is closed if
    that fails. Raises DialError, or TimeoutError after so many seconds."""
    connection.settimeout(seconds)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise DialError(f"its certificate is not accepted: {error.verify_message}") from None
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
        raise DialError(f"no TLS handshake: {reason or error}") from None


# -- certificates ----------------------------------------------------------------------------------


class ServerContext(ssl.SSLContext):
    """Accepts with one certificate, whose SHA-256 is `binding` and which is for `names`."""

    binding = ""
    names: tuple[str, ...] = ()


def client_context(authority: str | None) -> ssl.SSLContext:
    """Return a context to dial with, which trusts the system's authorities and the PEM file
    `authority`. Raises StartError if that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _OLDEST
    context.load_default_certs()
    if authority:
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise StartError(f"the authority {authority} cannot be used ({error})") from None
    return context


def server_context(cert: str, key: str | None) -> ServerContext:
    """Return a context to accept with: the PEM files of a certificate with its chain, and its key.

    Raises StartError if they cannot be used: unreadable, expired, not belonging together.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _OLDEST
    try:
        context.load_cert_chain(cert, key, password=_no_password)
        shown, binary = _try(context, cert)
    except (OSError, ValueError) as error:
        reason = getattr(error, "verify_message", None) or error
        raise StartError(
            f"the certificate {cert} with the key {key or cert} cannot be used ({reason})"
        ) from None
    context.binding = _digest(binary)
    context.names = tuple(str(name) for _, name in shown.get("subjectAltName", ()))
    return context


def _no_password() -> str:
    raise ValueError("the key is locked by a password; a node needs one without")


def _try(context: ssl.SSLContext, cert: str) -> tuple[dict[str, Any], bytes | None]:
    """Shake hands with ourselves in memory: this shows whether the certificate has expired.

    Returns it as the other side sees it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is trusted for what it is
    client.load_verify_locations(cert)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)]
    for _ in range(8):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dict(ends[0].getpeercert() or {}), ends[0].getpeercert(binary_form=True)


def _digest(certificate: bytes | None) -> str:
    return hashlib.sha256(certificate or b"").hexdigest()
