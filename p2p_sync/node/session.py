"""The conversation on one link: frames from the peer go to the core, and frames from the core go to
the link.

A turn must be short, so frames are decoded before it and encoded after it. Two threads run this
code: the reader of the link and its sender.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from ..codes import UNSUPPORTED_DATA
from ..core.faults import KINDS
from ..core.peer import Peer
from ..core.replica_link import Work
from ..core.shipping import fill
from ..errors import LogDeleted, LogError, LogMoved, ProtocolError
from ..metrics import Counters
from ..net.stream import Endpoint
from ..settings import BATCH_BYTES, NEVER, ORIGINAL_BATCH
from ..wire.entries import HEARD, Entry
from ..wire.frames import Frame, Heard, Ignored, Message, Sockets, decode, encode
from ..wire.logframes import (
    LOG_FRAMES,
    Fork,
    Have,
    LogFrame,
    Messages,
    Sums,
    Vector,
    messages_to_json,
)
from ..wire.signing import checked
from .state import State, wall_ms

logger = logging.getLogger("p2p_sync")


class End(Protocol):
    """What a session needs of its link: net.link.Link, or a HubLink."""

    remote: Endpoint
    local: Endpoint
    dialled: str | None
    rtt: float
    fault: str

    @property
    def code(self) -> int | None: ...
    @property
    def volume(self) -> tuple[int, int]: ...
    def ping(self) -> None: ...
    def cut(self, reason: str, fault: str = "") -> None: ...


class Session:
    """One conversation. It is the handler of its link."""

    peer: Peer

    def __init__(self, state: State, counters: Counters) -> None:
        self._state = state
        self._log = state.log
        self._counters = counters
        self._since = 0  # as it was last sent: from when on messages are kept

    def open(self, link: End, dial: int, node: str | None, start: int) -> None:
        """Tell the core that `link` is open; nothing has been read from it yet. For any thread.

        `dial` is the number of the dial that opened it, `node` the id of the node at the other end
        (None: an original) and `start` the number of its start."""
        arrival = self._log.last_arrival()
        with self._state.turn() as core:
            self.peer = core.links.opened(
                link,
                link.remote,
                link.local,
                dialled=link.dialled,
                dial=dial,
                node=node,
                start=start,
                arrival=arrival,
            )

    # -- the reader's thread --------------------------------------------------------------------

    def waiting(self, link: End) -> None:
        """The peer has sent nothing in the first `greeting_pause` seconds."""
        with self._state.turn() as core:
            core.links.greet(self.peer)

    def silent(self, link: End) -> None:
        """The peer has sent nothing in the first `introduction_timeout` seconds."""
        with self._state.turn() as core:
            core.links.silent(self.peer)

    def received(self, link: End, message: str | bytes) -> bool:
        """Handle a message; return whether it brought something new. Raises ProtocolError."""
        if isinstance(message, bytes):
            raise ProtocolError(UNSUPPORTED_DATA, "a message must be text, not binary")
        frame = decode(message)
        self._counters.add("frames_total", "in", _kind(frame))
        if isinstance(frame, Heard):
            return self._hear(frame)
        if isinstance(frame, LOG_FRAMES):
            proven = self._checked(frame)
            if proven is None:
                with self._state.turn() as core:
                    core.links.fault(self.peer, "signature", f"it {KINDS['signature']}")
                return False
            frame = proven
        messages = isinstance(frame, Messages)
        with self._state.turn_with_room() if messages else self._state.turn() as core:
            new = core.received(self.peer, frame)
        if isinstance(frame, Sockets) and self.peer.ours:
            link.ping()  # the rules of the log count in round trips
        return new

    def _checked(self, frame: LogFrame) -> LogFrame | None:
        """Return a frame with what its signatures prove; None if one of them is wrong."""
        heads: Vector = {}
        if frame.have:
            with self._state.turn() as core:
                heads = core.exchange.doubtful(self.peer, frame)
        return checked(frame, heads, self._log.hash_at)

    def _hear(self, frame: Heard) -> bool:
        """Commit the message of an original node, and wait until it is stored."""
        draft = Entry.of(0, [frame.data], HEARD)
        future: Future[None] = Future()
        try:
            with self._state.turn_with_room() as core:
                core.received(self.peer, frame)
                core.commits.hear(self.peer, draft, frame.data, future)
            future.result()
        except LogError as error:
            name = self.peer.label
            logger.error("a message of the original node %s is lost here: %s", name, error)
        return True

    def measured(self, link: End) -> None:
        """The round trip was measured."""
        self._counters.time("peer_delay_seconds", link.rtt)
        with self._state.turn() as core:
            core.links.measured(self.peer, link.rtt)

    def closed(self, link: End, reason: str) -> None:
        """The link has ended."""
        code, fault, volume = link.code, link.fault, link.volume
        with self._state.turn() as core:
            core.links.closed(self.peer, reason, code, fault, volume)

    # -- the sender's thread --------------------------------------------------------------------

    def next_messages(self, link: End) -> tuple[list[str], float]:
        """Return the next frames, and if there are none, when to ask again at the latest."""
        try:
            work, after = self._take()
            texts = [self._encode(frame) for frame in work.frames]
            if work.ships:
                texts += self._ship(work)
            elif after is not None:
                texts += self._pass_on(after)
            return texts, work.until
        except LogError as error:
            link.cut(str(error))
            return [], NEVER

    def _take(self) -> tuple[Work, int | None]:
        """Return the core's work for the peer, and for an original the last arrival it has got."""
        work = self.peer.handed  # it is this thread's: see Exchange.hand
        if work and not self.peer.leaving:
            self.peer.handed = None
            return work, None
        with self._state.turn() as core:
            return core.exchange.take(self.peer), core.exchange.waits_after(self.peer)

    def _ship(self, work: Work) -> list[str]:
        """Read messages for a peer from the log; return the frames."""
        try:
            runs, ships, room = fill(work.ships, self._log.read, BATCH_BYTES)
        except LogDeleted as error:  # the others go on
            with self._state.turn() as core:
                core.exchange.withhold(self.peer, work.ships, error.origin, error.floor)
            return [self._encode(Have(work.have, ack=work.ack))] if work.have else []
        except LogMoved:
            with self._state.turn() as core:
                core.exchange.correct(self.peer, work.ships, ())
            return [self._encode(Have(work.have, ack=work.ack))] if work.have else []
        if ships != work.ships:
            with self._state.turn() as core:
                core.exchange.correct(self.peer, work.ships, ships)
        self._counters.add("frames_total", "out", "MESSAGES")
        have = work.have if room >= 0 else {}  # one entry may fill the frame alone
        texts = [messages_to_json(runs, have, work.ack)]
        if work.have and not have:
            texts.append(self._encode(Have(work.have, ack=work.ack)))
        return texts

    def _pass_on(self, after: int) -> list[str]:
        """Read the messages after an arrival; return the frames for an original."""
        while True:
            arrivals = self._log.arrivals(after, ORIGINAL_BATCH, hidden=True)
            if arrivals.upto == after:
                return []
            with self._state.turn() as core:
                # What was handed over while this thread read comes before what it has read.
                handed, self.peer.handed = self.peer.handed, None
                messages = core.exchange.pass_on(self.peer, arrivals, arrivals.upto)
            frames = [*(handed.frames if handed else ()), *messages]
            if frames:
                return [self._encode(frame) for frame in frames]
            after = arrivals.upto

    def _encode(self, frame: Sockets | Message | LogFrame) -> str:
        if isinstance(frame, (Have, Sums)):  # as late as possible, so that it is right
            frame.clock = wall_ms()
            if isinstance(frame, Sums) and (since := self._log.since(wall_ms())) != self._since:
                self._since = frame.since = since
        elif isinstance(frame, Fork) and frame.agree is None:
            frame = replace(frame, marks=self._log.marks(frame.origin, frame.above))
        self._counters.add("frames_total", "out", _kind(frame))
        return encode(frame)


def _kind(frame: Frame) -> str:
    """Return the type of `frame`, as the metrics name it."""
    if isinstance(frame, Ignored):
        return "ignored"
    return "MESSAGE" if isinstance(frame, Heard) else type(frame).__name__.upper()
