"""What the rules decide: collected while the state's lock is held, carried out after it is free.

Two threads may carry out what two turns have decided in either order. So nothing whose order
matters is an effect: a frame waits in `Peer.outbox` and messages in the log until that peer's
sender takes them, and the effect is only to wake the sender.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..results import EventType
from ..settings import MANY_ADDRESSES
from ..wire.frames import Sockets
from .commit import Commit
from .peer import Peer


@dataclass(frozen=True, slots=True)
class Close:
    """Close the link to `peer` with a close code and a reason, after what waits in its outbox."""

    peer: Peer
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial `address`; `number` counts the dials of this node."""

    address: str
    number: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Settle a commit: it is on disk, or will not be because of `error`."""

    commit: Commit
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """An entry for the journal, which people read.

    `kind` is one of the constants below, or the kind of a fault (see faults.py). `text` is a
    sentence. `address` and `node` name the peer, as far as it is known. A note with a `reason`
    reports a failure that may repeat: the journal counts those with the same `about` and reason. A
    note without one counts towards the limit on notes about one host, `about`.
    """

    kind: str
    text: str
    about: str = ""
    reason: str = ""
    address: str = ""
    node: str | None = None


# Kinds of notes that become events, too.
JOINED: EventType = "joined"
LEFT: EventType = "left"
DIAL_FAILED: EventType = "dial_failed"
REFUSED: EventType = "refused"
NOT_LINKED = "not_linked"  # an event of the type REFUSED, too; the end of the link is logged anyway
CAUGHT_UP: EventType = "caught_up"
MISSED: EventType = "missed"
CLOCK: EventType = "clock"
DAMAGED: EventType = "damaged"
ERASED: EventType = "erased"
PARKED: EventType = "parked"
STARTED: EventType = "started"
# The others are for the log alone.
LINKED = "linked"
ENDED = "ended"
CONFLICT = "conflict"
UNNEEDED = "unneeded"
REFUSED_HERE = "refused_here"


@dataclass(frozen=True, slots=True)
class Keep:
    """Write the addresses of the book to the disk."""


Effect: TypeAlias = Close | Dial | Settle | Note | Keep


@dataclass(slots=True)
class Effects:
    """The effects of one turn. `woken` are the peers whose senders have something to take."""

    woken: dict[Peer, None] = field(default_factory=dict)
    others: list[Effect] = field(default_factory=list)

    def add(self, effect: Effect) -> None:
        """Add an effect."""
        self.others.append(effect)

    def wake(self, peer: Peer) -> None:
        """Wake the sender of a peer, which has something to take."""
        self.woken[peer] = None

    def send(self, peer: Peer, frame: Sockets) -> None:
        """Send `frame` to a peer. What waits for its sender becomes one frame, with the newest
        addresses if they would be so many that the peer counts that as a fault."""
        if before := peer.outbox:
            most = max(MANY_ADDRESSES, len(before.addresses), len(frame.addresses))
            addresses = tuple(dict.fromkeys(before.addresses + frame.addresses))[-most:]
            frame = replace(frame, addresses=addresses, link=before.link or frame.link)
        peer.outbox = frame
        self.wake(peer)

    def close(self, peer: Peer, code: int, reason: str) -> None:
        """Close the link to a peer; from now on the peer no longer counts."""
        peer.leaving = True
        self.add(Close(peer, code, reason))

    def take(self) -> Effects:
        """Return the effects, and start with none."""
        taken = Effects(self.woken, self.others)
        self.woken, self.others = {}, []
        return taken
