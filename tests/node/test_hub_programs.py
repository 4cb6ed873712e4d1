"""What programs read from a hub, and commit through it: each message once, whichever node dies."""

from __future__ import annotations

import random
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.errors import LinkClosed
from p2p_sync.net.redis import HubLog
from p2p_sync.urls import parse_hub
from tests.harness.api import check_logs, wait_equal
from tests.harness.library import texts
from tests.harness.members import Member
from tests.harness.redis import RedisServer, wait_held, wait_linked, wait_same
from tests.harness.support import SCALE, pause, wait_until
from tests.project.documents import README


def test_programs_commit_through_the_hub_and_read_from_it(redis: RedisServer, start: Any) -> None:
    one, two = start(hub=redis.url, hub_messages=True), start(hub=redis.url, hub_messages=True)
    add = redis.client.xadd
    for number in range(20):
        add("{p2p}:in", {"data": f"by a program {number}", "topic": "deploy"})
    for _ in range(3):
        add("{p2p}:in", {"data": "once", "key": "k1"})
    add("{p2p}:in", {"nothing": "here"})
    wait_same(one, two, count=21)
    assert texts(one).count("once") == 1
    wait_until(lambda: redis.client.xlen("{p2p}:messages") == 21, "all are there for programs")
    shown = [fields for _, fields in redis.client.xrange("{p2p}:messages")]
    assert {fields[b"data"].decode() for fields in shown} == set(texts(one))
    assert shown[0].keys() == {b"id", b"origin", b"seq", b"time", b"topic", b"data"}
    wait_until(lambda: not redis.client.xlen("{p2p}:in"), "all are done")
    assert not redis.client.xpending("{p2p}:in", "p2p-sync")["pending"]


def test_the_commands_of_the_readme_commit_and_read(redis: RedisServer, start: Any) -> None:
    reading, writing = (text for text in README.blocks("text") if text.startswith("redis-cli"))
    assert len(reading.splitlines()) == len(writing.splitlines()) == 5

    def run(line: str) -> str:
        words = shlex.split(line, comments=True)
        words[1:1] = ["-p", str(redis.port)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "ERR" not in done.stdout, done
        return done.stdout

    one = start(hub=redis.url, hub_messages=True)
    wait_linked(one)
    make, take, acknowledge, left, last = reading.splitlines()
    run(make)
    for line in writing.splitlines():
        run(line)
    committed = ["report of Monday", "web-3 deployed", "web-4 deployed"]
    wait_until(lambda: sorted(texts(one)) == committed, lambda: texts(one))
    wait_until(lambda: redis.client.xlen("{p2p}:messages") == 3, "they are there for programs")
    taken = run(take)
    assert texts(one)[0] in taken
    assert run(left).splitlines()[0] == "1"
    (place,) = re.findall(r"^(\d+-\d+)$", taken, re.M)
    assert run(acknowledge.replace("ID", place)).strip() == "1"
    assert run(left).splitlines()[0] == "0"
    assert all(text in run(last) for text in committed)


def test_what_a_dead_node_has_taken_another_one_commits(redis: RedisServer, start: Any) -> None:
    HubLog(parse_hub(redis.url), "{p2p}", False).close()  # makes the group
    for number in range(20):
        redis.client.xadd("{p2p}:in", {"data": f"{number}", "key": f"k{number}"})
    dead = HubLog(parse_hub(redis.url), "{p2p}", False)
    taken = dead.added("d" * 32)
    assert all(dead.is_first(f"k{number}", place) for number, (place, _) in enumerate(taken))
    dead.close()
    one, two = start(hub=redis.url), start(hub=redis.url)
    wait_same(one, two, count=20, timeout=30)
    assert sorted(texts(one), key=int) == [f"{number}" for number in range(20)]
    assert not redis.client.xlen("{p2p}:in")


def test_what_the_hub_could_not_take_in_is_not_acknowledged(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    wait_linked(one)
    redis.client.set("{p2p}:log", "something else")
    redis.client.xadd("{p2p}:in", {"data": "by a program"})
    says = "holds something else"
    wait_until(lambda: says in str(one.events()), lambda: one.events())
    redis.client.delete("{p2p}:log")
    wait_same(one, count=1)
    assert not redis.client.xlen("{p2p}:in")


@pytest.mark.parametrize("key", ["messages", "news", "log", "index"])
def test_what_one_stream_cannot_take_in_goes_to_none(
    redis: RedisServer, start: Any, key: str
) -> None:
    one = start(hub=redis.url, hub_messages=True)
    message = one.commit("before")
    wait_held(redis, 1)
    name = f"{{p2p}}:index:{message.origin}" if key == "index" else f"{{p2p}}:{key}"
    redis.client.rename(name, "kept")
    redis.client.set(name, "something else")
    one.commit("after")
    wait_until(lambda: "holds something else" in str(one.events()), lambda: one.events())
    redis.client.rename("kept", name)
    wait_held(redis, 2)
    shown = [fields[b"data"] for _, fields in redis.client.xrange("{p2p}:messages")]
    assert shown == [b"before", b"after"]


def test_what_was_taken_and_then_deleted_is_left_out(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 6.2 returns nothing in the place of such an entry."""
    added = type(redis.client).xautoclaim

    def older(*rest: Any, **named: Any) -> Any:
        place, entries, *others = added(*rest, **named)
        return [place, [(None, None), *entries], *others]

    monkeypatch.setattr(type(redis.client), "xautoclaim", older)
    one = start(hub=redis.url)
    redis.client.xadd("{p2p}:in", {"data": "by a program"})
    wait_same(one, count=1)
    assert not one.peers()[0].last_error


def test_nodes_that_take_what_others_have_taken_commit_it_once(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes are taken for dead at once, and are not."""
    monkeypatch.setattr("p2p_sync.net.redis.HUB_CLAIM", 0)
    nodes = [start(hub=redis.url) for _ in range(3)]
    for each in nodes:
        wait_linked(each)
    for number in range(300):
        redis.client.xadd("{p2p}:in", {"data": f"{number}"})
    wait_same(*nodes, count=300, timeout=30)
    assert sorted(texts(nodes[0]), key=int) == [f"{number}" for number in range(300)]


@pytest.mark.parametrize("is_done", [True, False])
def test_an_answer_that_is_lost_commits_nothing_twice(
    redis: RedisServer, start: Any, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """The link breaks as a node commits for a program: before the hub has it, or after that."""
    ship = HubLog.ship
    lost: list[Any] = []

    def breaking(self: HubLog, runs: Sequence[Any], *rest: Any) -> Any:
        if not runs or not rest or lost:
            return ship(self, runs, *rest)
        lost.append(ship(self, runs, *rest) if is_done else None)
        raise LinkClosed("the cable is cut")

    monkeypatch.setattr(HubLog, "ship", breaking)
    one, two = start(hub=redis.url), start(hub=redis.url)
    redis.client.xadd("{p2p}:in", {"data": "once", "key": "k"})
    wait_same(one, two, count=1, timeout=30)
    assert lost
    wait_until(lambda: not redis.client.xlen("{p2p}:in"), "it is done")
    redis.client.xadd("{p2p}:in", {"data": "another"})
    wait_same(one, two, count=2)
    assert sorted(texts(one)) == ["another", "once"]


def test_nodes_that_are_killed_while_they_commit_for_programs_commit_each_message_once(
    tmp_path: Path, redis: RedisServer
) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    with ExitStack() as stack:
        members = [Member(tmp_path / f"node{n}", "--hub", redis.url) for n in range(2)]
        for member in members:
            stack.callback(member.close)
            member.start(wait=True)
        added: list[str] = []
        for round in range(6):
            pipe = redis.client.pipeline()
            for number in range(100):
                added.append(f"{round}.{number}")
                for _ in range(1 + number % 2):  # half of them twice, with one key
                    pipe.xadd("{p2p}:in", {"data": added[-1], "key": f"key-{added[-1]}"})
            pipe.execute()
            pause(rng.uniform(0, 0.1))
            member = members[round % 2]
            member.stop(signal.SIGKILL)
            pause(rng.uniform(0, 0.1))
            member.start(wait=True)
        ports = [member.port for member in members]
        wait_equal(ports, len(added), 60 * SCALE)
        wait_until(lambda: not redis.client.xlen("{p2p}:in"), "all are done", 30 * SCALE)
        check_logs(ports, added, lambda: f"(seed {seed})")
