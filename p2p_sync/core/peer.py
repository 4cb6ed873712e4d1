"""The other end of a link: the one record of it, which every rule and every thread finds here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..address import host_and_port, is_hub, is_loopback
from ..names import label
from ..wire.frames import Sockets
from .book import Endpoint, Known
from .deduplication import Copies
from .replica_link import ReplicaLink, Work

# The host and the port of an address, the same for all spellings (see address.place).
Place = tuple[str, int]

# Why this node dials: it wants a link; or it wants to know whether the node is still alive, or what
# an original lists (see dialling.py).
NEEDED, PROBE, CHECK = "needed", "probe", "check"


class Status(NamedTuple):
    """What this node's SOCKETS frames say of it: whether it has enough links, the ids and names of
    the nodes that they lead to, and the addresses of its leaves and guests."""

    enough: bool
    links: Mapping[str, str]
    leaves: tuple[str, ...]
    guests: tuple[str, ...]


@dataclass(eq=False)
class Peer:
    """The other end of one link. Guarded by the state's lock, but for `link`."""

    # The link itself, which the rules never touch; the shell wakes and closes it.
    link: Any
    # The address that this node dialled; None: the peer has dialled this node.
    known: Known | None
    # The number of the dial, counted by the side that dialled. It distinguishes two links.
    dial: int
    remote: Endpoint
    opened: float
    # The id of the node, which has proved its key, and the number of its start; None: an original.
    node: str | None = None
    start: int = 0
    # The frame that its sender takes before anything else.
    outbox: Sockets | None = None
    # What it holds of the log and is sent of it, once a node of ours has introduced itself.
    log: ReplicaLink | None = None
    # Its sender waits: it has got nothing to send. What it is given when it wakes.
    idle: bool = False
    handed: Work | None = None
    # The round trip in seconds, as measured last; None: not measured yet.
    rtt: float | None = None
    # Messages of the log that it was sent and has sent.
    sent: int = 0
    received: int = 0
    # Why this node dialled it.
    purpose: str = NEEDED
    # It was sent our opening frame.
    greeted: bool = False
    # It has sent its first frame, or was silent for so long that it must be an original.
    introduced: bool = False
    version: str = ""
    # What it calls itself.
    name: str = ""
    # It says that it has enough links, and to which nodes they lead: their names, by id.
    enough: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    # The address that it says it can be dialled at; and that address if this node has found it
    # there, or if it is on the host that the link comes from.
    claimed: str | None = None
    address: str | None = None
    # The addresses that it was sent, and the status that it was sent last.
    sent_addresses: set[str] = field(default_factory=set)
    sent_status: Status | None = None
    # The addresses in its first frame. An original lists those that it has dialled.
    lists: frozenset[Place] = frozenset()
    # The originals that this peer of ours is connected with, and those of them that it has dialled.
    originals: frozenset[Place] = frozenset()
    leaves: frozenset[Place] = frozenset()
    # Where this original accepts peers, if that is known, and where it does not.
    end: Place | None = None
    not_at: set[Place] = field(default_factory=set)
    # We are closing the link.
    leaving: bool = False
    # It was reported to people that it is linked, and that it has joined.
    linked: bool = False
    joined: bool = False
    # Of an original: the number of the last arrival that it was sent or need not get, when its link
    # opened (ms since the epoch), and which commits of other originals it has.
    arrival: int = 0
    since: int = 0
    copies: Copies = field(default_factory=Copies)

    @property
    def dialled(self) -> str | None:
        """The address that this node dialled."""
        return self.known.address if self.known else None

    @property
    def is_hub(self) -> bool:
        """Whether it is a hub (see node/hub.py), which keeps the log for nodes and is none."""
        return self.known is not None and is_hub(self.known.address)

    @property
    def over_loopback(self) -> bool:
        """Whether the link does not leave this machine."""
        return is_loopback(self.remote[0])

    @property
    def ours(self) -> bool:
        """Whether it is a node of ours, not an original."""
        return self.node is not None

    @property
    def original(self) -> bool:
        """Whether it is known to be an original node."""
        return self.introduced and self.node is None

    @property
    def leaf(self) -> bool:
        """Whether it is an original node that this node has dialled."""
        return self.original and self.known is not None

    @property
    def guest(self) -> bool:
        """Whether it is an original node that has dialled this node."""
        return self.original and self.known is None

    @property
    def label(self) -> str:
        """What the log calls it: its name and id as far as they are known, and the address that
        was dialled, or where it comes from."""
        return self.label_at(self.dialled or host_and_port(self.remote))

    def label_at(self, where: str) -> str:
        """Return its name and id as far as they are known, and an address."""
        return f"{label(self.node, self.name)} at {where}" if self.node else where


def nodes(peers: Iterable[Peer]) -> int:
    """Return the number of connected nodes of ours. Only these count for `target_links`: else idle
    connections, which are taken for originals, would stop the dials."""
    return count(peer for peer in peers if peer.ours)


def count(peers: Iterable[Peer]) -> int:
    """Return the number of connected sockets; a node of ours counts once."""
    introduced = [peer for peer in peers if peer.introduced and not peer.leaving]
    ours = {peer.node for peer in introduced if peer.ours}
    return len(ours) + sum(peer.original for peer in introduced)
