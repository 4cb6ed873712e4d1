"""The rules of the overlay: whom to dial, which link to keep, which to shed.

What the peers are told is decided in gossip.py, and all about original nodes in originals.py.

- Below `target_links` a node dials what it knows, at random, those that worked lately first. Up to
  nine nodes are so a full mesh. Addresses given by hand are dialled whatever the count.
- A host name may stand for several nodes, this one among them. A dial skips the endpoints that lead
  to this node. A name given by hand that leads to a connected node is resolved again from time to
  time, and the other nodes behind it are dialled as if their addresses had been learned.
- Above twice that it sheds a link (close 1013, after telling addresses): the newest to a node that
  has enough, else the oldest; never one given by hand or to an original node.
- Every `probe` seconds it dials one known address that it has no link to, even when it has enough.
  If both sides have, the link is closed again, for now both know that the other lives and have
  told their addresses. But every `exchange` seconds it is kept, and another closed instead: so the
  overlay stays well mixed, and the halves of a parted network that meet again stay together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..address import Address, place
from ..codes import GOING_AWAY, NORMAL, POLICY_VIOLATION, SAME_NODE, TRY_AGAIN_LATER
from ..errors import ProtocolError
from ..settings import (
    GOOD_LINK,
    MAX_DIALS,
    MAX_LOOKUPS,
    NEVER,
    SLOW_DIAL,
    TOLD_JITTER,
    Settings,
)
from ..version import __version__
from ..wire.frames import Sockets
from .book import AddressBook, Endpoint, Known
from .effects import Effects
from .gossip import Gossip
from .originals import Originals
from .peer import Peer, count

_ENOUGH = "not needed: both nodes have enough links"


@dataclass
class _Linked:
    """Where links lead."""

    node_at: Callable[[Endpoint], str | None]
    addresses: set[str | None] = field(default_factory=set)
    claimed: set[str | None] = field(default_factory=set)  # only peers that dialled us say so
    nodes: set[str | None] = field(default_factory=set)
    endpoints: set[Endpoint] = field(default_factory=set)

    def to(self, known: Known) -> bool:
        """Return whether one leads to the node behind this address.

        Where an address that was given by hand leads is found out by dialling it: a peer that says
        to be there must not keep this node from the one that is.
        """
        return (
            known.address in self.addresses
            or (known.address in self.claimed and not known.by_hand)
            or (known.node is not None and known.node in self.nodes)
            or any(self.at(endpoint) for endpoint in known.endpoints)
        )

    def at(self, endpoint: Endpoint) -> bool:
        """Return whether one leads to the node at this endpoint."""
        if endpoint in self.endpoints:
            return True
        node = self.node_at(endpoint)
        return node is not None and node in self.nodes


class Overlay:
    """What one node knows of addresses and links. Every method is called under one lock."""

    def __init__(
        self,
        node: str,
        start: int,
        settings: Settings,
        port: int,
        effects: Effects,
        rng: random.Random,
    ) -> None:
        """`node` and `start` are this node's own, `port` is where it accepts peers. What is decided
        goes to `effects`."""
        self.book = AddressBook(settings, rng)
        self.peers: dict[Peer, None] = {}
        self._effects = effects
        self._node = node
        self._start = start
        self._settings = settings
        self._rng = rng
        self._dials = 0
        self.dialling: dict[str, float] = {}  # the dials under way: address -> since when
        self._resolving: dict[str, bool] = {}  # names among them -> given by hand
        # The addresses that were dialled to see whether a guest is there, and when.
        self._checked_at: dict[str, float] = {}
        self._probe_at = 0.0
        self._exchange_at = 0.0
        own = Sockets(
            node=node,
            start=start,
            port=port if settings.dialable and not settings.advertise else None,
            address=str(settings.advertise) if settings.advertise else None,
            version=__version__,
            secure=bool(settings.tls_cert),
        )
        self.originals = Originals(node, self.peers, self.book, effects)
        self._gossip = Gossip(own, self.peers, self.book, self.originals, settings, effects, rng)
        if settings.advertise:
            self.book.is_oneself(str(settings.advertise))

    def count(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        return count(self.peers)

    # -- whom to dial ---------------------------------------------------------------------------

    def due(self, now: float) -> tuple[list[str], float]:
        """Return the addresses to dial now, those given by hand first, and when to ask again.

        The latter is infinity if only an event can make something due.
        """
        target = self._settings.target_links
        linked = self._linked(now)
        fits = self._free_places()
        idle = [known for known in self.book.by_hand.values() if known.address not in self.dialling]
        by_hand = [known for known in idle if not linked.to(known)]
        checks, again = self._due_checks(linked, now)
        chosen, later = self.book.pick(by_hand + checks, MAX_DIALS + MAX_LOOKUPS, now, fits)
        again = min(again, later)
        for known in checks:
            if not any(known is other for other in chosen):
                self._uncheck(known)
        slow = [began + SLOW_DIAL for began in self.dialling.values()]
        again = min([again, *(moment for moment in slow if moment > now)])
        room = target - self.count() - sum(moment > now for moment in slow) - len(chosen)
        probing = False
        if target and now >= self._probe_at:
            self._probe_at = now + self._settings.probe * (0.5 + self._rng.random())
            room, probing = max(room, 1), room <= 0
        if room > 0:
            names = [known for known in idle if known.is_name and linked.to(known)]
            further = [known for known in names if known.further_at <= now]
            again = min([again, *(k.further_at for k in names if k.further_at > now)])
            learned = [
                known
                for known in self.book.known.values()
                if not (known.by_hand or known.oneself or known.address in self.dialling)
                if not known.check
                if not linked.to(known)
            ]
            more, later = self.book.pick(learned + further, room, now, fits)
            for entry in more:
                entry.probing = probing
            chosen += more
            again = again if probing else min(again, later)
        if target:
            again = min(again, self._probe_at)
        return [entry.address for entry in chosen], again

    def news(self, now: float) -> float:
        """Tell our nodes of changed links; return when to ask again."""
        return self._gossip.news(now)

    def dial(self, address: str, now: float) -> int:
        """Note that a dial begins; return its number, which goes with the link."""
        known = self.book.known[address]
        known.changed = now
        self.dialling[address] = now
        if known.is_name:
            self._resolving[address] = known.by_hand
        self._dials += 1
        return self._dials

    def resolved(
        self, address: str, endpoints: tuple[Endpoint, ...], now: float
    ) -> tuple[Endpoint, ...]:
        """Return which of the endpoints behind `address` to dial, in that order.

        None: the dial is over, since all of them lead to this node or to connected ones. Raises
        DialError where this node may not dial them; then call `failed`.
        """
        known = self.book.known.get(address)
        self._resolving.pop(address, None)
        if known is None:
            self._over(address)
            return ()
        known.endpoints = self.book.may_dial(known, endpoints)
        others = [e for e in known.endpoints if self.book.node_at(e, now) != self._node]
        if not others:
            self._over(address)
            self.book.oneself(known, now)
            return ()
        known.oneself = known.further = False
        linked = self._linked(now)
        if known.check:
            return self.book.order(known, others)
        if linked.to(known):
            known.answered()
            others = [end for end in others if not linked.at(end)]
            known.further = known.by_hand and known.is_name and bool(others)
            if not known.further:
                self._over(address)
                known.further_at = now + self._settings.redial_longest
                return ()
        return self.book.order(known, others)

    def failed(
        self,
        address: str,
        error: str,
        now: float,
        refused: bool = False,
    ) -> bool:
        """Note that a dial has failed; return whether to report it.

        Not to be reported is a dial that is over already, because it has reached this node, and one
        that looked for further nodes behind the name of a connected node.
        """
        known = self._over(address)
        if known is None:
            return False
        if known.check:
            self._checked(known, now)
            return False
        known.bad.intersection_update(known.endpoints)
        if known.further and self._linked(now).to(known):
            known.further_at = now + self._settings.redial_longest
            return False
        self.book.failed(known, error, now, refused, linked=self.count() > 0)
        return True

    def reached_oneself(self, address: str, endpoint: Endpoint, now: float) -> None:
        """Note that the dial to `address` has reached this very node, at `endpoint`: the others
        behind it are tried next."""
        self.book.found(endpoint, self._node, now)
        self.book.is_oneself(str(Address(*endpoint, bool(self._settings.tls_cert))))
        known = self._over(address) or self.book.known.get(address)
        if known is None:
            return
        if all(self.book.node_at(other, now) == self._node for other in known.endpoints):
            self.book.oneself(known, now)
        else:
            known.next_try = now

    def _due_checks(self, linked: _Linked, now: float) -> tuple[list[Known], float]:
        """Return the addresses to dial since a guest may be there, each at most once a minute, and
        when to ask again. One that is to be dialled anyway needs no check."""
        pause = self._settings.redial_longest
        self._checked_at = {a: at for a, at in self._checked_at.items() if now < at + pause}
        found = []
        doubtful = self.originals.doubtful()
        for address in doubtful - self._checked_at.keys() - self.dialling.keys():
            known = self.book.known.get(address)
            if known is None:
                known = Known(address, local=True, passing=True, changed=now)
                self.book.known[address] = known
            elif known.by_hand and not linked.to(known):
                continue
            known.check = True
            found.append(known)
        waiting = [at + pause for address, at in self._checked_at.items() if address in doubtful]
        return found, min(waiting, default=NEVER)

    def _checked(self, known: Known, now: float) -> None:
        """Note that the dial of a check has come about or failed."""
        self._checked_at[known.address] = now
        self._uncheck(known)

    def _uncheck(self, known: Known) -> None:
        known.check = False
        if known.passing:
            self.book.known.pop(known.address, None)

    def _over(self, address: str) -> Known | None:
        """Note that a dial is over; return what is known of its address, None if it was before."""
        self._resolving.pop(address, None)
        under_way = self.dialling.pop(address, None) is not None
        known = self.book.known.get(address)
        if known:
            known.probing = False
        return known if under_way else None

    def _free_places(self) -> Callable[[Known], bool]:
        """Return what says of one address after another whether there is a place to dial it."""
        lookups = MAX_LOOKUPS - len(self._resolving)
        learned = MAX_LOOKUPS // 2 - list(self._resolving.values()).count(False)
        dials = {True: MAX_DIALS, False: MAX_DIALS}  # to those given by hand, and to others
        for address in self.dialling.keys() - self._resolving.keys():
            dials[address in self.book.by_hand] -= 1

        def fits(known: Known) -> bool:
            nonlocal lookups, learned
            if not known.is_name:
                dials[known.by_hand] -= 1
                return dials[known.by_hand] >= 0
            if lookups <= 0 or not (known.by_hand or learned > 0):
                return False
            lookups -= 1
            learned -= not known.by_hand
            return True

        return fits

    def _linked(self, now: float) -> _Linked:
        linked = _Linked(lambda endpoint: self.book.node_at(endpoint, now))
        for peer in self.peers:
            linked.nodes.add(peer.node)
            if peer.known:
                linked.addresses |= {peer.dialled, peer.address}
                linked.endpoints.add(peer.remote)
            else:
                (linked.claimed if peer.ours else linked.addresses).add(peer.address)
            if peer.end and not peer.known:
                linked.endpoints.add((peer.remote[0], peer.end[1]))
        return linked

    def _in_use(self) -> set[str]:
        linked = {peer.dialled for peer in self.peers}
        linked |= {peer.address for peer in self.peers}
        return {address for address in linked if address} | self.dialling.keys()

    # -- links open and end ---------------------------------------------------------------------

    def dialled(self, peer: Peer, now: float) -> None:
        """Note the link that came of a dial, to `peer.known`; greet the peer at once."""
        assert peer.known is not None
        known = self.book.known.get(peer.known.address)
        peer.probe = known is not None and known.probing
        self._over(peer.known.address)
        self.peers[peer] = None
        if known is None:
            self._effects.close(peer, NORMAL, "its address was forgotten meanwhile")
            return
        peer.known = known
        peer.check = known.check
        if known.check:
            self._checked(known, now)
        else:
            known.refused = False
            known.failing = None
            known.further_at = now + self._settings.probe * (0.5 + self._rng.random())
            known.last_error = ""
            known.changed = now
        self._gossip.greet(peer)

    def accepted(self, peer: Peer, local: Endpoint) -> None:
        """Note a link that we accepted on our end `local`; `hello` or `greet` comes next."""
        self.peers[peer] = None
        self.book.is_oneself(str(Address(*local, bool(self._settings.tls_cert))))

    def greet(self, peer: Peer) -> None:
        """Send our opening frame to a peer that has not got it yet."""
        if not peer.greeted:
            self._gossip.greet(peer)

    def hello(self, peer: Peer, frame: Sockets, now: float) -> None:
        """Take a SOCKETS frame of a peer: its introduction, and its addresses. Raises
        ProtocolError."""
        if peer.ours and frame.node != peer.node:
            raise ProtocolError(POLICY_VIOLATION, "a node has one id as long as its link lasts")
        first = not peer.introduced or (frame.node is not None and not peer.ours)
        peer.enough, peer.links = frame.enough, frame.links
        if first:
            peer.listed = frozenset(frame.addresses)
            refusal = self._identify(peer, frame, now)
            self.greet(peer)
            if refusal:
                self._effects.close(peer, *refusal)
                return
        self._learn(peer, frame.addresses, now, 0.0 if first else self._rng.random() * TOLD_JITTER)
        if frame.node is not None:
            self.originals.hear(peer, frame)
        if first:
            self._introduced(peer, now)

    def not_ours(self, peer: Peer, now: float) -> None:
        """Take a peer that has not introduced itself for an original node."""
        if not peer.introduced:
            self.greet(peer)
            self._introduced(peer, now)

    def closed(self, peer: Peer, reason: str, now: float, code: int | None = None) -> None:
        """Forget a link, and note when its address may be dialled again.

        `code` is that of the CLOSE that began the end, whichever side sent it.
        """
        self.peers.pop(peer, None)
        if peer.oneself or peer.check:
            return
        if peer.known and not peer.introduced:
            peer.known.bad.add(peer.remote)
        known = peer.known or self.book.known.get(peer.address or "")
        if known is None or (known.by_hand and peer.ours and not peer.known):
            return  # nothing is known of an address given by hand from who says to be there
        known.changed = now
        if peer.introduced:
            known.lost = now
        if self._linked(now).to(known):
            known.answered()
            return  # it was a second link with this node, or one with a further node of this name
        if code == TRY_AGAIN_LATER and self.peers:
            self.book.later(known, reason, now)
        elif peer.known:
            known.refused = code not in (None, NORMAL, GOING_AWAY, TRY_AGAIN_LATER)
            lasted = peer.introduced and now - peer.opened >= GOOD_LINK
            self.book.ended(known, reason, now, lasted and not known.refused)
        else:
            known.next_try = max(known.next_try, now + self._rng.random())

    # -- who it is, and which link stays --------------------------------------------------------

    def _identify(self, peer: Peer, frame: Sockets, now: float) -> tuple[int, str] | None:
        """Fill in who `peer` is; return a close code and a reason if it must not be linked with."""
        if frame.node is None:
            return None
        if frame.node == self._node:
            if frame.start != self._start:
                return SAME_NODE, f"a copied data directory: two nodes have the id {frame.node}"
            if peer.known:
                peer.oneself = True
                self.reached_oneself(peer.known.address, peer.remote, now)
            return NORMAL, "this node dialled itself"
        for other in self.peers:
            if other.node == frame.node and other.start != frame.start:
                # Either a copy of its directory, or it has restarted and the old link is not
                # yet known to be dead: then the heartbeat ends that, and a redial works.
                return SAME_NODE, f"another node with the id {frame.node} is linked"
        peer.node = frame.node
        peer.start = frame.start
        peer.version = frame.version
        if frame.address:
            peer.address = frame.address
        elif frame.port:
            peer.address = str(Address(peer.remote[0], frame.port, frame.secure))
        if peer.known:
            peer.known.node = frame.node
            self.book.found(peer.remote, frame.node, now)
        else:
            peer.dial = frame.link
        return None

    def _introduced(self, peer: Peer, now: float) -> None:
        """Note that `peer` is known for what it is; decide which links stay."""
        if peer.known and peer.node is None:
            peer.end = place(str(Address(*peer.remote)))
        if peer.known:
            self.book.worked(peer.known, now)
            peer.known.best = peer.remote
            peer.known.bad.discard(peer.remote)
        elif peer.address:
            self._remember(peer, peer.address, now)
        self._gossip.introduced(peer)
        if peer.ours:
            self._close_double(peer)
        elif peer.known:
            self.originals.recognise(peer)
        if not peer.leaving:
            self._make_room(peer, now)

    def _remember(self, peer: Peer, address: str, now: float) -> None:
        """Keep where a node that dialled us says it can be dialled."""
        self._learn(peer, [address], now)
        known = self.book.known.get(address)
        if known and not known.by_hand:
            known.node = peer.node
            known.attempts, known.last_error = 0, ""  # dialling it may fail all the same
        self.book.moved(str(peer.node), address, self._in_use)

    def _learn(self, peer: Peer, addresses: Iterable[str], now: float, pause: float = 0.0) -> None:
        """Remember addresses that `peer` tells of."""
        self.book.learn(
            addresses,
            peer.node or peer.remote[0],
            now,
            host=peer.remote[0],
            over_loopback=peer.over_loopback,
            pause=pause,
            in_use=self._in_use,
        )

    def _close_double(self, peer: Peer) -> None:
        """Leave one link with a node of ours, the same on both sides."""
        for other in self.peers:
            if other is not peer and other.node == peer.node and not other.leaving:
                loser = other if self._stays(peer, other) else peer
                self._effects.close(loser, NORMAL, "a second link between the same two nodes")

    def _stays(self, peer: Peer, other: Peer) -> bool:
        """Return whether `peer` is kept rather than `other`; both sides come to the same answer.

        Of two that one side dialled the newer stays, by that side's count; else the one that
        the node with the smaller id dialled.
        """
        if (peer.known is None) == (other.known is None):
            return peer.dial > other.dial
        return (peer.known is not None) == (self._node < str(peer.node))

    # -- how many links -------------------------------------------------------------------------

    def _make_room(self, peer: Peer, now: float) -> None:
        """Keep the number of links in bounds, now that `peer` has come."""
        accepted = sum(
            other.known is None and other.introduced and not other.leaving for other in self.peers
        )
        limit = self._settings.max_peers
        if peer.known is None and accepted > limit:
            reason = f"this node is full: it accepts {limit} links"
            self._effects.close(peer, TRY_AGAIN_LATER, reason)
            return
        target = self._settings.target_links
        if not target:
            return
        if peer.probe and peer.enough and self.count() > target:
            self._exchange(peer, now)
        # Originals are not counted here: a crowd of them, or of links of which nothing is heard,
        # would push out the nodes that the log comes from.
        while self._ours() > 2 * target and (other := self._to_shed()):
            self._shed(other)

    def _ours(self) -> int:
        return count(peer for peer in self.peers if peer.ours)

    def _exchange(self, peer: Peer, now: float) -> None:
        """Close the link of a probe, or another for it."""
        if now >= self._exchange_at:
            pause = self._settings.exchange * (0.75 + self._rng.random() / 2)
            self._exchange_at = now + pause
            others = [other for other in self._sheddable() if other.enough and other is not peer]
            if not others:
                return
            peer = self._rng.choice(others)
        self._shed(peer)

    def _to_shed(self) -> Peer | None:
        """Return the newest peer that has enough, else the oldest; None: all have to stay."""
        peers = self._sheddable()
        enough = [peer for peer in peers if peer.enough]
        return enough[-1] if enough else peers[0] if peers else None

    def _sheddable(self) -> list[Peer]:
        """Return the peers that may be shed, those that came first first."""
        by_hand = self.book.by_hand
        return [
            peer
            for peer in self.peers
            if peer.introduced and peer.ours and not peer.leaving
            if peer.dialled not in by_hand and peer.address not in by_hand
        ]

    def _shed(self, peer: Peer) -> None:
        self._gossip.rest(peer)
        self._effects.close(peer, TRY_AGAIN_LATER, _ENOUGH)
