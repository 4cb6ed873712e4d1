"""What a program with access to Redis can and cannot do: each sentence of docs/hub.md on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from p2p_sync.wire.entries import Entry, chain, encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.signing import sign
from tests.harness.library import texts
from tests.harness.redis import RedisServer, tell, wait_held, wait_linked, wait_same
from tests.harness.support import holds, wait_until

FOREIGN = Identity.of_seed(b"a program with access to Redis..")


def put(redis: RedisServer, origin: str, signer: Identity, forged: Sequence[str]) -> None:
    """Write messages of an origin into the hub as its nodes do, behind those that are there."""
    client = redis.client
    n, running = (client.hget("{p2p}:have", origin) or b"0 ").decode().split(" ")[:2]
    entries = [Entry(1, text) for text in forged]
    end, hashes = int(n) + len(entries), chain(running, entries)
    signature = sign(signer, origin, end, hashes[-1])
    fields = {"origin": origin, "after": n, "previous": running, "signature": signature}
    fields["entries"] = ",".join(entry.pack() for entry in entries)
    place = client.xadd("{p2p}:log", fields)
    client.zadd(f"{{p2p}}:index:{origin}", {place: n})
    head = f"{end} {hashes[-1]} {signature}"
    client.hset("{p2p}:have", origin, head)
    tell(redis, origin, head)


def changed(redis: RedisServer, text: str, other: str) -> None:
    """Change a text in the log of the hub, and leave all else as it is."""
    client = redis.client
    for place, fields in client.xrange("{p2p}:log"):
        if text in fields[b"entries"].decode():
            fields[b"entries"] = fields[b"entries"].replace(text.encode(), other.encode())
            index = f"{{p2p}}:index:{fields[b'origin'].decode()}"
            client.zadd(index, {client.xadd("{p2p}:log", fields): int(fields[b"after"])})
            client.zrem(index, place)
            client.xdel("{p2p}:log", place)


def reported(node: Any, text: str) -> None:
    """Wait until the peer list, and an event, say it."""
    wait_until(
        lambda: text in str(node.peers()) and text in str(node.events()),
        lambda: f"{text}: {node.peers()} {node.events()}",
    )


def test_it_reads_all_messages(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url, secret="a secret of the network")
    one.commit("not encrypted")
    wait_held(redis, 1)
    everything = str(redis.client.xrange("{p2p}:log"))
    assert "not encrypted" in everything
    for key in redis.client.scan_iter():
        everything += str(redis.client.dump(key))
    assert "a secret of the network" not in everything


def test_it_can_run_a_node_which_the_secret_does_not_keep_out(
    redis: RedisServer, start: Any
) -> None:
    one = start(hub=redis.url, secret="a secret of the network")
    other = start(hub=redis.url, secret="another secret, by which it gets no link")
    other.commit("from another network")
    wait_same(one, other, count=1)


@pytest.mark.parametrize("is_known", [True, False])
def test_it_cannot_commit_as_a_node(redis: RedisServer, start: Any, is_known: bool) -> None:
    """Behind the messages of a node, or in a new origin of it: the signature is not the node's."""
    one = start(hub=redis.url)
    message = one.commit("genuine")
    wait_held(redis, 1)
    origin = message.origin if is_known else f"{one.status().node.id}-9"
    put(redis, origin, FOREIGN, ["forged"])
    reported(one, "has not signed")
    late = start(hub=redis.url)
    reported(late, "has not signed")
    holds(lambda: "forged" not in texts(one) + texts(late), "it is refused")
    assert texts(one) == ["genuine"]


def test_it_cannot_change_a_message(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    one.commit("pay 10")
    wait_held(redis, 1)
    changed(redis, "pay 10", "pay 99")
    late = start(hub=redis.url)
    reported(late, "has not signed")
    holds(lambda: "pay 99" not in texts(one) + texts(late), "it is refused")
    assert texts(one) == ["pay 10"]


def test_a_run_that_is_none_is_refused_and_no_failure_of_the_node(
    redis: RedisServer, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = start(hub=redis.url)
    one.commit("pay 10")
    wait_held(redis, 1)
    changed(redis, '"pay 10"', '["pay 10"]')
    late = start(hub=redis.url)
    reported(late, "it broke the protocol")
    assert "Traceback" not in caplog.text and not texts(late)


def test_it_can_erase_the_hub_and_nothing_is_lost(redis: RedisServer, start: Any) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    for number in range(20):
        (one, two)[number % 2].commit(f"{number}")
    wait_same(one, two, count=20)
    redis.client.delete(*redis.client.keys("{p2p}:*"))
    late = start(hub=redis.url)
    wait_same(one, two, late, count=20)


@pytest.mark.parametrize("key", ["have", "log", "news", "in", "index"])
def test_it_can_delete_a_key_and_nothing_is_lost(redis: RedisServer, start: Any, key: str) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    message = one.commit("before")
    wait_same(one, two, count=1)
    redis.client.delete(f"{{p2p}}:index:{message.origin}" if key == "index" else f"{{p2p}}:{key}")
    one.commit("after")
    wait_same(one, two, count=2)
    redis.client.xadd("{p2p}:in", {"data": "by a program"})
    wait_same(one, two, count=3)


@pytest.mark.parametrize("value", ["x", "9 " + "0" * 32 + " " + "0" * 192, "0", "-1  "])
def test_it_can_write_to_have_and_nothing_is_lost(
    redis: RedisServer, start: Any, value: str
) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    message = one.commit("before")
    wait_same(one, two, count=1)
    redis.client.hset("{p2p}:have", message.origin, value)
    tell(redis, message.origin, value)
    one.commit("goes on")
    wait_until(lambda: texts(one) == ["before", "goes on"], "the node goes on")
    redis.client.flushall()
    wait_same(one, two, count=2, timeout=30)


def test_what_it_adds_is_committed_as_a_node_s_own(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    wait_linked(one)
    redis.client.xadd("{p2p}:in", {"data": "by a program"})
    wait_same(one, count=1)
    [message] = one.messages()
    assert message.origin.startswith(one.status().node.id)


def test_it_fills_streams_with_anything_and_nodes_go_on(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    wait_linked(one)
    redis.client.xadd("{p2p}:news", {"any": "thing"})
    tell(redis, b"\xff\x00", b"\xff")
    tell(redis, "no origin", f"3 {'0' * 32} {'0' * 192}")
    redis.client.xadd("{p2p}:log", {"any": "thing"})
    redis.client.hset("{p2p}:have", b"\xff", b"\xff")
    redis.client.hset("{p2p}:have", "no origin", f"3 {'0' * 32} {'0' * 192}")
    redis.client.xadd("{p2p}:in", {"data": b"\xff", "topic": "\n", "key": "\n"})
    redis.client.xadd("{p2p}:in", {"data": encode("fits")})
    wait_until(lambda: texts(one) == ['"fits"'], lambda: (texts(one), one.peers()))
    one.commit("goes on")
    assert "Traceback" not in str(one.events())


def test_a_user_of_its_own_adds_and_reads_and_nothing_else(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url, hub_messages=True)
    wait_linked(one)
    rules = ["on", ">pw", "~{p2p}:messages", "~{p2p}:in", "+@read", "+@write", "+@connection"]
    redis.client.execute_command("ACL", "SETUSER", "program", *rules)
    other = type(redis.client)("127.0.0.1", redis.port, username="program", password="pw")
    with closing(other):
        other.xadd("{p2p}:in", {"data": "by a program"})
        wait_until(lambda: other.xlen("{p2p}:messages") == 1, "it is there for programs")
        with pytest.raises(Exception, match="permission"):
            other.hset("{p2p}:have", "id", "x")
