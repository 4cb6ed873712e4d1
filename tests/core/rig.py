"""The rules of one node for addresses and links, with no network and no threads."""

from __future__ import annotations

import random
from typing import NamedTuple, TypeVar

from p2p_sync.core import effects
from p2p_sync.core.book import AddressBook, Endpoint, Known
from p2p_sync.core.overlay import Overlay
from p2p_sync.core.peer import Peer
from p2p_sync.core.turn import Turn
from p2p_sync.errors import DialError
from p2p_sync.settings import Settings
from p2p_sync.wire.frames import Sockets

LOCAL = ("10.0.0.1", 8001)


class Chance(random.Random):
    """Always in the middle."""

    def random(self) -> float:
        return 0.5


class Sent(NamedTuple):
    """A frame for the peer on a link."""

    link: int
    frame: Sockets


class Close(NamedTuple):
    """The end of a link."""

    link: int
    code: int
    reason: str


Work = Sent | Close
E = TypeVar("E", effects.Dial, effects.Note, effects.Close)


class Rig:
    """The rules of one node, whose peers are known by the numbers of their links. What they decide
    is returned, first the frames and then the closes."""

    def __init__(self, node: str, start: int, settings: Settings) -> None:
        self.node, self.start = node, start
        self._turn = Turn()
        self.rules = Overlay(self._turn, node, settings, 8001, Chance())
        self._links: dict[int, Peer] = {}
        self._numbers: dict[str, int] = {}  # of the last dial to each address

    @property
    def book(self) -> AddressBook:
        return self.rules.book

    @property
    def peers(self) -> dict[int, Peer]:
        return {peer.link: peer for peer in self.rules.peers}

    def count(self) -> int:
        return self.rules.count()

    def due(self, now: float) -> tuple[list[str], float]:
        """Start what is due; return the addresses dialled, and when to ask again."""
        self._turn.now = now
        rules = self.rules
        again = min(rules.dialling.start_due(), rules.originals.start_checks())
        return [dial.address for dial in self._taken(effects.Dial)], again

    def dial(self, address: str, now: float) -> int:
        """Return the number of the dial to `address`; start it unless it is under way."""
        self._turn.now = now
        if address not in self.rules.dialling.under_way:
            self.rules.dialling.dial(self.book.known[address])
            self._taken(effects.Dial)
        return self._numbers[address]

    def resolved(
        self, address: str, endpoints: tuple[Endpoint, ...], now: float
    ) -> tuple[Endpoint, ...]:
        self._turn.now = now
        return self.rules.dialling.resolved(address, endpoints)

    def failed(self, address: str, error: str, now: float) -> bool:
        """Let a dial fail; return whether people are told."""
        self._turn.now = now
        self.rules.dialling.failed(address, DialError(error))
        return bool(self._taken(effects.Note))

    def accepted(
        self,
        link: int,
        remote: Endpoint,
        local: Endpoint,
        now: float,
        node: str | None = None,
        start: int = 1,
    ) -> list[Work]:
        """The node with this id, or an original, has dialled."""
        return self._opened(Peer(link, None, 0, remote, now, node, start), local)

    def dialled(
        self,
        link: int,
        address: str,
        dial: int,
        remote: Endpoint,
        now: float,
        node: str | None = None,
        start: int = 1,
    ) -> list[Work]:
        """A dial has reached the node with this id, or an original."""
        return self._opened(Peer(link, Known(address), dial, remote, now, node, start), LOCAL)

    def _opened(self, peer: Peer, local: Endpoint) -> list[Work]:
        self._turn.now = peer.opened
        self._links[peer.link] = peer
        self.rules.opened(peer, local)
        return self._work()

    def greet(self, link: int, now: float) -> list[Work]:
        self._turn.now = now
        if self._links[link] in self.rules.peers:
            self.rules.gossip.greet(self._links[link])
        return self._work()

    def hello(self, link: int, frame: Sockets, now: float) -> list[Work]:
        self._turn.now = now
        self.rules.received(self._links[link], frame)
        return self._work()

    def closed(self, link: int, reason: str, now: float, code: int | None = None) -> None:
        self._turn.now = now
        self.rules.closed(self._links[link], reason, code)

    def news(self, now: float) -> tuple[list[Sent], float]:
        self._turn.now = now
        again = self.rules.gossip.announce()
        return [work for work in self._work() if isinstance(work, Sent)], again

    def _work(self) -> list[Work]:
        work: list[Work] = []
        for peer in self._turn.effects.woken:
            if peer.outbox:
                work.append(Sent(peer.link, peer.outbox))
            peer.outbox = None
        for effect in self._taken(effects.Close):
            work.append(Close(effect.peer.link, effect.code, effect.reason))
        return work

    def _taken(self, kind: type[E]) -> list[E]:
        """Take all effects; return those of one kind."""
        others = self._turn.effects.take().others
        self._numbers |= {
            dial.address: dial.number for dial in others if isinstance(dial, effects.Dial)
        }
        return [effect for effect in others if isinstance(effect, kind)]


def overlay(digit: str, settings: Settings | None = None, start: int = 1) -> Rig:
    return Rig(digit * 32, start, settings or Settings())


def learn(node: Rig, address: str, now: float, source: str = "b" * 32) -> None:
    node.book.learn([address], source, now, over_loopback=False)


def due(node: Rig, now: float) -> list[str]:
    addresses, again = node.due(now)
    assert again > now
    return addresses


def original_dials(node: Rig, link: int, host: str, *listed: str) -> list[str]:
    """An original dials `node`; return all that it is told."""
    node.accepted(link, (host, 40000 + link), LOCAL, 0)
    work = node.hello(link, Sockets(listed), 0)
    return [a for item in work if isinstance(item, Sent) and item.link == link for a in
            item.frame.addresses]  # fmt: skip


def join(node: Rig, link: int, digit: str, *listed: str) -> list[Work]:
    """Another node of ours, on host 10.0.1.`link`, dials `node`; return the work."""
    work = node.accepted(link, (f"10.0.1.{link}", 50000), LOCAL, 0, digit * 32)
    return [*work, *node.hello(link, Sockets(listed, port=8001), 0)]


def sent_to(work: list[Work], link: int) -> list[str]:
    frames = [item for item in work if isinstance(item, Sent) and item.link == link]
    return [address for sent in frames for address in sent.frame.addresses]


def dial_original(node: Rig, link: int = 9) -> list[Work]:
    node.book.add("ws://10.0.2.1:7001", 0.0)
    dial = node.dial("ws://10.0.2.1:7001", 0.0)
    work = node.dialled(link, "ws://10.0.2.1:7001", dial, ("10.0.2.1", 7001), 0)
    return [*work, *node.hello(link, Sockets(()), 0)]


def dial_node(node: Rig, link: int, host: str, port: int, digit: str, hello: Sockets) -> None:
    """`node` dials an address given by hand, and finds a node of ours there."""
    address = f"ws://{host}:{port}"
    node.book.add(address, 0.0)
    node.dialled(link, address, node.dial(address, 0.0), (host, port), 0.0, digit * 32)
    node.hello(link, hello, 0.0)


def joins(node: Rig, links: range, enough: bool = True) -> list[Work]:
    """Nodes of ours, each on a host of its own, dial `node`; return the work that came of it."""
    work: list[Work] = []
    for link in links:
        work += node.accepted(link, (f"10.0.{link}.1", 50000), LOCAL, 0, f"{link:032x}")
        work += node.hello(link, Sockets(port=8001, enough=enough), 0)
    return work


def closes(work: list[Work]) -> list[tuple[int, int]]:
    return [(item.link, item.code) for item in work if isinstance(item, Close)]


def probe(node: Rig, link: int, digit: str, now: float, enough: bool) -> list[Work]:
    """`node` looks for a node that it has no link to, at the time of a probe, and finds it."""
    address = f"ws://10.7.{link}.1:8001"
    learn(node, address, now)
    assert due(node, now) == [address]
    dial = node.dial(address, now)
    node.dialled(link, address, dial, (f"10.7.{link}.1", 8001), now, digit * 32)
    return node.hello(link, Sockets(port=8001, enough=enough), now)
