"""The rules of the overlay, with no network: two of them wired together must agree."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from p2p_sync.codes import NORMAL, SAME_NODE, TRY_AGAIN_LATER
from p2p_sync.core import effects
from p2p_sync.core.book import AddressBook, Endpoint, Known
from p2p_sync.core.overlay import Overlay
from p2p_sync.core.peer import Peer
from p2p_sync.settings import GOOD_LINK, Settings
from p2p_sync.wire.frames import Sockets

LOCAL = ("10.0.0.1", 8001)


class Chance(random.Random):
    """Always in the middle."""

    def random(self) -> float:
        return 0.5


class Tell(NamedTuple):
    """A frame for the peer on a link."""

    link: int
    frame: Sockets


class Close(NamedTuple):
    """The end of a link."""

    link: int
    code: int
    reason: str


Work = Tell | Close


class Rig:
    """The rules of one node, whose peers are known by the numbers of their links. What they decide
    is returned, first the frames and then the closes."""

    def __init__(self, node: str, start: int, settings: Settings) -> None:
        self._effects = effects.Effects()
        self.rules = Overlay(node, start, settings, 8001, self._effects, Chance())
        self._links: dict[int, Peer] = {}

    @property
    def book(self) -> AddressBook:
        return self.rules.book

    @property
    def peers(self) -> dict[int, Peer]:
        return {peer.link: peer for peer in self.rules.peers}

    def count(self) -> int:
        return self.rules.count()

    def due(self, now: float) -> tuple[list[str], float]:
        return self.rules.due(now)

    def dial(self, address: str, now: float) -> int:
        return self.rules.dial(address, now)

    def resolved(
        self, address: str, endpoints: tuple[Endpoint, ...], now: float
    ) -> tuple[Endpoint, ...]:
        return self.rules.resolved(address, endpoints, now)

    def failed(self, address: str, error: str, now: float) -> bool:
        return self.rules.failed(address, error, now)

    def accepted(self, link: int, remote: Endpoint, local: Endpoint, now: float) -> None:
        self._links[link] = Peer(link, None, 0, remote, now)
        self.rules.accepted(self._links[link], local)

    def dialled(
        self, link: int, address: str, dial: int, remote: Endpoint, now: float
    ) -> list[Work]:
        self._links[link] = Peer(link, Known(address), dial, remote, now)
        self.rules.dialled(self._links[link], now)
        return self._work()

    def greet(self, link: int, now: float) -> list[Work]:
        if self._links[link] in self.rules.peers:
            self.rules.greet(self._links[link])
        return self._work()

    def hello(self, link: int, frame: Sockets, now: float) -> list[Work]:
        self.rules.hello(self._links[link], frame, now)
        return self._work()

    def closed(self, link: int, reason: str, now: float, code: int | None = None) -> None:
        self.rules.closed(self._links[link], reason, now, code)

    def news(self, now: float) -> tuple[list[Tell], float]:
        again = self.rules.news(now)
        return [work for work in self._work() if isinstance(work, Tell)], again

    def _work(self) -> list[Work]:
        taken = self._effects.take()
        work: list[Work] = []
        for peer in taken.woken:
            work += [Tell(peer.link, frame) for frame in peer.outbox]
            peer.outbox.clear()
        for effect in taken.others:
            assert isinstance(effect, effects.Close)
            work.append(Close(effect.peer.link, effect.code, effect.reason))
        return work


def overlay(digit: str, settings: Settings | None = None, start: int = 1) -> Rig:
    return Rig(digit * 16, start, settings or Settings())


def learn(node: Rig, address: str, now: float, source: str = "b" * 16) -> None:
    node.book.learn([address], source, now, over_loopback=False)


def due(node: Rig, now: float) -> list[str]:
    addresses, again = node.due(now)
    assert again > now
    return addresses


class Wire:
    """Overlays on hosts of their own, joined by links that carry frames in order."""

    def __init__(self, **nodes: Rig) -> None:
        self.nodes = nodes
        self.hosts = {name: f"10.0.0.{number}" for number, name in enumerate(nodes, 1)}
        self.ends: dict[tuple[str, int], tuple[str, int]] = {}
        self.waiting: list[tuple[str, Work]] = []
        self.now = 0.0

    def address(self, name: str) -> str:
        return f"ws://{self.hosts[name]}:8001"

    def open(self, dialler: str, acceptor: str) -> None:
        """One dial, up to where both sides know of the link and nothing has arrived."""
        number = len(self.ends)
        self.ends[dialler, number] = (acceptor, number + 1)
        self.ends[acceptor, number + 1] = (dialler, number)
        one, other = self.nodes[dialler], self.nodes[acceptor]
        address = self.address(acceptor)
        learn(one, address, self.now)
        dial = one.dial(address, 0.0)
        other.accepted(number + 1, (self.hosts[dialler], 40000), (self.hosts[acceptor], 8001), 0)
        self._do(dialler, one.dialled(number, address, dial, (self.hosts[acceptor], 8001), 0))
        self._do(acceptor, other.greet(number + 1, 0))

    def run(self) -> None:
        """Carry all that waits, and what comes of it."""
        while self.waiting:
            sender, work = self.waiting.pop(0)
            end = self.ends.get((sender, work.link))
            if end is None:
                continue
            receiver, link = end
            if isinstance(work, Tell):
                more = self.nodes[receiver].hello(link, work.frame, self.now)
                self._do(receiver, more)
            else:
                del self.ends[sender, work.link], self.ends[receiver, link]
                self.nodes[sender].closed(work.link, work.reason, self.now)
                self.nodes[receiver].closed(link, work.reason, self.now)

    def dial_due(self) -> None:
        """Let every node dial what it wants, until nobody wants more."""
        for _ in range(10):
            self.now += 1
            for name, node in self.nodes.items():
                for address in due(node, self.now):
                    self.open(name, next(n for n in self.nodes if self.address(n) == address))
            self.run()

    def _do(self, name: str, work: list[Work]) -> None:
        self.waiting += [(name, item) for item in work]

    def counts(self) -> list[int]:
        return [node.count() for node in self.nodes.values()]


def test_two_that_dial_each_other_at_once_keep_one_link_the_same_on_both_sides() -> None:
    wire = Wire(a=overlay("a"), b=overlay("b"))
    wire.open("a", "b")
    wire.open("b", "a")
    wire.run()
    (kept,) = wire.nodes["a"].peers
    assert wire.ends["a", kept][1] in wire.nodes["b"].peers
    assert wire.nodes["a"].peers[kept].dialled, "the smaller id's dial stays"
    wire.dial_due()
    assert len(wire.ends) == 2, "and nobody dials again"


def test_of_two_dials_by_one_side_the_newer_stays() -> None:
    wire = Wire(a=overlay("b"), b=overlay("a"))
    wire.open("a", "b")
    wire.open("a", "b")
    wire.run()
    assert [list(node.peers) for node in wire.nodes.values()] == [[2], [3]]


def test_three_become_a_full_mesh_in_any_way_of_joining() -> None:
    ways = [[("a", "b"), ("a", "c")], [("a", "b"), ("c", "a")], [("a", "b"), ("c", "b")]]
    for joins in ways:
        for at_once in (True, False):
            wire = Wire(a=overlay("a"), b=overlay("b"), c=overlay("c"))
            for one, other in joins:
                wire.open(one, other)
                if not at_once:
                    wire.run()
            wire.run()
            wire.dial_due()
            assert wire.counts() == [2, 2, 2], joins
            assert len(wire.ends) == 6, joins


def test_a_link_to_oneself_is_closed_and_not_dialled_again() -> None:
    wire = Wire(a=overlay("a"))
    wire.open("a", "a")
    wire.run()
    wire.dial_due()
    assert (wire.counts(), wire.ends) == ([0], {})


def test_a_copied_data_directory_is_refused_by_both() -> None:
    one, other = overlay("a", start=1), overlay("a", start=2)
    for node in (one, other):
        node.accepted(1, ("10.0.0.9", 1), LOCAL, 0)
    for node, start in ((one, 2), (other, 1)):
        *_, last = node.hello(1, Sockets((), "a" * 16, start), 0)
        assert isinstance(last, Close) and last.code == SAME_NODE


def test_redialling_backs_off_with_full_jitter_from_a_second_to_a_minute() -> None:
    node = overlay("a")
    node.book.add("ws://10.0.0.2:1", 0.0)
    now, pauses = 0.0, []
    for _ in range(9):
        assert due(node, now) == ["ws://10.0.0.2:1"]
        node.dial("ws://10.0.0.2:1", now)
        assert due(node, now) == [], "no two dials to one address at a time"
        node.failed("ws://10.0.0.2:1", "refused", now)
        pause = node.book.known["ws://10.0.0.2:1"].next_try - now
        assert due(node, now + pause - 0.01) == []
        pauses.append(pause)
        now += pause
    longest = [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert pauses == [(1 + most) / 2 for most in longest], "chance is always in the middle here"


def test_learned_addresses_are_dialled_up_to_the_target_and_those_by_hand_always() -> None:
    node = overlay("a", Settings(target_links=2))
    for port in range(1, 6):
        learn(node, f"ws://10.0.0.2:{port}", 0.0)
    node.book.add("ws://10.0.0.3:1", 0.0)
    first, *rest = due(node, 0.0)
    assert first == "ws://10.0.0.3:1"
    assert len(rest) == 1, "with the dial by hand that makes two"
    for address in (first, *rest):
        node.dial(address, 0.0)
    assert due(node, 0.0) == []


def original_dials(node: Rig, link: int, host: str, *listed: str) -> list[str]:
    """An original dials `node`; return all that it is told."""
    node.accepted(link, (host, 40000 + link), LOCAL, 0)
    work = node.hello(link, Sockets(listed), 0)
    return [a for item in work if isinstance(item, Tell) and item.link == link for a in
            item.frame.addresses]  # fmt: skip


def join(node: Rig, link: int, digit: str, *listed: str) -> list[Work]:
    """Another node of ours, on host 10.0.1.`link`, dials `node`; return the work."""
    node.accepted(link, (f"10.0.1.{link}", 50000), LOCAL, 0)
    return node.hello(link, Sockets(listed, digit * 16, 1, port=8001), 0)


def told(work: list[Work], link: int) -> list[str]:
    tells = [item for item in work if isinstance(item, Tell) and item.link == link]
    return [address for tell in tells for address in tell.frame.addresses]


def test_an_original_that_dialled_us_is_told_of_ours_and_ours_not_of_it() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert original_dials(node, 2, "10.0.2.1") == ["ws://10.0.1.1:8001"]
    work = join(node, 3, "c")
    assert told(work, 2) == ["ws://10.0.1.3:8001"]
    assert told(work, 3) == ["ws://10.0.1.1:8001"]


def test_an_original_that_dialled_several_of_ours_is_told_by_the_first_alone() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert original_dials(node, 2, "10.0.2.1", "ws://10.0.1.1:8001") == []
    assert told(join(node, 3, "c"), 2) == []


def dial_original(node: Rig, link: int = 9) -> list[Work]:
    node.book.add("ws://10.0.2.1:7001", 0.0)
    dial = node.dial("ws://10.0.2.1:7001", 0.0)
    work = node.dialled(link, "ws://10.0.2.1:7001", dial, ("10.0.2.1", 7001), 0)
    return [*work, *node.hello(link, Sockets(()), 0)]


def test_an_original_that_we_dialled_is_told_nothing_and_nobody_of_it() -> None:
    node = overlay("a")
    join(node, 1, "b")
    work = [*dial_original(node), *join(node, 2, "c")]
    assert told(work, 9) == []
    assert told(work, 1) == ["ws://10.0.1.2:8001"]
    assert told(work, 2) == ["ws://10.0.1.1:8001"]
    tells, _ = node.news(0.0)
    assert {(tell.link, tell.frame.leaves) for tell in tells} <= {
        (1, ("ws://10.0.2.1:7001",)),
        (2, ("ws://10.0.2.1:7001",)),
    }


def test_a_peer_s_word_about_originals_makes_nobody_dial_and_keeps_nobody_from_it() -> None:
    node = overlay("c")
    join(node, 1, "b")
    address = "ws://10.0.2.1:7001"
    node.hello(1, Sockets((), "b" * 16, 1, leaves=(address,), guests=("ws://10.0.2.1:7002",)), 0)
    assert due(node, 1.0) == ["ws://10.0.1.1:8001"] or due(node, 1.0) == []
    assert address not in node.book.known
    node.book.add(address, 2.0)
    assert address in due(node, 2.0)


def test_a_guest_from_the_host_of_a_leaf_is_looked_for_there_once() -> None:
    node = overlay("a")
    dial_original(node)
    original_dials(node, 1, "10.0.2.1")
    assert due(node, 1.0) == ["ws://10.0.2.1:7001"], "it may be the same one"
    dial = node.dial("ws://10.0.2.1:7001", 1.0)
    node.dialled(2, "ws://10.0.2.1:7001", dial, ("10.0.2.1", 7001), 1.0)
    assert closes(node.hello(2, Sockets(()), 1.0)) == [(2, NORMAL)], "it is another one"
    node.closed(2, "", 1.0)
    assert due(node, 100.0) == [], "and is not asked again"
    assert node.book.by_hand.keys() == {"ws://10.0.2.1:7001"}


def test_looking_for_a_guest_that_does_not_answer_is_tried_once_a_minute() -> None:
    node = overlay("a")
    join(node, 1, "b")
    node.hello(1, Sockets((), "b" * 16, 1, leaves=("ws://10.0.2.1:7001",)), 0)
    original_dials(node, 2, "10.0.2.1")
    address, now, made = "ws://10.0.2.1:7001", 1.0, []
    while now < 300:
        addresses, again = node.due(now)
        if address in addresses:
            node.dial(address, now)
            assert node.failed(address, "no answer", now) is False
            made.append(now)
        now = min(max(again, now + 0.01), now + 1)
    assert made == pytest.approx([1, 61, 121, 181, 241], abs=5)
    node.book.add(address, 300.0)
    assert address in due(node, 300.0), "by hand it is dialled at once"


def test_a_guest_that_is_found_to_be_a_leaf_is_a_leaf_no_more() -> None:
    node = overlay("a")
    dial_original(node)
    original_dials(node, 1, "10.0.2.1")
    assert due(node, 1.0) == ["ws://10.0.2.1:7001"]
    dial = node.dial("ws://10.0.2.1:7001", 1.0)
    node.dialled(2, "ws://10.0.2.1:7001", dial, ("10.0.2.1", 7001), 1.0)
    work = node.hello(2, Sockets((f"ws://{LOCAL[0]}:{LOCAL[1]}",)), 1.0)
    assert sorted(closes(work)) == [(2, NORMAL), (9, NORMAL)]
    for link in (2, 9):
        node.closed(link, "", 1.0)
    assert due(node, 100.0) == []
    join(node, 3, "b")
    tells, _ = node.news(200.0)
    assert [tell.frame.guests for tell in tells] in ([], [("ws://10.0.2.1:7001",)])


def test_a_dial_to_an_original_that_has_dialled_us_is_given_up() -> None:
    node = overlay("a")
    original_dials(node, 1, "10.0.2.1")
    learn(node, "ws://10.0.2.1:7001", 0.0)
    dial = node.dial("ws://10.0.2.1:7001", 0.0)
    node.dialled(2, "ws://10.0.2.1:7001", dial, ("10.0.2.1", 7001), 0)
    *_, last = node.hello(2, Sockets((f"ws://{LOCAL[0]}:{LOCAL[1]}",)), 0)
    assert isinstance(last, Close) and last.link == 2
    node.closed(2, last.reason, 0)
    assert due(node, 100.0) == []


def test_a_name_that_leads_where_a_link_leads_already_is_not_dialled() -> None:
    node = overlay("a")
    dial_original(node)
    name = "ws://original.example:7001"
    node.book.add(name, 0.0)
    node.dial(name, 0.0)
    assert not node.resolved(name, (("10.0.2.1", 7001),), 0.0)
    assert due(node, 50.0) == []
    assert due(node, 100.0) == [name], "by then it may lead elsewhere, too"


# -- how many links -----------------------------------------------------------------------------


def joins(node: Rig, links: range, enough: bool = True) -> list[Work]:
    """Nodes of ours, each on a host of its own, dial `node`; return the work that came of it."""
    work: list[Work] = []
    for link in links:
        node.accepted(link, (f"10.0.{link}.1", 50000), LOCAL, 0)
        hello = Sockets((), f"{link:016x}", 1, port=8001, enough=enough)
        work += node.hello(link, hello, 0)
    return work


def closes(work: list[Work]) -> list[tuple[int, int]]:
    return [(item.link, item.code) for item in work if isinstance(item, Close)]


def test_above_twice_the_target_the_newest_that_has_enough_is_shed_and_told() -> None:
    node = overlay("a", Settings(target_links=2))
    assert closes(joins(node, range(1, 5))) == []
    work = joins(node, range(5, 6))
    assert closes(work) == [(5, TRY_AGAIN_LATER)]
    assert sorted(told(work, 5)) == [f"ws://10.0.{n}.1:8001" for n in range(1, 5)]
    assert node.count() == 4


def test_with_nobody_that_has_enough_the_oldest_is_shed_but_none_by_hand_and_no_original() -> None:
    node = overlay("a", Settings(target_links=2))
    original_dials(node, 1, "10.0.2.1")
    node.book.add("ws://10.0.9.1:8001", 0)
    dial = node.dial("ws://10.0.9.1:8001", 0)
    node.dialled(2, "ws://10.0.9.1:8001", dial, ("10.0.9.1", 8001), 0)
    node.hello(2, Sockets((), "9" * 16, 1, port=8001), 0)
    assert closes(joins(node, range(3, 6), enough=False)) == []
    assert closes(joins(node, range(6, 7), enough=False)) == [(3, TRY_AGAIN_LATER)]


def test_a_crowd_of_originals_pushes_nobody_out() -> None:
    node = overlay("a", Settings(target_links=2))
    joins(node, range(1, 5))
    for link in range(5, 40):
        original_dials(node, link, "10.0.7.7")
    assert {1, 2, 3, 4} <= node.peers.keys()
    assert not any(peer.leaving for peer in node.peers.values())


def test_a_target_of_none_neither_dials_learned_addresses_nor_sheds() -> None:
    node = overlay("a", Settings(target_links=0))
    assert closes(joins(node, range(1, 40))) == []
    learn(node, "ws://10.9.9.9:1", 0)
    assert due(node, 1000.0) == []


def test_a_full_node_tells_addresses_and_closes() -> None:
    node = overlay("a", Settings(max_peers=3, target_links=100))
    work = joins(node, range(1, 5), enough=False)
    assert closes(work) == [(4, TRY_AGAIN_LATER)]
    assert len(told(work, 4)) == 3


def probe(node: Rig, link: int, digit: str, now: float, enough: bool) -> list[Work]:
    """`node` looks for a node that it has no link to, at the time of a probe, and finds it."""
    address = f"ws://10.7.{link}.1:8001"
    learn(node, address, now)
    assert due(node, now) == [address]
    dial = node.dial(address, now)
    node.dialled(link, address, dial, (f"10.7.{link}.1", 8001), now)
    return node.hello(link, Sockets((), digit * 16, 1, port=8001, enough=enough), now)


def test_a_probe_ends_but_once_a_minute_it_takes_the_place_of_another_link() -> None:
    node = overlay("f", Settings(target_links=2))
    joins(node, range(1, 3))
    node.rules._exchange_at = 60.0
    assert closes(probe(node, 10, "b", 10.0, True)) == [(10, TRY_AGAIN_LATER)]
    node.closed(10, "enough", 10.0, TRY_AGAIN_LATER)
    assert due(node, 19.9) == [], "the next comes ten seconds later"
    ((shed, code),) = closes(probe(node, 11, "c", 65.0, True))
    assert (shed in (1, 2), code) == (True, TRY_AGAIN_LATER)
    assert node.count() == 2


def test_a_probe_that_finds_a_node_with_too_few_links_keeps_the_link() -> None:
    node = overlay("f", Settings(target_links=2))
    joins(node, range(1, 3))
    node.rules._exchange_at = 60.0
    assert closes(probe(node, 10, "b", 10.0, False)) == []
    assert node.count() == 3


def test_an_address_that_was_shed_is_tried_again_in_a_minute() -> None:
    node = overlay("a")
    node.book.add("ws://10.0.0.2:1", 0.0)
    dial = node.dial("ws://10.0.0.2:1", 0.0)
    node.dialled(1, "ws://10.0.0.2:1", dial, ("10.0.0.2", 1), 0.0)
    node.hello(1, Sockets((), "b" * 16, 1), 0.0)
    joins(node, range(2, 4))
    node.closed(1, "it has enough", 5.0, TRY_AGAIN_LATER)
    known = node.book.known["ws://10.0.0.2:1"]
    assert (known.next_try, known.attempts, known.refused) == (65.0, 0, False)


def test_who_has_no_other_link_does_not_wait_that_long() -> None:
    node = overlay("a")
    node.book.add("ws://10.0.0.2:1", 0.0)
    dial = node.dial("ws://10.0.0.2:1", 0.0)
    node.dialled(1, "ws://10.0.0.2:1", dial, ("10.0.0.2", 1), 0.0)
    node.hello(1, Sockets((), "b" * 16, 1), 0.0)
    node.closed(1, "it has enough", 5.0, TRY_AGAIN_LATER)
    known = node.book.known["ws://10.0.0.2:1"]
    assert (known.next_try <= 7.0, known.refused) == (True, False)


# -- what is spread -----------------------------------------------------------------------------


def test_an_address_that_could_not_be_dialled_is_not_spread_until_it_works() -> None:
    node = overlay("a")
    address = "ws://10.0.1.1:8001"
    learn(node, address, 0.0)
    node.dial(address, 0.0)
    node.failed(address, "no connection", 0.0)
    join(node, 1, "b")  # it has dialled us itself
    assert told(join(node, 2, "c"), 2) == []
    node.closed(1, "cut", 1.0)
    dial = node.dial(address, 10.0)
    node.dialled(3, address, dial, ("10.0.1.1", 8001), 10.0)
    node.hello(3, Sockets((), "b" * 16, 2, port=8001), 10.0)
    assert told(join(node, 4, "d"), 4) == ["ws://10.0.1.2:8001", address]


def strangers(node: Rig, *hosts: str) -> int:
    """Peers with ever new ids on `hosts` each send 40 addresses; return how many are dialled."""
    for link, host in enumerate(hosts, 1):
        node.accepted(link, (host, 50000 + link), LOCAL, 0)
        told = tuple(f"ws://10.{link}.0.{number}:1" for number in range(1, 41))
        node.hello(link, Sockets(told, f"{link:016x}", 1), 0)
    now, made = 10.0, 0
    for _ in range(1000):
        for address in due(node, now):
            made += 1
            node.dial(address, now)
            node.failed(address, "refused", now)
            node.book.known[address].next_try = float("inf")
    return made


def test_the_addresses_of_one_host_are_limited_whatever_ids_its_peers_have() -> None:
    settings = Settings(target_links=1000)
    assert strangers(overlay("a", settings), *["10.0.9.9"] * 6) <= 64 + 2
    assert strangers(overlay("a", settings), *[f"2001:db8::{n}" for n in range(1, 7)]) <= 64 + 2
    assert strangers(overlay("a", settings), "10.0.9.9", "10.0.9.8", "10.0.9.7") == 120


def test_loopback_addresses_are_told_over_loopback_alone() -> None:
    node = overlay("a")
    node.accepted(1, ("127.0.0.1", 50000), LOCAL, 0)
    node.hello(1, Sockets((), "b" * 16, 1, port=9001), 0)
    assert told(join(node, 2, "c"), 2) == []
    node.accepted(3, ("127.0.0.1", 50001), LOCAL, 0)
    work = node.hello(3, Sockets((), "d" * 16, 1, port=9003), 0)
    assert told(work, 3) == ["ws://127.0.0.1:9001", "ws://10.0.1.2:8001"]


def test_a_changed_address_of_a_node_replaces_the_old_one() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert "ws://10.0.1.1:8001" in node.book.known
    node.closed(1, "cut", 1.0)
    node.accepted(2, ("10.0.5.5", 50000), LOCAL, 2)
    node.hello(2, Sockets((), "b" * 16, 2, port=8001), 2)
    assert "ws://10.0.5.5:8001" in node.book.known
    assert "ws://10.0.1.1:8001" not in node.book.known


def test_who_has_enough_is_not_told_of_each_that_joins() -> None:
    node = overlay("a")
    joins(node, range(1, 2), enough=True)
    joins(node, range(2, 3), enough=False)
    work = join(node, 3, "b")
    assert told(work, 1) == []
    assert told(work, 2) == ["ws://10.0.1.3:8001"]


def test_dials_into_the_dark_do_not_keep_a_node_from_trying_others() -> None:
    node = overlay("a", Settings(target_links=2))
    for port in range(1, 6):
        learn(node, f"ws://10.0.0.2:{port}", 0.0)
    first = due(node, 0.0)
    for address in first:
        node.dial(address, 0.0)
    assert due(node, 0.5) == [], "they may still come about"
    later = due(node, 1.5)
    assert len(later) == 2 and not {*first} & {*later}


def test_ours_are_told_where_our_links_lead_a_while_after_they_changed() -> None:
    node = overlay("a", Settings(target_links=2))
    joins(node, range(1, 3))
    assert node.news(10.0)[0] == []
    tells, again = node.news(node.news(10.0)[1])
    ids = (f"{1:016x}", f"{2:016x}")
    assert [(tell.link, tell.frame.links) for tell in tells] == [(1, ids), (2, ids)]
    assert {(tell.frame.addresses, tell.frame.enough) for tell in tells} == {((), True)}
    assert again == float("inf")
    joins(node, range(3, 4))
    node.closed(3, "cut", 20.0)
    assert node.news(30.0) == ([], float("inf")), "a link that was short is no news"


def test_a_long_link_that_ends_with_a_violation_does_not_make_its_address_good() -> None:
    for code, attempts in ((None, 1), (1001, 1), (1008, 4), (1002, 4), (4409, 4)):
        node = overlay("a")
        learn(node, "ws://10.0.0.2:8001", 0.0)
        known = node.book.known["ws://10.0.0.2:8001"]
        known.attempts = 3
        dial = node.dial(known.address, 0.0)
        node.dialled(1, known.address, dial, ("10.0.0.2", 8001), 0.0)
        node.hello(1, Sockets(node="b" * 16, start=2), 0.0)
        node.closed(1, "the end", 2 * GOOD_LINK, code)
        assert known.attempts == attempts, code
