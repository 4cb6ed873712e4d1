"""Dialling: which address this node dials, when, and what the result means.

- An address given by hand is dialled until it is connected, however many links this node has.
- With fewer links than `target_links` this node dials learned addresses: first those that worked
  lately, then others at random. So up to nine nodes become a full mesh.
- Every `probe` seconds it dials one more learned address, even with enough links. By such a *probe*
  the halves of a split network find each other. overlay.py decides whether the link stays.
- A *check* dials an address to read what the original there lists: see originals.py.
- A host name may belong to several nodes, this one among them. A dial skips the endpoints at which
  this node or a connected one has answered. If a name given by hand leads to a connected node, it
  is resolved again from time to time, and the other nodes behind it are dialled like learned ones.
- After a failed dial or the end of a link, the address waits for its backoff (see book.py); for
  SURPLUS_PAUSE if the link was closed because one side has enough.
- The number of dials at a time is limited, so addresses that do not answer delay nothing else; and
  so are the dials to one host that may have nothing to do with this network (see hosts.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..address import Address, site
from ..codes import GOING_AWAY, NORMAL, TRY_AGAIN_LATER
from ..errors import DialError
from ..names import label
from ..settings import (
    GOOD_LINK,
    MAX_DIALS,
    MAX_HOST_DIALS,
    MAX_LOOKUPS,
    NEVER,
    SLOW_DIAL,
    Settings,
)
from .book import AddressBook, Endpoint, Known
from .effects import DIAL_FAILED, REFUSED, UNNEEDED, Dial, Note
from .peer import CHECK, NEEDED, PROBE, Peer, count, nodes
from .turn import Turn


@dataclass(slots=True)
class _Dial:
    """A dial under way."""

    known: Known  # its address; for a check, a record outside the address book
    purpose: str
    began: float
    resolving: bool  # its host name is being resolved
    sites: frozenset[str]  # the hosts that it dials, if the address was learned
    further: bool = False  # it looks for further nodes behind the name of a connected node


class Dialling:
    """The dials of one node."""

    def __init__(
        self,
        turn: Turn,
        node: str,
        book: AddressBook,
        peers: dict[Peer, None],
        settings: Settings,
        rng: random.Random,
    ) -> None:
        """`node` is this node's id; the others are shared with the rest of the core."""
        self.under_way: dict[str, _Dial] = {}  # by address
        self._turn = turn
        self._node = node
        self._book = book
        self._peers = peers
        self._settings = settings
        self._rng = rng
        self._dials = 0
        self._probe_at = 0.0

    # -- starting dials -------------------------------------------------------------------------

    def start_due(self) -> float:
        """Start every dial that is due. Return when to call this again: infinity if only an event
        can make another dial due."""
        book, settings, now = self._book, self._settings, self._turn.now
        connected = self._connected()
        new, names = [], []  # given by hand: not connected; names of connected nodes
        for known in book.by_hand.values():
            if not connected.leads_to(known):
                new.append(known)
            elif known.is_name:
                names.append(known)
        again = self.start(new, MAX_DIALS + MAX_LOOKUPS)
        young = sum(now < dial.began + SLOW_DIAL for dial in self.under_way.values())
        young += sum(peer.known is not None and not peer.introduced for peer in self._peers)
        room, purpose = settings.target_links - nodes(self._peers) - young, NEEDED
        if settings.target_links:
            if now >= self._probe_at:
                self._probe_at = now + settings.probe * (0.5 + self._rng.random())
                if room <= 0:
                    room, purpose = 1, PROBE
            again = min(again, self._probe_at)
        if room > 0:
            learned = [
                known
                for known in book.known.values()
                if not (known.by_hand or known.oneself or connected.leads_to(known))
            ]
            further = [known for known in names if known.further_at <= now]
            later = self.start(learned + further, room, purpose)
            if purpose == NEEDED:
                again = min(again, later, *(k.further_at for k in names if k.further_at > now))
        slow = (dial.began + SLOW_DIAL for dial in self.under_way.values())
        return min([again, *(moment for moment in slow if moment > now)])

    def start(self, candidates: Iterable[Known], room: int, purpose: str = NEEDED) -> float:
        """Start up to `room` dials to those candidates that are due. Return when the next of them
        is due: infinity if only an event can make it due."""
        now, again, ready = self._turn.now, NEVER, []
        for known in candidates:
            if known.next_try > now:
                again = min(again, known.next_try)
            elif known.address not in self.under_way:
                ready.append(known)
        self._rng.shuffle(ready)
        ready.sort(key=lambda known: known.worked is None or known.attempts > 0)
        places, busy = self._places(), self._busy()
        for known in ready:
            if room <= 0:
                break
            if places[known.is_name, known.by_hand] <= 0:
                continue  # the end of a dial makes room
            if not (known.by_hand or known.is_name) and (free := self._free(known.ip, busy)) > now:
                again = min(again, free)
                continue
            self.dial(known, purpose)
            places, busy = self._places(), self._busy()
            room -= 1
        return again

    def dial(self, known: Known, purpose: str = NEEDED) -> None:
        """Start a dial, even if it is not due."""
        now = self._turn.now
        known.changed = now
        learned = not (known.by_hand or known.is_name)
        sites = frozenset([site(known.ip)] if learned else ())
        self.under_way[known.address] = _Dial(known, purpose, now, known.is_name, sites)
        self._dials += 1
        self._turn.effects.add(Dial(known.address, self._dials))

    def _places(self) -> dict[tuple[bool, bool], int]:
        """Return how many more dials may begin, by whether the address has a host name and whether
        it was given by hand."""
        dials = self.under_way.values()
        lookups = [dial.known.by_hand for dial in dials if dial.resolving]
        others = [dial.known.by_hand for dial in dials if not dial.resolving]
        names = MAX_LOOKUPS - len(lookups)
        return {
            (True, True): names,
            (True, False): min(names, MAX_LOOKUPS // 2 - lookups.count(False)),
            (False, True): MAX_DIALS - others.count(True),
            (False, False): MAX_DIALS - others.count(False),
        }

    def _busy(self) -> frozenset[str]:
        """Return the hosts that are dialled as often as a host may be on which no node is known."""
        dials = Counter(host for dial in self.under_way.values() for host in dial.sites)
        return frozenset(host for host, count in dials.items() if count >= MAX_HOST_DIALS)

    def _free(self, ip: str, busy: frozenset[str]) -> float:
        """Return when a host may be dialled at a learned address; NEVER: when a dial ends."""
        hosts = self._book.hosts
        if not hosts.is_limited(ip):
            return 0.0
        return NEVER if site(ip) in busy else hosts.next_try(ip)

    def lacks_given(self) -> bool:
        """Return whether an address that was given by hand is not connected."""
        connected = self._connected()
        given = self._book.by_hand.values()
        return not all(known.oneself or connected.leads_to(known) for known in given)

    def lacks_known(self) -> bool:
        """Return whether a node that was given by hand, or has answered before, is missing."""
        connected = self._connected()
        return any(
            (known.by_hand or (known.attempts and (known.node or known.worked)))
            and not (known.oneself or connected.leads_to(known))
            for known in self._book.known.values()
        )

    def _connected(self) -> _Connected:
        return _Connected(self._peers, self._book, self._turn.now)

    # -- what becomes of them -------------------------------------------------------------------

    def resolved(self, address: str, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """The host of `address` was resolved: return the endpoints to try, in that order.

        If there are none, the dial is over. Raises DialError if peers may not make this node dial
        any of them; that, too, is a dial that `failed`.
        """
        now, book = self._turn.now, self._book
        dial = self.under_way.get(address)
        if dial is None:
            return ()
        dial.resolving = False
        self._turn.look()
        known = dial.known
        if dial.purpose != CHECK and book.known.get(address) is not known:
            return self._unneeded(address)  # it was forgotten meanwhile
        known.endpoints = book.may_dial(known, endpoints)
        others = [end for end in known.endpoints if book.node_at(end, now) != self._node]
        if not others:
            book.oneself(known, now)
            return self._unneeded(address)
        known.oneself = False
        connected = self._connected()
        if dial.purpose != CHECK and connected.leads_to(known):
            known.answered()
            others = [end for end in others if not connected.leads_to_endpoint(end)]
            dial.further = known.by_hand and known.is_name and bool(others)
            if not dial.further:
                known.further_at = now + self._settings.redial_longest
                return self._unneeded(address)
        if known.is_name and not known.by_hand:
            busy = self._busy()
            times = {end: self._free(end[0], busy) for end in others}
            others = [end for end in others if times[end] <= now]
            if not others:
                del self.under_way[address]
                first = min(times.values())
                known.next_try = now + SLOW_DIAL if first == NEVER else first
                return ()
            dial.sites = frozenset(site(end[0]) for end in others)
        return book.order(known, others)

    def _unneeded(self, address: str) -> tuple[Endpoint, ...]:
        """End a dial whose address leads to no further node."""
        del self.under_way[address]
        text = f"not dialled: {address} leads to this node or a connected peer"
        self._turn.effects.add(Note(UNNEEDED, text, address, UNNEEDED, address))
        return ()

    def failed(self, address: str, error: DialError) -> None:
        """A dial has failed, or has reached this very node."""
        turn, book = self._turn, self._book
        turn.look()
        dial = self.under_way.pop(address, None)
        if dial is None:
            return
        known = dial.known
        if error.oneself:
            self.reached_oneself(known, error.oneself)
            text = f"not dialled again: {address} leads to this node itself"
            turn.effects.add(Note(UNNEEDED, text, address, UNNEEDED, address))
            return
        for host in dial.sites:
            book.hosts.failed(host, turn.now)
        if dial.purpose == CHECK or book.known.get(address) is not known:
            return
        known.bad.intersection_update(known.endpoints)
        if dial.further and self._connected().leads_to(known):
            known.further_at = turn.now + self._settings.redial_longest
            return
        name = f"{label(known.node, known.name)} at {address}" if known.node else address
        text = f"dialling {name} failed: {error}"
        kind = REFUSED if error.refused else DIAL_FAILED
        turn.effects.add(Note(kind, text, address, str(error), address, known.node))
        linked = count(self._peers) > 0
        book.failed(known, str(error), turn.now, error.refused, linked=linked)

    def reached_oneself(self, known: Known, endpoint: Endpoint) -> None:
        """A dial has reached this very node at `endpoint`: the other endpoints are tried next."""
        now, book = self._turn.now, self._book
        book.found(endpoint, self._node, now)
        book.is_oneself(str(Address(*endpoint, bool(self._settings.tls_cert))))
        if all(book.node_at(other, now) == self._node for other in known.endpoints):
            book.oneself(known, now)
        else:
            known.next_try = now

    def opened(self, peer: Peer) -> None:
        """A dial has opened a link: complete the record of its peer, or close the link if the
        address was forgotten meanwhile."""
        assert peer.known is not None
        now, address = self._turn.now, peer.known.address
        dial = self.under_way.pop(address, None)
        known = self._book.known.get(address)
        if dial:
            peer.purpose = dial.purpose
            known = dial.known if dial.purpose == CHECK else known
        if known is None:
            self._turn.effects.close(peer, NORMAL, "its address was forgotten meanwhile")
            return
        peer.known = known
        known.refused, known.failing, known.last_error = False, None, ""
        known.further_at = now + self._settings.probe * (0.5 + self._rng.random())
        known.changed = now

    def closed(self, peer: Peer, reason: str, code: int | None) -> None:
        """The link to `peer`, which is no longer among the peers, has ended: decide when to dial
        its address again. `code` is that of the CLOSE that began the end, sent by either side."""
        now, book = self._turn.now, self._book
        if peer.purpose == CHECK:
            return
        if peer.known and not (peer.introduced or peer.leaving):
            peer.known.bad.add(peer.remote)
        known = peer.known or book.known.get(peer.address or "")
        if known is None or (known.by_hand and peer.ours and not peer.known):
            return  # only the peer says that this address, given by hand, is its own
        known.changed = now
        if peer.introduced:
            known.lost = now
        if self._connected().leads_to(known):
            known.answered()
            return  # another link leads to this node, or to another one of this name
        if code == TRY_AGAIN_LATER and self._peers:
            book.rest(known, reason, now)
        elif peer.known:
            known.refused = code not in (None, NORMAL, GOING_AWAY, TRY_AGAIN_LATER)
            lasted = peer.introduced and now - peer.opened >= GOOD_LINK
            if lasted and not known.refused:
                known.attempts = 0
            elif not (peer.ours or known.by_hand):
                book.hosts.failed(peer.remote[0], now)
            book.back_off(known, reason, now)
        else:
            known.next_try = max(known.next_try, now + self._rng.random())


class _Connected:
    """Where the links of this node lead."""

    def __init__(self, peers: Iterable[Peer], book: AddressBook, now: float) -> None:
        self._book = book
        self._now = now
        self._addresses: set[str | None] = set()
        self._claimed: set[str | None] = set()  # only the peers themselves say so
        self._nodes: set[str | None] = set()
        self._endpoints: set[Endpoint] = set()
        for peer in peers:
            self._nodes.add(peer.node)
            if peer.known:
                self._addresses.add(peer.dialled)
                self._claimed.add(peer.address)
                self._endpoints.add(peer.remote)
                continue
            (self._claimed if peer.ours else self._addresses).add(peer.address)
            if peer.end:
                self._endpoints.add((peer.remote[0], peer.end[1]))

    def leads_to(self, known: Known) -> bool:
        """Return whether a link leads to the node at this address.

        If the address was given by hand, a peer that only claims to be there does not count: it
        could keep this node from the right one.
        """
        return (
            known.address in self._addresses
            or (known.address in self._claimed and not known.by_hand)
            or (known.node is not None and known.node in self._nodes)
            or any(self.leads_to_endpoint(endpoint) for endpoint in known.endpoints)
        )

    def leads_to_endpoint(self, endpoint: Endpoint) -> bool:
        """Return whether a link leads to the node at this endpoint."""
        if endpoint in self._endpoints:
            return True
        node = self._book.node_at(endpoint, self._now)
        return node is not None and node in self._nodes
