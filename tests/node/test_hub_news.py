"""What a hub tells the nodes that wait, whoever else writes there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, cast

import pytest

from p2p_sync.core.replica import Replica
from p2p_sync.errors import LinkClosed
from p2p_sync.net import redis as net_redis
from p2p_sync.net.redis import HubLog
from p2p_sync.node.hub import HubLink
from p2p_sync.settings import FIRST_RTT
from p2p_sync.urls import parse_hub
from p2p_sync.wire.cutoffs import NO_HISTORY, cutoff_of
from p2p_sync.wire.entries import Entry, Erasure, chain
from p2p_sync.wire.frames import encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import Have, PackedRun, Run, messages_to_json
from p2p_sync.wire.signing import sign
from tests.harness.library import texts
from tests.harness.redis import RedisServer, wait_held, wait_linked, wait_same
from tests.harness.support import wait_until

LAST = "18446744073709551615-18446744073709551615"
"""The last place in a stream."""


@contextmanager
def hub_log(redis: RedisServer) -> Iterator[HubLog]:
    with closing(HubLog(parse_hub(redis.url), "{p2p}", False)) as log:
        yield log


def history(identity: Identity, count: int) -> list[Run]:
    """Runs of one message each."""
    name, previous, runs = f"{identity.node}-1", "", []
    for n in range(count):
        entry = Entry.of(int(time.time() * 1000) + n, [f"a secret {n}"])
        hashes = chain(previous, [entry])
        signature = sign(identity, name, n + 1, hashes[0])
        runs.append(Run(name, n, previous, (entry,), hashes, signature))
        previous = hashes[0]
    return runs


def test_what_others_add_to_the_news_is_not_taken_for_lost_news(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net_redis, "HUB_WAIT", 0.01)
    first, second = history(Identity.new(), 2)
    with hub_log(redis) as log:
        log.ship([first])
        _, place = log.have()
        redis.client.xadd("{p2p}:news", {"any": "thing"})
        for _ in range(3):
            changes, place, _ = log.news(place, b"0")
            assert not changes
        log.ship([second])
        [(origin, head)], place, _ = log.news(place, b"0")
        assert (origin, head) == (second.origin, second.head)
        redis.client.xtrim("{p2p}:news", 0, approximate=False)
        log.news(place, b"0")  # it has read these
        log.ship(history(Identity.new(), 1))
        redis.client.xtrim("{p2p}:news", 0, approximate=False)
        with pytest.raises(LinkClosed, match="news of the hub are lost"):
            log.news(place, b"0")


def test_a_cutoff_that_another_node_brings_does_not_end_the_link(
    redis: RedisServer, start: Any
) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("before")
    wait_same(one, two, count=1)
    identity, now = Identity.new(), int(time.time() * 1000)
    name = cutoff_of(identity.node)
    with hub_log(redis) as log:
        log.ship([Run(name, now, NO_HISTORY, (), (), sign(identity, name, now, NO_HISTORY))])
    one.commit("after")
    wait_same(one, two, count=2)
    assert not any("disconnected" in event.text for event in one.events().events)


def test_a_run_stays_in_the_log_where_it_cannot_be_erased_in_the_news(redis: RedisServer) -> None:
    [run] = history(Identity.new(), 1)
    with hub_log(redis) as log:
        log.ship([run])
        redis.client.delete("{p2p}:news")
        redis.client.set("{p2p}:news", "x")
        with pytest.raises(LinkClosed, match="holds something else"):
            log.erase(run.origin, Erasure(1, run.origin, 1, run.hash, 1, run.signature))
    assert redis.client.xlen("{p2p}:log") == redis.client.zcard(f"{{p2p}}:index:{run.origin}") == 1


def test_programs_get_what_the_log_has_where_there_is_no_room_for_news(
    redis: RedisServer, start: Any
) -> None:
    one = start(hub=redis.url, hub_messages=True)
    wait_linked(one)
    redis.client.xadd("{p2p}:news", {"any": "thing"}, id=LAST)
    one.commit("text")
    wait_held(redis, 1)
    wait_until(lambda: redis.client.xlen("{p2p}:messages") == 1, "it is there for programs")
    assert texts(one) == ["text"]


class Told:
    """In the place of a session: keeps nothing of what the hub's end of a link tells its node."""

    def received(self, link: HubLink, text: str) -> bool:
        return True


@contextmanager
def hub_link(redis: RedisServer) -> Iterator[HubLink]:
    """The hub's end of a link, without threads: the test does what they would do, in its order."""
    with hub_log(redis) as log:
        state = cast("Any", type("State", (), {"log": None}))
        link = HubLink(log, cast("Any", Told()), "hub", Identity.new(), state, 1000)
        heads, _ = log.have()
        link._replica = Replica("0" * 32 + "-1", heads, random.Random(), 1000)
        link._link = link._replica.open(link._me.node, FIRST_RTT, time.monotonic())
        yield link


def asked_after(link: HubLink, name: str) -> float:
    """Return how many seconds later, at the latest, the hub's end asks its node for an origin."""
    replica, now = link._replica, time.monotonic()
    for step in range(400):
        replica.catch_up.tick(now + step / 4)
        if replica.catch_up.gaps[name].asked:
            return step / 4
    return 100.0


def take(link: HubLink, runs: Sequence[Run]) -> None:
    """The node of a link ships runs."""
    link._take(messages_to_json(map(PackedRun.of, runs), {}, False))


def test_a_node_that_ships_once_more_than_it_should_takes_over_as_soon(
    redis: RedisServer,
) -> None:
    """What it shipped was on its way as it was told that another one ships."""
    first, second, third, last = history(Identity.new(), 4)
    with hub_link(redis) as one, hub_link(redis) as two:
        take(one, [first])
        two._grow([(first.origin, first.head)])
        two._link.pruned.clear()  # as if it were new: both ship
        take(two, [second])
        one._grow([(second.origin, second.head)])
        take(one, [third])
        two._grow([(third.origin, third.head)])
        one._take(encode(Have({last.origin: last.head})))
        assert asked_after(one, last.origin) < 5
