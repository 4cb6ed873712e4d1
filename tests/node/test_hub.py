"""A hub: nodes that share a log through a Redis server, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from tests.harness.member import identities
from tests.harness.redis import RedisServer
from tests.harness.support import wait_until
from tests.node.test_forks import give, has_no_dispute, history

QUICK = {"redial_first": 0.1, "redial_longest": 0.5}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def node() -> Iterator[Any]:
    """Makes nodes that do not dial each other."""
    with ExitStack() as stack:

        def made(**settings: Any) -> Node:
            known: dict[str, Any] = {"target_links": 0, **QUICK, **settings}
            data_dir = known.pop("data_dir", None)
            return stack.enter_context(Node(0, data_dir, **known))

        yield made


def texts(node: Node) -> list[str]:
    return [message.data for message in node.messages()]


def wait_equal(*nodes: Node, count: int, timeout: float = 15) -> None:
    def equal() -> bool:
        digests = {node.status().messages.digest for node in nodes}
        counts = {node.status().messages.count for node in nodes}
        return len(digests) == 1 and counts == {count}

    def shown() -> str:
        return f"{count} messages everywhere: {[node.status().messages for node in nodes]}"

    wait_until(equal, shown, timeout)


def wait_in_sync(node: Node) -> None:
    wait_until(lambda: node.status().verdict.state == "in_sync", "in sync")


def wait_held(redis: RedisServer, count: int) -> None:
    wait_until(lambda: redis.client.xlen("{p2p}:log") == count, f"{count} runs in the hub")


def test_two_nodes_that_only_the_hub_joins_have_one_log(redis: RedisServer, node: Any) -> None:
    one, two = node(hub=redis.url), node(hub=redis.url)
    one.commit("from one")
    two.commit("from two", topic="t")
    wait_equal(one, two, count=2)
    assert texts(one) == texts(two)
    late = node(hub=redis.url)
    wait_equal(one, two, late, count=2)
    for each in (one, two, late):
        [peer] = each.peers()
        assert (peer.name, peer.state, peer.address) == ("hub", "connected", redis.url)
        wait_in_sync(each)


def test_two_meshes_that_only_the_hub_joins_have_one_log(redis: RedisServer, node: Any) -> None:
    meshes = []
    for _ in range(2):
        first = node(hub=redis.url, target_links=8)
        second = node(hub=redis.url, peers=[first.address], target_links=8)
        meshes += [first, second, node(peers=[first.address], target_links=8)]
    for number, each in enumerate(meshes):
        for text in range(50):
            each.commit(f"{number} {text}")
    wait_equal(*meshes, count=300)
    assert len({tuple(texts(each)) for each in meshes}) == 1
    assert len(redis.client.hgetall("{p2p}:have")) == 7  # six origins, and the hub's id


def test_a_hub_that_was_emptied_gets_all_again(redis: RedisServer, node: Any) -> None:
    one, two = node(hub=redis.url), node(hub=redis.url)
    one.commit("before")
    wait_equal(one, two, count=1)
    redis.client.flushall()
    two.commit("after")
    wait_equal(one, two, count=2)
    late = node(hub=redis.url)
    wait_equal(one, two, late, count=2)


def test_a_hub_that_restarts_without_its_data_gets_all_again(redis: RedisServer, node: Any) -> None:
    one, two = node(hub=redis.url), node(hub=redis.url)
    one.commit("before")
    wait_equal(one, two, count=1)
    redis.kill()
    one.commit("meanwhile")
    wait_until(lambda: one.peers()[0].state != "connected", "the hub is missed")
    assert one.status().verdict.unreachable
    redis.start()
    wait_equal(one, two, count=2)
    assert not one.status().forks


def test_what_was_erased_is_erased_in_the_hub(redis: RedisServer, node: Any) -> None:
    one, two = node(hub=redis.url, hub_messages=True), node(hub=redis.url, hub_messages=True)
    ids = [one.commit(f"a secret {number}").id for number in range(3)]
    wait_equal(one, two, count=3)
    two.erase(ids[1])

    def gone() -> bool:
        held = redis.client.xrange("{p2p}:log") + redis.client.xrange("{p2p}:messages")
        return "a secret 1" not in str(held)

    wait_until(gone, "the text is gone")
    wait_until(lambda: "a secret 1" not in texts(one), "it is erased there, too")
    late = node(hub=redis.url)
    wait_until(lambda: len(texts(late)) == 3, "three messages")
    assert sorted(texts(late)) == ["", "a secret 0", "a secret 2"]


def test_a_trimmed_log_begins_at_a_floor(redis: RedisServer, node: Any) -> None:
    with Node(0, hub=redis.url, target_links=0) as one:
        for number in range(10):
            one.commit(str(number))
            wait_held(redis, number + 1)
    redis.client.xtrim("{p2p}:log", 4, approximate=False)
    late = node(hub=redis.url)
    wait_until(lambda: len(texts(late)) == 4, "what is left")
    assert texts(late) == ["6", "7", "8", "9"]
    assert any("missed 6 messages" in event.text for event in late.events().events)


def test_programs_commit_through_the_hub_and_read_from_it(redis: RedisServer, node: Any) -> None:
    one, two = node(hub=redis.url, hub_messages=True), node(hub=redis.url, hub_messages=True)
    add = redis.client.xadd
    for number in range(20):
        add("{p2p}:in", {"data": f"by a program {number}", "topic": "deploy"})
    for _ in range(3):
        add("{p2p}:in", {"data": "once", "key": "k1"})
    add("{p2p}:in", {"nothing": "here"})
    wait_equal(one, two, count=21)
    assert texts(one).count("once") == 1
    wait_until(lambda: redis.client.xlen("{p2p}:messages") == 21, "all are there for programs")
    shown = [fields for _, fields in redis.client.xrange("{p2p}:messages")]
    assert {fields[b"data"].decode() for fields in shown} == set(texts(one))
    assert shown[0].keys() == {b"id", b"origin", b"seq", b"time", b"topic", b"data"}
    wait_until(lambda: not redis.client.xpending("{p2p}:in", "p2p-sync")["pending"], "all are done")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (("set", "{p2p}:have", "x"), "holds something else"),
        (("xadd", "{p2p}:log", "*", "a", "b"), "is not of this program"),
        (("acl", "setuser", "default", "-evalsha"), "may not do what a node does"),
        (("config", "set", "requirepass", "other"), "refuses the user and the password"),
    ],
)
def test_a_hub_that_cannot_be_used_says_what_to_do(
    redis: RedisServer, node: Any, prepare: tuple[str, ...], says: str
) -> None:
    redis.client.execute_command(*prepare)
    one = node(hub=redis.url)
    one.commit("kept here")
    wait_until(lambda: says in one.peers()[0].last_error, f"{says}: {one.peers()[0]}")
    assert texts(one) == ["kept here"]


def test_no_password_is_shown(tmp_path: Path, node: Any, caplog: Any) -> None:
    with RedisServer(tmp_path / "redis", "--requirepass", "hush-hush") as redis:
        url = redis.url.replace("redis://", "redis://:hush-hush@")
        one, two = node(hub=url), node(hub=url)
        one.commit("hello")
        wait_equal(one, two, count=1)
        redis.kill()
        wait_until(lambda: one.peers()[0].state != "connected", "the hub is missed")
        shown = f"{one.status()} {one.peers()} {one.events()} {caplog.text}"
    assert "hush" not in shown


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_three_histories_that_meet_in_the_hub_become_branches(
    redis: RedisServer, node: Any, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Each node has another continuation of one origin, signed by its node."""
    liar = next(identities)
    nodes = []
    for number in order:
        data_dir = tmp_path / str(number)
        with Node(0, data_dir) as one:
            give(one, liar, *history(liar, 2, f"history {number}", 2 + number, 7))
        nodes.append(node(hub=redis.url, data_dir=data_dir))
        wait_linked(nodes[-1])
    wait_until(lambda: len({one.status().messages.digest for one in nodes}) == 1, "equal digests")
    wait_equal(*nodes, count=2 + 2 + 3 + 4)
    late = node(hub=redis.url)
    wait_equal(*nodes, late, count=2 + 2 + 3 + 4)
    for one in (*nodes, late):
        wait_until(partial(has_no_dispute, one), "no dispute")
        assert [fork.after for fork in one.status().forks] == [2, 2]


def wait_linked(node: Node) -> None:
    wait_until(lambda: node.peers() and node.peers()[0].state == "connected", "the hub is linked")
