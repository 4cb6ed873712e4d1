"""Which addresses are told to whom.

Pure, like all the rules. Spread are the addresses of nodes that this node is linked with, whichever
side dialled; not one that it has failed to dial, and loopback addresses over loopback alone.

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

import random
from dataclasses import replace

from .address import is_local, place
from .addressbook import AddressBook, Known
from .config import MAX_ADDRESSES, MAX_LINKS_TOLD, Settings
from .peer import Peer, Tell, count
from .protocol import Sockets

# How long an introduced original has to dial us. Seconds.
_INTRODUCTION_LASTS = 15.0
# Those of ours are told of changed links after this, when short ones have gone. Seconds.
_NEWS_PAUSE = 3.0
# How many of them may be expected at a time.
_MAX_EXPECTED = MAX_ADDRESSES
# How many of our nodes are remembered as told of one original.
_MAX_TOLD_TO = 1000
# How many addresses are remembered as told to one peer.
_MAX_TOLD = 4 * MAX_ADDRESSES


class Introductions:
    """What the peers of one node are told, and were told. Part of the overlay."""

    def __init__(
        self,
        own: Sockets,
        peers: dict[int, Peer],
        book: AddressBook,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        """`own` says who this node is; `peers` and `book` are shared with the overlay."""
        self._own = own
        self._peers = peers
        self._book = book
        self._settings = settings
        self._rng = rng
        self._news_at = float("inf")
        # Originals that were told of us: address -> where it will come from, and until when.
        self._expected: dict[str, tuple[str, float]] = {}

    # -- at the opening -------------------------------------------------------------------------

    def greet(self, peer: Peer, now: float) -> list[Tell]:
        """Return the work that sends our opening frame, those it introduces told before."""
        peer.greeted = True
        addresses = self._opening_addresses(peer, now)
        tell = self._tell(peer, addresses, peer.dial if peer.known else 0)
        known = peer.known
        if known is None or known.node or known.ours or not addresses:
            return [tell]
        known.introducer = True
        introduced = {known.address: peer.remote[0]}
        notices = [
            Tell(other.link, replace(self._frame(), introduced=introduced))
            for other in self._peers.values()
            if other.ours and other.address in addresses
        ]
        return [*notices, tell]

    def introduced(self, peer: Peer) -> list[Tell]:
        """Note that `peer` is known for what it is; tell those who should hear of it."""
        peer.introduced = True
        if peer.known:
            peer.known.original, peer.known.ours = not peer.ours, peer.ours
        if peer.ours:
            return self._introduced_ours(peer)
        peer.address = peer.dialled or self._take_expected(peer.remote[0])
        return [
            work
            for other in list(self._peers.values())
            if other.introduced and other.ours
            for work in self._pair(other, peer)
        ]

    def news(self, now: float) -> tuple[list[Tell], float]:
        """Return the work that tells ours where our links lead to now, and when to ask again."""
        state = self._links()
        stale = [
            peer
            for peer in self._peers.values()
            if peer.introduced and peer.ours and not peer.leaving and peer.told_links != state
        ]
        if not stale:
            self._news_at = float("inf")
        elif self._news_at == float("inf"):
            self._news_at = now + _NEWS_PAUSE
        elif now >= self._news_at:
            self._news_at = float("inf")
            return [self._tell(peer, []) for peer in stale], self._news_at
        return [], self._news_at

    def rest(self, peer: Peer) -> list[Tell]:
        """Return the work that tells a peer of ours, whose link is shed, what it was not told."""
        news = [
            str(other.address)
            for other in self._peers.values()
            if other.introduced and other.ours and other.node != peer.node
            if self._spreads(other, peer) and other.address not in peer.told
        ]
        return [self._tell(peer, news)] if news else []

    def _opening_addresses(self, peer: Peer, now: float) -> list[str]:
        """Return the addresses that the opening frame to `peer` holds."""
        told_to: set[str] = set()
        if peer.known:
            told_to = peer.known.told_to
            if peer.known.original and peer.known.introducer is False:
                return []
        elif not peer.ours and (self._expected_from(peer.remote[0], now) or self._covered(peer)):
            return []
        listed = {place(address) for address in peer.listed}
        return [
            str(other.address)
            for other in self._peers.values()
            if other.introduced and other is not peer and self._spreads(other, peer)
            if other.address != peer.dialled and other.node not in told_to
            if peer.dialled is None or peer.dialled not in other.listed
            if peer.ours or place(str(other.address)) not in listed
        ]

    def _spreads(self, other: Peer, to: Peer) -> bool:
        """Return whether the address of `other`, if it has one, may be told to the peer `to`."""
        if other.address is None or other.leaving:
            return False
        if is_local(other.address) and not to.over_loopback:
            return False
        known = self._book.known.get(other.address)
        return other.known is not None or known is None or known.failing is None

    def _covered(self, peer: Peer) -> bool:
        """Return whether another node of ours tells the original that dialled us of the rest."""
        listed = {place(address) for address in peer.listed}
        return any(
            other.ours and other.address and place(other.address) in listed
            for other in self._peers.values()
        )

    # -- as others join -------------------------------------------------------------------------

    def _introduced_ours(self, peer: Peer) -> list[Tell]:
        work: list[Tell] = []
        known = peer.known
        if known and known.introducer:
            known.introducer = None
            frame = replace(self._frame(), withdrawn=(known.address,))
            work += [
                Tell(other.link, frame)
                for other in self._peers.values()
                if other.ours and other.address in peer.told
            ]
        for address in peer.told & self._book.known.keys():
            if self._book.known[address].original:
                self._book.known[address].told_to.add(str(peer.node))
        news: list[str] = []
        for other in list(self._peers.values()):
            if not other.introduced or other.node == peer.node:
                continue
            if other.original:
                work += self._pair(peer, other)
                continue
            news_to = not other.enough and peer.address not in other.told
            if news_to and self._spreads(peer, other):
                work.append(self._tell(other, [str(peer.address)]))
            if self._spreads(other, peer) and other.address not in peer.told:
                news.append(str(other.address))
        return [*work, self._tell(peer, news)] if news else work

    def _pair(self, ours: Peer, original: Peer) -> list[Tell]:
        """Tell one of ours of an original or the other way round, unless that is done."""
        if original.address is None:
            told = ours.address in original.told or self._covered(original)
            if told or not self._spreads(ours, original):
                return []
            return [self._tell(original, [str(ours.address)])]
        if ours.address in original.told or original.address in ours.told | ours.listed:
            return []
        if original.known is None or original.known.introducer is False:
            return []
        return [self._tell(ours, [original.address])] if self._spreads(original, ours) else []

    def _tell(self, peer: Peer, addresses: list[str], dial: int = 0) -> Tell:
        """Return the frame that tells `peer` of `addresses`, and note that it is told."""
        if len(addresses) > MAX_ADDRESSES:
            addresses = self._rng.sample(addresses, MAX_ADDRESSES)
        chosen = tuple(addresses)
        if len(peer.told) > _MAX_TOLD:
            peer.told.clear()
        peer.told.update(chosen)
        originals = {other.address for other in self._peers.values() if other.original}
        marked = tuple(address for address in chosen if address in originals)
        for address in marked:
            if peer.node and address in self._book.known:
                self._book.known[address].told_to.add(peer.node)
        frame = replace(self._frame(), addresses=chosen, originals=marked, link=dial)
        peer.told_links = frame.enough, frame.links
        return Tell(peer.link, frame)

    def _frame(self) -> Sockets:
        enough, links = self._links()
        return replace(self._own, enough=enough, links=links)

    def _links(self) -> tuple[bool, tuple[str, ...]]:
        """Whether we have links enough, and the ids of the nodes that they lead to."""
        enough = count(self._peers.values()) >= self._settings.target_links
        ids = {str(peer.node) for peer in self._peers.values() if peer.ours and not peer.leaving}
        return enough, tuple(sorted(ids)[:MAX_LINKS_TOLD])

    # -- originals that were told of us ---------------------------------------------------------

    def hear(self, frame: Sockets, now: float) -> None:
        """Take what a frame of one of ours says of original nodes."""
        for address in frame.withdrawn:
            self._expected.pop(address, None)
        for address, host in frame.introduced.items():
            if address in self._expected or len(self._expected) < _MAX_EXPECTED:
                self._expected[address] = (host, now + _INTRODUCTION_LASTS)
        for address in frame.addresses:
            known = self._book.known.get(address)
            if known and address in frame.originals:
                self._told_of_original(known, frame.node)
            elif known:
                known.ours = True

    def expects(self, address: str) -> bool:
        """Return whether the original at `address` is about to dial us."""
        return address in self._expected

    def forget(self, now: float) -> float:
        """Forget the originals that did not come; return when the next will be forgotten."""
        for address in [a for a, (_, until) in self._expected.items() if until <= now]:
            del self._expected[address]
        return min((until for _, until in self._expected.values()), default=float("inf"))

    def _told_of_original(self, known: Known, node: str | None) -> None:
        """Note that a node of ours tells of an original: it looks after that one."""
        known.original = True
        if len(known.told_to) < _MAX_TOLD_TO:
            known.told_to.add(str(node))
        if known.introducer is None:
            known.introducer = False

    def _expected_from(self, host: str, now: float) -> str | None:
        self.forget(now)
        return next((a for a, (expected, _) in self._expected.items() if expected == host), None)

    def _take_expected(self, host: str) -> str | None:
        address = next((a for a, (expected, _) in self._expected.items() if expected == host), None)
        if address:
            del self._expected[address]
        return address
