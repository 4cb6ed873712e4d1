"""The address book: which addresses a node knows, what it knows of each, which it forgets.

An address has one endpoint (an IP address and a port) or, with a host name, several, which may
belong to several nodes: one name may stand for a whole network.

- An address given by hand is never forgotten, and its range is not restricted.
- Peers may add up to MAX_ADDRESSES addresses for each remote host that have never worked.
- A full book drops addresses in this order: never worked and failing; never worked; worked once and
  failing. It keeps those that work, those given by hand and those in use.
- A learned address to which every dial has failed for GIVE_UP is forgotten.

The methods take the time `now`: seconds of any monotonic clock. dialling.py decides what to dial.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from ..address import is_local, is_named, parse_address, place, site
from ..errors import DialError
from ..settings import (
    GIVE_UP,
    MAX_ADDRESSES,
    MAX_ENDPOINTS,
    MAX_KNOWN_ADDRESSES,
    NODE_LASTS,
    ONESELF_PAUSE,
    SURPLUS_PAUSE,
    Settings,
)
from .hosts import Hosts, backoff

# An IP address and a port.
Endpoint = tuple[str, int]

ONESELF = "this is this node itself"


@dataclass
class Known:
    """One address and what is known of it."""

    address: str
    # Given by hand: dialled whatever the count of links, and never forgotten.
    by_hand: bool = False
    # It may be an address of this machine: it was learned over loopback, or given by hand.
    local: bool = False
    # The peer that sent it: the id of a node, or a host.
    source: str = ""
    # The id of the node that last answered there, and what it calls itself.
    node: str | None = None
    name: str = ""
    # Dials that failed and links that ended since the last link that lasted.
    attempts: int = 0
    last_error: str = ""
    # When a node last answered there, and since when every dial has failed.
    worked: float | None = None
    failing: float | None = None
    # The fields below are not stored on disk. All its endpoints are this node itself.
    oneself: bool = False
    # The remote host of the peer that sent it.
    host: str = ""
    # When the last link with the node there ended.
    lost: float | None = None
    # Its endpoints, the one that worked last, and those that did not work.
    endpoints: tuple[Endpoint, ...] = ()
    best: Endpoint | None = None
    bad: set[Endpoint] = field(default_factory=set)
    # When to dial it again; and, if it is the name of a connected node, when to resolve it again,
    # to look for further nodes behind it.
    next_try: float = 0.0
    further_at: float = 0.0
    # The peer rejected the last dial or link, or the address may not be dialled.
    refused: bool = False
    # When it was learned; later, when its last dial or link began or ended.
    changed: float = 0.0

    def answered(self) -> None:
        """Forget earlier failures: a link with the node there is open."""
        self.attempts, self.last_error, self.failing = 0, "", None

    @property
    def stranger(self) -> bool:
        """Whether only peers have named it, and it has never worked."""
        return self.worked is None and not self.by_hand

    @property
    def is_name(self) -> bool:
        """Whether it has a host name, which must be resolved and may belong to several nodes."""
        return is_named(self.address)

    @cached_property
    def ip(self) -> str:
        """The IP address in it, if it has no name."""
        return parse_address(self.address).host

    @property
    def use(self) -> tuple[int, float]:
        """How useful it is; a full book drops the lowest first."""
        if self.worked is None:
            return (0 if self.failing is not None else 1), self.changed
        return (2 if self.failing is not None else 3), self.worked


class AddressBook:
    """The known addresses of one node."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.known: dict[str, Known] = {}  # by address
        self.by_hand: dict[str, Known] = {}  # those given by hand
        self.revision = 0  # grows with each change that should soon be on disk
        self.hosts = Hosts(settings, rng)
        self._settings = settings
        self._rng = rng
        self._own: set[tuple[str, int]] = set()
        # The id of the node that last answered at an endpoint (it may be this node), and when.
        self._found: dict[Endpoint, tuple[str, float]] = {}

    # -- learning and forgetting ----------------------------------------------------------------

    def add(self, address: str, now: float) -> Known:
        """Remember `address`, given by hand: it is due at once, however often it has failed."""
        self.revision += 1
        known = self.known.setdefault(address, Known(address, changed=now))
        if not known.by_hand:
            known.node = None  # a peer may have lied: a dial finds out which node is there
        known.by_hand = known.local = True
        self.by_hand[address] = known
        known.oneself = False
        self.retry(known, now)
        return known

    def retry(self, known: Known, now: float) -> None:
        """A known address is due now, however often it has failed."""
        known.next_try = now
        known.attempts, known.last_error = 0, ""

    def restore(self, known: Known, now: float) -> None:
        """Add an address that was stored before a restart; it is due at once.

        The time during which this node was off does not count as a time of failed dials.
        """
        if self._settings.tls_alone and not (known.by_hand or known.address.startswith("wss:")):
            return
        known.next_try = known.changed = now
        if known.failing is not None and known.worked is not None:
            known.failing = now
        self.known[known.address] = known
        if known.by_hand:
            self.by_hand[known.address] = known
        if known.worked is not None and known.node and not known.is_name:
            self.hosts.has_node(known.ip)

    def learn(
        self,
        addresses: Iterable[str],
        source: str,
        now: float,
        *,
        host: str = "",
        over_loopback: bool,
        pause: float = 0.0,
        in_use: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Remember addresses that a peer has sent, to be dialled `pause` seconds from now.

        `source` is the id or host of the peer, for people; `host` is its remote host, to which
        limits apply. Loopback addresses are accepted over loopback only. A full book drops its
        least useful addresses, but none `in_use`. A node that speaks only TLS accepts only TLS
        addresses.
        """
        host = site(host or source)
        fit = [a for a in addresses if over_loopback or not is_local(a)]
        if self._settings.tls_alone:
            fit = [address for address in fit if address.startswith("wss:")]
        for address in fit:
            if over_loopback and address in self.known:
                self.known[address].local = True
        new = [address for address in fit if address not in self.known]
        if new:
            of_source = sum(k.stranger and k.host == host for k in self.known.values())
            new = new[: max(0, MAX_ADDRESSES - of_source)]
            new = new[: self._make_room(len(new), in_use)]
        for address in new:
            self.revision += 1
            self.known[address] = Known(
                address,
                local=over_loopback,
                source=source,
                host=host,
                next_try=now + pause,
                changed=now,
            )

    def _make_room(self, count: int, in_use: Callable[[], Collection[str]]) -> int:
        """Forget the least useful addresses until there is room for `count` more; return for how
        many of them there is."""
        room = MAX_KNOWN_ADDRESSES - len(self.known)
        if room < count:
            keep = in_use()
            useless = [
                known
                for known in self.known.values()
                if known.use[0] < 3 and not known.by_hand
                if known.address not in keep
            ]
            useless.sort(key=lambda known: known.use)
            for known in useless[: count - room]:
                del self.known[known.address]
            room = MAX_KNOWN_ADDRESSES - len(self.known)
        return max(0, min(room, count))

    def forget(self, known: Known) -> None:
        """Forget an address, also one given by hand."""
        self.revision += 1
        self.known.pop(known.address, None)
        self.by_hand.pop(known.address, None)

    def moved(self, node: str, address: str, in_use: Callable[[], Collection[str]]) -> None:
        """A node has announced its `address`: forget its other learned addresses."""
        for known in [known for known in self.known.values() if known.node == node]:
            if not (known.address == address or known.by_hand or known.address in in_use()):
                self.forget(known)

    def is_oneself(self, address: str) -> None:
        """`address` is this node's own, so it is not dialled. One given by hand is still resolved
        from time to time: see `oneself`."""
        if len(self._own) < MAX_KNOWN_ADDRESSES:
            self._own.add(place(address))
        if address in self.by_hand:
            return
        if address in self.known or self._make_room(1, tuple):
            self.known.setdefault(address, Known(address)).oneself = True

    def oneself(self, known: Known, now: float) -> None:
        """All endpoints of an address are this node's own. If it was given by hand, it is resolved
        again after ONESELF_PAUSE."""
        if not known.oneself:
            known.changed = now
        known.oneself = True
        known.node = known.failing = None
        known.refused = False
        known.attempts, known.last_error = 0, ONESELF
        known.next_try = now + ONESELF_PAUSE * (0.75 + self._rng.random() / 2)

    def has_own(self, places: frozenset[tuple[str, int]]) -> bool:
        """Return whether one of `places` is known as this node's own."""
        return not places.isdisjoint(self._own)

    # -- which node is where --------------------------------------------------------------------

    def found(self, endpoint: Endpoint, node: str, now: float) -> None:
        """The node with that id has answered at `endpoint`."""
        self._found.pop(endpoint, None)
        self._found[endpoint] = node, now
        if len(self._found) > MAX_KNOWN_ADDRESSES:
            del self._found[next(iter(self._found))]

    def node_at(self, endpoint: Endpoint, now: float) -> str | None:
        """Return the id of the node that answered at `endpoint` in the last NODE_LASTS seconds."""
        node, when = self._found.get(endpoint, (None, now))
        return node if now < when + NODE_LASTS else None

    # -- dialling -------------------------------------------------------------------------------

    @staticmethod
    def may_dial(known: Known, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those `endpoints` of an address that this node may dial: all if it was given by
        hand, else those in ranges to which a peer may direct it. Raises DialError if none is left.
        """
        allowed = tuple(end for end in endpoints if known.by_hand or _is_safe(end[0], known.local))
        if not allowed:
            raise DialError(
                "it leads to a loopback, link-local or multicast address, which is dialled only if "
                "it is added by hand",
                refused=True,
            )
        return allowed

    def order(self, known: Known, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return up to MAX_ENDPOINTS of `endpoints` in the order in which one dial tries them: the
        one that worked last is first, those that did not work are last."""
        chosen = list(endpoints)
        if len(chosen) > MAX_ENDPOINTS:
            numbers = sorted(self._rng.sample(range(len(chosen)), MAX_ENDPOINTS))
            best = [known.best] if known.best in chosen else []
            chosen = [*best, *(chosen[n] for n in numbers if chosen[n] != known.best)]
        chosen.sort(key=lambda endpoint: (endpoint != known.best, endpoint in known.bad))
        return tuple(chosen[:MAX_ENDPOINTS])

    # -- results --------------------------------------------------------------------------------

    def worked(self, known: Known, now: float) -> None:
        """A node has answered at an address."""
        self.revision += known.worked is None
        known.worked = now

    def failed(
        self, known: Known, error: str, now: float, refused: bool = False, linked: bool = True
    ) -> None:
        """A dial has failed: back off, or forget the address.

        `linked`: this node has links. While it has none, its own network may be down, so it keeps
        an address that has worked before.
        """
        if known.failing is None or (known.worked is not None and not linked):
            known.failing = now
        known.refused = refused
        self.back_off(known, error, now)
        if not known.by_hand and now - known.failing >= GIVE_UP:
            self.forget(known)

    def rest(self, known: Known, reason: str, now: float) -> None:
        """A link was closed because one side has enough links: wait SURPLUS_PAUSE."""
        known.attempts, known.last_error = 0, reason  # it has answered
        known.changed = now
        known.next_try = now + SURPLUS_PAUSE * (0.75 + self._rng.random() / 2)

    def back_off(self, known: Known, reason: str, now: float) -> None:
        """A dial has failed, or a link has ended: wait; see `hosts.backoff`."""
        known.last_error = reason
        known.changed = now
        known.attempts += 1
        known.next_try = now + backoff(known.attempts, self._settings, self._rng)


def _is_safe(host: str, local: bool) -> bool:
    """Return whether a peer may make this node dial the IP address `host`. `local`: loopback is
    allowed."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return local
    return not (ip.is_multicast or ip.is_link_local or ip.is_unspecified)
