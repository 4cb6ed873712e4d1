"""A WebSocket peer without a library: any bytes, right or wrong, as client or as server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from p2p_sync.net.credentials import secret_keys
from p2p_sync.wire.frames import Proof, decode, encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.proof import HEADER, Handshake
from tests.harness.support import DEADLINE, Answer, NodeProcess, wait_until

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FRAME_LIMIT = 1 << 20
DIRECTIONS = ("accepted", "dialled")  # how the node under test got the link


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    masked: bool,
    fin: bool = True,
    rsv: int = 0,
    announced: int | None = None,
) -> bytes:
    """One frame as bytes; `announced` is the length in the header where it is not the true one."""
    length = len(payload) if announced is None else announced
    if length < 126:
        size = bytes([length | masked << 7])
    elif length < 1 << 16:
        size = struct.pack(">BH", 126 | masked << 7, length)
    else:
        size = struct.pack(">BQ", 127 | masked << 7, length)
    head = bytes([fin << 7 | rsv << 4 | opcode]) + size
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(key, payload)


def mask(key: bytes, payload: bytes) -> bytes:
    """Mask or unmask."""
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return mixed.to_bytes(len(payload), "big")


def close_payload(code: int, reason: str | bytes = b"") -> bytes:
    """The payload of a CLOSE frame."""
    return struct.pack(">H", code) + (reason.encode() if isinstance(reason, str) else reason)


@dataclass(frozen=True)
class Frame:
    """One frame that was read."""

    fin: bool
    opcode: int
    payload: bytes


class RawPeer:
    """One open WebSocket, `head` being the other side's part of the handshake.

    Every read has a deadline. The end of the stream is EOFError, whether by FIN or by RST.
    """

    def __init__(self, sock: socket.socket, *, client: bool, head: str, rest: bytes = b"") -> None:
        sock.settimeout(DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.client = client
        self.head = head
        self._said_close = False
        self._rest = bytearray(rest)
        # What the node knows this peer by: where it dialled, or where the connection came from.
        self.name = "{}:{}".format(*sock.getsockname()[:2])

    # Writing

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        """Send one frame, masked as this side's role demands unless told otherwise."""
        self.send_bytes(self.frame(opcode, payload, **how))

    def frame(self, opcode: int, payload: bytes = b"", **how: Any) -> bytes:
        self._said_close |= opcode == CLOSE
        return frame(opcode, payload, **{"masked": self.client, **how})

    def send_json(self, value: Any) -> None:
        self.send(TEXT, json.dumps(value).encode())

    def send_frame(self, frame: Proof) -> None:
        self.send(TEXT, encode(frame).encode())

    def send_sockets(self, *addresses: str) -> None:
        self.send_json({"type": "SOCKETS", "addresses": list(addresses)})

    def send_message(self, text: str) -> None:
        self.send_json({"type": "MESSAGE", "data": text})

    # Reading

    def read_bytes(self, count: int) -> bytes:
        while len(self._rest) < count:
            try:
                chunk = self.sock.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise EOFError(f"{len(self._rest)} of {count} bytes, then the end")
            self._rest += chunk
        data = bytes(self._rest[:count])
        del self._rest[:count]
        return data

    def buffered(self) -> bool:
        """Has more been read from the socket than was asked for?"""
        return bool(self._rest)

    def read(self) -> Frame:
        """The next frame; its reserved bits must be clear, and only a client's frame masked."""
        first, second = self.read_bytes(2)
        assert first & 0x70 == 0, f"reserved bits: {first:#x}"
        assert bool(second & 0x80) is not self.client, "only clients mask, and they always do"
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self.read_bytes(2 if length == 126 else 8), "big")
        key = bytes(4) if self.client else self.read_bytes(4)
        return Frame(bool(first & 0x80), first & 0x0F, mask(key, self.read_bytes(length)))

    def frames(self) -> Iterator[Frame]:
        """The frames that come; they are not to go on beyond the deadline."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            yield self.read()
        raise AssertionError(f"not within {DEADLINE:g} s, though frames keep coming")

    def read_until(self, opcode: int) -> Frame:
        """The next frame of this kind, answering PINGs; anything else is passed over."""
        for found in self.frames():
            if found.opcode == opcode:
                break
            if found.opcode == PING:
                self.send(PONG, found.payload)
            assert found.opcode != CLOSE, f"closed: {found.payload!r}"
        return found

    def read_json(self) -> Any:
        return json.loads(self.read_until(TEXT).payload)

    def read_message(self) -> str:
        """The text of the next MESSAGE."""
        while True:
            value = self.read_json()
            if value["type"] == "MESSAGE":
                return str(value["data"])

    def ping(self, payload: bytes = b"there?") -> None:
        """Wait for the answer to a PING: all that was sent before has then been handled."""
        self.send(PING, payload)
        assert self.read_until(PONG).payload == payload

    def read_close(self) -> tuple[int | None, str]:
        """The code and the reason of the CLOSE that comes, answered; then the connection ends."""
        found = next(found for found in self.frames() if found.opcode == CLOSE)
        with contextlib.suppress(OSError):
            if not self._said_close:
                self.send(CLOSE, found.payload[:2])
            if not self.client:
                self.sock.shutdown(socket.SHUT_WR)
        self.read_end()
        self.close()
        if not found.payload:
            return None, ""
        return int.from_bytes(found.payload[:2], "big"), found.payload[2:].decode()

    def read_end(self) -> None:
        """Wait until the node has ended the stream, whatever comes before."""
        deadline = time.monotonic() + DEADLINE
        with contextlib.suppress(EOFError):
            while time.monotonic() < deadline:
                self.read_bytes(len(self._rest) + 1)
            raise AssertionError("the node does not end the connection")

    # Ending

    def abort(self) -> None:
        """Reset the connection, as a killed host would."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def handshake(
    host: str,
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    drop: str = "",
    extra: tuple[str, ...] = (),
    **fields: str,
) -> bytes:
    """The opening of a client; `drop` leaves a header out, `fields` replaces (- written as _)."""
    headers = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if name != drop]
    return "\r\n".join([f"{method} / {version}", *lines, *extra, "", ""]).encode("latin-1")


def read_head(sock: socket.socket) -> tuple[str, bytes]:
    """A start line with its headers, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(1 << 16)
        if not chunk:
            raise EOFError(f"the stream ended in the handshake: {data!r}")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def tcp(address: str, *, receive_buffer: int = 0) -> socket.socket:
    """A connection to `ws://host:port` on which nothing has been said."""
    parts = urlsplit(address)
    sock = socket.socket()
    sock.settimeout(DEADLINE)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        sock.connect((parts.hostname, parts.port))
    except BaseException:
        sock.close()
        raise
    return sock


def ask(address: str, data: bytes) -> Answer:
    """Send these bytes to the peer port and return the HTTP answer that refuses them."""
    with tcp(address) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        response = HTTPResponse(sock)
        response.begin()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())


def begin(
    identity: Identity, *, dialled: bool, start: int = 1, secret: str = "", binding: str = ""
) -> Handshake:
    """The opening handshake of a node with this key."""
    return Handshake(identity, start, os.urandom(32).hex(), _keys(secret), dialled, binding)


@lru_cache
def _keys(secret: str) -> tuple[bytes, ...]:
    return secret_keys(secret, "the test") if secret else ()


def header_in(head: str) -> str | None:
    """The header of the head of a handshake that says which node it comes from."""
    lines = [line.partition(": ") for line in head.split("\r\n")]
    return next((value for name, _, value in lines if name == HEADER), None)


def dial(
    address: str,
    *,
    identity: Identity | None = None,
    start: int = 1,
    secret: str = "",
    receive_buffer: int = 0,
    **fields: Any,
) -> RawPeer:
    """Open a link to a node's peer port as a client that follows the rules: as an original, or as
    the node of ours with the key `identity`.

    That has proved its key and the secret, if there is one; the proof of the other side is still to
    be read then.
    """
    if identity:
        opening = begin(identity, dialled=True, start=start, secret=secret)
        fields[HEADER] = opening.header
    sock = tcp(address, receive_buffer=receive_buffer)
    try:
        sock.sendall(handshake(urlsplit(address).netloc, **fields))
        head, rest = read_head(sock)
        assert head.startswith("HTTP/1.1 101 "), head
        peer = RawPeer(sock, client=True, head=head, rest=rest)
        if identity:
            opening.read(header_in(head))
            opening.check()
            peer.send_frame(opening.proof())
        return peer
    except BaseException:
        sock.close()
        raise


class RawServer:
    """A port that nodes can dial; a context manager."""

    def __init__(self, *, receive_buffer: int = 0) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE)
        if receive_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port = int(self.listener.getsockname()[1])
        self.address = f"ws://127.0.0.1:{self.port}"

    def accept_tcp(self) -> socket.socket:
        """The next connection, on which nothing has been said."""
        sock, _ = self.listener.accept()
        sock.settimeout(DEADLINE)
        return sock

    def accept(
        self, identity: Identity | None = None, *, start: int = 1, secret: str = ""
    ) -> RawPeer:
        """The next connection, its handshake answered with 101, as an original or as the node of
        ours with this key. That has checked and answered the proof of the other side."""
        sock = self.accept_tcp()
        try:
            head, rest = read_head(sock)
            if identity is None:
                sock.sendall(welcome(head))
                return RawPeer(sock, client=False, head=head, rest=rest)
            opening = begin(identity, dialled=False, start=start, secret=secret)
            opening.read(header_in(head))
            sock.sendall(welcome(head, opening.header))
            peer = RawPeer(sock, client=False, head=head, rest=rest)
            if answer := opening.receive(decode(json.dumps(peer.read_json()))):
                peer.send_frame(answer)
            return peer
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def welcome(head: str, header: str = "") -> bytes:
    """The 101 that answers a client's opening; `header` says which node answers."""
    keys = [line.split(":", 1)[1] for line in head.split("\r\n") if "websocket-key" in line.lower()]
    digest = hashlib.sha1((keys[0].strip() + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())
    accept = base64.b64encode(digest.digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n"
        + (f"{HEADER}: {header}\r\n" if header else "")
        + "\r\n"
    ).encode()


@contextlib.contextmanager
def linked(
    direction: str, address: str, add: Callable[[str], Any], *, receive_buffer: int = 0
) -> Iterator[RawPeer]:
    """A raw peer linked with the node at `address`: it dials, or `add` makes the node dial it.

    Its SOCKETS is out, empty, as an original node's would be; the node's own is still to be read.
    """
    with contextlib.ExitStack() as stack:
        if direction == "accepted":
            peer = stack.enter_context(dial(address, receive_buffer=receive_buffer))
        else:
            server = stack.enter_context(RawServer(receive_buffer=receive_buffer))
            add(server.address)
            peer = stack.enter_context(server.accept())
        peer.send_sockets()
        yield peer


@contextlib.contextmanager
def alone(direction: str, node: NodeProcess) -> Iterator[RawPeer]:
    """As `linked`. In the end this link must be gone and no other one, without a traceback."""
    before = node.sockets()
    with linked("accepted", node.address, node.add) as bystander:
        with linked(direction, node.address, node.add) as peer:
            wait_until(lambda: node.sockets() == before + 2, "the links are counted")
            yield peer
        wait_until(lambda: node.sockets() == before + 1, "the link leaves the list")
        bystander.ping()
    wait_until(lambda: node.sockets() == before, "the bystander leaves, too")
    assert "Traceback" not in node.log()


@contextlib.contextmanager
def paused(node: NodeProcess) -> Iterator[None]:
    """Stop the process for the time of the block; the kernel goes on accepting for it."""
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)
