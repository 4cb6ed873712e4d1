"""The table of peers for people: one entry for each node, with all its addresses, and one for each
address of which no node is known. A host name of several nodes is an address of each of them.

Pure: the facts go in, the table comes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ..results import PeerInfo, PeerState, Volume
from .book import Endpoint, Known
from .peer import Peer


@dataclass(frozen=True)
class Traffic:
    """What a live link has carried, how far away its peer is and how far behind."""

    rtt: float | None = None  # seconds; None: not measured yet
    sent: tuple[int, int] = (0, 0)  # messages, bytes
    received: tuple[int, int] = (0, 0)
    behind: int | None = None  # None: it has not said yet what it holds
    late: int | None = None  # the same without the latest messages
    notice: str = ""  # why its messages wait, if they do


@dataclass
class Entry:
    """One node, or one address of which no node is known yet."""

    names: list[str]  # its addresses and its id; the address that people see is the first
    known: list[Known] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    dialling: bool = False

    @property
    def key(self) -> str:
        """The name of the entry in a URL."""
        return key_of(self.names[0])

    def has(self, key: str) -> bool:
        """Return whether the entry has this key, or had it when less was known of the node."""
        return any(key_of(name) == key for name in self.names)

    def info(self, traffic: Mapping[Peer, Traffic], now: float, wall: float) -> PeerInfo:
        """Return the entry for people; `now` and `wall` are the same moment, in seconds."""
        peer = next((peer for peer in self.peers if peer.introduced), None)
        opening = peer is None and (self.peers or self.dialling)
        known = min(self.known, key=lambda known: known.next_try, default=None)
        if peer and peer.known:
            known = peer.known
        refused = known is not None and known.refused
        state: PeerState
        if peer:
            state = "connected"
        elif self.known and all(known.oneself for known in self.known):
            state = "self"
        else:
            state = "dialling" if opening else "refused" if refused else "waiting"
        moment = peer.opened if peer else now
        if known and not peer:
            moment = known.lost or known.failing or known.changed
        carried = traffic.get(peer, Traffic()) if peer else Traffic()
        next_try = known.next_try if known and state not in ("connected", "dialling") else None
        first = [peer.address] if peer and peer.address else []
        node = (peer and peer.node) or next((k.node for k in self.known if k.node), None)
        names = [peer.name] if peer and peer.node else [k.name for k in self.known if k.node]
        addresses = dict.fromkeys([*first, *(known.address for known in self.known)])
        return PeerInfo(
            key=self.key,
            id=node,
            name=next(filter(None, names), None),
            address=(peer and peer.address) or (known.address if known else None),
            addresses=list(addresses),
            direction=("out" if peer.known else "in") if peer else None,
            state=state,
            since=int((wall - now + moment) * 1000),
            rtt_ms=None if carried.rtt is None else round(carried.rtt * 1000, 3),
            attempts=known.attempts if known else 0,
            last_error=known.last_error if known else "",
            next_try_s=None if next_try is None else round(max(0.0, next_try - now), 1),
            sent=Volume(*carried.sent),
            received=Volume(*carried.received),
            behind=(carried.behind if peer.ours else 0) if peer else None,
            late=(carried.late if peer.ours else 0) if peer else None,
            notice=carried.notice,
            links=dict(peer.links) if peer else {},
            version=(peer.version or None) if peer else None,
            worked=any(known.worked is not None for known in self.known),
            by_hand=any(known.by_hand for known in self.known),
            source=known.source or None if known else None,
        )


def entries(
    book: Iterable[Known],
    peers: Iterable[Peer],
    dialling: Collection[str],
    node_at: Callable[[Endpoint], str | None],
) -> list[Entry]:
    """Return an entry for each node and address; connected nodes come first.

    `node_at` returns the id of the node that last answered at an endpoint. An address of this node
    itself has an entry only if it was given by hand.
    """
    table: list[Entry] = []
    by_name: dict[str, Entry] = {}
    # Those with an id first: by a name of several nodes the others are found.
    for peer in sorted(peers, key=lambda peer: peer.node is None):
        if not peer.leaving:
            names = [peer.dialled, peer.address, peer.node, _text(peer.remote)]
            if peer.node:
                mine = by_name.get(peer.node)
                names = [name for name in names if name and by_name.get(name, mine) is mine]
            _add(table, by_name, names).peers.append(peer)
    # Those given by hand before the others: an entry is shown with the address that people know.
    for known in sorted(book, key=lambda known: not known.by_hand):
        if known.by_hand or not known.oneself:
            ends = [name for end in known.endpoints for name in (node_at(end), _text(end))]
            entry = _add(table, by_name, [known.address, known.node], ends)
            entry.known.append(known)
            entry.dialling = entry.dialling or known.address in dialling
            if known.by_hand:
                entry.names.remove(known.address)
                entry.names.insert(0, known.address)
    return table


def key_of(name: str) -> str:
    """Return a short text, safe in a URL, for an address or a node's id."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _add(
    table: list[Entry],
    by_name: dict[str, Entry],
    names: Iterable[str | None],
    also: Iterable[str | None] = (),
) -> Entry:
    """Return the entry with one of `names` or `also`, or a new one, and give it all `names`."""
    own = [name for name in names if name]
    entry = next((by_name[name] for name in (*own, *also) if name and name in by_name), None)
    if entry is None:
        entry = Entry([])
        table.append(entry)
    for name in own:
        if name not in entry.names:
            entry.names.append(name)
        by_name.setdefault(name, entry)
    return entry


def _text(remote: Endpoint) -> str:
    return f"{remote[0]} {remote[1]}"
