"""The rules of the overlay: whom to dial, which link to keep, which addresses to tell to whom.

Pure: no lock, thread, socket, clock or randomness. Events go in, with the time (seconds, of any
steady clock) where it matters; work comes out as Tell and Close, in the order to be carried out.
The links are known here by a number.

A peer is a node of ours, known by its id, or an original node, which has none. Ours may be told
of each other freely: a second link between two of them is noticed and closed. An original cannot
notice, so of an original and one of ours only one may ever be told of the other:

- An original that dialled us is told of ours, at the opening and as they join, for nobody knows
  where it could be dialled. If it has dialled several of ours, the first of them tells it.
- An original that we dialled is told at the opening of the nodes that are there already. Nodes
  that join later are told of it instead, and marked so (`originals`) that they tell it nothing.
- Before an original is told of ours, these are sent its address as `introduced`: they do not
  dial it, and when it dials them, they know it by that address and tell it nothing more. What
  turns out to be one of ours is `withdrawn`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .address import Address
from .addressbook import AddressBook, Endpoint, Known, Random, place
from .codes import NORMAL, SAME_NODE
from .config import MAX_ADDRESSES, MAX_DIALS, Settings
from .protocol import Sockets

# How long an introduced original has to dial us. Seconds.
INTRODUCTION_LASTS = 15.0
# A link that lasted this long makes its address as good as new for redialling. Seconds.
GOOD_LINK = 10.0
# Two nodes that were told of each other at the same moment wait within this. Seconds.
TOLD_JITTER = 0.5


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
    dialled: str | None
    # The dialler's count of its dials, by which two links are told apart.
    dial: int
    remote: Endpoint
    opened: float
    # Our opening frame is out.
    greeted: bool = False
    # Its first frame is in, or it has kept silent too long to be one of ours.
    introduced: bool = False
    node: str | None = None
    start: int = 0
    # Where it can be dialled, if that is known.
    address: str | None = None
    # The addresses that we told it, and those that it told us first.
    told: set[str] = field(default_factory=set)
    listed: frozenset[str] = frozenset()

    @property
    def ours(self) -> bool:
        return self.node is not None

    @property
    def original(self) -> bool:
        return self.introduced and self.node is None


class Overlay:
    """What one node knows of addresses and links. Every method is called under one lock."""

    def __init__(self, node: str, start: int, settings: Settings, port: int) -> None:
        """`node` and `start` are this node's own, `port` is where it accepts peers."""
        self.book = AddressBook(settings)
        self.peers: dict[int, Peer] = {}
        self._settings = settings
        self._dials = 0
        # Originals that were told of us: address -> where it will come from, and until when.
        self._expected: dict[str, tuple[str, float]] = {}
        self._self = Sockets(
            node=node,
            start=start,
            port=port if settings.dialable and not settings.advertise else None,
            address=str(settings.advertise) if settings.advertise else None,
        )
        if settings.advertise:
            self.book.is_oneself(str(settings.advertise))

    def count(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        introduced = [peer for peer in self.peers.values() if peer.introduced]
        ours = {peer.node for peer in introduced if peer.ours}
        return len(ours) + sum(peer.original for peer in introduced)

    # -- whom to dial ---------------------------------------------------------------------------

    def due(self, now: float) -> list[str]:
        """Return the addresses to dial now, those given by hand first."""
        self._forget_expected(now)
        return [known.address for known in self._candidates() if known.next_try <= now]

    def pause(self, now: float) -> float | None:
        """Return the seconds until something may be due, None if only an event can make it so."""
        tries = [known.next_try for known in self._candidates()]
        tries += [until for _, until in self._expected.values()]
        return max(0.01, min(tries) - now) if tries else None

    def dial(self, address: str) -> int:
        """Note that a dial begins; return its number, which goes with the link."""
        self.book.dialled(address)
        self._dials += 1
        return self._dials

    def resolved(self, address: str, endpoints: tuple[Endpoint, ...]) -> bool:
        """Note what `address` resolves to; False: a link leads there already, do not dial."""
        self.book.dialled(address, endpoints)
        known = self.book.known[address]
        known.dialling = not self._linked(known)
        return known.dialling

    def _candidates(self) -> list[Known]:
        """Return what may be dialled, as far as there is room for links and dials."""
        known = self.book.known.values()
        under_way = sum(entry.dialling for entry in known)
        wanted = sorted((k for k in known if self._wanted(k)), key=lambda k: k.next_try)
        room = max(0, self._settings.target_links - self.count() - under_way)
        by_hand = [entry for entry in wanted if entry.by_hand]
        learned = [entry for entry in wanted if not entry.by_hand][:room]
        return (by_hand + learned)[: max(0, MAX_DIALS - under_way)]

    def _wanted(self, known: Known) -> bool:
        unfit = known.oneself or known.dialling or known.address in self._expected
        return not unfit and not self._linked(known)

    def _linked(self, known: Known) -> bool:
        """Return whether a link leads to the node behind this address already."""
        return any(
            known.address in (peer.dialled, peer.address)
            or (peer.ours and peer.node == known.node)
            or (peer.dialled is not None and peer.remote in known.endpoints)
            for peer in self.peers.values()
        )

    # -- links open and end ---------------------------------------------------------------------

    def dialled(
        self, link: int, address: str, dial: int, remote: Endpoint, now: float
    ) -> list[Work]:
        """Note the link that came of the dial with that number; greet the peer at once."""
        peer = self.peers[link] = Peer(link, address, dial, remote, now)
        self.book.linked(address)
        return self._greet(peer, now)

    def accepted(self, link: int, remote: Endpoint, local: Endpoint, now: float) -> None:
        """Note a link that we accepted on our end `local`; `hello` or `greet` comes next."""
        self.peers[link] = Peer(link, None, 0, remote, now)
        self.book.is_oneself(str(Address(*local)))

    def greet(self, link: int, now: float) -> list[Work]:
        """Send our opening frame to a peer that has not sent its own yet."""
        peer = self.peers.get(link)
        return [] if peer is None or peer.greeted else self._greet(peer, now)

    def hello(self, link: int, frame: Sockets, now: float, random: Random) -> list[Work]:
        """Take a SOCKETS frame of the peer on `link`: its introduction, and its addresses."""
        peer = self.peers[link]
        work: list[Work] = []
        first = not peer.introduced or (frame.node is not None and not peer.ours)
        if first:
            peer.listed = frozenset(frame.addresses)
            refusal = self._identify(peer, frame)
            work += self.greet(link, now)
            if refusal:
                return [*work, refusal]
            work += self._introduced(peer)
            work += self._close_double(peer) if peer.ours else self._close_second(peer)
        if frame.node is not None:
            for address in frame.withdrawn:
                self._expected.pop(address, None)
            for address, host in frame.introduced.items():
                self._expected[address] = (host, now + INTRODUCTION_LASTS)
        for address in frame.addresses:
            self.book.add(address, now + (0.0 if first else random() * TOLD_JITTER))
            if address in frame.originals and address in self.book.known:
                self._told_of_original(self.book.known[address], frame.node)
        return work

    def not_ours(self, link: int, now: float) -> list[Work]:
        """Take the peer on `link`, which has not introduced itself, for an original node."""
        peer = self.peers.get(link)
        if peer is None or peer.introduced:
            return []
        return [*self.greet(link, now), *self._introduced(peer)]

    def closed(self, link: int, reason: str, now: float, random: Random) -> None:
        """Forget `link`, and note when its address may be dialled again."""
        peer = self.peers.pop(link, None)
        if peer is None or peer.dialled is None:
            return
        if peer.introduced and now - peer.opened >= GOOD_LINK:
            self.book.known[peer.dialled].attempts = 0
        self.book.failed(peer.dialled, reason, now, random)

    # -- who it is, and which link stays --------------------------------------------------------

    def _identify(self, peer: Peer, frame: Sockets) -> Close | None:
        """Fill in who `peer` is; return the refusal if it must not be linked with."""
        if frame.node is None:
            return None
        if frame.node == self._self.node:
            if frame.start != self._self.start:
                reason = f"a copied data directory: two nodes have the id {frame.node}"
                return Close(peer.link, SAME_NODE, reason)
            if peer.dialled:
                self.book.is_oneself(peer.dialled)
            return Close(peer.link, NORMAL, "this node dialled itself")
        for other in self.peers.values():
            if other.node == frame.node and other.start != frame.start:
                # Either a copy of its directory, or it has restarted and the old link is not
                # yet known to be dead: then the heartbeat ends that, and a redial works.
                reason = f"another node with the id {frame.node} is linked"
                return Close(peer.link, SAME_NODE, reason)
        peer.node = frame.node
        peer.start = frame.start
        if frame.address:
            peer.address = frame.address
        elif frame.port:
            peer.address = str(Address(peer.remote[0], frame.port))
        if peer.dialled:
            self.book.known[peer.dialled].node = frame.node
        else:
            peer.dial = frame.link
        return None

    def _close_double(self, peer: Peer) -> list[Work]:
        """Return the work that leaves one link with a node of ours, the same on both sides."""
        reason = "a second link between the same two nodes"
        return [
            Close((other if self._stays(peer, other) else peer).link, NORMAL, reason)
            for other in self.peers.values()
            if other is not peer and other.node == peer.node
        ]

    def _stays(self, peer: Peer, other: Peer) -> bool:
        """Return whether `peer` is kept rather than `other`; both sides come to the same answer.

        Of two that one side dialled the newer stays, by that side's count; else the one that
        the node with the smaller id dialled.
        """
        if (peer.dialled is None) == (other.dialled is None):
            return peer.dial > other.dial
        return (peer.dialled is not None) == (str(self._self.node) < str(peer.node))

    def _close_second(self, peer: Peer) -> list[Work]:
        """Return the work that ends a dial to an original which has dialled us itself.

        It cannot say who it is, but one that lists an address of ours has a link that it
        opened: the one that we accepted from its host.
        """
        if peer.dialled and self.book.names_oneself(peer.listed):
            for other in self.peers.values():
                if other.original and not other.address and other.remote[0] == peer.remote[0]:
                    other.address = peer.dialled
                    return [Close(peer.link, NORMAL, "this original node has dialled us already")]
        return []

    # -- what to tell ---------------------------------------------------------------------------

    def _greet(self, peer: Peer, now: float) -> list[Work]:
        """Return the work that sends our opening frame, those it introduces told before."""
        peer.greeted = True
        addresses = self._opening_addresses(peer, now)
        tell = self._tell(peer, addresses, peer.dial if peer.dialled else 0)
        known = self.book.known[peer.dialled] if peer.dialled else None
        if known is None or known.node or not addresses:
            return [tell]
        known.introducer = True
        introduced = {known.address: peer.remote[0]}
        notices = [
            Tell(other.link, replace(self._self, introduced=introduced))
            for other in self.peers.values()
            if other.ours and other.address in addresses
        ]
        return [*notices, tell]

    def _opening_addresses(self, peer: Peer, now: float) -> list[str]:
        """Return the addresses that the opening frame to `peer` holds."""
        told_to: set[str] = set()
        if peer.dialled:
            known = self.book.known[peer.dialled]
            told_to = known.told_to
            if known.original and known.introducer is False:
                return []
        elif not peer.ours and (self._expected_from(peer.remote[0], now) or self._covered(peer)):
            return []
        listed = {place(address) for address in peer.listed}
        return [
            other.address
            for other in self.peers.values()
            if other.introduced and other.address and other is not peer
            if other.address != peer.dialled and other.node not in told_to
            if peer.dialled is None or peer.dialled not in other.listed
            if peer.ours or place(other.address) not in listed
        ]

    def _covered(self, peer: Peer) -> bool:
        """Return whether another node of ours tells the original that dialled us of the rest."""
        listed = {place(address) for address in peer.listed}
        return any(
            other.ours and other.address and place(other.address) in listed
            for other in self.peers.values()
        )

    def _introduced(self, peer: Peer) -> list[Work]:
        """Note that `peer` is known for what it is; tell those who should hear of it."""
        peer.introduced = True
        known = self.book.known[peer.dialled] if peer.dialled else None
        if known:
            known.original = not peer.ours
        if peer.ours:
            return self._introduced_ours(peer, known)
        peer.address = peer.dialled or self._take_expected(peer.remote[0])
        return [
            work
            for other in list(self.peers.values())
            if other.introduced and other.ours
            for work in self._pair(other, peer)
        ]

    def _introduced_ours(self, peer: Peer, known: Known | None) -> list[Work]:
        work: list[Work] = []
        if known and known.introducer:
            known.introducer = None
            frame = replace(self._self, withdrawn=(known.address,))
            work += [
                Tell(other.link, frame)
                for other in self.peers.values()
                if other.ours and other.address in peer.told
            ]
        for address in peer.told & self.book.known.keys():
            if self.book.known[address].original:
                self.book.known[address].told_to.add(str(peer.node))
        news: list[str] = []
        for other in list(self.peers.values()):
            if not other.introduced or other.node == peer.node:
                continue
            if other.original:
                work += self._pair(peer, other)
                continue
            if peer.address and peer.address not in other.told:
                work.append(self._tell(other, [peer.address]))
            if other.address and other.address not in peer.told:
                news.append(other.address)
        return [*work, self._tell(peer, news)] if news else work

    def _pair(self, ours: Peer, original: Peer) -> list[Work]:
        """Tell one of ours of an original or the other way round, unless that is done."""
        if original.address is None:
            if not ours.address or ours.address in original.told or self._covered(original):
                return []
            return [self._tell(original, [ours.address])]
        if ours.address in original.told or original.address in ours.told | ours.listed:
            return []
        if original.dialled is None or self.book.known[original.dialled].introducer is False:
            return []
        return [self._tell(ours, [original.address])]

    def _tell(self, peer: Peer, addresses: Iterable[str], dial: int = 0) -> Tell:
        """Return the frame that tells `peer` of `addresses`, and note that it is told."""
        chosen = tuple(addresses)[:MAX_ADDRESSES]
        peer.told.update(chosen)
        originals = {other.address for other in self.peers.values() if other.original}
        marked = tuple(address for address in chosen if address in originals)
        for address in marked:
            if peer.node and address in self.book.known:
                self.book.known[address].told_to.add(peer.node)
        return Tell(peer.link, replace(self._self, addresses=chosen, originals=marked, link=dial))

    def _told_of_original(self, known: Known, node: str | None) -> None:
        """Note that a node of ours tells of an original: it looks after that one."""
        known.original = True
        known.told_to.add(str(node))
        if known.introducer is None:
            known.introducer = False

    # -- originals that were told of us ---------------------------------------------------------

    def _expected_from(self, host: str, now: float) -> str | None:
        self._forget_expected(now)
        return next((a for a, (expected, _) in self._expected.items() if expected == host), None)

    def _take_expected(self, host: str) -> str | None:
        for address, (expected, _) in self._expected.items():
            if expected == host:
                del self._expected[address]
                return address
        return None

    def _forget_expected(self, now: float) -> None:
        for address in [a for a, (_, until) in self._expected.items() if until <= now]:
            del self._expected[address]
