"""Which addresses are sent to which peer, and which messages an original node gets.

Pure, like all the rules. Addresses of nodes are sent that this node is connected with, whichever
side dialled; not one that it has failed to dial, and loopback addresses over loopback only.

A peer is a node of ours, known by its id, or an original node, which has none. Two nodes of ours
notice a second link between them and close it, so they may get each other's addresses freely. An
original cannot notice, and relays nothing.

- An original that this node has dialled is a *leaf*. It gets no address, so it links with nobody
  because of us; it gets every new message over that one link: those of this node, those of others,
  and those that nodes of ours have got from other originals.
- An original that has dialled this node is a *guest*. It gets the addresses of ours, at the opening
  and as they join, for nobody knows where it could be dialled. It dials them, and gets from each
  node its own messages, and those of the node's leaves. If it has dialled several of ours, the
  first of them sends it the addresses.

Several nodes may be linked with one original. So each tells its peers where its leaves are, and
where guests are that it knows by address. Of several nodes with one leaf each sends its own
messages, and the one with the smallest id all others. An original's SOCKETS lists what it has
dialled: it gets no message of a node or an original that it lists.

When a guest comes from the host of a leaf (this node's or a peer's), it may be the same original.
This node then dials the address of the leaf once more: an original lists what it has dialled, so
if this node is listed, the guest is there, and this node gives its own dial to it up.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..address import Address, is_local, place
from ..codes import NORMAL
from ..settings import MAX_ADDRESSES, MAX_LINKS_TOLD, Settings
from ..wire.frames import Message, Sockets
from .book import AddressBook
from .deduplication import WINDOW, node_of
from .peer import Close, Peer, Place, Tell, count

# Peers of ours get changes of our links after this, when short ones have gone. Seconds.
_NEWS_PAUSE = 3.0
# How many addresses are remembered as sent to one peer.
_MAX_TOLD = 4 * MAX_ADDRESSES
# Commits of originals, and copies of these, that are remembered for one original.
_MAX_COMMITS = 10_000


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
        """`own` says which node this is; `peers` and `book` are shared with the overlay."""
        self._own = own
        self._peers = peers
        self._book = book
        self._settings = settings
        self._rng = rng
        self._news_at = float("inf")

    # -- addresses ------------------------------------------------------------------------------

    def greet(self, peer: Peer) -> list[Tell]:
        """Return the work that sends our opening frame.

        A peer that we have dialled may be an original: it gets addresses once it is known as ours.
        """
        peer.greeted = True
        if peer.known:
            return [self._tell(peer, [], peer.dial)]
        return [self._tell(peer, self._opening_addresses(peer))]

    def introduced(self, peer: Peer) -> list[Tell]:
        """Note that `peer` is known for what it is; tell those that should know."""
        peer.introduced = True
        if peer.ours:
            return self._introduced_ours(peer)
        ours = [other for other in self._peers.values() if other.introduced and other.ours]
        return [work for other in ours for work in self._tell_guest(peer, other)]

    def news(self, now: float) -> tuple[list[Tell], float]:
        """Return the work that tells ours where our links lead to now, and when to ask again.

        What concerns originals is told at once, for until then messages may show twice there.
        """
        state = self._links()
        stale = [
            peer
            for peer in self._peers.values()
            if peer.introduced and peer.ours and not peer.leaving and peer.told_links != state
        ]
        urgent = [peer for peer in stale if peer.told_links and peer.told_links[2:] != state[2:]]
        if not stale:
            self._news_at = float("inf")
        elif urgent:
            return [self._tell(peer, []) for peer in urgent], now
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
            if other.introduced and other.node != peer.node
            if self._spreads(other, peer) and other.address not in peer.told
        ]
        return [self._tell(peer, news)] if news else []

    def _opening_addresses(self, peer: Peer) -> list[str]:
        """Return the addresses that the opening frame to a peer that has dialled us holds."""
        if not peer.ours and self._covered(peer):
            return []
        listed = peer.lists
        return [
            str(other.address)
            for other in self._peers.values()
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
            for other in self._peers.values()
        )

    def _introduced_ours(self, peer: Peer) -> list[Tell]:
        work: list[Tell] = []
        news: list[str] = []
        for other in list(self._peers.values()):
            if not other.introduced or other.node == peer.node:
                continue
            if other.original:
                work += self._tell_guest(other, peer)
                continue
            news_to = not other.enough and peer.address not in other.told
            if news_to and self._spreads(peer, other):
                work.append(self._tell(other, [str(peer.address)]))
            if self._spreads(other, peer) and other.address not in peer.told:
                news.append(str(other.address))
        untold = peer.told_links is None or peer.told_links[2:] != self._links()[2:]
        return [*work, self._tell(peer, news)] if news or untold else work

    def _tell_guest(self, original: Peer, ours: Peer) -> list[Tell]:
        """Tell a guest where one of ours is, unless it knows or another node tells it."""
        told = ours.address in original.told or self._covered(original)
        if original.known or told or not self._spreads(ours, original):
            return []
        return [self._tell(original, [str(ours.address)])]

    def _tell(self, peer: Peer, addresses: list[str], dial: int = 0) -> Tell:
        """Return the frame that sends `addresses` to `peer`, and note that it has them."""
        if len(addresses) > MAX_ADDRESSES:
            addresses = self._rng.sample(addresses, MAX_ADDRESSES)
        chosen = tuple(addresses)
        if len(peer.told) > _MAX_TOLD:
            peer.told.clear()
        peer.told.update(chosen)
        enough, links, leaves, guests = self._links()
        if not peer.ours:
            leaves = guests = ()  # an original may read it
        peer.told_links = enough, links, leaves, guests
        frame = replace(
            self._own,
            addresses=chosen,
            link=dial,
            enough=enough,
            links=links,
            leaves=leaves,
            guests=guests,
        )
        return Tell(peer.link, frame)

    def _links(self) -> tuple[bool, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Whether we have links enough, the ids of the nodes that they lead to, and where leaves
        and guests are."""
        enough = count(self._peers.values()) >= self._settings.target_links
        ids = {str(peer.node) for peer in self._peers.values() if peer.ours and not peer.leaving}
        originals = [p for p in self._peers.values() if p.original and p.end and not p.leaving]
        leaves = sorted({_text(peer) for peer in originals if peer.known})
        guests = sorted({_text(peer) for peer in originals if not peer.known})
        return (
            enough,
            tuple(sorted(ids)[:MAX_LINKS_TOLD]),
            tuple(leaves[:MAX_ADDRESSES]),
            tuple(guests[:MAX_ADDRESSES]),
        )

    # -- originals ------------------------------------------------------------------------------

    def hear(self, peer: Peer, frame: Sockets) -> None:
        """Take what a peer of ours says about the originals that it is linked with."""
        peer.leaves = frozenset(_seen_from_here(peer, frame.leaves))
        peer.originals = peer.leaves | frozenset(_seen_from_here(peer, frame.guests))

    def doubtful(self) -> set[str]:
        """Return the addresses of leaves at which a guest may be whose address is not known."""
        guests = [peer for peer in self._peers.values() if peer.guest and not peer.leaving]
        nameless = [(host_of(guest), guest) for guest in guests if not guest.end]
        if not nameless:
            return set()
        ends = {end: _address(end) for peer in self._peers.values() for end in peer.leaves}
        for peer in self._peers.values():
            if peer.leaf and peer.end and not peer.leaving:
                ends[peer.end] = str(Address(*peer.remote))
        for guest in guests:
            ends.pop(guest.end or ("", 0), None)
        return {
            address
            for end, address in ends.items()
            if any(host == end[0] and end not in guest.not_at for host, guest in nameless)
        }

    def recognise(self, peer: Peer) -> list[Close]:
        """Return the work that ends our dials to an original which has dialled us itself, and those
        that were made to find that out.

        An original cannot say who it is, but one that lists an address of ours has a link that it
        opened. That is the link of a guest from its host, which listed nothing else back then.
        """
        guests = [
            other
            for other in self._peers.values()
            if other.guest and not other.end and not other.leaving
            if host_of(other) == host_of(peer)
        ]
        fitting = [guest for guest in guests if guest.lists <= peer.lists]
        if fitting and self._book.names_oneself(peer.listed):
            guest = max(fitting, key=lambda guest: len(guest.lists))
            guest.end, guest.address = peer.end, peer.dialled
            return [
                other.close(NORMAL, "this original node has dialled us already")
                for other in self._peers.values()
                if other.leaf and other.end == peer.end and not other.leaving
            ]
        for guest in guests:
            guest.not_at.add(peer.end or ("", 0))
        if peer.check:
            return [peer.close(NORMAL, "it was dialled to see which original node is there")]
        return []

    def gets(self, peer: Peer, message: Message, source: Peer | None) -> bool:
        """Return whether the original `peer` is sent a new message.

        `source` is the original from which this node has got it, if it was so.
        """
        node = str(self._own.node)
        ours = [other for other in self._peers.values() if other.ours and not other.leaving]
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


@dataclass
class Commit:
    """A commit of an original: when it was first logged, which nodes of ours have logged a copy of
    it, and whether the original that these are counted for has it."""

    time: int
    nodes: set[str]
    sent: bool = False


class Commits:
    """The latest commits of other originals, as they are counted for one original.

    Several nodes of ours may log a copy of one commit, which are matched as in deduplication.py,
    but in the order in which they arrive here.
    """

    def __init__(self) -> None:
        self._of_text: dict[str, list[Commit]] = {}
        self._of_copy: dict[tuple[str, int], Commit] = {}

    def of(self, copy: Message) -> Commit:
        """Return the commit that a copy is of, a new one if it is the first."""
        identity = copy.origin, copy.seq
        if identity in self._of_copy:
            return self._of_copy[identity]
        node = node_of(copy.origin)
        recent = [c for c in self._of_text.pop(copy.data, []) if copy.time - c.time <= WINDOW]
        fitting = (c for c in recent if node not in c.nodes and c.time - copy.time <= WINDOW)
        commit = next(fitting, None)
        if commit is None:
            commit = Commit(copy.time, set())
            recent.append(commit)
        commit.nodes.add(node)
        self._of_text[copy.data] = recent
        self._of_copy[identity] = commit
        if len(self._of_text) > _MAX_COMMITS:
            del self._of_text[next(iter(self._of_text))]
        if len(self._of_copy) > _MAX_COMMITS:
            del self._of_copy[next(iter(self._of_copy))]
        return commit


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
