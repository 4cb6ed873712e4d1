"""Which address is dialled, when, and what the result means; with no network."""

from __future__ import annotations

from collections import Counter

import pytest

from p2p_sync.codes import NORMAL, TRY_AGAIN_LATER
from p2p_sync.settings import GOOD_LINK, SLOW_DIAL, Settings
from p2p_sync.wire.frames import Sockets
from tests.core.rig import (
    LOCAL,
    Rig,
    closes,
    dial_node,
    dial_original,
    due,
    join,
    joins,
    learn,
    overlay,
)


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


def test_addresses_that_worked_lately_are_dialled_before_others() -> None:
    node = overlay("a", Settings(target_links=2))
    addresses = [f"ws://10.0.0.2:{port}" for port in range(1, 41)]
    for address in addresses:
        learn(node, address, 0.0)
    good = node.book.known[addresses[30]]
    node.book.worked(good, 0.0)
    first, _ = due(node, 1.0)
    assert first == good.address


def test_all_that_fits_is_dialled_in_one_go() -> None:
    node = overlay("a")
    for port in range(1, 31):
        learn(node, f"ws://10.0.2.{port}:1", 0.0)
        node.book.add(f"ws://10.0.0.3:{port}", 0.0)
    by_host = Counter(address[:11] for address in due(node, 0.0))
    assert by_host == {"ws://10.0.0": 8, "ws://10.0.2": 1}, "the links to come, and a probe"
    _, again = node.due(0.0)
    assert again == SLOW_DIAL, "then others may be tried"
    by_host = Counter(address[:11] for address in due(node, again))
    assert by_host == {"ws://10.0.2": 7}, "eight of each kind at a time"
    assert due(node, again + SLOW_DIAL) == []


def test_a_name_that_leads_where_a_link_leads_already_is_not_dialled() -> None:
    node = overlay("a")
    dial_original(node)
    name = "ws://original.example:7001"
    node.book.add(name, 0.0)
    node.dial(name, 0.0)
    assert not node.resolved(name, (("10.0.2.1", 7001),), 0.0)
    assert due(node, 50.0) == []
    assert due(node, 100.0) == [name], "by then it may lead elsewhere, too"


def test_an_address_by_hand_is_dialled_although_a_peer_that_was_dialled_claims_it() -> None:
    node = overlay("a")
    dial_node(node, 1, "10.0.0.2", 1, "b", Sockets(address="ws://10.0.0.9:1"))
    node.book.add("ws://10.0.0.9:1", 0.0)
    assert due(node, 1.0) == ["ws://10.0.0.9:1"]


def test_the_address_of_a_surplus_link_is_tried_again_in_a_minute() -> None:
    node = overlay("a")
    dial_node(node, 1, "10.0.0.2", 1, "b", Sockets())
    joins(node, range(2, 4))
    node.closed(1, "it has enough", 5.0, TRY_AGAIN_LATER)
    known = node.book.known["ws://10.0.0.2:1"]
    assert (known.next_try, known.attempts, known.refused) == (65.0, 0, False)


def test_a_node_with_no_other_link_does_not_wait_that_long() -> None:
    node = overlay("a")
    dial_node(node, 1, "10.0.0.2", 1, "b", Sockets())
    node.closed(1, "it has enough", 5.0, TRY_AGAIN_LATER)
    known = node.book.known["ws://10.0.0.2:1"]
    assert (known.next_try <= 7.0, known.refused) == (True, False)


def strangers(node: Rig, *hosts: str) -> int:
    """Peers with ever new ids on `hosts` each send 60 addresses; return how many are dialled."""
    for link, host in enumerate(hosts, 1):
        node.accepted(link, (host, 50000 + link), LOCAL, 0, f"{link:032x}")
        told = tuple(f"ws://10.{link}.0.{number}:1" for number in range(1, 61))
        node.hello(link, Sockets(told), 0)
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
    assert strangers(overlay("a", settings), *["10.0.9.9"] * 6) == 256
    assert strangers(overlay("a", settings), *[f"2001:db8::{n}" for n in range(1, 7)]) == 256
    assert strangers(overlay("a", settings), *[f"10.0.9.{n}" for n in range(6)]) == 360


def test_dials_that_are_not_answered_do_not_keep_a_node_from_trying_others() -> None:
    node = overlay("a", Settings(target_links=2))
    for host in range(1, 6):
        learn(node, f"ws://10.0.2.{host}:1", 0.0)
    first = due(node, 0.0)
    for address in first:
        node.dial(address, 0.0)
    assert due(node, 0.5) == [], "they may still come about"
    later = due(node, 1.5)
    assert len(later) == 2 and not {*first} & {*later}


@pytest.mark.parametrize("host", ["10.9.9.9", "[2001:db8::9]", "victim{}.example"])
def test_a_host_that_may_not_be_of_this_network_is_dialled_rarely(host: str) -> None:
    """Whatever ports of it a peer names, also if it names them again and again."""
    node = overlay("a")
    for port in range(1, 256):
        learn(node, f"ws://{host.format(port)}:{port}", 0.0)
    first = [node.resolved(a, (("10.9.9.9", 1),), 0.0) for a in due(node, 0.0)]
    assert sum(map(bool, first)) <= 2
    for known in [*node.book.known.values()]:
        node.failed(known.address, "refused", 0.0)
        node.book.forget(known)
        learn(node, known.address, 0.0)
    tried = 0
    for second in range(600):
        for address in due(node, float(second)):
            tried += bool(node.resolved(address, (("10.9.9.9", 1),), float(second)))
            node.failed(address, "refused", float(second))
    assert 10 < tried < 60, "the longest backoff is a minute"


def test_a_host_where_a_node_was_found_is_dialled_as_fast_as_all_others() -> None:
    node = overlay("a")
    for port in range(1, 30):
        learn(node, f"ws://10.0.1.1:{port}", 0.0)
    assert len(due(node, 0.0)) == 2
    join(node, 1, "b")
    assert len(due(node, 0.0)) == 5, "with the two that are under way and the link, the target"


def test_of_a_name_only_the_hosts_are_dialled_that_may_be() -> None:
    node = overlay("a")
    node.book.hosts.failed("10.9.9.9", 0.0)
    learn(node, "ws://name.example:1", 0.0)
    node.dial("ws://name.example:1", 0.0)
    ends = (("10.9.9.9", 1), ("10.8.8.8", 1))
    assert node.resolved("ws://name.example:1", ends, 0.0) == ends[1:]


def test_addresses_by_hand_are_dialled_whatever_else_fails_on_their_host() -> None:
    node = overlay("a")
    node.book.hosts.failed("10.9.9.9", 0.0)
    for port in range(1, 6):
        node.book.add(f"ws://10.9.9.9:{port}", 0.0)
    assert len(due(node, 0.0)) == 5


def test_a_long_link_that_ends_with_a_violation_does_not_make_its_address_good() -> None:
    for code, attempts in ((None, 1), (1001, 1), (1008, 4), (1002, 4), (4409, 4)):
        node = overlay("a")
        learn(node, "ws://10.0.0.2:8001", 0.0)
        known = node.book.known["ws://10.0.0.2:8001"]
        known.attempts = 3
        dial = node.dial(known.address, 0.0)
        node.dialled(1, known.address, dial, ("10.0.0.2", 8001), 0.0, "b" * 32)
        node.hello(1, Sockets(), 0.0)
        node.closed(1, "the end", 2 * GOOD_LINK, code)
        assert known.attempts == attempts, code


def test_an_address_that_is_forgotten_during_a_dial_is_not_connected() -> None:
    node = overlay("a")
    for port, now in ((1, 0.0), (2, 1.0)):
        known = node.book.add(f"ws://10.0.0.2:{port}", now)
        assert due(node, now) == [known.address]
        node.book.forget(known)
    assert node.resolved("ws://10.0.0.2:1", (("10.0.0.2", 1),), 2.0) == ()
    dial = node.dial("ws://10.0.0.2:2", 2.0)
    work = node.dialled(1, "ws://10.0.0.2:2", dial, ("10.0.0.2", 2), 2.0)
    assert closes(work) == [(1, NORMAL)]
    node.closed(1, "forgotten", 3.0)
    assert due(node, 100.0) == []
