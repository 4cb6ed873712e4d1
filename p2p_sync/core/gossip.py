"""Which addresses are sent to which peer.

Addresses of nodes are sent that this node is connected with, whichever side dialled; never one that
this node has failed to dial, and loopback addresses over loopback only.

Two nodes of ours notice a second link between them and close it, so they may get each other's
addresses freely. An original cannot notice. One that we have dialled is told no address. One that
has dialled us is told those of our nodes, at the opening and as they join, for nobody knows where
it could be dialled. If it has dialled several of ours, the first of them tells it the addresses.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ..address import is_local, place
from ..settings import MAX_ADDRESSES, MAX_LINKS_TOLD, MAX_TOLD, NEVER, NEWS_PAUSE, Settings
from ..wire.frames import Sockets
from .book import AddressBook
from .effects import Effects
from .originals import Originals
from .peer import Peer, count


class Gossip:
    """What the peers of one node are told, and were told. Part of the overlay."""

    def __init__(
        self,
        own: Sockets,
        peers: dict[Peer, None],
        book: AddressBook,
        originals: Originals,
        settings: Settings,
        effects: Effects,
        rng: random.Random,
    ) -> None:
        """`own` says which node this is; the others are shared with the overlay."""
        self._own = own
        self._peers = peers
        self._book = book
        self._originals = originals
        self._settings = settings
        self._effects = effects
        self._rng = rng
        self._news_at = NEVER

    def greet(self, peer: Peer) -> None:
        """Send our opening frame.

        A peer that we have dialled may be an original: it gets addresses once it is known as ours.
        """
        peer.greeted = True
        self._tell(peer, [] if peer.known else self._opening_addresses(peer))

    def introduced(self, peer: Peer) -> None:
        """Note that `peer` is known for what it is; tell the peers that should know."""
        peer.introduced = True
        if peer.ours:
            self._introduced_ours(peer)
            return
        for other in self._peers:
            if other.introduced and other.ours:
                self._tell_guest(peer, other)

    def news(self, now: float) -> float:
        """Tell our nodes where our links lead to, as far as that has changed and is due. Return
        when to ask again.

        What concerns originals is told at once, for until then messages may show twice there.
        """
        links = self._links()
        stale = [
            peer
            for peer in self._peers
            if peer.introduced and peer.ours and not peer.leaving and peer.told_links != links
        ]
        for peer in stale:
            if peer.told_links and peer.told_links[2:] != links[2:]:
                self._tell(peer, [])
        stale = [peer for peer in stale if peer.told_links != links]
        if not stale:
            self._news_at = NEVER
        elif now >= self._news_at:
            self._news_at = NEVER
            for peer in stale:
                self._tell(peer, [])
        elif self._news_at == NEVER:
            self._news_at = now + NEWS_PAUSE
        return self._news_at

    def rest(self, peer: Peer) -> None:
        """Tell a peer of ours, whose link is shed, the addresses that it was not told."""
        news = [
            str(other.address)
            for other in self._peers
            if other.introduced and other.node != peer.node
            if self._spreads(other, peer) and other.address not in peer.told
        ]
        if news:
            self._tell(peer, news)

    def _opening_addresses(self, peer: Peer) -> list[str]:
        """Return the addresses that the opening frame to a peer that has dialled us holds."""
        if not peer.ours and self._covered(peer):
            return []
        listed = peer.lists
        return [
            str(other.address)
            for other in self._peers
            if other.introduced and other is not peer and self._spreads(other, peer)
            if peer.ours or place(str(other.address)) not in listed
        ]

    def _spreads(self, other: Peer, to: Peer) -> bool:
        """Return whether the address of `other`, if it has one, may be sent to the peer `to`."""
        if other.address is None or other.leaving or not other.ours:
            return False
        if is_local(other.address) and not to.over_loopback:
            return False
        known = self._book.known.get(other.address)
        return other.known is not None or known is None or known.failing is None

    def _covered(self, peer: Peer) -> bool:
        """Return whether another node of ours sends a guest the addresses."""
        return any(
            other.ours and other.address and place(other.address) in peer.lists
            for other in self._peers
        )

    def _introduced_ours(self, peer: Peer) -> None:
        news: list[str] = []
        for other in self._peers:
            if not other.introduced or other.node == peer.node:
                continue
            if other.original:
                self._tell_guest(other, peer)
                continue
            news_to = not other.enough and peer.address not in other.told
            if news_to and self._spreads(peer, other):
                self._tell(other, [str(peer.address)])
            if self._spreads(other, peer) and other.address not in peer.told:
                news.append(str(other.address))
        if news or peer.told_links is None or peer.told_links[2:] != self._links()[2:]:
            self._tell(peer, news)

    def _tell_guest(self, original: Peer, ours: Peer) -> None:
        """Tell a guest where one of ours is, unless it knows or another node tells it."""
        told = ours.address in original.told or self._covered(original)
        if not (original.known or told) and self._spreads(ours, original):
            self._tell(original, [str(ours.address)])

    def _tell(self, peer: Peer, addresses: list[str]) -> None:
        """Send `addresses` to `peer`, and note that it has them."""
        opening = peer.told_links is None
        if len(addresses) > MAX_ADDRESSES:
            addresses = self._rng.sample(addresses, MAX_ADDRESSES)
        if len(peer.told) > MAX_TOLD:
            peer.told.clear()
        peer.told.update(addresses)
        enough, links, leaves, guests = self._links()
        if not peer.ours:
            leaves = guests = ()  # an original may read it
        peer.told_links = enough, links, leaves, guests
        frame = replace(
            self._own,
            addresses=tuple(addresses),
            link=peer.dial if peer.known and opening else 0,
            enough=enough,
            links=links,
            leaves=leaves,
            guests=guests,
        )
        self._effects.tell(peer, frame)

    def _links(self) -> tuple[bool, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return whether we have links enough, the ids of the nodes that they lead to, and where
        leaves and guests are."""
        enough = count(self._peers) >= self._settings.target_links
        ids = {str(peer.node) for peer in self._peers if peer.ours and not peer.leaving}
        return (enough, tuple(sorted(ids)[:MAX_LINKS_TOLD]), *self._originals.places())
