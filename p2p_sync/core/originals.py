"""Original nodes in the mesh: each message is shown once there.

An original node has no id, relays nothing, and cannot notice a second link to the same node. So it
matters who dialled:

- An original that this node has dialled is a *leaf*. It is told no addresses, so it links with
  nobody because of us. Over that one link it gets every new message: those of this node, those of
  other nodes, and those that nodes of ours have got from other originals.
- An original that has dialled this node is a *guest*. It is told the addresses of our nodes (see
  gossip.py), dials them, and gets from each node that node's own messages, and those of its leaves.

Several nodes may be linked with one original. So each tells its peers where its leaves are, and
where guests are whose address it knows. Of several nodes with one leaf each sends its own
messages, and the one with the smallest id sends all others. An original's SOCKETS lists what it has
dialled: it gets no message of a node or an original that it lists.

When a guest comes from the host of a leaf (this node's or a peer's), it may be the same original.
This node then dials the address of the leaf once more: an original lists what it has dialled, so
if this node is listed, the guest is there, and this node gives up its own dial.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..address import Address, place
from ..codes import NORMAL
from ..settings import MAX_ADDRESSES
from ..wire.frames import Message, Sockets
from .book import AddressBook
from .deduplication import node_of
from .effects import Effects
from .peer import Peer, Place


class Originals:
    """Which original is where, and which messages it gets. Part of the overlay."""

    def __init__(
        self, node: str, peers: dict[Peer, None], book: AddressBook, effects: Effects
    ) -> None:
        """`node` is this node's id; `peers`, `book` and `effects` are shared with the overlay."""
        self._node = node
        self._peers = peers
        self._book = book
        self._effects = effects

    def places(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the addresses of this node's leaves, and of its guests as far as known."""
        found = [peer for peer in self._peers if peer.original and peer.end and not peer.leaving]
        leaves = sorted({_text(peer) for peer in found if peer.known})
        guests = sorted({_text(peer) for peer in found if not peer.known})
        return tuple(leaves[:MAX_ADDRESSES]), tuple(guests[:MAX_ADDRESSES])

    def hear(self, peer: Peer, frame: Sockets) -> None:
        """Take what a peer of ours says about the originals that it is linked with."""
        peer.leaves = frozenset(_seen_from_here(peer, frame.leaves))
        peer.originals = peer.leaves | frozenset(_seen_from_here(peer, frame.guests))

    def doubtful(self) -> set[str]:
        """Return the addresses of leaves at which a guest may be whose address is not known."""
        guests = [peer for peer in self._peers if peer.guest and not peer.leaving]
        nameless = [(host_of(guest), guest) for guest in guests if not guest.end]
        if not nameless:
            return set()
        ends = {end: _address(end) for peer in self._peers for end in peer.leaves}
        for peer in self._peers:
            if peer.leaf and peer.end and not peer.leaving:
                ends[peer.end] = str(Address(*peer.remote))
        for guest in guests:
            ends.pop(guest.end or ("", 0), None)
        return {
            address
            for end, address in ends.items()
            if any(host == end[0] and end not in guest.not_at for host, guest in nameless)
        }

    def recognise(self, peer: Peer) -> None:
        """End our dials to an original that has dialled us itself, and those that were made to find
        that out.

        An original cannot say who it is, but one that lists an address of ours has a link that it
        opened. That is the link of a guest from its host, which listed nothing else back then.
        """
        guests = [
            other
            for other in self._peers
            if other.guest and not other.end and not other.leaving
            if host_of(other) == host_of(peer)
        ]
        fitting = [guest for guest in guests if guest.lists <= peer.lists]
        if fitting and self._book.names_oneself(peer.listed):
            guest = max(fitting, key=lambda guest: len(guest.lists))
            guest.end, guest.address = peer.end, peer.dialled
            for other in self._peers:
                if other.leaf and other.end == peer.end and not other.leaving:
                    self._effects.close(other, NORMAL, "this original node has dialled us already")
            return
        for guest in guests:
            guest.not_at.add(peer.end or ("", 0))
        if peer.check:
            reason = "it was dialled to see which original node is there"
            self._effects.close(peer, NORMAL, reason)

    def gets(self, peer: Peer, message: Message, source: Peer | None) -> bool:
        """Return whether the original `peer` is sent a new message.

        `source` is the original from which this node has got it, if it was so.
        """
        node = self._node
        ours = [other for other in self._peers if other.ours and not other.leaving]
        if node_of(message.origin) == node and message.heard:
            if source is None or source is peer or _are_linked(source, peer):
                return False
            if not (peer.leaf or source.leaf):
                return False  # guests link with each other, or not, without us
            sharing = [
                other
                for other in ours
                if source.end in other.originals
                if not peer.leaf or peer.end in other.originals
            ]
            return all(node < str(other.node) for other in sharing)
        if node_of(message.origin) == node:
            return True
        if not peer.leaf:
            return False
        for other in ours:
            known = peer.end in other.originals
            listed = other.address is not None and place(other.address) in peer.lists
            if other.node == node_of(message.origin) and (known or listed):
                return False
        return all(node < str(other.node) for other in ours if peer.end in other.leaves)


def _are_linked(one: Peer, other: Peer) -> bool:
    """Return whether two originals are linked with each other, or one and the same."""
    if one.end is not None and one.end in other.lists | {other.end}:
        return True
    return other.end is not None and other.end in one.lists


def host_of(peer: Peer) -> str:
    """Return the host that a peer is on, the same for all addresses of this machine."""
    return place(str(Address(*peer.remote)))[0]


def _text(peer: Peer) -> str:
    return _address(peer.end) if peer.end else ""


def _address(end: Place) -> str:
    return str(Address("127.0.0.1" if end[0] == "localhost" else end[0], end[1]))


def _seen_from_here(peer: Peer, addresses: Iterable[str]) -> Iterable[Place]:
    """Return places as this node knows them: what is local to the peer is on its host."""
    for address in addresses:
        host, port = place(address)
        if host == "localhost" and not peer.over_loopback:
            host = peer.remote[0]
        yield host, port
