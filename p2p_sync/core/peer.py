"""The other end of a link: the one record of it, which every rule and every thread finds here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..address import host_and_port, is_loopback, place
from ..wire.frames import Sockets
from .book import Endpoint, Known
from .deduplication import Copies
from .replica_link import ReplicaLink, Work

# The host and the port of an address, the same for all spellings (see address.place).
Place = tuple[str, int]


@dataclass(eq=False)
class Peer:
    """The other end of one link. Guarded by the state's lock, but for `link`."""

    # The link itself, which the rules never touch; the shell wakes and closes it.
    link: Any
    # What we dialled; None: it has dialled us.
    known: Known | None
    # The dialler's count of its dials, by which two links are told apart.
    dial: int
    remote: Endpoint
    opened: float
    # The id that it has proved with the secret of the network.
    proved: str | None = None
    # Frames that its sender takes before anything else.
    outbox: deque[Sockets] = field(default_factory=deque)
    # What it holds of the log and is sent of it, once it is known to be a node of ours.
    log: ReplicaLink | None = None
    # Its sender waits: it has got nothing to send. What it is given when it wakes.
    idle: bool = False
    handed: Work | None = None
    # The round trip in seconds, as measured last; None: not measured yet.
    rtt: float | None = None
    # Messages of the log that it was sent and has sent.
    sent: int = 0
    received: int = 0
    # The dial was not needed: it looked whether that node is still there.
    probe: bool = False
    # Our opening frame is out.
    greeted: bool = False
    # Its first frame is in, or it has kept silent too long to be one of ours.
    introduced: bool = False
    node: str | None = None
    start: int = 0
    version: str = ""
    # It says that it has as many links as it wants, and to which nodes.
    enough: bool = False
    links: tuple[str, ...] = ()
    # Where it can be dialled, if that is known.
    address: str | None = None
    # The addresses that we told it, and those that it told us first.
    told: set[str] = field(default_factory=set)
    # The same of ours, as we told it last, and where our originals are.
    told_links: tuple[bool, tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None
    listed: frozenset[str] = frozenset()
    # Where the originals are that this peer of ours is linked with, and those that it has dialled.
    originals: frozenset[Place] = frozenset()
    leaves: frozenset[Place] = frozenset()
    # Where this original accepts peers, if that is known, and where it does not.
    end: Place | None = None
    not_at: set[Place] = field(default_factory=set)
    # The dial was made to find out whether a guest is there (see gossip.py).
    check: bool = False
    # It is this very node.
    oneself: bool = False
    # We are closing the link.
    leaving: bool = False
    # People were told that it is linked, and that it has joined.
    linked: bool = False
    joined: bool = False
    # Of an original: the number of the last arrival that it was sent or need not get, when its link
    # opened (ms since the epoch), and which commits of other originals it has.
    arrival: int = 0
    since: int = 0
    copies: Copies = field(default_factory=Copies)

    @property
    def dialled(self) -> str | None:
        """The address that we dialled."""
        return self.known.address if self.known else None

    @property
    def over_loopback(self) -> bool:
        """Whether the link does not leave this machine."""
        return is_loopback(self.remote[0])

    @property
    def ours(self) -> bool:
        """Whether it is known to be a node of ours."""
        return self.node is not None

    @property
    def original(self) -> bool:
        """Whether it is known to be an original node."""
        return self.introduced and self.node is None

    @property
    def leaf(self) -> bool:
        """Whether it is an original node that we have dialled."""
        return self.original and self.known is not None

    @property
    def guest(self) -> bool:
        """Whether it is an original node that has dialled us."""
        return self.original and self.known is None

    @property
    def lists(self) -> set[Place]:
        """The places of the addresses that it told us first."""
        return {place(address) for address in self.listed}

    @property
    def name(self) -> str:
        """What people call it: the address that was dialled, or where it comes from."""
        where = self.dialled or host_and_port(self.remote)
        return f"{where} ({self.node[:8]})" if self.node else where


def count(peers: Iterable[Peer]) -> int:
    """Return the number of connected sockets; a node of ours counts once."""
    introduced = [peer for peer in peers if peer.introduced and not peer.leaving]
    ours = {peer.node for peer in introduced if peer.ours}
    return len(ours) + sum(peer.original for peer in introduced)
