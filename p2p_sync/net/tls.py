"""TLS on the peer port: the one door to ssl.

The certificate is shown by the side that accepts; the side that dials verifies its name and its
chain, always. Nothing here goes on in plaintext: what is wrong raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CertificateRefused, LinkClosed, StartError

_OLDEST = ssl.TLSVersion.TLSv1_2


class Tls:
    """The certificates of one node. For any thread; `reload` may be called while it is used."""

    def __init__(self, cert: str | None, key: str | None, authority: str | None) -> None:
        """Load the files, PEM each: the certificate with its chain and its key for the side that
        accepts (None: no TLS there), a private authority for the side that dials.

        Raises StartError for what cannot be used: unreadable, expired, not belonging together.
        """
        self._files = (cert, key, authority)
        self.names: tuple[str, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Load the files again; raises StartError, and then goes on with what was loaded."""
        cert, key, authority = self._files
        for file in map(Path, filter(None, self._files)):
            if file.exists() and not file.is_file():  # OpenSSL would wait for a pipe
                raise StartError(f"{file} is not a regular file; name a file in PEM")
        client = _client_context(authority)
        server, names = _server_context(cert, key) if cert else (None, ())
        self._client, self._server, self.names = client, server, names

    def accepted(self, connection: socket.socket) -> socket.socket:
        """Return the connection to use in place of one that was accepted."""
        if self._server is None:
            return connection
        return self._server.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def dialling(self, connection: socket.socket, host: str) -> socket.socket:
        """Return the connection to use in place of one that is to be connected to `host`."""
        return self._client.wrap_socket(
            connection, server_hostname=host, do_handshake_on_connect=False
        )


def streamable(connection: socket.socket) -> socket.socket | Secured:
    """Return what a stream is made of; a Secured one has to shake hands first."""
    return Secured(connection) if isinstance(connection, ssl.SSLSocket) else connection


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

    def shake_hands(self, deadline: float) -> str:
        """Do TLS's handshake; return the binding for proofs, the digest of the certificate shown.

        Raises LinkClosed; CertificateRefused where that of the other end is not the right one.
        """
        self._connection.setblocking(False)
        while True:
            try:
                return self.try_handshake()
            except Blocked as blocked:
                poll = select.poll()
                poll.register(self._connection.fileno(), blocked.event)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise LinkClosed("no TLS handshake in time") from None

    def try_handshake(self) -> str:
        """Go on with the handshake of a connection that does not block; else as `shake_hands`.

        Raises Blocked where it has to wait for the other side.
        """
        connection = self._connection
        try:
            with self._lock, _blocking():
                connection.do_handshake()
        except Blocked:
            raise
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not accepted: {error.verify_message}"
            raise CertificateRefused(why) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
            raise LinkClosed(f"no TLS handshake: {reason or error}") from None
        if isinstance(connection.context, _ServerContext):
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
        """End one direction or both; what is read after that is never taken as plaintext."""
        end(self._connection, how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)  # fileno, getsockname, setsockopt, close


def end(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """Shut a connection down, as a socket: an SSLSocket's own way would drop its TLS state, and
    go on in plaintext."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, how)


@contextlib.contextmanager
def _blocking() -> Iterator[None]:
    try:
        yield
    except ssl.SSLWantReadError:
        raise Blocked(select.POLLIN) from None
    except ssl.SSLWantWriteError:
        raise Blocked(select.POLLOUT) from None


class _ServerContext(ssl.SSLContext):
    """What accepts with one certificate, whose digest is `binding`."""

    binding = ""


def _client_context(authority: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _OLDEST
    context.load_default_certs()
    if authority:
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise StartError(f"the authority {authority} cannot be used ({error})") from None
    return context


def _server_context(cert: str, key: str | None) -> tuple[_ServerContext, tuple[str, ...]]:
    """Return the context, and the names that the certificate is for."""
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
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
    return context, tuple(str(name) for _, name in shown.get("subjectAltName", ()))


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
