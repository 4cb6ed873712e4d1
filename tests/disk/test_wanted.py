"""Filters in the log: each order holds the wanted messages once, and a page looks at few others."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from p2p_sync import settings
from p2p_sync.disk.log import Log
from p2p_sync.disk.pages import BEGINNING
from p2p_sync.disk.store import Store
from p2p_sync.disk.wanted import ALL, Place, Wanted
from p2p_sync.wire.entries import Entry
from p2p_sync.wire.frames import Message
from tests.disk.test_log import LARGE, A, B, C, Feed, opened, work_of
from tests.harness.support import SCALE

A2 = f"{'a' * 32}-2"
NEAR = f"{'a' * 31}b-1"  # only its whole id tells this node from A
FILTERS = [
    Wanted(node="a" * 32),
    Wanted(node="aaaa"),
    Wanted(node="b" * 8),
    Wanted(node="dddd"),
    Wanted(since=20),
    Wanted(until=20),
    Wanted("x", since=10, until=30),
    Wanted("x", "aaaa"),
    Wanted("x", "bbbb", 5, 35),
    Wanted(since=30, until=20),
]


def followed(log: Log, wanted: Wanted, limit: int) -> list[Message]:
    found: list[Message] = []
    after = 0
    while True:
        page = log.arrivals(after, limit, wanted=wanted)
        assert len(page) <= limit and (page.complete or page.upto > after)
        found += [message for _, message in page]
        after = page.upto
        if page.complete:
            assert after == log.last_arrival()
            return found


def forwards(log: Log, wanted: Wanted, limit: int) -> list[Message]:
    found: list[Message] = []
    place: Place = BEGINNING
    while True:
        page = log.ordered(place, limit, wanted)
        found += page
        assert len(page) <= limit and page.place and (page.complete or page.place > place)
        place = page.place
        if page.complete:
            return found


def backwards(log: Log, wanted: Wanted, limit: int, text: str = "") -> list[Message]:
    found: list[Message] = []
    place: Place | None = None
    while True:
        page = log.search(text, limit, place, wanted)
        found += page
        assert len(page) <= limit
        assert page.complete or (page.place and (place is None or page.place < place))
        place = page.place
        if page.complete:
            return found[::-1]


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("most", [2, 7, 20_000])
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_each_order_holds_the_wanted_messages_once(
    limit: int, most: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MAX_FILTERED", most)
    monkeypatch.setattr(settings, "FEW_ENTRIES", few)
    rng = random.Random(limit)
    feed = Feed()
    with opened() as (_, log):
        for _ in range(60):
            texts = [f"{rng.random()}" for _ in range(rng.choice([1, 1, 4]))]
            origin, topic = rng.choice([A, A2, NEAR, B, C]), rng.choice(["", "x", "y"])
            log.append([feed.run(origin, Entry.of(rng.randrange(40), texts, 0, topic))])
        for wanted in [ALL, *FILTERS]:
            arrived = [
                message
                for message in feed.messages
                if wanted.topic in ("", message.topic)
                and message.origin.startswith(wanted.node)
                and wanted.since <= message.time < wanted.until
            ]
            ordered = sorted(arrived, key=lambda message: message.order)
            assert followed(log, wanted, limit) == arrived
            assert forwards(log, wanted, limit) == list(log.all(wanted)) == ordered
            assert backwards(log, wanted, limit) == ordered
            assert backwards(log, wanted, limit, "0.1") == [m for m in ordered if "0.1" in m.data]


def test_a_page_knows_whether_there_is_more() -> None:
    feed = Feed()
    with opened() as (store, log):
        log.append([feed.run(A, Entry.of(1, ["one", "two"]), Entry(2, "three"))])
        for again in (log, Log(store)):  # from memory, and from the disk
            for limit in (1, 2, 3, 4):
                is_all = limit >= 3
                assert again.arrivals(0, limit).complete == is_all
                assert again.ordered(BEGINNING, limit).complete == is_all
                assert again.search("", limit).complete == is_all
            assert again.arrivals(3, 1).complete and again.arrivals(3, 1).upto == 3


RARE, COMMON = "c" * 32, "a" * 32
EVEN = LARGE // 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Log]]:
    """A log of 100,000 messages, an entry each: two of a rare node, the others of two nodes."""
    feed = Feed()
    with opened(tmp_path_factory.mktemp("large")) as (store, log):
        for first in range(0, LARGE, 1000):
            own = [n for n in range(first, first + 1000) if n in (7, EVEN + 1)]
            rest = [Entry(n, f"{n}", 0, 1, "t") for n in range(first, first + 1000) if n not in own]
            runs = [feed.run(C, *(Entry(n, f"{n}") for n in own))] if own else []
            log.append([*runs, feed.run(A if first % 2000 else B, *rest)])
            feed.messages.clear()
        yield store, log


MIDDLE = Wanted(since=EVEN, until=EVEN + 50)
QUICK: dict[str, Callable[[Log], object]] = {
    "a rare node, by arrival": lambda log: log.arrivals(0, 100, wanted=Wanted(node=RARE)),
    "the shared order": lambda log: log.ordered(BEGINNING, 100, Wanted(node=RARE[:4])),
    "back": lambda log: log.search("", 100, None, Wanted(node=RARE)),
    "its topic": lambda log: log.search("", 100, None, Wanted("t", RARE)),
    "a search": lambda log: log.search("7", 100, None, Wanted(node=RARE)),
    "nobody": lambda log: log.arrivals(0, 100, wanted=Wanted(node="dddd")),
    "a span of time": lambda log: log.ordered(BEGINNING, 100, MIDDLE),
    "a span of time, back": lambda log: log.search("", 100, None, MIDDLE),
    "a span of time of a topic": lambda log: log.search("", 100, None, MIDDLE._replace(topic="t")),
}
SLOW: dict[str, Callable[[Log], object]] = {
    "a node of many": lambda log: log.ordered((EVEN, A, 5), 20, Wanted(node=COMMON)),
    "times, by arrival": lambda log: log.arrivals(0, 100, wanted=Wanted(since=LARGE - 1)),
    "a topic that the node has not": lambda log: log.search("", 9, None, Wanted("no", COMMON)),
    "a time of a node": lambda log: log.arrivals(0, 9, wanted=Wanted("t", COMMON, LARGE)),
}  # fmt: skip


@pytest.mark.parametrize("what", QUICK)
def test_an_index_leads_to_a_rare_node_and_to_a_time(large: tuple[Store, Log], what: str) -> None:
    store, log = large
    assert work_of(store, lambda: QUICK[what](log)) < 60_000  # a whole log takes millions
    took: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        QUICK[what](log)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.02 * SCALE


@pytest.mark.parametrize("what", SLOW)
def test_what_no_index_leads_to_is_looked_for_in_a_part_of_the_log(
    large: tuple[Store, Log], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = large
    monkeypatch.setattr(settings, "MAX_FILTERED", 1000)
    assert work_of(store, lambda: SLOW[what](log)) < 100_000
