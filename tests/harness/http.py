"""HTTP byte by byte: a keep-alive client, raw exchanges, and the node's server in this process."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from p2p_sync.web.serve import HttpServer
from tests.harness.support import DEADLINE, free_port_pair

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

# -- a client ------------------------------------------------------------------------------------


def get_bytes(port: int, target: str) -> bytes:
    """A GET request."""
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def post_bytes(port: int, target: str, body: bytes, kind: str) -> bytes:
    """A POST request."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def commit_bytes(port: int, what: str) -> bytes:
    """The request that commits `what` at a node, ours or an original one."""
    return get_bytes(port, f"/commit?msg={quote(what, safe='')}")


def answer_length(data: bytes | bytearray) -> int:
    """How many bytes the answer at the start of `data` has; 0 where its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = _LENGTH.search(data, 0, end)
    return end + 4 + (int(length[1]) if length else 0)


class Http:
    """One keep-alive connection; a context manager."""

    def __init__(self, port: int, timeout: float = DEADLINE) -> None:
        self.port = port
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = bytearray()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        """The next answer: its status and body."""
        while not (length := answer_length(self._rest)) or len(self._rest) < length:
            chunk = self._sock.recv(1 << 16)
            if not chunk:
                raise EOFError("the connection ended before the answer")
            self._rest += chunk
        whole = bytes(self._rest[:length])
        del self._rest[:length]
        return int(whole.split(b" ", 2)[1]), whole[whole.find(b"\r\n\r\n") + 4 :]

    def ask(self, data: bytes, *expected: int) -> bytes:
        """Send a request and return the body of its answer, which has a status of `expected`."""
        self.send(data)
        status, body = self.answer()
        assert status in expected, f"{status} {body[:500]!r}"
        return body

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes, and return what is answered until the node ends the connection.

    A node that closes with some of it unread resets the connection: what was read before counts.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock, suppress(ConnectionError):
        sock.sendall(sent)
        while piece := sock.recv(1 << 16):
            answer += piece
    return answer


# -- a server ------------------------------------------------------------------------------------


@contextmanager
def serving(
    application: Any,
    room: Callable[[Any], int] = lambda head: 1 << 30,
    *,
    begin: Any = None,
    known: Callable[[Any], bool] | None = None,
    directory: Path | None = None,
) -> Iterator[int]:
    """The port of the node's HTTP server in this process, with the limits that `settings` has now.

    `room`, `begin` and `known` are those of `HttpServer.run`.
    """
    port = free_port_pair()
    server = HttpServer("127.0.0.1", port, str(directory) if directory else None)
    thread = threading.Thread(target=server.run, args=(application, room, begin, known))
    thread.start()
    try:
        yield port
    finally:
        server.end()
        thread.join(DEADLINE)
        server.stop()


def hello(environ: Any, start_response: Any) -> Iterable[bytes]:
    """An application that answers with the length of the body."""
    answer = b"%d" % len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", f"{len(answer)}")])
    return [answer]
