"""Address gossip: which addresses, and which facts about this node, are sent to which peer.

A node sends the addresses of the nodes that it is connected with, whichever side dialled. It never
sends one that it has failed to dial, and sends loopback addresses over loopback only.

Two nodes of ours notice a second link between them and close it, so each may get the other's
address at any time. An original cannot notice that. A leaf (see originals.py) is sent no address. A
guest is sent those of our nodes when its link opens and when nodes join, because nobody knows where
it could be dialled. If it has dialled several of our nodes, the first of them sends the addresses.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ..address import is_local, place
from ..settings import (
    MAX_ADDRESSES,
    MAX_ADDRESSES_SENT,
    MAX_LINKS_NAMED,
    NEVER,
    STATUS_PAUSE,
    Settings,
)
from ..wire.frames import Sockets
from .book import AddressBook
from .originals import Originals
from .peer import Peer, Status, nodes
from .turn import Turn


class Gossip:
    """The SOCKETS frames that one node sends."""

    def __init__(
        self,
        turn: Turn,
        own: Sockets,
        peers: dict[Peer, None],
        book: AddressBook,
        originals: Originals,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        """`own` says where this node can be dialled; the others are shared with the rest of the
        core."""
        self._turn = turn
        self._own = own
        self._peers = peers
        self._book = book
        self._originals = originals
        self._settings = settings
        self._rng = rng
        self._announce_at = NEVER

    def greet(self, peer: Peer) -> None:
        """Send our opening frame, unless it was sent before."""
        if not peer.greeted:
            peer.greeted = True
            self._send(peer, self._rest(peer) if self._gets_addresses(peer) else [])

    def introduced(self, peer: Peer) -> None:
        """A peer is introduced: send its address to others, and theirs to it."""
        addresses = []
        gets_addresses = self._gets_addresses(peer)
        for other in self._peers:
            if not other.introduced or other.node == peer.node:
                continue
            if not other.enough and self._may_send(peer, other) and self._gets_addresses(other):
                self._send(other, [str(peer.claimed)])
            if gets_addresses and self._may_send(other, peer):
                addresses.append(str(other.claimed))
        if addresses:
            self._send(peer, addresses)

    def announce(self) -> float:
        """Send this node's status to the nodes of ours that were sent another one, as far as that
        is due; return when the rest is.

        Changed links may wait for STATUS_PAUSE. Changed originals may not: until all nodes know
        where they are, messages may show twice there.
        """
        now, status = self._turn.now, self._status()
        stale = [
            peer
            for peer in self._peers
            if peer.introduced and peer.ours and not peer.leaving and peer.sent_status != status
        ]
        due = now >= self._announce_at
        for peer in stale:
            if due or _lacks_originals(peer, status):
                self._send(peer, [])
        waits = any(peer.sent_status != status for peer in stale)
        self._announce_at = min(self._announce_at, now + STATUS_PAUSE) if waits else NEVER
        return self._announce_at

    def send_rest(self, peer: Peer) -> None:
        """Send a peer, whose link is about to be closed, the addresses that it was not sent."""
        if rest := self._rest(peer):
            self._send(peer, rest)

    def _rest(self, peer: Peer) -> list[str]:
        """Return the addresses that a peer was not sent yet."""
        return [
            str(other.claimed)
            for other in self._peers
            if other.introduced and other.node != peer.node and self._may_send(other, peer)
        ]

    def _gets_addresses(self, peer: Peer) -> bool:
        """Return whether a peer is sent addresses by this node. A leaf gets none, and a guest gets
        none if another of our nodes sends them."""
        if peer.ours or peer.known:
            return peer.ours
        return not any(
            other.ours and other.claimed and place(other.claimed) in peer.lists
            for other in self._peers
        )

    def _may_send(self, other: Peer, to: Peer) -> bool:
        """Return whether the peer `to` may get the address of `other`, and has not got it yet."""
        if other.claimed is None or other.leaving or not other.ours:
            return False
        if other.claimed in to.sent_addresses or (is_local(other.claimed) and not to.over_loopback):
            return False
        known = self._book.known.get(other.claimed)
        return other.known is not None or known is None or known.failing is None

    def _send(self, peer: Peer, addresses: list[str]) -> None:
        """Send a peer `addresses`, and this node's status."""
        opening = peer.sent_status is None
        if len(addresses) > MAX_ADDRESSES:
            addresses = self._rng.sample(addresses, MAX_ADDRESSES)
        if len(peer.sent_addresses) > MAX_ADDRESSES_SENT:
            peer.sent_addresses.clear()
        peer.sent_addresses.update(addresses)
        status = self._status()
        if not peer.ours:
            status = status._replace(leaves=(), guests=())  # nor would it read them
        peer.sent_status = status
        frame = replace(
            self._own,
            addresses=tuple(addresses),
            link=peer.dial if peer.known and opening else 0,
            **status._asdict(),
        )
        self._turn.effects.send(peer, frame)

    def _status(self) -> Status:
        """Return what SOCKETS says of this node now."""
        enough = nodes(self._peers) >= self._settings.target_links
        ours = [peer for peer in self._peers if peer.introduced and peer.ours and not peer.leaving]
        links = dict(sorted({str(peer.node): peer.name for peer in ours}.items())[:MAX_LINKS_NAMED])
        return Status(enough, links, *self._originals.places())


def _lacks_originals(peer: Peer, status: Status) -> bool:
    """Return whether a peer was sent other leaves or guests than those in `status`."""
    sent = peer.sent_status
    return sent is None or (sent.leaves, sent.guests) != (status.leaves, status.guests)
