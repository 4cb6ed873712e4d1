"""The rules of the overlay, with no network: two of them wired together must agree."""

from __future__ import annotations

from p2p_sync.codes import NORMAL, SAME_NODE, TRY_AGAIN_LATER
from p2p_sync.settings import Settings
from p2p_sync.wire.frames import Sockets
from tests.core.rig import (
    LOCAL,
    Rig,
    Sent,
    Work,
    closes,
    dial_node,
    dial_original,
    due,
    join,
    joins,
    learn,
    original_dials,
    overlay,
    probe,
    sent_to,
)


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
        here, there = (self.hosts[dialler], 40000), (self.hosts[acceptor], 8001)
        self._do(acceptor, other.accepted(number + 1, here, there, 0, one.node, one.start))
        self._do(dialler, one.dialled(number, address, dial, there, 0, other.node, other.start))

    def run(self) -> None:
        """Carry all that waits, and what comes of it."""
        while self.waiting:
            sender, work = self.waiting.pop(0)
            end = self.ends.get((sender, work.link))
            if end is None:
                continue
            receiver, link = end
            if isinstance(work, Sent):
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
    for steps in ways:
        for at_once in (True, False):
            wire = Wire(a=overlay("a"), b=overlay("b"), c=overlay("c"))
            for one, other in steps:
                wire.open(one, other)
                if not at_once:
                    wire.run()
            wire.run()
            wire.dial_due()
            assert wire.counts() == [2, 2, 2], steps
            assert len(wire.ends) == 6, steps


def test_of_two_nodes_with_one_id_the_second_is_refused_when_its_link_opens() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert closes(node.accepted(2, ("10.0.0.9", 1), LOCAL, 0, "b" * 32, start=2)) == [
        (2, SAME_NODE)
    ]
    learn(node, "ws://10.0.0.8:1", 0.0)
    dial = node.dial("ws://10.0.0.8:1", 0.0)
    work = node.dialled(3, "ws://10.0.0.8:1", dial, ("10.0.0.8", 1), 0, "b" * 32, 3)
    assert closes(work) == [(3, SAME_NODE)]
    assert node.count() == 1


def test_above_twice_the_target_the_newest_that_has_enough_gets_addresses_and_is_closed() -> None:
    node = overlay("a", Settings(target_links=2))
    assert closes(joins(node, range(1, 5))) == []
    work = joins(node, range(5, 6))
    assert closes(work) == [(5, TRY_AGAIN_LATER)]
    assert sorted(sent_to(work, 5)) == [f"ws://10.0.{n}.1:8001" for n in range(1, 5)]
    assert node.count() == 4


def test_if_none_has_enough_the_oldest_is_closed_but_none_by_hand_and_no_original() -> None:
    node = overlay("a", Settings(target_links=2))
    original_dials(node, 1, "10.0.2.1")
    dial_node(node, 2, "10.0.9.1", 8001, "9", Sockets(port=8001))
    assert closes(joins(node, range(3, 6), enough=False)) == []
    assert closes(joins(node, range(6, 7), enough=False)) == [(3, TRY_AGAIN_LATER)]


def test_a_crowd_of_one_host_pushes_only_its_own_links_out() -> None:
    """Whatever its peers claim: to want more links, or to be at an address given by hand."""
    node = overlay("a", Settings(target_links=2))
    node.book.add("ws://10.0.9.1:8001", 0)
    joins(node, range(1, 3))
    for link in range(10, 30):
        node.accepted(link, ("10.0.7.7", link), LOCAL, 0, f"{link:032x}")
        address = "ws://10.0.9.1:8001" if link % 2 else None
        node.hello(link, Sockets(address=address), 0)
    stay = {link for link, peer in node.peers.items() if not peer.leaving}
    assert {1, 2} <= stay and len(stay) == 4


def test_a_crowd_of_originals_pushes_nobody_out() -> None:
    node = overlay("a", Settings(target_links=2))
    joins(node, range(1, 5))
    for link in range(5, 40):
        original_dials(node, link, "10.0.7.7")
    assert {1, 2, 3, 4} <= node.peers.keys()
    assert not any(peer.leaving for peer in node.peers.values())


def test_originals_do_not_keep_a_node_from_dialling_nor_from_asking_for_addresses() -> None:
    node = overlay("a", Settings(target_links=2))
    for link in range(1, 20):
        original_dials(node, link, "10.0.7.7")
    work = join(node, 30, "b")
    assert not any(sent.frame.enough for sent in work if isinstance(sent, Sent))
    for host in range(1, 4):
        learn(node, f"ws://10.0.8.{host}:1", 0.0)
    assert len(due(node, 20.0)) == 1


def test_of_the_originals_at_learned_addresses_as_many_stay_as_the_target() -> None:
    node = overlay("a", Settings(target_links=2))
    dial_original(node)  # which was given by hand
    for host in range(1, 5):
        address = f"ws://10.0.8.{host}:1"
        learn(node, address, 0.0)
        node.dialled(host, address, node.dial(address, 1.0), (f"10.0.8.{host}", 1), 1.0)
        node.hello(host, Sockets(()), 1.0)
    assert [link for link, peer in node.peers.items() if peer.leaving] == [3, 4]


def test_a_target_of_none_neither_dials_learned_addresses_nor_closes_links() -> None:
    node = overlay("a", Settings(target_links=0))
    assert closes(joins(node, range(1, 40))) == []
    learn(node, "ws://10.9.9.9:1", 0)
    assert due(node, 1000.0) == []


def test_a_full_node_sends_addresses_and_closes() -> None:
    node = overlay("a", Settings(max_peers=3, target_links=100))
    work = joins(node, range(1, 5), enough=False)
    assert closes(work) == [(4, TRY_AGAIN_LATER)]
    assert len(sent_to(work, 4)) == 3


def test_a_probe_ends_but_once_a_minute_it_takes_the_place_of_another_link() -> None:
    node = overlay("f", Settings(target_links=2))
    joins(node, range(1, 3))
    node.rules._exchange_at = 60.0
    assert closes(probe(node, 10, "b", 10.0, True)) == [(10, TRY_AGAIN_LATER)]
    node.closed(10, "enough", 10.0, TRY_AGAIN_LATER)
    assert due(node, 19.9) == [], "the next comes ten seconds later"
    ((closed, code),) = closes(probe(node, 11, "c", 65.0, True))
    assert (closed in (1, 2), code) == (True, TRY_AGAIN_LATER)
    assert node.count() == 2


def test_a_probe_that_finds_a_node_with_too_few_links_keeps_the_link() -> None:
    node = overlay("f", Settings(target_links=2))
    joins(node, range(1, 3))
    node.rules._exchange_at = 60.0
    assert closes(probe(node, 10, "b", 10.0, False)) == []
    assert node.count() == 3


def claims(node: Rig, link: int, digit: str, address: str) -> None:
    """A node on host 10.0.7.7 dials `node` and says that it can be dialled at `address`."""
    node.accepted(link, ("10.0.7.7", 50000 + link), LOCAL, 0, digit * 32)
    node.hello(link, Sockets(address=address), 0)


def test_a_peer_that_claims_the_address_of_another_node_does_not_keep_that_from_being_dialled() -> (
    None
):
    node = overlay("a")
    claims(node, 1, "b", "ws://10.0.9.1:8001")
    assert due(node, 1.0) == ["ws://10.0.9.1:8001"], "it is as good as any learned address"
    assert node.peers[1].address is None, "nor do people read that it is there"


def test_a_peer_cannot_have_what_is_known_of_another_node_forgotten() -> None:
    node = overlay("a")
    address = "ws://10.0.9.1:8001"
    learn(node, address, 0.0)
    node.dialled(1, address, node.dial(address, 0.0), ("10.0.9.1", 8001), 0, "c" * 32)
    node.hello(1, Sockets(port=8001), 0)
    node.closed(1, "cut", 1.0)
    node.dial(address, 9.0)
    node.failed(address, "refused", 9.0)
    known = node.book.known[address]
    before = known.node, known.attempts, known.last_error, known.next_try
    claims(node, 2, "b", address)
    claims(node, 3, "b", "ws://10.0.9.2:8001")
    assert node.book.known[address] is known
    assert (known.node, known.attempts, known.last_error, known.next_try) == before


def test_an_advertised_name_is_dialled_once_and_then_known_to_be_that_of_the_peer() -> None:
    """So containers work, whose names differ from where their links come from."""
    node = overlay("a")
    name = "ws://web-1:8001"
    claims(node, 1, "b", name)
    assert due(node, 1.0) == [name]
    assert node.resolved(name, (("10.0.7.7", 8001),), 1.0)
    work = node.dialled(2, name, node.dial(name, 1.0), ("10.0.7.7", 8001), 1.0, "b" * 32)
    assert closes(work) == [(2, NORMAL)] and len(work) == 1, "the other side learns of no link"
    node.closed(2, "not needed", 1.0, NORMAL)
    assert not node.peers[1].leaving and node.peers[1].address == name
    known = node.book.known[name]
    assert known.node == "b" * 32 and not known.bad and not known.last_error
    assert all(due(node, now) == [] for now in (2.0, 30.0, 90.0, 900.0))
    node.closed(1, "cut", 901.0)
    assert due(node, 903.0) == [name]


def test_a_changed_address_of_a_node_replaces_the_old_one() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert "ws://10.0.1.1:8001" in node.book.known
    node.closed(1, "cut", 1.0)
    node.accepted(2, ("10.0.5.5", 50000), LOCAL, 2, "b" * 32, 2)
    node.hello(2, Sockets(port=8001), 2)
    assert "ws://10.0.5.5:8001" in node.book.known
    assert "ws://10.0.1.1:8001" not in node.book.known
