"""Topics in the log: each order holds the messages of one topic alone, and no others are read."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from p2p_sync.disk.wanted import Wanted
from p2p_sync.wire.entries import HEARD, Entry
from p2p_sync.wire.frames import Message
from tests.disk.test_log import LARGE, START, A, B, Feed, opened, work_of
from tests.harness.support import SCALE, wait_until

RARE, EVEN = "rare", LARGE // 2


def in_pages(log: Log, topic: str, limit: int) -> list[Message]:
    found: list[Message] = []
    place = START
    while page := log.ordered(place, limit, Wanted(topic)):
        found += page
        place = page[-1].order
    return found


def backwards(log: Log, topic: str, limit: int) -> list[Message]:
    found: list[Message] = []
    page = log.newest(limit, None, Wanted(topic))
    while page:
        found += page
        page = log.newest(limit, page[-1].order, Wanted(topic))
    return found[::-1]


def followed(log: Log, topic: str, limit: int) -> list[Message]:
    found: list[Message] = []
    after = 0
    while True:
        page = log.arrivals(after, limit, wanted=Wanted(topic))
        found += [message for _, message in page]
        after = page.upto
        if page.complete:
            assert after == log.last_arrival()
            return found


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_each_order_holds_the_messages_of_a_topic_once(limit: int) -> None:
    rng = random.Random(limit)
    feed = Feed()
    with opened() as (_, log):
        for _ in range(60):
            texts = [f"{rng.random()}" for _ in range(rng.choice([1, 1, 4]))]
            topic = rng.choice(["", "a", "b", "a/b"])
            log.append([feed.run(rng.choice([A, B]), Entry.of(rng.randrange(9), texts, 0, topic))])
        for topic in ("a", "b", "a/b", "none"):
            arrived = [message for message in feed.messages if message.topic == topic]
            ordered = sorted(arrived, key=lambda message: message.order)
            assert followed(log, topic, limit) == arrived
            assert in_pages(log, topic, limit) == list(log.all(Wanted(topic))) == ordered
            assert backwards(log, topic, limit) == ordered
            found = log.search("0.1", 1000, None, Wanted(topic))
            assert found.complete
            assert found[::-1] == [message for message in ordered if "0.1" in message.data]
        assert list(log.all()) == feed.sorted()


def test_a_page_of_a_topic_goes_up_to_what_has_arrived() -> None:
    """So the reader of a rare topic keeps a place that is not deleted soon."""
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, Entry(1, "one", 0, 1, "a"), *(Entry(2, "x") for _ in range(50)))])
        page = log.arrivals(0, 10, wanted=Wanted("a"))
        assert [number for number, _ in page] == [1] and page.upto == 51
        page = log.arrivals(0, 1, wanted=Wanted("a"))
        assert page.complete and page.upto == 51, "there is no more"
        assert log.arrivals(51, 10, wanted=Wanted("a")).upto == 51


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Log]]:
    """A log of 100,000 messages, an entry each: two have a rare topic, half a common one."""
    feed = Feed()
    with opened(tmp_path_factory.mktemp("large")) as (store, log):
        for first in range(0, LARGE, 1000):
            entries = []
            for n in range(first, first + 1000):
                topic = RARE if n in (7, EVEN + 1) else "common" if n % 2 == 0 else ""
                entries.append(Entry(n, f"{n}", 0, 1, topic))
            log.append([feed.run(A if first % 2000 else B, *entries)])
            feed.messages.clear()
        yield store, log


QUESTIONS: dict[str, Callable[[Log], object]] = {
    "by arrival": lambda log: log.arrivals(0, 100, wanted=Wanted(RARE)),
    "by arrival, from the middle on": lambda log: log.arrivals(EVEN, 100, wanted=Wanted(RARE)),
    "the shared order": lambda log: log.ordered(START, 100, Wanted(RARE)),
    "from the middle on": lambda log: log.ordered((EVEN, A, 5), 100, Wanted(RARE)),
    "all": lambda log: list(log.all(Wanted(RARE))),
    "the newest": lambda log: log.newest(200, None, Wanted(RARE)),
    "before the middle": lambda log: log.newest(200, (EVEN, A, 5), Wanted(RARE)),
    "a search": lambda log: log.search("7", 100, None, Wanted(RARE)),
    "a search for what is not there": lambda log: [log.search("no", 100, None, Wanted(RARE))],
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_rare_topic_is_found_by_its_index(large: tuple[Store, Log], what: str) -> None:
    store, log = large
    statements: list[str] = []
    with store.reading() as database:
        pass  # the connection of this thread
    database.set_trace_callback(statements.append)
    try:
        found = QUESTIONS[what](log)
    finally:
        database.set_trace_callback(None)
    assert found, "an empty page is no proof"
    assert work_of(store, lambda: QUESTIONS[what](log)) < 1_000
    (query, *_) = [text for text in statements if f"topic = '{RARE}'" in text]
    with store.reading() as database:
        plan = [str(row[3], "utf-8") if isinstance(row[3], bytes) else str(row[3])
                for row in database.execute(f"EXPLAIN QUERY PLAN {query}")]  # fmt: skip
    index = "topic_arrivals (topic=?" if "arrival >" in query else "by_topic (topic=?"
    assert any(f"SEARCH entries USING INDEX {index}" in step for step in plan), plan
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in plan), plan


def test_a_page_of_a_common_topic_takes_little_work(large: tuple[Store, Log]) -> None:
    store, log = large
    for page in (
        lambda: log.arrivals(EVEN, 100, wanted=Wanted("common")),
        lambda: log.ordered((EVEN, A, 5), 100, Wanted("common")),
        lambda: log.newest(100, None, Wanted("common")),
    ):
        assert work_of(store, page) < 20_000


def test_a_rare_topic_takes_a_few_milliseconds(large: tuple[Store, Log]) -> None:
    _, log = large
    for question in QUESTIONS.values():
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            question(log)
            took.append(time.perf_counter() - begun)
        assert min(took) < 0.005 * SCALE


def test_copies_and_notices_have_their_own_rules_in_a_topic() -> None:
    """A peer may have signed copies with a topic: one is shown, as without it."""
    feed = Feed()
    with opened() as (_, log):
        for origin in (A, B):
            log.append([feed.run(origin, Entry(5, "heard", HEARD, 1, "t"))])
        assert len(log.newest(9, None, Wanted("t"))) == len(log.ordered(START, 9, Wanted("t"))) == 1
        assert len(log.arrivals(0, 9, wanted=Wanted("t"))) == 1


@pytest.mark.parametrize("index", ["by_topic", "topic_arrivals"])
def test_an_index_of_topics_that_does_not_lead_to_a_message_is_made_again(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit finds it; nothing else would miss the message."""
    monkeypatch.setattr("p2p_sync.settings.MAX_CHECKED_BYTES", 0)  # it is not read at the start
    monkeypatch.setattr("p2p_sync.settings.AUDIT_DELAY", 0.0)
    monkeypatch.setattr("p2p_sync.settings.AUDIT_PAUSE", 0.01)
    with Node(0, tmp_path) as node:
        for n in range(20):
            node.commit(f"{n}", topic="t")
    with closing(sqlite3.connect(tmp_path / "node.db")) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (index,)
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((tmp_path / "node.db").read_bytes())
    page = data[(root - 1) * size : root * size]
    place = (root - 1) * size + page.rindex(b"t")  # the topic in one of its entries
    data[place] = ord("u")
    (tmp_path / "node.db").write_bytes(data)
    with Node(0, tmp_path) as node:
        wait_until(lambda: [m.data for m in node.messages("t")] == [f"{n}" for n in range(20)])
        wait_until(lambda: len(node.log.arrivals(0, 50, wanted=Wanted("t"))) == 20)
        assert node.messages("u") == []
