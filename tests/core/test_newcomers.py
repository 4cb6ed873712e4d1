"""How many new origins are taken: of strangers, of nodes that were met, and while joining."""

from __future__ import annotations

from p2p_sync.core.newcomers import Newcomers
from p2p_sync.settings import (
    MAX_ORIGINS,
    MAX_ORIGINS_HOSTS,
    MAX_STRANGERS,
    NO_ROOM_PAUSE,
    ORIGINS_FACTOR,
    ORIGINS_PERIOD,
)

LIMIT = 10
MET, STRANGER = "a" * 32 + "-1", "b" * 32 + "-1"


def newcomers(joining: bool = False) -> Newcomers:
    return Newcomers(LIMIT, joining, lambda node: node == "a" * 32)


def taken(rules: Newcomers, name: str, host: str, most: int, now: float = 0.0) -> int:
    """How many new origins are taken of a host that ships `most`."""
    count = 0
    for _ in range(most):
        if rules.has_room(name, host, 0, now):
            rules.take(host, now)
            count += 1
    return count


def test_a_host_brings_so_many_in_an_hour_and_again_in_the_next() -> None:
    rules = newcomers()
    assert taken(rules, STRANGER, "10.0.0.1", 1_000) == LIMIT
    assert taken(rules, STRANGER, "10.0.0.2", 1_000) == LIMIT, "another host is not concerned"
    assert taken(rules, STRANGER, "10.0.0.1", 1_000, ORIGINS_PERIOD - 1) == 0
    assert taken(rules, STRANGER, "10.0.0.1", 1_000, ORIGINS_PERIOD) == LIMIT


def test_the_operator_is_told_why_origins_are_left_out_until_a_while_after() -> None:
    rules = newcomers()
    taken(rules, STRANGER, "10.0.0.1", LIMIT)
    assert rules.warning(LIMIT, 0.0) == ""
    taken(rules, STRANGER, "10.0.0.1", 1)
    assert "max_new_origins=10" in rules.warning(LIMIT, NO_ROOM_PAUSE)
    assert rules.warning(LIMIT, 1_000.0) == ""
    assert not rules.has_room(STRANGER, "10.0.0.2", MAX_STRANGERS, 1_000.0)
    assert "holds 90,000 origins" in rules.warning(MAX_STRANGERS, 1_000.0)


def test_nodes_that_somebody_has_met_have_room_where_strangers_have_not() -> None:
    rules = newcomers()
    taken(rules, STRANGER, "10.0.0.1", 1_000)
    assert taken(rules, MET, "10.0.0.1", 1_000) == (ORIGINS_FACTOR - 1) * LIMIT


def test_all_hosts_together_bring_so_many() -> None:
    rules = newcomers()
    assert sum(taken(rules, STRANGER, f"10.0.0.{n}", 1_000) for n in range(100)) == (
        ORIGINS_FACTOR * LIMIT
    )
    assert rules.has_room(MET, "10.0.0.200", 0, 0.0)


def test_a_node_that_joins_takes_all_until_it_has_joined_or_an_hour_has_passed() -> None:
    rules = newcomers(joining=True)
    assert taken(rules, STRANGER, "10.0.0.1", 1_000) == 1_000
    assert taken(rules, STRANGER, "10.0.0.1", 1_000, ORIGINS_PERIOD) == LIMIT
    rules = newcomers(joining=True)
    rules.joining = False
    assert taken(rules, STRANGER, "10.0.0.1", 1_000) == LIMIT


def test_strangers_leave_room_in_the_table_for_nodes_that_somebody_has_met() -> None:
    rules = newcomers(joining=True)
    assert not rules.has_room(STRANGER, "10.0.0.1", MAX_STRANGERS, 0.0)
    assert rules.has_room(MET, "10.0.0.1", MAX_STRANGERS, 0.0)
    assert not rules.has_room(MET, "10.0.0.1", MAX_ORIGINS, 0.0)


def test_what_was_asked_for_and_has_not_come_is_given_back() -> None:
    rules = newcomers()
    taken(rules, STRANGER, "10.0.0.1", 1_000)
    rules.give_back("10.0.0.1")
    assert taken(rules, STRANGER, "10.0.0.1", 1_000) == 1


def test_a_host_that_ships_more_than_any_node_takes_breaks_the_rules() -> None:
    rules = newcomers()
    most = 2 * ORIGINS_FACTOR**2 * LIMIT
    assert not any(rules.leave_out("10.0.0.1") for _ in range(most - 1))
    assert rules.leave_out("10.0.0.1")
    assert not rules.leave_out("10.0.0.2")


def test_very_many_hosts_cost_no_memory_and_none_of_them_is_blamed_for_others() -> None:
    rules = newcomers()
    for n in range(MAX_ORIGINS_HOSTS):
        rules.leave_out(f"10.0.{n // 256}.{n % 256}")
    assert not any(rules.leave_out(f"10.1.{n // 256}.{n % 256}") for n in range(10_000))


def test_hosts_beyond_those_that_are_counted_apart_share_one_limit() -> None:
    rules = Newcomers(2 * MAX_ORIGINS_HOSTS, False, lambda _: False)
    for number in range(MAX_ORIGINS_HOSTS):
        rules.take(f"host {number}", 0.0)
    assert sum(taken(rules, STRANGER, f"another {n}", 1_000) for n in range(10)) == (
        2 * MAX_ORIGINS_HOSTS
    )
