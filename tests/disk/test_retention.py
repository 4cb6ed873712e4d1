"""Retention on a real database: what goes, what stays, and what readers and senders see of it."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from itertools import chain as joined
from pathlib import Path

import pytest

from p2p_sync.disk.log import Log
from p2p_sync.disk.retention import Limits, used
from p2p_sync.disk.store import Store
from p2p_sync.errors import CursorGone, LogDeleted
from p2p_sync.wire.entries import HEARD, NOTICE, Entry, chain
from p2p_sync.wire.frames import Message
from p2p_sync.wire.logframes import NOTHING_HELD, Head, Run
from tests.harness.support import SCALE

SIGNATURE = "ab" * 96
"""The log does not check signatures: links do."""

PLENTY = 1 << 40
BEGINNING = 1_700_000_000_000


class Feed:
    """Makes the runs of origins whose clocks go on together, and remembers their messages."""

    def __init__(self, origins: int, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.heads = {f"{n:032x}-1": NOTHING_HELD for n in range(origins)}
        self.hashes: dict[tuple[str, int], str] = {}
        self.pieces: list[list[Message]] = []  # of the messages that one signature covers
        self.time = BEGINNING

    def run(self, entries: int = 1, texts: int = 1, size: int = 10) -> Run:
        """The next run of some origin: entries of several messages each."""
        name = self.random.choice(list(self.heads))
        after, previous, _ = self.heads[name]
        found = []
        for _ in range(entries):
            self.time += self.random.choice([0, 1, 7, 1000])
            words = [f"{self.random.random():{size}}" for _ in range(texts)]
            found.append(Entry.of(self.time, words))
        run = Run(name, after, previous, tuple(found), chain(previous, found), SIGNATURE)
        self.heads[name] = run.head
        seq = after
        piece = []
        for entry, running in zip(run.entries, run.hashes, strict=True):
            for text in entry.texts:
                seq += 1
                piece.append(Message(name, seq, entry.time, text or ""))
            self.hashes[name, seq] = running
        self.pieces.append(piece)
        return run

    def some(self, count: int) -> list[Run]:
        """Runs of all kinds."""
        pick = self.random.choice
        return [self.run(pick([1, 1, 1, 3]), pick([1, 1, 4])) for _ in range(count)]

    def left(self, pieces: int) -> list[Message]:
        """The messages of the newest pieces, in the shared order."""
        gone = len(self.pieces) - pieces
        newest = sorted(self.pieces, key=lambda piece: piece[-1].order)[gone:]
        return sorted(joined.from_iterable(newest), key=lambda message: message.order)


def shrink(log: Log, limits: Limits) -> None:
    while log.shrink(limits, 50):
        pass


def check(log: Log, feed: Feed, kept: list[Message]) -> None:
    """The log holds exactly `kept`, by every way to ask it."""
    assert list(log.all()) == kept
    assert log.count() == (len(kept), 0)
    floors = log.floors()
    for name, head in feed.heads.items():
        assert log.head(name) == head
        floor = floors.get(name, 0)
        assert [m.seq for m in kept if m.origin == name] == [*range(floor + 1, head.n + 1)]
        assert log.hash_at(name, head.n) == head.hash
        if floor:
            assert log.hash_at(name, floor) == feed.hashes[name, floor], "what follows goes on it"
            with pytest.raises(LogDeleted) as error:
                log.read(name, floor - 1, head.n, PLENTY)
            assert error.value.floor == floor
        previous = feed.hashes.get((name, floor), "")
        after = floor
        while after < head.n:
            run, _ = log.read(name, after, head.n, PLENTY)
            assert (run.after, run.previous) == (after, previous)
            after, previous = run.end, feed.hashes[name, run.end]


@pytest.mark.parametrize("seed", range(20))
def test_the_oldest_pieces_go_and_all_else_stays_as_it_was(tmp_path: Path, seed: int) -> None:
    feed = Feed(1 + seed % 6, seed)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        for _ in range(4):
            log.append(feed.some(40))
            log.append(feed.some(40))
            total = log.count()[0]
            keep = feed.random.randrange(1, total)
            shrink(log, Limits(messages=keep))
            kept = next(
                feed.left(n) for n in range(len(feed.pieces) + 1) if len(feed.left(n)) >= keep
            )
            check(log, feed, kept)
    with closing(Store(tmp_path)) as store:
        check(Log(store), feed, kept)


def test_messages_of_an_age_go(tmp_path: Path) -> None:
    feed = Feed(5)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        log.append(feed.some(200))
        for part in (0.3, 0.7, 1.1):
            since = BEGINNING + int((feed.time - BEGINNING) * part)
            shrink(log, Limits(since=since))
            old = [piece for piece in feed.pieces if piece[-1].time < since]
            check(log, feed, feed.left(len(feed.pieces) - len(old)) if part < 1 else [])
            assert log.complete_since() == max(piece[-1].time for piece in old) + 1
        assert log.floors() == {name: head.n for name, head in feed.heads.items()}
        last = log.last_arrival()
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        assert log.vector() == feed.heads and log.damaged() == []
        assert log.last_arrival() == last, "no arrival is used twice"
        before = len(feed.pieces)
        log.append(feed.some(20))
        check(log, feed, feed.left(len(feed.pieces) - before))


def test_the_files_stay_small_however_much_is_written(tmp_path: Path) -> None:
    limit = 2 << 20
    feed = Feed(20)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        for _ in range(60):
            log.append([feed.run(size=500) for _ in range(200)])  # 0.3 MB
            for _ in range(4):
                log.shrink(Limits(bytes=limit), 100)
            assert store.size() <= 1.3 * limit + 16e6
        assert sum(head.n for head in feed.heads.values()) > 4 * log.count()[0]
        shrink(log, Limits(bytes=limit))
        with store.reading() as database:
            assert 0.9 * limit < used(database) <= limit
        shrink(log, Limits(bytes=limit // 4))  # the limit is lowered
        with store.reading() as database:
            left = used(database)
        assert left <= limit // 4 and store.size() <= 1.3 * left + 16e6
        log.check()
        log.append([feed.run()])
    assert (tmp_path / "node.db").stat().st_size <= 1.3 * left + 1e6
    with closing(Store(tmp_path)) as store:
        assert Log(store).damaged() == []


def test_readers_learn_how_much_they_missed() -> None:
    feed = Feed(4)
    with closing(Store(None)) as store:
        log = Log(store)
        log.append(feed.some(300))
        last = log.last_arrival()
        cursors = {number: log.cursor(number) for number in range(0, last + 1, 7)}
        shrink(log, Limits(messages=100))
        first = log.first()
        assert 0 < first < last
        assert log.place("") == log.place("0") == first, "the beginning of what is kept"
        for number, cursor in cursors.items():
            if number >= first:
                assert log.place(cursor) == number
                continue
            with pytest.raises(CursorGone) as error:
                log.place(cursor)
            assert error.value.missed == first - number
            assert log.place(error.value.next) == first
        for after in (0, first - 3, first, first + 5):
            missed, seen = 0, 0
            place = after
            while place < last:
                page = log.arrivals(place, 10)
                missed, seen, place = missed + page.missed, seen + len(page), page.upto
            assert missed + seen == last - after
            assert missed == max(0, first - after)


def test_what_arrives_late_goes_first_and_readers_learn_of_it() -> None:
    feed = Feed(2)
    with closing(Store(None)) as store:
        log = Log(store)
        runs = [feed.run() for _ in range(50)]
        names = list(feed.heads)
        log.append([run for run in runs if run.origin == names[0]])
        middle = log.last_arrival()
        log.append([run for run in runs if run.origin == names[1]])
        last = log.last_arrival()
        shrink(log, Limits(messages=20))
        assert list(log.all()) == feed.left(20)
        page = log.arrivals(middle, 1000)
        assert [message for _, message in page] == [
            message for message in feed.left(20) if message.origin == names[1]
        ]
        assert len(page) + page.missed == last - middle and page.missed > 0


def test_copies_and_notices_are_counted_as_they_go(tmp_path: Path) -> None:
    names = [f"{n:032x}-1" for n in range(3)]
    heads = dict.fromkeys(names, NOTHING_HELD)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        for n in range(60):
            name = names[n % 3]
            kind = NOTICE if n % 20 == 7 else HEARD
            text = "x:1" if kind == NOTICE else f"{n // 3}"
            entry, head = Entry(1_000 * (n // 3) + n % 3, text, kind), heads[name]
            hashes = chain(head.hash, [entry])
            run = Run(name, head.n, head.hash, (entry,), hashes, SIGNATURE)
            heads[name] = run.head
            log.append([run])
        assert log.count() == (60, 40)
        for keep in (41, 31, 10, 1):
            shrink(log, Limits(messages=keep))
            before = log.count(), {name: count for name, count in log.heard().items() if count}
            assert before[0][0] == keep
            assert len(list(log.all())) == keep - before[0][1]
            with closing(sqlite3.connect(tmp_path / "node.db")) as database:
                rows = database.execute(
                    "SELECT origin, count(*) FROM entries WHERE kind = 1 GROUP BY origin"
                )
                assert before[1] == dict(rows)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        assert (log.count(), log.heard()) == before


def test_an_origin_may_go_on_beyond_what_is_held(tmp_path: Path) -> None:
    """The peers do not keep what is between; or they keep nothing of it any more."""
    feed = Feed(2, seed=3)
    runs = [feed.run() for _ in range(40)]
    one, other = feed.heads
    ones = [run for run in runs if run.origin == one]
    others = [run for run in runs if run.origin == other]
    beyond = replace(ones[10], skipped=ones[9].end - ones[4].end)
    last = others[-1]
    nothing = Run(other, last.end, last.hashes[-1], (), (), SIGNATURE, last.end)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        log.append(ones[:5])
        log.append([beyond, *ones[11:], nothing])
    for _ in range(2):
        with closing(Store(tmp_path)) as store:
            log = Log(store)
            kept = [message for message in feed.left(40) if message.origin == one]
            kept = [m for m in kept if not ones[4].end < m.seq <= ones[9].end]
            assert list(log.all()) == kept and log.count() == (len(kept), 0)
            assert log.damaged() == [] and log.vector() == feed.heads
            assert log.floors() == {one: ones[9].end, other: last.end}
            assert log.complete_since() == beyond.entries[0].time + 1
            with pytest.raises(LogDeleted):
                log.read(one, 0, 3, PLENTY)  # it is shown, and not sent
            assert (
                log.read(one, ones[9].end, ones[9].end + 1, PLENTY)[0].previous
                == (ones[9].hashes[-1])
            )
            assert log.hash_at(other, last.end) == last.hashes[-1]
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        for keep in (len(kept) - 2, 3):
            shrink(log, Limits(messages=keep))
            assert list(log.all()) == kept[-keep:] and log.count() == (keep, 0)


def test_an_entry_of_an_old_clock_takes_its_prefix_along() -> None:
    """The times of an origin can go back only if its node lies."""
    name = f"{1:032x}-1"
    times = [5_000, 9_000, 1_000, 7_000]
    head = NOTHING_HELD
    with closing(Store(None)) as store:
        log = Log(store)
        for time_ in times:
            entry = Entry(time_, f"{time_}")
            run = Run(name, head.n, head.hash, (entry,), chain(head.hash, [entry]), SIGNATURE)
            head = Head(*run.head)
            log.append([run])
        shrink(log, Limits(since=2_000))
        assert [message.time for message in log.all()] == [7_000]
        assert log.count() == (1, 0) and log.floors() == {name: 3}


def test_steps_are_short(tmp_path: Path) -> None:
    feed = Feed(50)
    with closing(Store(tmp_path)) as store:
        log = Log(store)
        for _ in range(10):
            log.append([feed.run(size=100) for _ in range(2_000)])
        took = []
        for _ in range(300):
            begun = time.process_time()
            assert log.shrink(Limits(messages=1_000), 50)
            took.append(time.process_time() - begun)
        assert sorted(took)[-3] < 0.05 * SCALE  # the others may meet the garbage collector
