"""WebSocket frames (RFC 6455, section 5): the one door to websocket-client.

The library's frame codec serves both directions: the side that dials masks its frames, the side
that accepts does not. The library checks little, so FrameReader checks each frame's header before
it reads the payload: what a peer announces never takes more memory than a message may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import websocket

from ..codes import (
    GOING_AWAY,
    INVALID_TEXT,
    NORMAL,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    TOO_BIG,
)
from ..errors import ProtocolError
from ..settings import MAX_EMPTY_FRAGMENTS
from .stream import Stream

CONTINUATION = websocket.ABNF.OPCODE_CONT
TEXT = websocket.ABNF.OPCODE_TEXT
BINARY = websocket.ABNF.OPCODE_BINARY
CLOSE = websocket.ABNF.OPCODE_CLOSE
PING = websocket.ABNF.OPCODE_PING
PONG = websocket.ABNF.OPCODE_PONG

_CONTROL_LIMIT = 125  # RFC 6455, section 5.5


@dataclass(frozen=True)
class Received:
    """A whole message or a control frame; `text` is `data` decoded if it is a TEXT."""

    opcode: int
    data: bytes
    text: str | None = None


def format_frame(opcode: int, payload: bytes, masked: bool) -> bytes:
    """Return one final frame; `masked` if this side dialled."""
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


def explain_close(payload: bytes) -> tuple[int | None, str]:
    """Return the code of the peer's CLOSE, and a reason for this side's log."""
    code, text = parse_close(payload)
    if code == GOING_AWAY:
        return code, "it stops"
    told = "" if code in (None, NORMAL) else f" with code {code}"
    return code, f"it closed the link{told}" + (f": {text!r}" if text else "")


class FrameReader(websocket.frame_buffer):
    """Reads a peer's frames and joins fragments. Used by one thread at a time."""

    def __init__(self, stream: Stream, expect_masked: bool, limit: int) -> None:
        """`expect_masked`: the peer dialled; `limit` is that of a frame and a message in bytes."""
        super().__init__(stream.read, skip_utf8_validation=True)
        self.recv_strict = stream.read  # which buffers for itself
        self._expect_masked = expect_masked
        self._limit = limit
        self._fragments = bytearray()
        self._opcode: int | None = None  # of the message that has begun
        self._empty = 0  # fragments of it so far that are empty

    def read(self) -> Received | None:
        """Read one frame; return the message that it ends, or the control frame that it is.

        None: it is a fragment, and more of its message follows. Raises ProtocolError if the peer
        broke RFC 6455, and LinkClosed (or Blocked) if the stream does; after Blocked, call it
        again. A message that was cut is never returned.
        """
        try:
            frame = self.recv_frame()
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
        if not frame.fin:
            self._fragments += frame.data
            self._empty += not frame.data
            if self._empty > MAX_EMPTY_FRAGMENTS:
                reason = f"a message has at most {MAX_EMPTY_FRAGMENTS} empty fragments"
                raise ProtocolError(POLICY_VIOLATION, reason)
            return None
        opcode, self._opcode = self._opcode, None
        payload = frame.data
        if self._fragments:
            self._fragments += payload
            payload = bytes(self._fragments)
            self._fragments.clear()
        return Received(opcode, payload, _decode(payload) if opcode == TEXT else None)

    def recv_length(self) -> None:
        """Called by the library between a frame's header and its payload."""
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
        elif self.length + len(self._fragments) > self._limit:
            raise ProtocolError(TOO_BIG, f"a message has at most {self._limit} bytes")


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_TEXT, "text must be UTF-8") from None
