"""The overlay: which node a peer is, which links stay, and which are closed.

dialling.py decides what to dial, gossip.py which addresses are sent to whom, and originals.py all
about original nodes.

- A peer says where it can be dialled. That counts as its address if it is on the host that the link
  comes from, or once a dial of this node has found it there; till then it is one that was learned.
- Two nodes keep one link, the same on both sides: the newer of two that one side dialled, else the
  one that the node with the smaller id dialled.
- Two peers with one id, but different starts, run on copies of one data directory; or the node has
  restarted, and its old link is not yet known to be dead. The new link is closed.
- With more than twice `target_links` links to nodes of ours, it closes a *surplus* link: the newest
  to a node that has enough links, else the oldest. It never closes a link to an address given by
  hand or to an original, and sends the peer addresses before it closes the link.
- It keeps up to `target_links` links to originals at learned addresses, which come on top.
- A probe (see dialling.py) that finds a node with enough links is surplus if this node has enough,
  too: now both know that the other is alive, and have exchanged addresses. But once in `exchange`
  seconds the link stays, and another surplus link is closed instead. So the overlay stays well
  mixed, and the halves of a split network that meet again stay together.
- It accepts `max_peers` links. A further peer is sent addresses, and its link is closed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from ..address import Address, place, site
from ..codes import NORMAL, SAME_NODE, TRY_AGAIN_LATER
from ..settings import DIAL_JITTER, NEVER, Settings
from ..version import __version__
from ..wire.frames import Sockets
from .book import AddressBook, Endpoint, Known
from .dialling import Dialling
from .gossip import Gossip
from .originals import Originals
from .peer import CHECK, PROBE, Peer, count, nodes
from .turn import Turn


class Overlay:
    """The links of one node in the mesh."""

    def __init__(
        self,
        turn: Turn,
        node: str,
        settings: Settings,
        port: int,
        rng: random.Random,
    ) -> None:
        """`node` is this node's own id, `port` is where it accepts peers."""
        self.peers: dict[Peer, None] = {}
        self.book = book = AddressBook(settings, rng)
        self.dialling = Dialling(turn, node, book, self.peers, settings, rng)
        self.originals = Originals(turn, node, self.peers, book, self.dialling, settings)
        self._turn = turn
        self._node = node
        self._settings = settings
        self._rng = rng
        self._exchange_at = 0.0
        self._vouched: set[str | None] = set()  # of the turn at that time
        self._vouched_at = -NEVER
        self._alone, self._alone_at = False, -NEVER
        own = Sockets(
            port=port if settings.dialable and not settings.advertise else None,
            address=str(settings.advertise) if settings.advertise else None,
            version=__version__,
            secure=bool(settings.tls_cert),
            name=settings.name or "",
        )
        self.gossip = Gossip(turn, own, self.peers, book, self.originals, settings, rng)
        if settings.advertise:
            book.is_oneself(str(settings.advertise))

    def count(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        return count(self.peers)

    def vouches(self, node: str) -> bool:
        """Return whether a node is linked with this one, or with a peer, as that says."""
        if self._vouched_at != self._turn.now:  # once in a turn, which may ask for very many
            self._vouched_at = self._turn.now
            self._vouched = {node for peer in self.peers for node in (peer.node, *peer.links)}
        return node in self._vouched

    def is_alone(self) -> bool:
        """Return whether an address that was given by hand is not connected."""
        if self._alone_at != self._turn.now:  # once in a turn
            self._alone_at = self._turn.now
            self._alone = self.dialling.lacks_given()
        return self._alone

    def tick(self) -> float:
        """Do all that is due; return when to call this again: infinity if only an event can make
        something due."""
        dials = self.dialling.start_due()
        checks = self.originals.start_checks()
        return min(dials, checks, self.gossip.announce())

    # -- links open and end ---------------------------------------------------------------------

    def opened(self, peer: Peer, local: Endpoint) -> None:
        """The link to `peer` is open, at the endpoint `local`.

        An original that has dialled this node is greeted when it has introduced itself, or has said
        nothing for a while; any other peer is greeted at once.
        """
        same = [other for other in self.peers if other.ours and other.node == peer.node]
        copied = any(other.start != peer.start for other in same)
        self.peers[peer] = None
        if peer.known:
            self.dialling.opened(peer)
        else:
            self.book.is_oneself(str(Address(*local, bool(self._settings.tls_cert))))
        if copied:
            # The peer runs on a copy of the directory; or it has restarted, and its old link is not
            # yet known to be dead. Then the heartbeat ends that link, and a redial works.
            reason = (
                "another node has the same id: one of the two runs on a copy of the other's data "
                "directory; stop that one"
            )
            self._turn.effects.close(peer, SAME_NODE, reason)
        elif peer.known and peer.ours:
            self._found(peer, peer.known, same)
        if not peer.leaving and (peer.known or peer.ours):
            self.gossip.greet(peer)

    def _found(self, peer: Peer, known: Known, same: Iterable[Peer]) -> None:
        """A dial has found a node of ours at an address; `same` are its other links."""
        known.node = peer.node
        self.book.found(peer.remote, str(peer.node), self._turn.now)
        linked = False
        for other in same:
            linked = linked or (other.introduced and not other.leaving)
            if other.claimed == known.address:
                other.address = other.claimed
        # The other side closes no link meanwhile: this one is not introduced to it.
        if linked and not known.by_hand and not peer.leaving:
            self.book.worked(known, self._turn.now)
            self._turn.effects.close(peer, NORMAL, "not needed: that node is connected")

    def received(self, peer: Peer, frame: Sockets) -> None:
        """A peer has sent SOCKETS: it introduces itself, or sends addresses."""
        first = not peer.introduced
        if first:
            peer.lists = frozenset(map(place, frame.addresses))
            self.gossip.greet(peer)
        if peer.ours:
            self._update(peer, frame, first)
        self._learn(peer, frame.addresses, 0.0 if first else self._rng.random() * DIAL_JITTER)
        if first:
            self._introduced(peer)

    def silent(self, peer: Peer) -> None:
        """An original has not introduced itself: go on without."""
        if not peer.introduced:
            self.gossip.greet(peer)
            self._introduced(peer)

    def closed(self, peer: Peer, reason: str, code: int | None = None) -> None:
        """A link has ended. `code` is that of the CLOSE that began the end, sent by either side."""
        self.peers.pop(peer, None)
        self.dialling.closed(peer, reason, code)

    # -- what a peer says, and which of two links stays -------------------------------------------

    def _update(self, peer: Peer, frame: Sockets, first: bool) -> None:
        """Note what a node of ours says of itself."""
        peer.enough, peer.links, peer.name = frame.enough, frame.links, frame.name
        self.originals.announced(peer, frame)
        if not first:
            return
        peer.version = frame.version
        here = Address(peer.remote[0], frame.port or 1, frame.secure)
        peer.claimed = frame.address or (str(here) if frame.port else None)
        if peer.claimed:
            known = self.book.known.get(peer.claimed)
            is_found = known is not None and known.node == peer.node
            if is_found or place(peer.claimed)[0] == place(str(here))[0]:
                peer.address = peer.claimed
        if peer.known:
            peer.known.name = peer.name
        else:
            peer.dial = frame.link

    def _introduced(self, peer: Peer) -> None:
        """`peer` has introduced itself, or is silent: decide which links stay."""
        peer.introduced = True
        if peer.known:
            self.book.worked(peer.known, self._turn.now)
            peer.known.best = peer.remote
            peer.known.bad.discard(peer.remote)
        elif peer.address:
            self._remember(peer, peer.address)
        elif peer.claimed:
            self._learn(peer, [peer.claimed])
        self.gossip.introduced(peer)
        if peer.ours:
            self.book.hosts.has_node(peer.remote[0])
            self._close_double(peer)
        elif peer.known:
            self.originals.recognise(peer)
        if not peer.leaving:
            self._limit_links(peer)

    def _remember(self, peer: Peer, address: str) -> None:
        """Remember the address of a peer that has dialled this node."""
        self._learn(peer, [address])
        known = self.book.known.get(address)
        if known and not known.by_hand:
            known.node, known.name = peer.node, peer.name
            known.attempts, known.last_error = 0, ""  # dialling it may still fail
        self.book.moved(str(peer.node), address, self._in_use)

    def _learn(self, peer: Peer, addresses: Iterable[str], pause: float = 0.0) -> None:
        """Remember addresses that `peer` has sent."""
        self.book.learn(
            addresses,
            peer.node or peer.remote[0],
            self._turn.now,
            host=peer.remote[0],
            over_loopback=peer.over_loopback,
            pause=pause,
            in_use=self._in_use,
        )

    def _in_use(self) -> set[str]:
        """Return the addresses that are connected or being dialled."""
        linked = {address for peer in self.peers for address in (peer.dialled, peer.address)}
        return {address for address in linked if address} | self.dialling.under_way.keys()

    def _close_double(self, peer: Peer) -> None:
        """Leave one link with a node of ours, the same on both sides."""
        for other in self.peers:
            if other is peer or not other.introduced or other.leaving:
                continue
            if other.node == peer.node:
                loser = other if self._stays(peer, other) else peer
                reason = "a second link between the same two nodes"
                self._turn.effects.close(loser, NORMAL, reason)

    def _stays(self, peer: Peer, other: Peer) -> bool:
        """Return whether `peer` stays rather than `other`; both sides come to the same answer."""
        if (peer.known is None) == (other.known is None):
            return peer.dial > other.dial
        return (peer.known is not None) == (self._node < str(peer.node))

    # -- how many links -------------------------------------------------------------------------

    def _limit_links(self, peer: Peer) -> None:
        """Close what is too much, now that `peer` is connected."""
        accepted = sum(
            other.known is None and other.introduced and not other.leaving for other in self.peers
        )
        limit = self._settings.max_peers
        if peer.known is None and accepted > limit:
            reason = f"this node is full: it accepts {limit} links"
            self._turn.effects.close(peer, TRY_AGAIN_LATER, reason)
            return
        target = self._settings.target_links
        if not target:
            return
        leaves = [p for p in self.peers if p.leaf and not (p.leaving or self._is_by_hand(p))]
        if peer in leaves and len(leaves) > target and peer.purpose != CHECK:
            self._turn.effects.close(peer, TRY_AGAIN_LATER, f"{target} original nodes are enough")
        if peer.purpose == PROBE and peer.enough and nodes(self.peers) > target:
            self._exchange(peer)
        # Originals do not count here: many of them, or many links on which nothing is said, would
        # push out the nodes from which messages come.
        while nodes(self.peers) > 2 * target and (other := self._surplus()):
            self._close_surplus(other)

    def _exchange(self, probe: Peer) -> None:
        """Close the link of a probe; or, once in a while, another one instead."""
        if self._turn.now < self._exchange_at:
            self._close_surplus(probe)
            return
        pause = self._settings.exchange * (0.75 + self._rng.random() / 2)
        self._exchange_at = self._turn.now + pause
        others = [other for other in self._closable() if other.enough and other is not probe]
        if others:
            self._close_surplus(self._rng.choice(others))

    def _surplus(self) -> Peer | None:
        """Return the newest peer that has enough links, else the oldest; None if all must stay.

        It is one of the remote host with the most links, so that no host can push the others out.
        """
        peers = self._closable()
        links = Counter(site(peer.remote[0]) for peer in peers)
        most = max(links.values(), default=0)
        peers = [peer for peer in peers if links[site(peer.remote[0])] == most]
        enough = [peer for peer in peers if peer.enough]
        return enough[-1] if enough else peers[0] if peers else None

    def _closable(self) -> list[Peer]:
        """Return the peers whose links may be closed as surplus, the oldest first."""
        return [
            peer
            for peer in self.peers
            if peer.introduced and peer.ours and not peer.leaving and not self._is_by_hand(peer)
        ]

    def _is_by_hand(self, peer: Peer) -> bool:
        """Return whether a link leads to an address that was given by hand. What an accepted peer
        says about its address counts only if this node has found it there."""
        by_hand = self.book.by_hand
        known = by_hand.get(peer.address or "")
        return peer.dialled in by_hand or (known is not None and known.node == peer.node)

    def _close_surplus(self, peer: Peer) -> None:
        reason = "not needed: both nodes have enough links"
        self.gossip.send_rest(peer)
        self._turn.effects.close(peer, TRY_AGAIN_LATER, reason)
