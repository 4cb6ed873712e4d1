"""Original nodes in the mesh: each shows every message once.

An original has no id, relays nothing, and cannot notice a second link to the same node. So it
matters which side dialled:

- A *leaf* is an original that this node has dialled. It is sent no addresses, so it connects to
  nobody because of us. Over that one link it gets every new message: those of this node, those of
  other nodes, and those that our nodes have got from other originals.
- A *guest* is an original that has dialled this node. It is sent the addresses of our nodes (see
  gossip.py) and dials them. Each node sends it its own messages, and those of its leaves.

Several nodes may be connected with one original. So each node announces where its leaves are, and
where its guests are if it knows that. Each sends a shared leaf its own messages; the node with the
smallest id sends it all others. An original's first frame lists the addresses that it has dialled:
it gets no message of a node or an original that it lists.

A guest does not say where it accepts peers. If it comes from the host of a leaf (of this node or of
a peer), it may be that leaf, and would get messages twice. So this node *checks* the leaf: it dials
it once more, at most once in `redial_longest` seconds, and reads what it lists. If it lists this
node, the guest is at that address, and this node closes its own links to it. Every check starts and
ends in this file; dialling.py only keeps its result out of the address book.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..address import Address, place
from ..codes import NORMAL
from ..settings import MAX_ADDRESSES, Settings
from ..wire.frames import Message, Sockets
from .book import AddressBook, Known
from .deduplication import node_of
from .dialling import Dialling
from .peer import CHECK, Peer, Place
from .turn import Turn


class Originals:
    """Which original is where, and which messages it gets."""

    def __init__(
        self,
        turn: Turn,
        node: str,
        peers: dict[Peer, None],
        book: AddressBook,
        dialling: Dialling,
        settings: Settings,
    ) -> None:
        """`node` is this node's id; the others are shared with the rest of the core."""
        self._turn = turn
        self._node = node
        self._peers = peers
        self._book = book
        self._dialling = dialling
        self._pause = settings.redial_longest
        self._checks: dict[str, Known] = {}  # the addresses checked in the last `_pause` seconds

    # -- where they are -------------------------------------------------------------------------

    def places(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the addresses of this node's leaves, and of its guests as far as known."""
        found = [peer for peer in self._peers if peer.original and not peer.leaving]
        leaves = sorted({_address(peer.end) for peer in found if peer.end and peer.known})
        guests = sorted({_address(peer.end) for peer in found if peer.end and not peer.known})
        return tuple(leaves[:MAX_ADDRESSES]), tuple(guests[:MAX_ADDRESSES])

    def announced(self, peer: Peer, frame: Sockets) -> None:
        """A peer of ours has announced the originals that it is connected with."""
        peer.leaves = frozenset(_seen_from_here(peer, frame.leaves))
        peer.originals = peer.leaves | frozenset(_seen_from_here(peer, frame.guests))

    def start_checks(self) -> float:
        """Start the checks that are due; return when the next one is."""
        now = self._turn.now
        self._checks = {a: known for a, known in self._checks.items() if known.next_try > now}
        doubtful = [
            self._checks.get(address) or Known(address, local=True)
            for address in sorted(self._doubtful())
            if not self._is_dialled_anyway(address)
        ]
        again = self._dialling.start(doubtful, len(doubtful), CHECK)
        for known in doubtful:
            if known.address in self._dialling.under_way:
                known.next_try = now + self._pause
                self._checks[known.address] = known
        return again

    def _doubtful(self) -> set[str]:
        """Return the addresses of leaves that may be guests whose address is not known."""
        nameless: dict[str, list[Peer]] = {}  # by host
        for guest in self._nameless():
            nameless.setdefault(host_of(guest), []).append(guest)
        if not nameless:
            return set()
        leaves = {end: _address(end) for peer in self._peers for end in peer.leaves}
        for peer in self._peers:
            if peer.leaf and peer.end and not peer.leaving:
                leaves[peer.end] = str(Address(*peer.remote))
            elif peer.guest and peer.end and not peer.leaving:
                leaves.pop(peer.end, None)
        return {
            address
            for end, address in leaves.items()
            if any(end not in guest.not_at for guest in nameless.get(end[0], ()))
        }

    def _is_dialled_anyway(self, address: str) -> bool:
        """Return whether an address was given by hand and is not connected."""
        if address not in self._book.by_hand:
            return False
        return not any(peer.dialled == address for peer in self._peers)

    def _nameless(self) -> list[Peer]:
        """Return the guests whose address is not known."""
        return [peer for peer in self._peers if peer.guest and not peer.end and not peer.leaving]

    def recognise(self, peer: Peer) -> None:
        """Find out whether `peer`, an original that this node has just dialled, is one of its
        guests: then close the links that this node has opened to it. Close a check in any case.

        It is one if it lists an address of this node: the one from the same host that listed
        nothing else when it dialled.
        """
        peer.end = place(str(Address(*peer.remote)))
        guests = [guest for guest in self._nameless() if host_of(guest) == host_of(peer)]
        fitting = [guest for guest in guests if guest.lists <= peer.lists]
        if fitting and self._book.has_own(peer.lists):
            guest = max(fitting, key=lambda guest: len(guest.lists))
            guest.end, guest.address = peer.end, peer.dialled
            for other in self._peers:
                if other.leaf and other.end == peer.end and not other.leaving:
                    reason = "this original node has dialled us already"
                    self._turn.effects.close(other, NORMAL, reason)
            return
        for guest in guests:
            guest.not_at.add(peer.end)
        if peer.purpose == CHECK:
            reason = "it was dialled to see which original node is there"
            self._turn.effects.close(peer, NORMAL, reason)

    # -- what they get --------------------------------------------------------------------------

    def gets(self, peer: Peer, message: Message, source: Peer | None) -> bool:
        """Return whether the original `peer` is sent a new message.

        `source` is the original that this node has received it from, if there is one.
        """
        node, origin = self._node, node_of(message.origin)
        ours = [other for other in self._peers if other.ours and not other.leaving]
        if origin == node and not message.heard:
            return True
        if origin == node:
            if source is None or source is peer or _are_linked(source, peer):
                return False
            if not (peer.leaf or source.leaf):
                return False  # guests link with each other, or not, without us
            senders = [other for other in ours if source.end in other.originals]
            if peer.leaf:
                senders = [other for other in senders if peer.end in other.originals]
        else:
            if not peer.leaf:
                return False
            if any(other.node == origin and _serves(other, peer) for other in ours):
                return False
            senders = [other for other in ours if peer.end in other.leaves]
        return all(node < str(other.node) for other in senders)


def _serves(ours: Peer, original: Peer) -> bool:
    """Return whether a node of ours is connected with an original."""
    if original.end in ours.originals:
        return True
    return ours.claimed is not None and place(ours.claimed) in original.lists


def _are_linked(one: Peer, other: Peer) -> bool:
    """Return whether two originals are linked with each other, or one and the same."""
    if one.end is not None and (one.end == other.end or one.end in other.lists):
        return True
    return other.end is not None and other.end in one.lists


def host_of(peer: Peer) -> str:
    """Return the host that a peer is on, the same for all addresses of this machine."""
    return place(str(Address(*peer.remote)))[0]


def _address(end: Place) -> str:
    return str(Address("127.0.0.1" if end[0] == "localhost" else end[0], end[1]))


def _seen_from_here(peer: Peer, addresses: Iterable[str]) -> Iterable[Place]:
    """Return places as this node knows them: what is local to the peer is on its host."""
    for address in addresses:
        host, port = place(address)
        if host == "localhost" and not peer.over_loopback:
            host = peer.remote[0]
        yield host, port
