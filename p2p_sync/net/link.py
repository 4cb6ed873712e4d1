"""One live link between two nodes, whichever side dialled: reading, writing, heartbeat, closing.

A link moves bytes and knows nothing about messages. It has two threads. The thread that calls
`run` reads, and hands everything that arrives to the handler. The sender asks the handler for what
to send next, so a slow peer delays nobody but itself. `wake`, `close`, `cut` and `ping` may be
called by any thread; they never block.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ..address import host_and_port
from ..errors import LinkClosed, ProtocolError
from ..settings import (
    CLOSE_TIMEOUT,
    DRAIN_PAUSE,
    FIRST_RTT,
    FLOODS_AFTER,
    IDLE_DEBT,
    IDLE_SHARE,
    LONGEST_SLEEP,
    MAX_PONGS,
    NEVER,
    Settings,
)
from . import websocket as frames
from .opening import Opened

logger = logging.getLogger("p2p_sync")


class Handler(Protocol):
    """The owner of a link. The reader's thread calls all methods but `next_messages`."""

    def received(self, link: Link, message: str | bytes) -> bool:
        """A message arrived, text or binary. A ProtocolError closes the link with its code.

        Returns whether the message brought something new. A peer whose messages do not is read
        more slowly.
        """

    def waiting(self, link: Link) -> None:
        """The peer has sent no message in the first `greeting_pause` seconds."""

    def silent(self, link: Link) -> None:
        """The peer has sent no message in the first `introduction_timeout` seconds."""

    def measured(self, link: Link) -> None:
        """The round trip was measured; it is in `link.rtt`."""

    def closed(self, link: Link, reason: str) -> None:
        """The link has ended, for `reason`. Called once, whatever happened."""

    def next_messages(self, link: Link) -> tuple[Sequence[str | bytes], float]:
        """Return the next messages to send, text or binary, and if there are none, when the link
        asks again at the latest: on the monotonic clock, infinity for never.

        The sender's thread calls this, for the last time before a CLOSE goes out.
        """


class _Floods:
    """Counts the links that flood this process now; they share its CPU time. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the one below
        self._sleeping = 0

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, multiplied by the number of links that do so at the moment."""
        with self._lock:
            self._sleeping += 1
            count = self._sleeping
        try:
            time.sleep(min(seconds * count, LONGEST_SLEEP))
        finally:
            with self._lock:
                self._sleeping -= 1


_floods = _Floods()


class Link:
    """One connection after its opening."""

    def __init__(
        self, opened: Opened, handler: Handler, settings: Settings, dialled: str | None = None
    ) -> None:
        """Take over the connection that was opened. `dialled` is the address that this side
        dialled; None: it accepted."""
        stream = opened.stream
        self.remote = opened.remote
        self.local = stream.local
        self.dialled = dialled
        self.rtt = FIRST_RTT  # seconds; a guess until it is measured
        self.fault = ""  # the kind of fault that this side ended the link for, if it did
        self._stream = stream
        self._handler = handler
        self._settings = settings
        self._frames = frames.FrameReader(stream, dialled is None, settings.max_frame_bytes)
        self._changed = threading.Condition()  # guards the next ones
        self._awake = True  # the handler may have something to send
        self._pongs: deque[bytes] = deque(maxlen=MAX_PONGS)
        self._next_ping = time.monotonic() + settings.heartbeat
        self._pinged = 0.0
        self._close_payload: bytes | None = None
        self._reason = ""  # why this side ended the link
        self._ended = False  # nothing more will be read
        # The reader's: until when its CPU time is paid for, and how much it had used at that.
        self._paid = self._worked = 0.0
        self._slowed_since = self._slowed_until = -NEVER  # and when it was slowed down lately

    def __str__(self) -> str:
        """Return the name of the other end: the dialled address, or where it comes from."""
        return self.dialled or host_and_port(self.remote)

    # -- any thread -----------------------------------------------------------------------------

    @property
    def volume(self) -> tuple[int, int]:
        """How many bytes were sent and received."""
        return self._stream.sent, self._stream.received

    @property
    def code(self) -> int | None:
        """The code of the CLOSE that began the end, whichever side sent it."""
        with self._changed:
            return frames.parse_close(self._close_payload or b"")[0]

    def ping(self) -> None:
        """Measure the round trip now."""
        with self._changed:
            self._next_ping = 0.0
            self._changed.notify()

    def wake(self) -> None:
        """Have the sender ask the handler for more."""
        with self._changed:
            self._awake = True
            self._changed.notify()

    def close(self, code: int, reason: str) -> None:
        """Send what the handler still has, then close the link with `code` and `reason`. Only the
        first call counts."""
        self._close(frames.close_payload(code, reason), reason)

    def cut(self, reason: str, fault: str = "") -> None:
        """End the connection at once, for a fault of the peer of that kind, if any."""
        with self._changed:
            if not self._reason:
                self._reason, self.fault = reason, fault
        self._stream.cut()

    # -- the reader's thread --------------------------------------------------------------------

    def run(self) -> None:
        """Serve the link until it has ended, and free the connection."""
        sender = threading.Thread(target=self._send_all, name=f"send {self}", daemon=True)
        reason = "this node failed; see its log"
        try:
            sender.start()
            reason = self._receive_all()
        except LinkClosed as error:
            reason = str(error)
        except Exception:
            logger.exception("the link with %s failed", self)
        with self._changed:
            self._ended = True
            self._changed.notify()
        try:
            self._handler.closed(self, reason)
        except Exception:
            logger.exception("the end of the link with %s failed", self)
        finally:
            if sender.ident:
                sender.join(CLOSE_TIMEOUT)  # it may still have to write the CLOSE
                self._stream.cut()
                sender.join()
            self._stream.close()
            # What has come of an unfinished message: the record of the peer may be kept for long.
            del self._frames

    def _receive_all(self) -> str:
        """Read until the link ends; return the reason."""
        self._stream.patience = patience = 2 * self._settings.heartbeat
        opened = time.monotonic()
        self._worked = time.thread_time()
        self._stream.before_fill = self._charge
        milestones = [
            (opened + self._settings.greeting_pause, self._handler.waiting),
            (opened + self._settings.introduction_timeout, self._handler.silent),
        ]
        try:
            while True:
                while milestones:
                    if self._stream.wait_readable(milestones[0][0] - time.monotonic()):
                        break
                    milestones.pop(0)[1](self)
                self._stream.wait(patience)
                received = self._frames.read()
                if received and received.opcode == frames.CLOSE:
                    return self._answer_close(received.data)
                if received and received.opcode == frames.TEXT:
                    milestones.clear()
                new = received is not None and self._take(received)
                if self.closing():  # what still comes is not worth parsing
                    self._drain()
                    with self._changed:
                        return self._reason
                self._charge(new)
        except ProtocolError as error:
            self.close(error.code, error.reason)
            self._drain()
            if not error.violation:
                return error.reason
            self.fault = "frame"
            return f"it broke the protocol: {error.reason}"
        except LinkClosed as error:
            with self._changed:
                if not self._reason:
                    self._reason, self.fault = str(error), error.fault
                return self._reason

    def _charge(self, new: bool = False) -> None:
        """Account for the CPU time since the last call, and sleep if too much of it went into
        frames that bring nothing new. Called after each frame, and before more is read of one:
        a frame may come in very many small pieces."""
        worked, before = time.thread_time(), self._worked
        self._worked = worked
        if new:
            return
        now = time.monotonic()
        self._paid = max(self._paid, now) + IDLE_SHARE * (worked - before)
        if self._paid <= now + IDLE_DEBT:
            return
        if now > self._slowed_until + FLOODS_AFTER:
            self._slowed_since = now
        if now > self._slowed_since + FLOODS_AFTER:
            _floods.sleep(self._paid - now)
        else:
            time.sleep(self._paid - now)
        self._slowed_until = time.monotonic()

    def _take(self, received: frames.Received) -> bool:
        """Act on what was received; return whether it brought something new."""
        if received.opcode == frames.PING:
            with self._changed:
                self._pongs.append(received.data)
                self._changed.notify()
        elif received.opcode == frames.PONG:
            with self._changed:
                answers = received.data == repr(self._pinged).encode()
                if answers:
                    self.rtt = time.monotonic() - self._pinged
            if answers:
                self._handler.measured(self)
        elif not self.closing():
            message = received.data if received.text is None else received.text
            return self._handler.received(self, message)
        return False

    def _answer_close(self, payload: bytes) -> str:
        """Echo the peer's CLOSE, unless it answers ours, and wait for the end."""
        self._close(payload[:2], frames.explain_close(payload)[1])
        if self.dialled:  # RFC 6455, section 7.1.1: the side that accepted ends the connection
            self._drain()
        with self._changed:
            return self._reason

    def _drain(self) -> None:
        """Read on until our CLOSE is out: closing a socket with unread bytes would discard it."""
        self._stream.before_fill = None  # the pauses below are enough
        try:
            while True:
                self._stream.read_some()
                time.sleep(DRAIN_PAUSE)
        except LinkClosed:
            return

    # -- the sender's thread --------------------------------------------------------------------

    def _send_all(self) -> None:
        try:
            again = 0.0
            while (data := self._next_control(again)) is not None:
                if not data:
                    data, again = self._next_messages()
                if data:
                    self._stream.write(data, self._settings.send_timeout)
            messages, _ = self._next_messages()
            close = self._format(frames.CLOSE, self._close_payload or b"")
            self._stream.write(messages + close, self._settings.send_timeout)
            self._stream.end()
            with self._changed:
                if self._changed.wait_for(lambda: self._ended, CLOSE_TIMEOUT):
                    return
            self.cut("it did not answer the CLOSE")
        except LinkClosed as error:
            self.cut(str(error), error.fault)
        except Exception:
            logger.exception("sending to %s failed", self)
            self.cut("this node failed; see its log")

    def _next_control(self, again: float) -> bytes | None:
        """Wait until there is something to do, or until `again`. Return the control frames to
        write; nothing where the handler is to be asked; None when it is time to close."""
        with self._changed:
            while True:
                if self._close_payload is not None:
                    return None
                if self._ended:
                    raise LinkClosed("the link has ended")
                now = time.monotonic()
                data = b""
                while self._pongs:
                    data += self._format(frames.PONG, self._pongs.popleft())
                if now >= self._next_ping:
                    self._next_ping = now + self._settings.heartbeat
                    self._pinged = now
                    data += self._format(frames.PING, repr(now).encode())
                if data:
                    return data
                if self._awake or now >= again:
                    self._awake = False
                    return data
                self._changed.wait(min(self._next_ping, again) - now)

    def _next_messages(self) -> tuple[bytes, float]:
        """Ask the handler; return the frames to write, and when to ask again."""
        messages, again = self._handler.next_messages(self)
        return b"".join(map(self._message, messages)), 0.0 if messages else again

    # -- shared ---------------------------------------------------------------------------------

    def _message(self, message: str | bytes) -> bytes:
        if isinstance(message, str):
            return self._format(frames.TEXT, message.encode("utf-8"))
        return self._format(frames.BINARY, message)

    def _format(self, opcode: int, payload: bytes) -> bytes:
        return frames.format_frame(opcode, payload, masked=self.dialled is not None)

    def _close(self, payload: bytes, reason: str) -> None:
        with self._changed:
            if self._close_payload is None:
                self._close_payload = payload
                self._reason = self._reason or reason
            self._changed.notify()

    def closing(self) -> bool:
        """Return whether a CLOSE is out or on its way. That never changes back, so the answer
        needs no lock."""
        return self._close_payload is not None
