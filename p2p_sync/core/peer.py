"""The other end of a link as the rules see it, and the work that they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..address import is_loopback, place
from ..wire.frames import Sockets
from .book import Endpoint, Known

# The host and the port of an address, the same for all spellings (see address.place).
Place = tuple[str, int]


@dataclass(frozen=True)
class Tell:
    """Send `frame` on `link`."""

    link: int
    frame: Sockets


@dataclass(frozen=True)
class Close:
    """Close `link` with `code` and `reason`."""

    link: int
    code: int
    reason: str


Work = Tell | Close


@dataclass
class Peer:
    """The other end of one link."""

    link: int
    # What we dialled; None: it has dialled us.
    known: Known | None
    # The dialler's count of its dials, by which two links are told apart.
    dial: int
    remote: Endpoint
    opened: float
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

    def close(self, code: int, reason: str) -> Close:
        """Return the work that closes the link, which counts no more from now on."""
        self.leaving = True
        return Close(self.link, code, reason)


def count(peers: Iterable[Peer]) -> int:
    """Return the number of connected sockets; a node of ours counts once."""
    introduced = [peer for peer in peers if peer.introduced and not peer.leaving]
    ours = {peer.node for peer in introduced if peer.ours}
    return len(ours) + sum(peer.original for peer in introduced)
