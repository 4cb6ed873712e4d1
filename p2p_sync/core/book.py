"""The addresses that a node knows: what is known of each, when to dial it, which to forget.

An address leads to one endpoint (an IP address with a port) or, if it has a host name, to several,
which may belong to several nodes: one name may stand for a whole network.

Pure: time is an argument (seconds, of any steady clock), chance a generator that is passed in.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ..address import is_local, is_named, place, site
from ..errors import DialError
from ..settings import (
    FOUND_LASTS,
    GIVE_UP,
    MAX_ADDRESSES,
    MAX_DIAL_SOURCES,
    MAX_ENDPOINTS,
    MAX_KNOWN_ADDRESSES,
    NEVER,
    ONESELF_PAUSE,
    SHED_PAUSE,
    STRANGERS_A_MINUTE,
    STRANGERS_AT_ONCE,
    Settings,
)

# An IP address and a port.
Endpoint = tuple[str, int]

ONESELF = "this is this node itself"


@dataclass
class Known:
    """One address and what is known of it."""

    address: str
    # Given by hand: dialled whatever the count of links, and never forgotten.
    by_hand: bool = False
    # It may lead to this machine: it was learned over loopback, or given by hand.
    local: bool = False
    # The peer that sent it: a node's id or a host.
    source: str = ""
    # The id of the node of ours that was last found there.
    node: str | None = None
    # Dials and links that have failed or ended since one lasted.
    attempts: int = 0
    last_error: str = ""
    # When a node last answered there, and since when every dial has failed.
    worked: float | None = None
    failing: float | None = None
    # The rest is not kept over a restart. It leads to this very node, and to no other.
    oneself: bool = False
    # The remote host of the peer that sent it.
    host: str = ""
    # When the last link with the node there ended.
    lost: float | None = None
    # What it resolved to, the endpoint that worked last, and those that did not.
    endpoints: tuple[Endpoint, ...] = ()
    best: Endpoint | None = None
    bad: set[Endpoint] = field(default_factory=set)
    # The dial that is under way is not needed (see overlay.py), or it looks for further nodes
    # behind a name that leads to a connected one.
    probing: bool = False
    further: bool = False
    # It is dialled to find out whether a guest is there (see gossip.py), and known for
    # nothing else.
    check: bool = False
    passing: bool = False
    # When to look for such nodes again.
    further_at: float = 0.0
    next_try: float = 0.0
    # The other end turned us down, or may not be dialled.
    refused: bool = False
    # When it was learned, and then when its last dial or link began or ended.
    changed: float = 0.0

    def answered(self) -> None:
        """Forget earlier failures: a link with the node there is open."""
        self.attempts, self.last_error, self.failing = 0, "", None

    @property
    def stranger(self) -> bool:
        """Whether there is nothing but a peer's word for it."""
        return self.worked is None and not self.by_hand

    @property
    def is_name(self) -> bool:
        """Whether it has a host name, which has to be resolved and may lead to several nodes."""
        return is_named(self.address)

    @property
    def use(self) -> tuple[int, float]:
        """How useful it is to remember it; of two the lesser goes first."""
        if self.worked is None:
            return (0 if self.failing is not None else 1), self.changed
        return (2 if self.failing is not None else 3), self.worked


@dataclass
class _Allowance:
    """How many strangers a source may still have us dial."""

    left: float
    at: float


class AddressBook:
    """What is known, by address in its one form."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.known: dict[str, Known] = {}
        self.by_hand: dict[str, Known] = {}  # those of them that were given by hand
        self.revision = 0  # grows with each change that is to be kept soon
        self._settings = settings
        self._rng = rng
        self._own: set[tuple[str, int]] = set()
        # The ids of the nodes that were found at endpoints, this node's own among them, and when.
        self._found: dict[Endpoint, tuple[str, float]] = {}
        self._allowances: dict[str, _Allowance] = {}

    # -- learning and forgetting ----------------------------------------------------------------

    def add(self, address: str, now: float) -> Known:
        """Remember `address`, given by hand: it is due at once, whatever came before."""
        self.revision += 1
        known = self.known.setdefault(address, Known(address, changed=now))
        if not known.by_hand:
            known.node = None  # a peer may have lied: who is there is found out by a dial
        known.by_hand = known.local = True
        self.by_hand[address] = known
        known.next_try = now
        known.attempts = 0
        known.oneself = False
        return known

    def restore(self, known: Known, now: float) -> None:
        """Take back what was known before a restart; all of it is due.

        The time that this node was off does not count as time in which dials have failed.
        """
        if self._settings.tls_alone and not (known.by_hand or known.address.startswith("wss:")):
            return
        known.next_try = known.changed = now
        if known.failing is not None and known.worked is not None:
            known.failing = now
        self.known[known.address] = known
        if known.by_hand:
            self.by_hand[known.address] = known

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

        `source` is the id or host of the peer, for people; `host` is its remote host, by which
        limits count. Loopback addresses are accepted over loopback only. When the book is full the
        least useful address makes room, except for those `in_use`. A node that speaks TLS accepts
        only TLS addresses.
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
        """Forget what is of little use, as far as needed; return the room, `count` at most."""
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
        """Forget an address, whoever gave it."""
        self.revision += 1
        self.known.pop(known.address, None)
        self.by_hand.pop(known.address, None)

    def moved(self, node: str, address: str, in_use: Callable[[], Collection[str]]) -> None:
        """Note that `node` says to be at `address`: where it was found before is forgotten."""
        for known in [known for known in self.known.values() if known.node == node]:
            if not (known.address == address or known.by_hand or known.address in in_use()):
                self.forget(known)

    def is_oneself(self, address: str) -> None:
        """Note that `address` leads to this very node, so that it is not dialled.

        An address given by hand is not given up for it: see `oneself`.
        """
        if len(self._own) < MAX_KNOWN_ADDRESSES:
            self._own.add(place(address))
        if address in self.by_hand:
            return
        if address in self.known or self._make_room(1, tuple):
            self.known.setdefault(address, Known(address)).oneself = True

    def oneself(self, known: Known, now: float) -> None:
        """Note that all endpoints of an address lead to this node; if it was given by hand, it is
        resolved again later."""
        if not known.oneself:
            known.changed = now
        known.oneself = True
        known.node = known.failing = None
        known.refused = False
        known.attempts, known.last_error = 0, ONESELF
        known.next_try = now + ONESELF_PAUSE * (0.75 + self._rng.random() / 2)

    def names_oneself(self, addresses: frozenset[str]) -> bool:
        """Return whether one of `addresses` is known to lead to this very node."""
        return any(place(address) in self._own for address in addresses)

    # -- which node is where --------------------------------------------------------------------

    def found(self, endpoint: Endpoint, node: str, now: float) -> None:
        """Note that the node with that id has answered at `endpoint`."""
        self._found.pop(endpoint, None)
        self._found[endpoint] = node, now
        if len(self._found) > MAX_KNOWN_ADDRESSES:
            del self._found[next(iter(self._found))]

    def node_at(self, endpoint: Endpoint, now: float) -> str | None:
        """Return the id of the node that has answered at `endpoint` lately."""
        node, when = self._found.get(endpoint, (None, now))
        return node if now < when + FOUND_LASTS else None

    # -- which to dial --------------------------------------------------------------------------

    def pick(
        self,
        candidates: Iterable[Known],
        room: int,
        now: float,
        fits: Callable[[Known], bool] = lambda known: True,
    ) -> tuple[list[Known], float]:
        """Return up to `room` of the candidates to dial now, and when to look again.

        Those that worked lately come first, else chance decides. `fits` is asked before one is
        chosen.
        """
        ready: list[Known] = []
        again = NEVER
        for known in candidates:
            if known.next_try <= now:
                ready.append(known)
            else:
                again = min(again, known.next_try)
        self._rng.shuffle(ready)
        ready.sort(key=lambda known: known.worked is None or known.attempts > 0)
        chosen: list[Known] = []
        for known in ready:
            if len(chosen) >= room:
                break
            if not fits(known):
                continue
            wait = self._spend(known.host, now) if known.stranger else 0.0
            if wait:
                again = min(again, now + wait)
            else:
                chosen.append(known)
        return chosen, again

    def _spend(self, source: str, now: float) -> float:
        """Take one from the allowance of a host; with none left, return the seconds to wait."""
        rate = STRANGERS_A_MINUTE / 60
        if source not in self._allowances and len(self._allowances) >= MAX_DIAL_SOURCES:
            for name, allowance in list(self._allowances.items()):
                if allowance.left + (now - allowance.at) * rate >= STRANGERS_AT_ONCE:
                    del self._allowances[name]
            if len(self._allowances) >= MAX_DIAL_SOURCES:
                source = ""  # so many at once share one
        allowance = self._allowances.setdefault(source, _Allowance(STRANGERS_AT_ONCE, now))
        allowance.left = min(STRANGERS_AT_ONCE, allowance.left + (now - allowance.at) * rate)
        allowance.at = now
        if allowance.left < 1.0:
            return (1.0 - allowance.left) / rate
        allowance.left -= 1.0
        return 0.0

    @staticmethod
    def may_dial(known: Known, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of the endpoints behind `known` that peers may make this node dial.

        Raises DialError where there is none.
        """
        allowed = tuple(end for end in endpoints if known.by_hand or _fit(end[0], known.local))
        if not allowed:
            raise DialError(
                "it leads to an address that peers may not have this node dial "
                "(loopback, link-local or multicast); add it by hand if it is right",
                refused=True,
            )
        return allowed

    def order(self, known: Known, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return the endpoints to try in one dial, in that order: the one that worked last comes
        first, and those that have not worked come last."""
        chosen = list(endpoints)
        if len(chosen) > MAX_ENDPOINTS:
            numbers = sorted(self._rng.sample(range(len(chosen)), MAX_ENDPOINTS))
            best = [known.best] if known.best in chosen else []
            chosen = [*best, *(chosen[n] for n in numbers if chosen[n] != known.best)]
        chosen.sort(key=lambda endpoint: (endpoint != known.best, endpoint in known.bad))
        return tuple(chosen[:MAX_ENDPOINTS])

    # -- what came of it ------------------------------------------------------------------------

    def worked(self, known: Known, now: float) -> None:
        """Note that a node has answered there."""
        self.revision += known.worked is None
        known.worked = now

    def failed(
        self, known: Known, error: str, now: float, refused: bool = False, linked: bool = True
    ) -> None:
        """Note that a dial has failed, and when to try again.

        `linked`: this node has links. While it has none the fault may be its own, so an address
        that has worked before is not given up then.
        """
        if known.failing is None or (known.worked is not None and not linked):
            known.failing = now
        known.refused = refused
        self._back_off(known, error, now)
        if not known.by_hand and now - known.failing >= GIVE_UP:
            self.forget(known)

    def ended(self, known: Known, reason: str, now: float, lasted: bool) -> None:
        """Note that a link that came of a dial has ended; one that `lasted` counts as good."""
        if lasted:
            known.attempts = 0
        self._back_off(known, reason, now)

    def later(self, known: Known, reason: str, now: float) -> None:
        """Note that one of both sides has enough links: the next try comes in a minute."""
        known.last_error = reason
        known.changed = now
        known.next_try = now + SHED_PAUSE * (0.75 + self._rng.random() / 2)

    def _back_off(self, known: Known, reason: str, now: float) -> None:
        """Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter"): a
        random time from the first pause to twice, four times ... as much, up to the longest."""
        known.last_error = reason
        known.changed = now
        known.attempts += 1
        first = self._settings.redial_first
        most = min(first * 2.0 ** min(known.attempts, 16), self._settings.redial_longest)
        known.next_try = now + first + (most - first) * self._rng.random()


def _fit(host: str, local: bool) -> bool:
    """Return whether a peer's word may lead us to the IP address `host`."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return local
    return not (ip.is_multicast or ip.is_link_local or ip.is_unspecified)
