"""One live link between two nodes, whichever side dialled: reading, writing, heartbeat, closing.

A link has two threads. The one that calls `run` reads, and everything that arrives is handed to
the handler in it. The sender writes: first what `send` has queued, then what the handler's
`next_texts` gives, so that a slow peer delays nobody but itself. `send`, `wake`, `help` and `close`
may be called by any thread; they never block.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ..errors import LinkClosed, ProtocolError
from ..settings import Settings
from . import websocket as frames
from .opening import Opened

logger = logging.getLogger("p2p_sync")

# How long the peer has, after our CLOSE, to answer and to end the connection. Seconds.
_CLOSE_TIMEOUT = 1.0
# PONGs that may wait; RFC 6455 asks only for the latest.
_MAX_PONGS = 32

# Frames without news, fragments and control frames among them, may use at most 1/4 of the reader's
# time, and exceed that for as long as the debt (seconds): no flood delays the other links by much.
_IDLE_SHARE = 4
_IDLE_DEBT = 0.01
# Links that have been slowed down all the time for so many seconds flood this node. Together they
# may use as much as one of them alone: each sleeps longer the more there are, up to so long.
_FLOODS_AFTER = 1.0
_LONGEST_SLEEP = 2.0

# Between two reads of what a peer still sends after our CLOSE. Seconds.
_DRAIN_PAUSE = 0.001

# The round trip that is assumed before it has been measured. Seconds.
_FIRST_RTT = 0.05

# Bytes after which one that helps leaves the rest to the sender.
_HELPED = 64 * 1024

_NEVER = float("inf")

_numbers = itertools.count(1)


class Handler(Protocol):
    """What a link tells its owner; all but `next_texts` in the reader's thread."""

    def opened(self, link: Link) -> None:
        """The handshake is done and nothing has been read yet; LinkClosed ends the link."""

    def received(self, link: Link, message: str | bytes) -> bool:
        """A message arrived, text or binary; ProtocolError closes the link with its code.

        Returns whether it brought something new; a peer that goes on with what does not is read
        more slowly.
        """

    def waiting(self, link: Link) -> None:
        """The peer has sent no message in the first `greeting_pause` seconds."""

    def silent(self, link: Link) -> None:
        """The peer has sent no message in the first `introduction_timeout` seconds."""

    def measured(self, link: Link) -> None:
        """The round trip was measured; `link.rtt` tells it."""

    def closed(self, link: Link, reason: str) -> None:
        """The link has ended, for `reason`. Called once, whatever happened."""

    def next_texts(self, link: Link) -> tuple[list[str], float]:
        """Return the next messages to send, and with none, when to be asked again at the latest.

        The time is on the monotonic clock, infinity for never. Called by the sender's thread, or
        while that waits by one that calls `help`.
        """


class _Floods:
    """How many links of this process, which share its CPU time, flood it now. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the one below
        self._sleeping = 0

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, multiplied by the number of links that do so at the moment."""
        with self._lock:
            self._sleeping += 1
            count = self._sleeping
        try:
            time.sleep(min(seconds * count, _LONGEST_SLEEP))
        finally:
            with self._lock:
                self._sleeping -= 1


_floods = _Floods()


class Link:
    """One connection after its opening."""

    def __init__(
        self,
        opened: Opened,
        handler: Handler,
        settings: Settings,
        dialled: str | None = None,
        dial: int = 0,
    ) -> None:
        """Take over the connection that was opened.

        `dialled` is the address that this side dialled (None: it accepted) and `dial` the number
        of that dial.
        """
        stream = opened.stream
        self.number = next(_numbers)
        self.remote = opened.remote
        self.local = stream.local
        self.dialled = dialled
        self.dial = dial
        self.proved = opened.proved  # the id of the node at the other end, if it has proved it
        self.node = ""  # the other end's id, once it has told; set by the owner
        self.linked = False  # the other end is known for what it is; set by the owner
        self._stream = stream
        self._handler = handler
        self._settings = settings
        self._frames = frames.FrameReader(stream, dialled is None, settings.max_frame_bytes)
        self._changed = threading.Condition()  # guards all below
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._pongs: deque[bytes] = deque(maxlen=_MAX_PONGS)
        self._awake = True
        self._busy = True  # a thread sends, or asks the handler what to send
        self._unsent = b""  # what was left over by one that helped
        self._close_payload: bytes | None = None
        self._close_sent = False
        self._reason = ""  # why this side ended the link
        self.fault = ""  # the kind of misbehaviour that it was ended for, if it was
        self._ended = False  # nothing more will be read
        # The reader's: until when its CPU time is paid for, and how much it had used at that.
        self._paid = self._worked = 0.0
        self._slowed_since = self._slowed_until = -_NEVER  # and when it was slowed down lately
        self._again = 0.0  # when to ask the handler for more without being woken
        self._waits_until = 0.0  # until when the sender waits, if nobody wakes it
        self._next_ping = time.monotonic() + settings.heartbeat
        self._pinged = 0.0
        self.rtt = _FIRST_RTT
        self.measured = False  # `rtt` is no guess any more
        self.sent = 0  # messages of the log, counted by the owner's sender
        self.received = 0  # the same, counted by the owner's reader

    def __str__(self) -> str:
        return f"{self.address} ({self.node[:8]})" if self.node else self.address

    @property
    def address(self) -> str:
        """The other end for people: what was dialled, or where it comes from."""
        host, port = self.remote
        return self.dialled or f"{f'[{host}]' if ':' in host else host}:{port}"

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

    def send(self, message: str | bytes) -> None:
        """Queue a text or binary message; a peer that lets too much wait is cut."""
        if isinstance(message, str):
            data = self._format(frames.TEXT, message.encode("utf-8"))
        else:
            data = self._format(frames.BINARY, message)
        with self._changed:
            if self._close_payload is not None:
                return
            self._outbox.append(data)
            self._outbox_bytes += len(data)
            too_much = self._outbox_bytes > self._settings.max_outbox_bytes
            self._changed.notify()
        if too_much:
            self.cut("too much waited to be sent to it", "deaf")

    def ping(self) -> None:
        """Measure the round trip now; `rtt` (seconds) is a guess until the answer is in."""
        with self._changed:
            self._next_ping = 0.0
            self._changed.notify()

    def wake(self) -> None:
        """Make the sender ask the handler for more."""
        with self._changed:
            self._awake = True
            self._changed.notify()

    def help(self) -> None:
        """Do here and now what the sender would do if it were woken, as far as it need not wait.

        It costs less than the change to another thread. A sender that is at work is told instead.
        """
        with self._changed:
            self._awake = True
            if self._busy or self._queued() or self._ended:
                self._changed.notify()
                return
            self._busy = True
        unsent = b""
        count = 0
        try:
            while not unsent and count < _HELPED and (data := self._ask()):
                unsent = self._stream.write_some(data)
                count += len(data)
        except LinkClosed as error:
            self.cut(str(error), error.fault)
        except Exception:
            logger.exception("sending to %s failed", self)
            self.cut("this node failed; see its log")
        with self._changed:
            self._busy, self._unsent = False, unsent
            if self._due() or min(self._next_ping, self._again) < self._waits_until:
                self._changed.notify()

    def close(self, code: int, reason: str) -> None:
        """Close the link with `code` and `reason`, after what is queued. The first call counts."""
        self._close(frames.close_payload(code, reason), reason)

    def cut(self, reason: str, fault: str = "") -> None:
        """End the connection at once; `fault` is the kind of misbehaviour it is for, if any."""
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
            self._handler.opened(self)
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
                sender.join(_CLOSE_TIMEOUT)  # it may still have to write the CLOSE
                self._stream.cut()
                sender.join()
            self._stream.close()

    def _receive_all(self) -> str:
        """Read until the end; return the reason of it."""
        self._stream.patience = 2 * self._settings.heartbeat
        opened = time.monotonic()
        self._worked = time.thread_time()
        self._stream.before_fill = self._charge
        milestones = [
            (opened + self._settings.greeting_pause, self._handler.waiting),
            (opened + self._settings.introduction_timeout, self._handler.silent),
        ]
        try:
            while True:
                while milestones and not self._readable_by(milestones[0][0]):
                    milestones.pop(0)[1](self)
                self._stream.wait()
                self._stream.pace(self._stream.patience)
                received = self._frames.read()
                self._stream.pace(0.0)
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
        self._paid = max(self._paid, now) + _IDLE_SHARE * (worked - before)
        if self._paid <= now + _IDLE_DEBT:
            return
        if now > self._slowed_until + _FLOODS_AFTER:
            self._slowed_since = now
        if now > self._slowed_since + _FLOODS_AFTER:
            _floods.sleep(self._paid - now)
        else:
            time.sleep(self._paid - now)
        self._slowed_until = time.monotonic()

    def _readable_by(self, moment: float) -> bool:
        return self._stream.wait_readable(moment - time.monotonic())

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
                    self.measured = True
            if answers:
                self._handler.measured(self)
        elif not self.closing():
            message = received.data if received.text is None else received.text
            return self._handler.received(self, message)
        return False

    def _answer_close(self, payload: bytes) -> str:
        """Echo the peer's CLOSE, unless it answers ours, and see the connection end."""
        self._close(payload[:2], frames.explain_close(payload)[1])
        if self.dialled:  # RFC 6455, section 7.1.1: the side that accepted ends the connection
            self._drain()
        with self._changed:
            return self._reason

    def _drain(self) -> None:
        """Let the CLOSE go out: an end with bytes unread would destroy it on its way."""
        self._stream.pace(0.0)
        self._stream.before_fill = None  # the pauses below are enough
        try:
            while True:
                self._stream.read_some()
                time.sleep(_DRAIN_PAUSE)
        except LinkClosed:
            return

    # -- the sender's thread --------------------------------------------------------------------

    def _send_all(self) -> None:
        try:
            while (data := self._next_data()) is not None:
                self._stream.write(data, self._settings.send_timeout)
            self._stream.end()
            with self._changed:
                if self._changed.wait_for(lambda: self._ended, _CLOSE_TIMEOUT):
                    return
            self.cut("it did not answer the CLOSE")
        except LinkClosed as error:
            self.cut(str(error), error.fault)
        except Exception:
            logger.exception("sending to %s failed", self)
            self.cut("this node failed; see its log")

    def _next_data(self) -> bytes | None:
        """Return what to write next, waiting for it; None when nothing more is to be written."""
        while True:
            with self._changed:
                self._busy = False
                self._wait()
                self._busy = True
                now = time.monotonic()
                if not self._due() and now >= self._next_ping:
                    return self._ping(now)
                if self._queued():
                    return self._take_queued()
                if self._ended:
                    return None
            if data := self._ask():
                return data

    def _wait(self) -> None:
        """With the lock held: wait until there is something to do, and nobody helps."""
        while self._busy or not self._due():
            self._waits_until = _NEVER if self._busy else min(self._next_ping, self._again)
            left = self._waits_until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(None if self._busy else left)

    def _ask(self) -> bytes:
        """Return what the handler has to be sent, with the lock free; nothing with nothing."""
        with self._changed:
            self._awake = False
        texts, again = self._handler.next_texts(self)
        with self._changed:
            self._awake = self._awake or bool(texts)
            self._again = again
            # What was queued before the handler knew of these, such as SOCKETS.
            first = self._take_outbox() if texts else b""
        return first + b"".join(self._format(frames.TEXT, text.encode("utf-8")) for text in texts)

    def _queued(self) -> bool:
        """With the lock held: whether something is to be sent before the handler is asked."""
        queued = self._unsent or self._outbox or self._pongs
        return bool(queued or self._close_payload is not None)

    def _due(self) -> bool:
        """With the lock held: whether there is something to do other than waiting."""
        return self._awake or self._ended or self._queued()

    def _ping(self, now: float) -> bytes:
        """With the lock held: return a PING, whose answer tells the round trip."""
        self._next_ping = now + self._settings.heartbeat
        self._pinged = now
        return self._format(frames.PING, repr(now).encode())

    def _take_queued(self) -> bytes | None:
        """With the lock held: take all that waits; nothing follows a CLOSE."""
        if self._close_sent:
            return None
        data, self._unsent = self._unsent, b""
        data += b"".join(self._format(frames.PONG, payload) for payload in self._pongs)
        data += self._take_outbox()
        self._pongs.clear()
        if self._close_payload is not None:
            self._close_sent = True
            data += self._format(frames.CLOSE, self._close_payload)
        return data

    def _take_outbox(self) -> bytes:
        """With the lock held: take what `send` has queued."""
        data = b"".join(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0
        return data

    # -- shared ---------------------------------------------------------------------------------

    def _format(self, opcode: int, payload: bytes) -> bytes:
        return frames.format_frame(opcode, payload, masked=self.dialled is not None)

    def _close(self, payload: bytes, reason: str) -> None:
        with self._changed:
            if self._close_payload is None:
                self._close_payload = payload
                self._reason = self._reason or reason
            self._changed.notify()

    def closing(self) -> bool:
        """Return whether a CLOSE is out or on its way."""
        with self._changed:
            return self._close_payload is not None


def wake(links: Iterable[Link]) -> None:
    """Have the senders of `links` look for work."""
    for link in links:
        link.wake()
