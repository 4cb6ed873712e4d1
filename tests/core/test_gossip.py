"""Which addresses are sent to which peer; with no network."""

from __future__ import annotations

from p2p_sync.settings import Settings
from p2p_sync.wire.frames import Sockets
from tests.core.rig import LOCAL, join, joins, learn, overlay, sent_to


def test_an_address_that_could_not_be_dialled_is_not_sent_until_it_works() -> None:
    node = overlay("a")
    address = "ws://10.0.1.1:8001"
    learn(node, address, 0.0)
    node.dial(address, 0.0)
    node.failed(address, "no connection", 0.0)
    join(node, 1, "b")  # it has dialled us itself
    assert sent_to(join(node, 2, "c"), 2) == []
    node.closed(1, "cut", 1.0)
    dial = node.dial(address, 10.0)
    node.dialled(3, address, dial, ("10.0.1.1", 8001), 10.0, "b" * 32, 2)
    node.hello(3, Sockets(port=8001), 10.0)
    assert sent_to(join(node, 4, "d"), 4) == ["ws://10.0.1.2:8001", address]


def test_loopback_addresses_are_sent_over_loopback_alone() -> None:
    node = overlay("a")
    node.accepted(1, ("127.0.0.1", 50000), LOCAL, 0, "b" * 32)
    node.hello(1, Sockets(port=9001), 0)
    assert sent_to(join(node, 2, "c"), 2) == []
    work = node.accepted(3, ("127.0.0.1", 50001), LOCAL, 0, "d" * 32)
    work += node.hello(3, Sockets(port=9003), 0)
    assert sent_to(work, 3) == ["ws://127.0.0.1:9001", "ws://10.0.1.2:8001"]


def test_a_peer_with_enough_links_is_not_sent_the_address_of_each_node_that_joins() -> None:
    node = overlay("a")
    joins(node, range(1, 2), enough=True)
    joins(node, range(2, 3), enough=False)
    work = join(node, 3, "b")
    assert sent_to(work, 1) == []
    assert sent_to(work, 2) == ["ws://10.0.1.3:8001"]


def test_changed_links_are_announced_to_our_nodes_after_a_while() -> None:
    node = overlay("a", Settings(target_links=2))
    joins(node, range(1, 3))
    assert node.news(10.0)[0] == []
    frames, again = node.news(node.news(10.0)[1])
    links = {f"{1:032x}": "", f"{2:032x}": ""}
    assert [(sent.link, sent.frame.links) for sent in frames] == [(1, links), (2, links)]
    assert {(sent.frame.addresses, sent.frame.enough) for sent in frames} == {((), True)}
    assert again == float("inf")
    joins(node, range(3, 4))
    node.closed(3, "cut", 20.0)
    assert node.news(30.0) == ([], float("inf")), "a link that was short is no news"
