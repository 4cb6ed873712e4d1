"""WebSocket frames and the dialler's handshake: the one door to websocket-client.

The library's frame codec serves both directions; the checks that it does not make are made here,
before the payload is read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import websocket

from .address import Address
from .codes import INVALID_TEXT, PROTOCOL_ERROR, TOO_BIG
from .config import MAX_HANDSHAKE_BYTES
from .errors import DialError, LinkClosed, ProtocolError
from .stream import Stream

CONTINUATION = websocket.ABNF.OPCODE_CONT
TEXT = websocket.ABNF.OPCODE_TEXT
BINARY = websocket.ABNF.OPCODE_BINARY
CLOSE = websocket.ABNF.OPCODE_CLOSE
PING = websocket.ABNF.OPCODE_PING
PONG = websocket.ABNF.OPCODE_PONG

_CONTROL_LIMIT = 125


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

    def limit(self, limit: int) -> None:
        """Change the limit."""
        self._frames.limit = limit

    def read(self) -> Received:
        """Return the next message or control frame.

        Raises ProtocolError where the peer broke RFC 6455, and LinkClosed when the stream does.
        A message that was cut is never returned.
        """
        while True:
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
                self._opcode = frame.opcode
            if not frame.fin or self._fragments:
                self._fragments += frame.data
                self._frames.pending = len(self._fragments)
            if frame.fin:
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


class _Handshake:
    """What the library's handshake reads from and writes to: bounded in size."""

    def __init__(self, stream: Stream, timeout: float) -> None:
        self._stream = stream
        self._left = MAX_HANDSHAKE_BYTES
        self._timeout = timeout

    def recv(self, _count: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise DialError("its answer to the handshake is too long")
        return self._stream.read(1)  # never more, or the first frame would be lost

    def send(self, data: bytes) -> int:
        self._stream.write(data, self._timeout)
        return len(data)

    def gettimeout(self) -> float:
        return self._timeout

    def close(self) -> None:
        """The dialler closes the stream."""


def shake_hands(stream: Stream, address: Address, path: str, timeout: float) -> None:
    """Do the dialling side's opening handshake, within `timeout` seconds.

    Raises DialError with the reason where the other side does not agree.
    """
    stream.deadline = time.monotonic() + timeout
    client = websocket.WebSocket(enable_multithread=False)
    options: dict[str, Any] = {
        "socket": _Handshake(stream, timeout),
        "suppress_origin": True,
        "redirect_limit": 0,
        "timeout": timeout,
    }
    try:
        client.connect(f"{address}{path}", **options)
    except websocket.WebSocketBadStatusException as error:
        raise DialError(_explain(error, address), refused=True) from None
    except (websocket.WebSocketException, LinkClosed, OSError, ValueError) as error:
        raise DialError(f"no WebSocket handshake: {error}") from None
    stream.deadline = None


def _explain(error: Any, address: Address) -> str:
    """Return what an HTTP answer other than 101 means to the one who dialled."""
    status = error.status_code
    if status == 503:
        return "it is full (HTTP 503)"
    reason = f"it answered HTTP {status} instead of a WebSocket handshake"
    if address.port < 65535:
        likely = Address(address.host, address.port + 1, address.secure)
        reason += f"; if that is a node's HTTP port, its peer port is likely {likely}"
    return reason
