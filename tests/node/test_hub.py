"""A hub: nodes that share a log through a Redis server, and nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import InputError, Node
from p2p_sync.net.redis import HubLog
from p2p_sync.urls import parse_hub
from tests.harness.library import texts
from tests.harness.member import identities
from tests.harness.redis import (
    RedisServer,
    streams,
    tell,
    wait_held,
    wait_in_sync,
    wait_linked,
    wait_same,
)
from tests.harness.support import silent_listener, wait_until
from tests.node.test_forks import give, has_no_dispute, history


def test_two_nodes_that_only_the_hub_joins_have_one_log(redis: RedisServer, start: Any) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("from one")
    two.commit("from two", topic="t")
    wait_same(one, two, count=2)
    assert texts(one) == texts(two)
    late = start(hub=redis.url)
    wait_same(one, two, late, count=2)
    for each in (one, two, late):
        [peer] = each.peers()
        assert (peer.name, peer.state, peer.address) == ("hub", "connected", redis.url)
        wait_in_sync(each)


def test_two_meshes_that_only_the_hub_joins_have_one_log(redis: RedisServer, start: Any) -> None:
    meshes = []
    for _ in range(2):
        first = start(hub=redis.url, target_links=8)
        second = start(hub=redis.url, peers=[first.address], target_links=8)
        meshes += [first, second, start(peers=[first.address], target_links=8)]
    for number, each in enumerate(meshes):
        for text in range(50):
            each.commit(f"{number} {text}")
    wait_same(*meshes, count=300)
    assert len({tuple(texts(each)) for each in meshes}) == 1
    assert redis.client.hlen("{p2p}:have") == 8, "six origins, an id, and a place in the news"


def test_if_the_node_that_ships_to_the_hub_dies_another_one_does(
    redis: RedisServer, start: Any
) -> None:
    """Of two nodes with the hub, one ships what a third one commits, and the other need not."""
    third = start(target_links=8)
    settings = {"hub": redis.url, "peers": [third.address], "target_links": 8}
    count = 0

    def commit() -> None:
        nonlocal count
        count += 1
        head = f"{count} ".encode()
        origin = third.commit(f"{count}").origin
        held = partial(redis.client.hget, "{p2p}:have", origin)
        wait_until(lambda: (held() or b"").startswith(head), lambda: f"{count}: {held()}")

    last = start(**settings)
    wait_linked(last)
    for _ in range(3):
        other = start(**settings)
        wait_until(partial(knows_all, other), "the other one is ready")
        for _ in range(10):
            commit()
        last.stop()
        for _ in range(3):
            commit()
        last = other


def knows_all(node: Node) -> bool:
    return node.status().verdict.state == "in_sync" and len(node.peers()) == 3


def test_a_hub_that_was_emptied_gets_all_again(redis: RedisServer, start: Any) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("before")
    wait_same(one, two, count=1)
    redis.client.flushall()
    two.commit("after")
    wait_same(one, two, count=2)
    late = start(hub=redis.url)
    wait_same(one, two, late, count=2)


def test_a_hub_that_restarts_without_its_data_gets_all_again(
    redis: RedisServer, start: Any
) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("before")
    wait_same(one, two, count=1)
    redis.kill()
    one.commit("meanwhile")
    wait_until(lambda: one.peers()[0].state != "connected", "the hub is missed")
    assert one.status().verdict.unreachable
    redis.start()
    wait_same(one, two, count=2)
    assert not one.status().forks


def test_what_was_erased_is_erased_in_the_hub(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url, hub_messages=True)
    ids = [one.commit(f"a secret {number}").id for number in range(5)]
    ids += [message.id for message in one.commit_all(["a secret 5", "a secret 6"])]
    wait_until(lambda: redis.client.xlen("{p2p}:messages") == 7, "all are in the hub")
    two = start(hub=redis.url, hub_messages=True)  # gets several runs of the hub as one
    wait_same(one, two, count=7)

    def wait_gone(text: str) -> None:
        wait_until(lambda: text not in streams(redis), lambda: f"it is gone: {streams(redis)}")
        wait_until(lambda: text not in texts(one) + texts(two), "also in the nodes")

    for each, number in ((two, 1), (one, 5), (two, 6)):
        each.erase(ids[number])
        wait_gone(f"a secret {number}")
    late = start(hub=redis.url)
    wait_until(lambda: len(texts(late)) == 7, "seven messages")
    left = [f"a secret {number}" for number in (0, 2, 3, 4)]
    assert [text for text in texts(late) if text] == left


def test_what_is_erased_at_one_time_by_several_nodes_is_erased_in_the_hub(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two erase messages of one run; each has read it before the other one has changed it."""
    one, two = start(hub=redis.url), start(hub=redis.url)
    ids = [message.id for message in one.commit_all([f"a secret {n}" for n in range(3)])]
    wait_same(one, two, count=3)
    wait_held(redis, 1)
    both, runs, met = threading.Barrier(2, timeout=10), HubLog._runs, threading.local()

    def meeting(self: HubLog, *rest: Any) -> Any:
        found = runs(self, *rest)
        if rest[1] == rest[2] and not getattr(met, "once", False):
            met.once = True
            both.wait()
        return found

    monkeypatch.setattr(HubLog, "_runs", meeting)
    one.erase(ids[0])
    two.erase(ids[2])
    wait_held(redis, 3)
    held = streams(redis)
    assert "a secret 1" in held and "a secret 0" not in held and "a secret 2" not in held


def test_a_run_that_moves_while_it_is_read_is_not_taken_for_deleted(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start(hub=redis.url)
    messages = [one.commit(f"text {n}") for n in range(100)]
    origin = messages[0].origin
    wait_until(lambda: (redis.client.hget("{p2p}:have", origin) or b"").startswith(b"100 "), "all")
    log = HubLog(parse_hub(redis.url), "{p2p}", False)

    def erase_all() -> None:
        for message in messages:
            one.erase(message.id)

    def read() -> bool:
        return not any("text" in log.read(origin, n, 100, 1000)[0].text for n in (0, 99))

    eraser = threading.Thread(target=erase_all)
    eraser.start()
    wait_until(read, "all are erased")
    eraser.join()
    log.close()


def test_what_was_erased_is_erased_in_a_hub_that_has_lost_its_heads(
    redis: RedisServer, start: Any
) -> None:
    one = start(hub=redis.url)
    message = one.commit("a secret")
    wait_held(redis, 1)
    redis.client.delete("{p2p}:have")
    wait_until(lambda: redis.client.hlen("{p2p}:have") == 3, "it gets all again")
    wait_held(redis, 1)
    one.erase(message.id)
    wait_held(redis, 2)
    assert "a secret" not in streams(redis)


def test_a_text_whose_place_in_the_log_was_trimmed_is_erased_in_the_news(
    redis: RedisServer, start: Any
) -> None:
    one = start(hub=redis.url)
    message = one.commit("a secret")
    wait_held(redis, 1)
    redis.client.xtrim("{p2p}:log", 0, approximate=False)
    assert "a secret" in streams(redis), "short runs come with their news"
    one.erase(message.id)
    wait_until(lambda: "a secret" not in streams(redis), lambda: streams(redis))


def test_news_that_find_their_place_taken_come_without_their_run(
    redis: RedisServer, start: Any
) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("before")
    wait_same(one, two, count=1)
    redis.client.xadd("{p2p}:news", {"any": "thing"}, id=f"{int(time.time() * 1000) + 3600_000}-0")
    message = one.commit("a secret")
    wait_same(one, two, count=2, timeout=30)
    assert "a secret" not in str(redis.client.xrange("{p2p}:news"))
    one.erase(message.id)
    wait_until(lambda: "a secret" not in streams(redis), lambda: streams(redis))


def test_a_text_that_comes_to_the_hub_after_its_notice_is_erased_there(
    redis: RedisServer, start: Any
) -> None:
    """Its node has sent it before it knew the notice, and the one with the notice looked before."""
    client, log = redis.client, "{p2p}:log"
    one = start(hub=redis.url)
    message = one.commit("a secret")
    wait_held(redis, 1)
    [(_, fields)] = client.xrange(log)
    one.erase(message.id)
    wait_held(redis, 2)
    one.stop()
    index = f"{{p2p}}:index:{message.origin}"
    [place] = client.zrangebyscore(index, 0, 0)
    client.xdel(log, place)
    client.zrem(index, place)
    client.zadd(index, {client.xadd(log, fields): 0})
    assert "a secret" in str(client.xrange(log))
    late = start(hub=redis.url)
    wait_until(lambda: "a secret" not in streams(redis), "it is erased in the hub")
    assert "a secret" not in texts(late)


def test_a_node_that_has_lost_news_compares_again(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of news is bounded: a node that was slow does not get them all."""
    news, go_on = HubLog.news, threading.Event()

    def waiting(self: HubLog, *rest: Any) -> Any:
        go_on.wait(20)
        return news(self, *rest)

    one = start(hub=redis.url)
    one.commit("known")
    wait_held(redis, 1)
    monkeypatch.setattr(HubLog, "news", waiting)
    late = start(hub=redis.url)
    wait_same(one, late, count=1)
    one.commit("in news that are trimmed")
    wait_held(redis, 2)
    redis.client.xtrim("{p2p}:news", 0, approximate=False)
    tell(redis, "another", "", before="1-1")
    go_on.set()
    wait_same(one, late, count=2)


def test_a_trimmed_log_begins_at_a_floor(redis: RedisServer, start: Any) -> None:
    with Node(0, hub=redis.url, target_links=0) as one:
        for number in range(10):
            one.commit(str(number))
            wait_held(redis, number + 1)
    redis.client.xtrim("{p2p}:log", 4, approximate=False)
    late = start(hub=redis.url)
    wait_until(lambda: len(texts(late)) == 4, "what is left")
    assert texts(late) == ["6", "7", "8", "9"]
    assert any("missed 6 messages" in event.text for event in late.events().events)


def test_a_late_node_gets_what_is_left_of_a_log_that_was_trimmed_much(
    redis: RedisServer, start: Any
) -> None:
    one = start(hub=redis.url, target_links=0)
    wait_linked(one)
    for number in range(200):
        one.commit(str(number))
        wait_held(redis, number + 1)
    redis.client.xtrim("{p2p}:log", 50, approximate=False)
    one.stop()
    late = start(hub=redis.url)
    wait_until(lambda: texts(late) == [*map(str, range(150, 200))], lambda: texts(late))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (("set", "{p2p}:have", "x"), "holds something else"),
        (("xadd", "{p2p}:log", "*", "a", "b"), "is not of this program"),
        (("acl", "setuser", "default", "-evalsha"), "may not do what a node does"),
        (("config", "set", "requirepass", "other"), "wants a password, and its address has none"),
    ],
)
def test_a_hub_that_cannot_be_used_says_what_to_do(
    redis: RedisServer, start: Any, prepare: tuple[str, ...], says: str
) -> None:
    redis.client.execute_command(*prepare)
    one = start(hub=redis.url)
    one.commit("kept here")
    wait_until(lambda: says in one.peers()[0].last_error, f"{says}: {one.peers()[0]}")
    assert texts(one) == ["kept here"]


def test_an_address_that_is_wrong_says_what_to_do(redis: RedisServer, start: Any) -> None:
    url = redis.url.replace("//", "//:right@")
    with silent_listener() as (_, other):
        said = {
            redis.url.replace("//", "//:wrong@"): "refuses the user and the password",
            url.replace("/0", "/99"): "no database of this number",
            redis.url.replace("redis:", "rediss:"): "TLS",
            f"redis://127.0.0.1:{other.getsockname()[1]}/0": "is it the port of Redis?",
            "redis://127.0.0.1:1/0": "does Redis run, and are host and port right?",
            "redis://no-such-host.invalid:6379/0": "does Redis run, and are host and port right?",
            url.replace("redis:", "redis+sentinel:").replace(
                "/0", "/main/0"
            ): "does not fit the server",
            url.replace("redis:", "redis+cluster:").replace("/0", ""): "is no cluster",
        }
        redis.client.config_set("requirepass", "right")
        nodes = {says: start(hub=url) for url, says in said.items()}
        for says, one in nodes.items():
            wait_until(partial(is_said, one, says), f"{says}: {one.peers()[0]}")


def is_said(node: Node, text: str) -> bool:
    return text in node.peers()[0].last_error


def test_a_hub_is_not_a_node_that_can_be_added(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    wait_linked(one)
    with pytest.raises(InputError, match="start a node with it as its hub"):
        one.connect(redis.url)
    key = one.connect(redis.url.replace("redis:", "http:").removesuffix("/0"))
    wait_until(lambda: any(peer.key == key and peer.attempts for peer in one.peers()), "it fails")
    assert [peer.addresses for peer in one.peers() if peer.key != key] == [[redis.url]]


def test_no_password_is_shown(tmp_path: Path, start: Any, caplog: Any) -> None:
    with RedisServer(tmp_path / "redis", "--requirepass", "hush-hush") as redis:
        url = redis.url.replace("redis://", "redis://:hush-hush@")
        one, two = start(hub=url), start(hub=url)
        one.commit("hello")
        wait_same(one, two, count=1)
        redis.kill()
        wait_until(lambda: one.peers()[0].state != "connected", "the hub is missed")
        shown = f"{one.status()} {one.peers()} {one.events()} {caplog.text}"
    assert "hush" not in shown


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_three_histories_that_meet_in_the_hub_become_branches(
    redis: RedisServer, start: Any, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Each node has another continuation of one origin, signed by its node."""
    liar = next(identities)
    nodes = []
    for number in order:
        data_dir = tmp_path / str(number)
        with Node(0, data_dir) as one:
            give(one, liar, *history(liar, 2, f"history {number}", 2 + number, 7))
        nodes.append(start(hub=redis.url, data_dir=data_dir))
        wait_linked(nodes[-1])
    wait_until(lambda: len({one.status().messages.digest for one in nodes}) == 1, "equal digests")
    wait_same(*nodes, count=2 + 2 + 3 + 4)
    late = start(hub=redis.url)
    wait_same(*nodes, late, count=2 + 2 + 3 + 4)
    for one in (*nodes, late):
        wait_until(partial(has_no_dispute, one), "no dispute")
        assert [fork.after for fork in one.status().forks] == [2, 2]
