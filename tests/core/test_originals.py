"""Which original is where, and which addresses it gets; with no network."""

from __future__ import annotations

import pytest

from p2p_sync.codes import NORMAL
from p2p_sync.wire.frames import Sockets
from tests.core.rig import (
    LOCAL,
    Close,
    closes,
    dial_original,
    due,
    join,
    learn,
    original_dials,
    overlay,
    sent_to,
)


def test_a_guest_is_sent_our_addresses_and_our_nodes_are_not_sent_its() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert original_dials(node, 2, "10.0.2.1") == ["ws://10.0.1.1:8001"]
    work = join(node, 3, "c")
    assert sent_to(work, 2) == ["ws://10.0.1.3:8001"]
    assert sent_to(work, 3) == ["ws://10.0.1.1:8001"]


def test_a_guest_of_several_of_ours_gets_addresses_from_the_first_alone() -> None:
    node = overlay("a")
    join(node, 1, "b")
    assert original_dials(node, 2, "10.0.2.1", "ws://10.0.1.1:8001") == []
    assert sent_to(join(node, 3, "c"), 2) == []


def test_a_leaf_is_sent_no_address_and_no_node_is_sent_its_address() -> None:
    node = overlay("a")
    join(node, 1, "b")
    work = [*dial_original(node), *join(node, 2, "c")]
    assert sent_to(work, 9) == []
    assert sent_to(work, 1) == ["ws://10.0.1.2:8001"]
    assert sent_to(work, 2) == ["ws://10.0.1.1:8001"]
    frames, _ = node.news(0.0)
    assert {(sent.link, sent.frame.leaves) for sent in frames} <= {
        (1, ("ws://10.0.2.1:7001",)),
        (2, ("ws://10.0.2.1:7001",)),
    }


def test_what_a_peer_says_about_originals_neither_causes_nor_prevents_a_dial() -> None:
    node = overlay("c")
    join(node, 1, "b")
    address = "ws://10.0.2.1:7001"
    node.hello(1, Sockets(leaves=(address,), guests=("ws://10.0.2.1:7002",)), 0)
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


def test_a_check_that_gets_no_answer_is_repeated_once_a_minute() -> None:
    node = overlay("a")
    join(node, 1, "b")
    node.hello(1, Sockets(leaves=("ws://10.0.2.1:7001",)), 0)
    original_dials(node, 2, "10.0.2.1")
    address, now, made = "ws://10.0.2.1:7001", 1.0, []
    while now < 300:
        addresses, again = node.due(now)
        if address in addresses:
            node.dial(address, now)
            assert address not in node.book.known
            assert node.failed(address, "no answer", now) is False
            made.append(now)
        now = min(max(again, now + 0.01), now + 1)
    assert made == pytest.approx([1, 61, 121, 181, 241], abs=5)
    node.book.add(address, 300.0)
    assert address in due(node, 300.0), "by hand it is dialled at once"


def test_a_leaf_that_is_found_to_be_a_guest_is_no_longer_a_leaf() -> None:
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
    frames, _ = node.news(200.0)
    assert [sent.frame.guests for sent in frames] in ([], [("ws://10.0.2.1:7001",)])


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


def test_guests_that_come_and_go_cause_one_check_a_minute() -> None:
    node = overlay("a")
    address = "ws://10.0.2.1:7001"
    join(node, 1, "b")
    node.hello(1, Sockets(leaves=(address,)), 0)
    made = []
    for second in range(1, 180):
        original_dials(node, second + 1, "10.0.2.1")
        if address in node.due(float(second))[0]:
            made.append(second)
            node.failed(address, "refused", float(second))
        node.closed(second + 1, "cut", float(second))
    assert made == [1, 61, 121]
