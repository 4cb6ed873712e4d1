"""Erasing in the log: whatever comes first, all logs show the same, and no file holds the text."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from p2p_sync import settings
from p2p_sync.disk.log import Log
from p2p_sync.disk.retention import Limits
from p2p_sync.disk.store import Store
from p2p_sync.disk.wanted import Wanted
from p2p_sync.wire.entries import HEARD, NOTICE, Entry
from p2p_sync.wire.frames import Message
from p2p_sync.wire.logframes import Run
from tests.disk.test_log import SIGNATURE, A, B, C, Feed, opened, read_all
from tests.harness.support import wait_until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log is emptied without a pause, and copies are looked for at once."""
    monkeypatch.setattr(settings, "REMNANTS_PAUSE", 0.0)
    monkeypatch.setattr("p2p_sync.disk.log.COPIES_PATIENCE", 0.0)


def files_with(directory: Path, texts: set[str]) -> set[str]:
    """The texts of which a file has a piece: a long text is in several pages of the database."""
    data = b"".join(file.read_bytes() for file in directory.iterdir())

    def is_there(text: str) -> bool:
        return any(text[at : at + 11].encode() in data for at in range(0, min(33, len(text)), 11))

    return {text for text in texts if is_there(text)}


def messages(log: Log) -> list[Message]:
    return [*log.all()]


class History(NamedTuple):
    """Runs of several origins, and the texts that are erased in them."""

    runs: list[Run]
    erased: set[str]
    kept: set[str]


def history(rng: random.Random, size: int) -> History:
    """Messages, bulk commits and notices; some messages are erased by two nodes, some notices are
    about nothing."""
    feed, runs, erased = Feed(), [], set[str]()
    for n in range(size):
        origin = rng.choice([A, B, C])
        length = rng.choice([1, 1, 1, 3, 40])
        texts = [
            f"<{rng.getrandbits(160):x}{'.' * rng.choice([1, 50, 3000])}>" for _ in range(length)
        ]
        runs.append(feed.run(origin, Entry.of(1000 + n, texts)))
        if rng.random() < 0.5:
            target = rng.choice(feed.messages)
            erased.add(target.data)
            runs.append(feed.run(rng.choice([A, B, C]), Entry(1000 + n, target.id, NOTICE)))
        if rng.random() < 0.1:
            about = rng.choice(
                ["", "x", f"{A}:0", f"{A}:999999", f"{A}:1x", runs[-1].origin + ":1"]
            )
            if about.endswith(":1"):
                erased |= {m.data for m in feed.messages if m.id == about}
            runs.append(feed.run(origin, Entry(1000 + n, about, NOTICE)))
    kept = {message.data for message in feed.messages} - erased
    return History(runs, erased, kept)


def test_a_notice_about_the_id_of_a_branch_erases_nothing() -> None:
    """Erasures are proved by the id that a message was committed under."""
    feed = Feed()
    with opened(None) as (_, log):
        branch = f"{A}~1~{'ab' * 16}"
        log.append([feed.run(branch, Entry(1, "kept"))])
        log.append([feed.run(B, Entry(2, f"{branch}:1", NOTICE))])
        assert [message.data for message in messages(log)] == ["kept"]
        log.append([feed.run(B, Entry(3, f"{A}:2", NOTICE))])
        assert [message.data for message in messages(log)] == [""], "that is the one"


def in_another_order(rng: random.Random, runs: list[Run]) -> Iterator[list[Run]]:
    """Yield the runs in transactions; only those of one origin keep their order."""
    waiting = {origin: [run for run in runs if run.origin == origin] for origin in (A, B, C)}
    while some := [origin for origin in waiting if waiting[origin]]:
        part: list[Run] = []
        for _ in range(rng.randint(1, 5)):
            origin = rng.choice(some)
            part += waiting[origin][:1]
            del waiting[origin][:1]
        if part:
            yield part


@pytest.mark.parametrize("seed", range(3))
def test_logs_are_equal_in_whatever_order_notices_and_messages_come(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    made = history(rng, 40)
    shown: list[list[Message]] = []
    for n in range(2):
        with opened(tmp_path / str(n)) as (_, log):
            for part in in_another_order(rng, made.runs):
                log.append(part)
            shown.append(messages(log))
            texts = {message.data for message in shown[-1] if not message.erased}
            assert texts == made.kept
            log.check()
            assert files_with(tmp_path / str(n), made.erased) == set()
            assert files_with(tmp_path / str(n), made.kept) == made.kept
            # What is sent goes on without the texts, with the same hashes.
            for origin, head in log.vector().items():
                pieces = read_all(log, origin, head.n)
                assert not any(text in piece.text for piece in pieces for text in made.erased)
            assert not any(log.search(text, 10) for text in [*made.erased][:10])
            vector = log.vector()
        with opened(tmp_path / str(n)) as (_, log):
            assert messages(log) == shown[-1] and log.vector() == vector
            assert not log.damaged()
    assert shown[0] == shown[1]
    assert any(message.erased for message in shown[0])


def test_a_message_that_comes_erased_meets_an_earlier_notice(tmp_path: Path) -> None:
    feed = Feed()
    with opened(tmp_path / "one") as (_, one), opened(tmp_path / "two") as (_, two):
        text = feed.run(A, Entry(1, "text"))
        early, late = (feed.run(o, Entry(t, f"{A}:1", NOTICE)) for o, t in ((C, 5), (B, 9)))
        one.append([text, late])
        two.append([early])
        (piece,) = read_all(one, A, 1)  # with the evidence of the later notice
        two.append([Run(A, 0, "", piece.entries, text.hashes, SIGNATURE)])
        assert messages(two)[0].erased != messages(one)[0].erased
        one.append([early])
        two.append([late])
        assert messages(two) == messages(one)
        (message,) = messages(one)
        assert message.erased and message.erased.origin == C


def test_readers_by_arrival_get_an_erased_message_once_more() -> None:
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, Entry.of(1, ["one", "two", "three"], topic="t"))])
        after = log.last_arrival()
        log.append([feed.run(B, Entry(5, f"{A}:2", NOTICE)), feed.run(B, Entry(6, "next"))])
        for topic in ("", "t"):
            page = log.arrivals(after, 10, wanted=Wanted(topic))
            again = page[0][1]
            assert again.id == f"{A}:2" and again.data == "" and again.erased
            assert [message.data for _, message in page[1:]] == ([] if topic else ["next"])
            assert log.arrivals(page.upto, 10, wanted=Wanted(topic)) == []
        assert [m.data for _, m in log.arrivals(0, 10)] == ["one", "", "three", "", "next"]
        assert [m.data for _, m in log.arrivals(0, 10, hidden=True)] == ["one", "", "three", "next"]
        assert not log.arrivals(after, 10, wanted=Wanted("other"))
        (found,) = [log.search(f"{A}:2", 5)]
        assert [message.id for message in found] == [f"{A}:2"]


def heard(feed: Feed, origin: str, time: int, text: str = "heard") -> Run:
    return feed.run(origin, Entry(time, text, HEARD))


def test_copies_stay_one_message_when_some_are_erased_and_the_rest_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed()
    with opened(tmp_path) as (_, log):
        log.append([heard(feed, A, 1000), heard(feed, B, 1001), heard(feed, A, 90_000)])
        assert log.copies_of(f"{B}:1") == [f"{A}:1", f"{B}:1"]
        log.append([feed.run(B, Entry(2000, f"{A}:1", NOTICE))])
        assert [m.data for m in messages(log)] == ["", "heard"], "one commit is one message still"
        monkeypatch.setattr(Store, "node", A[:32])
        assert log.left_copies() == [], "neither its own nor erased by it"
        log.append([feed.run(B, Entry(2001, f"{B}:1", NOTICE))])
        log.append([heard(feed, C, 1002)])  # a late copy
        assert [m.data for m in messages(log)] == ["", "heard"]
        monkeypatch.setattr(Store, "node", B[:32])
        assert log.left_copies() == [f"{C}:1"] and log.left_copies() == []
    with opened(tmp_path) as (_, log):
        monkeypatch.setattr(Store, "node", C[:32])
        assert log.left_copies() == [f"{C}:1"], "a start looks, too"
        log.append([feed.run(C, Entry(3000, f"{C}:1", NOTICE))])
        assert log.left_copies() == []
        assert [m.data for m in messages(log)] == ["", "heard"]


def test_what_is_below_a_floor_stays_gone() -> None:
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, Entry(n, f"{n}")) for n in range(1, 6)])
        while log.shrink(Limits(messages=2), 10):
            pass
        log.append([feed.run(B, Entry(9, f"{A}:{n}", NOTICE)) for n in (1, 5)])
        assert log.message(f"{A}:1") is None
        left = [(m.id, bool(m.erased)) for m in messages(log)]
        assert left == [(f"{A}:4", False), (f"{A}:5", True)]


@contextmanager
def reader(store: Store) -> Iterator[None]:
    """Somebody who reads for long, and holds the write-ahead log."""
    with store.snapshot() as database:
        database.execute("SELECT max(arrival) FROM entries").fetchone()
        yield


def test_the_write_ahead_log_is_emptied_once_its_readers_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "WAL_RETRY", 0.0)
    feed = Feed()
    with opened(tmp_path) as (store, log):
        log.append([feed.run(A, Entry(1, "wanted text"))])
        with reader(store):
            log.append([feed.run(B, Entry(5, f"{A}:1", NOTICE))])
            log.check()
            assert files_with(tmp_path, {"wanted text"})
            took = threading.Event()

            def commit() -> None:
                log.append([feed.run(A, Entry(2, "x"))])
                took.set()

            thread = threading.Thread(target=commit)
            thread.start()
            assert took.wait(0.5), "commits hardly wait for the reader"
            thread.join()
        log.check()
        wait_until(lambda: not files_with(tmp_path, {"wanted text"}))


def test_a_long_write_ahead_log_is_emptied_while_messages_are_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That erased texts wait, to be emptied together, does not keep it from that."""
    monkeypatch.setattr(settings, "REMNANTS_PAUSE", 1000.0)
    monkeypatch.setattr(settings, "WAL_RETRY", 0.0)
    feed = Feed()
    wal = tmp_path / "node.db-wal"
    with opened(tmp_path) as (store, log):
        with reader(store):
            for n in range(40):
                log.append([feed.run(A, Entry(n, "x" * 400_000))])
                log.append([feed.run(B, Entry(n, f"{A}:{n + 1}", NOTICE))])
        assert wal.stat().st_size > settings.MAX_WAL_BYTES
        log.check()
        assert wal.stat().st_size == 0
