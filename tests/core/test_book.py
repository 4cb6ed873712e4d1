"""What a node remembers of addresses, and which of them a peer can make it dial."""

from __future__ import annotations

import random

import pytest

from p2p_sync.core.book import AddressBook, Known
from p2p_sync.errors import DialError
from p2p_sync.settings import GIVE_UP, MAX_ADDRESSES, MAX_KNOWN_ADDRESSES, Settings


def book() -> AddressBook:
    return AddressBook(Settings(), random.Random(1))


def many(count: int, network: int = 1) -> list[str]:
    return [f"ws://10.{network}.{n // 250}.{n % 250}:8001" for n in range(count)]


def learn(known: AddressBook, addresses: list[str], source: str = "a", at: float = 0.0) -> None:
    known.learn(addresses, source, at, over_loopback=False)


def test_one_source_is_remembered_with_256_addresses_at_most() -> None:
    known = book()
    for network in range(3):
        learn(known, many(250, network))
    assert len(known.known) == MAX_ADDRESSES


def test_a_thousand_addresses_are_remembered_and_the_least_useful_go_first() -> None:
    known = book()
    known.add("ws://by.hand:1", 0.0)
    for source in range(4):
        learn(known, many(250, source), f"{source:032x}", at=float(source))
    assert len(known.known) == MAX_KNOWN_ADDRESSES
    entries = list(known.known.values())
    good, failed, linked = entries[1:4]
    known.worked(good, 5.0)
    known.failed(entries[-1], "refused", 5.0)
    known.worked(failed, 5.0)
    known.failed(failed, "refused", 6.0)
    for source in range(10, 13):
        known.learn(
            many(250, source),
            f"{source:032x}",
            10.0,
            over_loopback=False,
            in_use=lambda: {linked.address},
        )
    assert len(known.known) == MAX_KNOWN_ADDRESSES
    assert entries[-1].address not in known.known, "a stranger that failed goes first"
    assert {"ws://by.hand:1", good.address, failed.address, linked.address} <= known.known.keys()
    assert f"ws://10.12.0.{249}:8001" in known.known


def test_a_book_full_of_what_works_takes_no_more() -> None:
    known = book()
    for source in range(4):
        learn(known, many(250, source), f"{source:032x}")
    for entry in known.known.values():
        known.worked(entry, 1.0)
    learn(known, ["ws://10.9.9.9:1"], "b")
    assert "ws://10.9.9.9:1" not in known.known


def test_a_learned_address_is_given_up_after_a_day_of_failures_one_by_hand_never() -> None:
    known = book()
    known.add("ws://by.hand:1", 0.0)
    learn(known, ["ws://10.1.1.1:1"])
    for entry in list(known.known.values()):
        known.failed(entry, "refused", 0.0)
        known.failed(entry, "refused", GIVE_UP - 1)
    assert len(known.known) == 2
    for entry in list(known.known.values()):
        known.failed(entry, "refused", GIVE_UP)
    assert list(known.known) == ["ws://by.hand:1"]


def test_what_has_worked_is_not_given_up_while_no_link_is_open() -> None:
    known = book()
    learn(known, ["ws://10.1.1.1:1", "ws://10.1.1.2:1"])
    good, never = known.known.values()
    known.worked(good, 0.0)
    for moment in (10.0, GIVE_UP + 20, 3 * GIVE_UP):
        known.failed(good, "unreachable", moment, linked=False)
        known.failed(never, "unreachable", moment, linked=False)
    assert list(known.known) == [good.address]
    known.failed(good, "refused", 3 * GIVE_UP + 60, linked=True)
    assert good.address in known.known, "the day begins when a link is open"
    known.failed(good, "refused", 4 * GIVE_UP + 60, linked=True)
    assert good.address not in known.known


def test_the_time_for_which_a_node_was_off_is_no_time_of_failures() -> None:
    before, after = book(), book()
    learn(before, ["ws://10.1.1.1:1"])
    (good,) = before.known.values()
    before.worked(good, 0.0)
    before.failed(good, "refused", 10.0)
    after.restore(good, GIVE_UP + 20)
    after.failed(good, "refused", GIVE_UP + 21, linked=True)
    assert good.address in after.known


def test_loopback_addresses_are_taken_over_loopback_alone() -> None:
    known = book()
    local = ["ws://127.0.0.1:1", "ws://localhost:2", "ws://[::1]:3"]
    learn(known, [*local, "ws://192.168.1.1:1"])
    assert list(known.known) == ["ws://192.168.1.1:1"]
    known.learn(local, "b", 0.0, over_loopback=True)
    assert set(local) <= known.known.keys()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%2", "224.0.0.1",
     "ff02::1", "0.0.0.0", "::"],
)  # fmt: skip
def test_a_name_that_leads_where_peers_may_not_send_us_is_not_dialled(host: str) -> None:
    learned = Known("ws://innocent.example:1")
    with pytest.raises(DialError, match="by hand") as refused:
        AddressBook.may_dial(learned, ((host, 1),))
    assert refused.value.refused
    both = ((host, 1), ("10.0.0.1", 1))
    assert AddressBook.may_dial(learned, both) == (("10.0.0.1", 1),)
    assert AddressBook.may_dial(Known("ws://a:1", by_hand=True), both) == both


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1", "8.8.8.8"])
def test_private_ranges_are_normal(host: str) -> None:
    assert AddressBook.may_dial(Known("ws://a:1"), ((host, 1),)) == ((host, 1),)
