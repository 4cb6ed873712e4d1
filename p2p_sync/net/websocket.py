"""WebSocket frames and the dialling side's handshake: the one door to websocket-client.

The library's frame codec serves both directions. This module adds the checks that the library does
not make, before the payload is read, and does the handshake itself (see `shake_hands`).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from dataclasses import dataclass, replace

import websocket

from ..address import Address
from ..codes import INVALID_TEXT, POLICY_VIOLATION, PROTOCOL_ERROR, TOO_BIG
from ..errors import DialError, LinkClosed, ProtocolError
from ..settings import MAX_HANDSHAKE_BYTES
from .stream import Stream

CONTINUATION = websocket.ABNF.OPCODE_CONT
TEXT = websocket.ABNF.OPCODE_TEXT
BINARY = websocket.ABNF.OPCODE_BINARY
CLOSE = websocket.ABNF.OPCODE_CLOSE
PING = websocket.ABNF.OPCODE_PING
PONG = websocket.ABNF.OPCODE_PONG

_CONTROL_LIMIT = 125
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

# Empty fragments in a message: some libraries end with one; many only keep a reader busy.
_MAX_EMPTY = 16


@dataclass(frozen=True)
class Received:
    """A whole message or control frame; `text` is `data` decoded where it is a TEXT."""

    opcode: int
    data: bytes
    text: str | None = None


def format_frame(opcode: int, payload: bytes, masked: bool) -> bytes:
    """Return one final frame; the side that dialled masks, the side that accepted does not."""
    frame = websocket.ABNF(1, 0, 0, 0, opcode, int(masked), payload)
    return bytes(frame.format())


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a CLOSE frame; a reason that is too long is cut."""
    text = reason.encode("utf-8", "replace")[: _CONTROL_LIMIT - 2]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode()


def parse_close(payload: bytes) -> tuple[int | None, str]:
    """Return the code (None: there was none) and the reason of a CLOSE frame's payload."""
    if not payload:
        return None, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


class FrameReader:
    """Reads what the peer sends, frame by frame, and puts fragments together.

    Used by the thread that reads the link. `expect_masked` is True where the peer dialled;
    `limit` bounds a frame and a message in bytes.
    """

    def __init__(self, stream: Stream, expect_masked: bool, limit: int) -> None:
        self._frames = _CheckedFrames(stream, expect_masked, limit)
        self._fragments = bytearray()
        self._opcode: int | None = None
        self._empty = 0  # fragments so far that are empty

    def limit(self, limit: int) -> None:
        """Change the limit."""
        self._frames.limit = limit

    def read(self) -> Received | None:
        """Read one frame; return the message that it ends, or the control frame that it is.

        None: it is a fragment, and more of its message follows. Raises ProtocolError where the
        peer broke RFC 6455, and LinkClosed (or Blocked) when the stream does; after Blocked, call
        it again. A message that was cut is never returned.
        """
        try:
            frame = self._frames.recv_frame()
        except websocket.WebSocketProtocolException as error:
            raise ProtocolError(PROTOCOL_ERROR, str(error)) from None
        if frame.opcode >= CLOSE:
            if frame.opcode == CLOSE:
                _decode(frame.data[2:])
            return Received(frame.opcode, frame.data)
        if (frame.opcode == CONTINUATION) == (self._opcode is None):
            raise ProtocolError(PROTOCOL_ERROR, "fragments out of order")
        if self._opcode is None:
            self._opcode, self._empty = frame.opcode, 0
        if not frame.fin or self._fragments:
            self._fragments += frame.data
            self._frames.pending = len(self._fragments)
        if not frame.fin:
            self._empty += not frame.data
            if self._empty > _MAX_EMPTY:
                reason = f"a message has at most {_MAX_EMPTY} empty fragments"
                raise ProtocolError(POLICY_VIOLATION, reason)
            return None
        opcode, self._opcode = self._opcode, None
        payload = frame.data
        if self._fragments:
            payload = bytes(self._fragments)
            self._fragments.clear()
            self._frames.pending = 0
        return Received(opcode, payload, _decode(payload) if opcode == TEXT else None)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_TEXT, "text must be UTF-8") from None


class _CheckedFrames(websocket.frame_buffer):
    """The library's parser, which checks a frame's header before it reads the payload."""

    def __init__(self, stream: Stream, expect_masked: bool, limit: int) -> None:
        super().__init__(stream.read, skip_utf8_validation=True)
        self._expect_masked = expect_masked
        self.limit = limit
        self.pending = 0  # bytes of the fragments so far
        self.recv_strict = stream.read  # which buffers for itself

    def recv_length(self) -> None:
        super().recv_length()
        fin, rsv1, rsv2, rsv3, opcode, masked, _ = self.header
        if rsv1 or rsv2 or rsv3:
            raise ProtocolError(PROTOCOL_ERROR, "reserved bits are set")
        if opcode not in websocket.ABNF.OPCODES:
            raise ProtocolError(PROTOCOL_ERROR, f"the opcode {opcode} is reserved")
        if bool(masked) != self._expect_masked:
            wrong = "is not masked" if self._expect_masked else "is masked"
            raise ProtocolError(PROTOCOL_ERROR, f"a frame {wrong}")
        if opcode >= CLOSE:
            if not fin or self.length > _CONTROL_LIMIT:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif self.length + self.pending > self.limit:
            raise ProtocolError(TOO_BIG, f"a message has at most {self.limit} bytes")


def shake_hands(stream: Stream, address: Address, path: str, timeout: float) -> None:
    """Do the opening handshake of the side that dials, within `timeout` seconds.

    Raises DialError with the reason where the other side does not agree. The library has a
    handshake, too, but it keeps every peer's cookies in one place and sends them to other peers.
    This one sends nothing but what follows from `address` and `path`, follows no redirect, and
    remembers nothing of the answer.
    """
    key = base64.b64encode(secrets.token_bytes(16)).decode("ascii")
    host = replace(address, host=address.host.partition("%")[0])  # a zone means nothing elsewhere
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {str(host).partition('://')[2]}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    stream.deadline = time.monotonic() + timeout
    try:
        stream.write("\r\n".join([*lines, "", ""]).encode("ascii"), timeout)
        head = stream.read_until(b"\r\n\r\n", MAX_HANDSHAKE_BYTES)
    except LinkClosed as error:
        raise DialError(f"no WebSocket handshake: {error}") from None
    if head is None:
        raise DialError("its answer to the handshake is too long")
    _check_answer(head[:-4].decode("latin-1"), key, address)
    stream.deadline = None


def _check_answer(head: str, key: str, address: Address) -> None:
    """Raise DialError unless `head` agrees to the handshake that was begun with `key`."""
    start, *lines = head.split("\r\n")
    status = re.fullmatch(r"HTTP/1\.1 ([0-9]{3})( .*)?", start)
    if status is None:
        raise DialError("no WebSocket handshake: its answer is not HTTP")
    if status[1] != "101":
        raise DialError(_explain(int(status[1]), address), refused=True)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise DialError("no WebSocket handshake: its answer has a line that is no header")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    digest = hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()
    for name, right in (
        ("upgrade", fields.get("upgrade", "").lower() == "websocket"),
        ("connection", "upgrade" in re.split(r"[\s,]+", fields.get("connection", "").lower())),
        (
            "sec-websocket-accept",
            fields.get("sec-websocket-accept") == base64.b64encode(digest).decode("ascii"),
        ),
        ("sec-websocket-extensions", not fields.get("sec-websocket-extensions")),
        ("sec-websocket-protocol", not fields.get("sec-websocket-protocol")),
    ):
        if not right:
            raise DialError(f"no WebSocket handshake: the header {name} of its answer is wrong")


def _explain(status: int, address: Address) -> str:
    """Return what an HTTP answer other than 101 means to the side that dialled."""
    if status == 503:
        return "it is full (HTTP 503)"
    reason = f"it answered HTTP {status} instead of a WebSocket handshake"
    if address.port < 65535:
        likely = Address(address.host, address.port + 1, address.secure)
        reason += f"; if that is a node's HTTP port, its peer port is likely {likely}"
    return reason
