"""The log on a real database: what is appended is read back, in every order, after anything."""

from __future__ import annotations

import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p_sync.core import deduplication as hearings
from p2p_sync.disk import recent
from p2p_sync.disk.log import Log, Place
from p2p_sync.disk.store import Store
from p2p_sync.errors import LogError, LogFull
from p2p_sync.settings import COPY_STRETCH, COPY_WINDOW, MAX_ENTRY_BYTES, MAX_MATCHED
from p2p_sync.wire.entries import HEARD, Entry, chain, smallest
from p2p_sync.wire.frames import Message, decode, encode, messages_in
from p2p_sync.wire.logframes import NO_HASH, NOTHING_HELD, Head, Messages, PackedRun, Run
from tests.harness.deduplication import shown
from tests.harness.support import SCALE, wait_until

A, B, C = (f"{digit * 32}-1" for digit in "abc")
START: Place = (-1, "", 0)
PLENTY = 1 << 40
SIGNATURE = "ab" * 96
"""The log does not check signatures: links do."""

TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.sampled_from(["", "\0", "a\0b", "\U0001f600", "e\u0301", "\r\n", "\ufeff", "'; --", "%"]),
)


def entries_at(times: st.SearchStrategy[int]) -> st.SearchStrategy[Entry]:
    """Entries of one text, or of several."""
    texts = st.lists(TEXTS, min_size=1, max_size=4)
    return st.tuples(times, texts).map(lambda pair: Entry.of(*pair))


ENTRIES = entries_at(st.integers(0, 2**53 - 1))


@contextmanager
def opened(directory: Path | None = None) -> Iterator[tuple[Store, Log]]:
    """A log in `directory`, or in memory, closed at the end."""
    with closing(Store(directory)) as store:
        yield store, Log(store)


class Feed:
    """Makes the runs of each origin, one after the other, and the messages that they hold."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._ends: dict[str, Head] = {}

    def run(self, origin: str, *entries: Entry) -> Run:
        after, previous, _ = self._ends.get(origin, NOTHING_HELD)
        run = Run(origin, after, previous, entries, chain(previous, entries), SIGNATURE)
        self._ends[origin] = run.head
        self.messages += messages_in(run)
        return run

    def vector(self) -> dict[str, Head]:
        return dict(self._ends)

    def sorted(self) -> list[Message]:
        """All messages, in the shared order."""
        return sorted(self.messages, key=lambda message: message.order)


def entries_of(*texts: str) -> list[Entry]:
    return [Entry(1000 + n, text) for n, text in enumerate(texts)]


def read_all(log: Log, origin: str, upto: int, size: int = PLENTY) -> list[PackedRun]:
    """All pieces of an origin, as a link reads them."""
    runs: list[PackedRun] = []
    after = 0
    while after < upto:
        run, _ = log.read(origin, after, upto, size)
        assert run.origin == origin and run.after == after and run.entries
        after = run.end
        runs.append(run)
    return runs


def in_pages(log: Log, limit: int) -> list[Message]:
    """The whole shared order, page by page; only the last may be shorter."""
    found: list[Message] = []
    place = START
    while page := log.ordered(place, limit):
        found += page
        place = page[-1].order
        assert len(page) == limit or not log.ordered(place, 1)
    return found


def backwards(log: Log, limit: int) -> list[Message]:
    """The whole shared order from the newest on, page by page."""
    found: list[Message] = log.newest(limit)
    page = found
    while page:
        page = log.newest(limit, page[-1].order)
        found = found + page
    return found


def followed(log: Log, limit: int) -> list[Message]:
    """All arrivals, page by page; their numbers grow."""
    found: list[Message] = []
    after = 0
    while page := log.arrivals(after, limit):
        numbers = [number for number, _ in page]
        assert numbers == sorted(set(numbers)) and numbers[0] > after
        found += [message for _, message in page]
        after = numbers[-1]
    return found


# -- appended and read back -----------------------------------------------------------------------


@given(st.lists(ENTRIES, min_size=1, max_size=20))
def test_any_text_is_read_back_as_it_was(entries: list[Entry]) -> None:
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, *entries)])
        assert list(log.all()) == feed.sorted()
        assert [run.entries for run in read_all(log, A, len(feed.messages))] == [tuple(entries)]


@pytest.mark.parametrize(
    "text", ["", "\0", "a\0b\0", "\U0001f600", "x" * 131_072, "\u20ac" * 43_690]
)
def test_any_text_outlives_a_restart(tmp_path: Path, text: str) -> None:
    feed = Feed()
    with opened(tmp_path) as (_, log):
        log.append([feed.run(A, *entries_of(text, "next"))])
    with opened(tmp_path) as (_, log):
        assert [message.data for message in log.all()] == [text, "next"]
        assert [e.text for run in read_all(log, A, 2) for e in run.entries] == [text, "next"]


@pytest.mark.parametrize("reopened", [False, True], ids=["from memory", "from the disk"])
@pytest.mark.parametrize("size", [1, 100, 1000, PLENTY])
def test_pieces_of_any_size_go_on_from_each_other(
    tmp_path: Path, size: int, reopened: bool
) -> None:
    feed = Feed()
    texts = [f"text {n} " + "x" * (n % 37) for n in range(90)]
    with opened(tmp_path) as (_, log):
        for n in range(0, 90, 9):
            ours = [feed.run(A, entry) for entry in entries_of(*texts[n : n + 9])]
            log.append([*ours, feed.run(B, Entry(n, "b"))])
        if not reopened:
            check_pieces(log, feed, texts, size)
    with opened(tmp_path) as (_, log):
        check_pieces(log, feed, texts, size)


def check_pieces(log: Log, feed: Feed, texts: list[str], size: int) -> None:
    runs = read_all(log, A, 90, size)
    assert [entry.text for run in runs for entry in run.entries] == texts
    running = NO_HASH
    for run in runs:
        assert run.previous == running, "the hash before a piece is that after the one before"
        running = chain(running, run.entries)[-1]
        bytes_of_it = sum(len(entry.text) for entry in run.entries)
        assert bytes_of_it <= size or len(run.entries) == 1
    assert feed.vector()[A] == (90, running, SIGNATURE)
    if size == 1:
        assert len(runs) == 90, "at least one message, and here no more"


@pytest.mark.parametrize("reopened", [False, True], ids=["from memory", "from the disk"])
def test_a_piece_ends_where_it_is_told(tmp_path: Path, reopened: bool) -> None:
    feed = Feed()
    with opened(tmp_path) as (_, log):
        log.append([feed.run(A, entry) for entry in entries_of(*"abcdefgh")])
        if not reopened:
            run, _ = log.read(A, 2, 5, PLENTY)
            assert (run.after, run.end, [e.text for e in run.entries]) == (2, 5, ["c", "d", "e"])
    with opened(tmp_path) as (_, log):
        run, _ = log.read(A, 2, 5, PLENTY)
        assert (run.after, run.end, [e.text for e in run.entries]) == (2, 5, ["c", "d", "e"])


@pytest.mark.parametrize("reopened", [False, True], ids=["from memory", "from the disk"])
def test_a_piece_ends_with_a_signed_entry(tmp_path: Path, reopened: bool) -> None:
    """Only the last entry of a run is signed: a piece goes on to the next one or ends before it."""
    feed = Feed()

    def check(log: Log) -> None:
        ends = {upto: log.read(A, 0, upto, PLENTY)[0].end for upto in range(1, 10)}
        assert ends == {1: 3, 2: 3, 3: 3, 4: 4, 5: 9, 6: 9, 7: 9, 8: 9, 9: 9}
        assert log.read(A, 1, 2, PLENTY)[0].after == 1, "it may begin anywhere"
        assert log.read(A, 0, 9, 5 * smallest(1))[0].end == 4, "no room for five more"
        assert log.read(A, 4, 9, 1)[0].end == 9, "never less than a signed piece"
        assert log.read(A, 0, 9, PLENTY)[0].signature == SIGNATURE

    with opened(tmp_path) as (_, log):
        for texts in ("abc", "d", "efghi"):
            log.append([feed.run(A, *entries_of(*texts))])
        if not reopened:
            check(log)
    with opened(tmp_path) as (_, log):
        check(log)


@pytest.mark.parametrize("reopened", [False, True], ids=["from memory", "from the disk"])
def test_a_piece_ends_where_its_origin_was_silent_for_an_hour(
    tmp_path: Path, reopened: bool
) -> None:
    feed = Feed()
    hour = 3_600_000
    with opened(tmp_path) as (_, log):
        for time in (1, hour, 2 * hour, 3 * hour + 1):
            log.append([feed.run(A, Entry(time, "text"))])
        if not reopened:
            assert log.read(A, 0, 4, PLENTY)[0].end == 3
    with opened(tmp_path) as (_, log):
        assert log.read(A, 0, 4, PLENTY)[0].end == 3
        assert log.read(A, 3, 4, PLENTY)[0].end == 4


@pytest.mark.parametrize("reopened", [False, True], ids=["from memory", "from the disk"])
def test_a_piece_is_not_longer_than_peers_accept(tmp_path: Path, reopened: bool) -> None:
    """Short texts take more than their bytes, for they may be erased, and then grow."""
    feed = Feed()

    def check(log: Log) -> None:
        for piece in read_all(log, A, 1_801, MAX_ENTRY_BYTES):
            run = Run(A, piece.after, piece.previous, piece.entries, signature=SIGNATURE)
            assert decode(encode(Messages((run,))))

    with opened(tmp_path) as (_, log):
        for texts in (["short"] * 900, ["x" * 100_000], ["short"] * 900):
            log.append([feed.run(A, *entries_of(*texts))])
        if not reopened:
            check(log)
    with opened(tmp_path) as (_, log):
        check(log)


def test_the_hash_at_a_place_is_known_where_an_entry_ends() -> None:
    feed = Feed()
    with opened() as (_, log):
        run = feed.run(A, Entry(1, "a"), Entry.of(2, ["b", "c"]))
        log.append([run])
        found = [log.hash_at(A, n) for n in range(1, 5)]
        assert found == [run.hashes[0], "", run.hashes[1], None]
        assert log.hash_at(B, 1) is None


def test_the_room_that_is_left_shrinks_by_what_was_read() -> None:
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, entry) for entry in entries_of("\u20ac" * 100, "b")])
        _, left = log.read(A, 0, 1, 1000)
        assert left <= 1000 - 300, "bytes of UTF-8 count, not characters"
        _, left = log.read(A, 0, 1, 10)
        assert left <= 0, "a message that is larger than the room leaves none"


def test_what_was_heard_is_still_marked_when_it_is_read(tmp_path: Path) -> None:
    feed = Feed()
    entries = [Entry(1, "heard", HEARD), Entry(2, "ours")]
    with opened(tmp_path) as (_, log):
        log.append([feed.run(A, *entries)])
        assert log.read(A, 0, 2, PLENTY)[0].entries == tuple(entries)
    with opened(tmp_path) as (_, log):
        assert log.read(A, 0, 2, PLENTY)[0].entries == tuple(entries)


def test_old_messages_are_read_though_memory_keeps_the_newest_only(tmp_path: Path) -> None:
    feed = Feed()
    texts = [f"{n:04d}" * 250 for n in range(9000)]  # 9 million characters
    with opened(tmp_path) as (_, log):
        for n in range(0, 9000, 500):
            log.append([feed.run(A, *entries_of(*texts[n : n + 500])), feed.run(B, Entry(n, "b"))])
        runs = read_all(log, A, 9000, 1 << 20)
        assert [entry.text for run in runs for entry in run.entries] == texts
        assert chain(runs[-1].previous, runs[-1].entries)[-1] == feed.vector()[A][1]


# -- orders ---------------------------------------------------------------------------------------

ORIGINS = st.sampled_from([A, B, C, f"{'a' * 32}-2", f"{'a' * 32}-10"])
# Runs as they come in: of which origin, and the entries; few times, so that many are equal.
RUNS = st.lists(
    st.tuples(
        ORIGINS,
        st.lists(entries_at(st.integers(0, 5)), min_size=1, max_size=5),
    ),
    max_size=12,
)


@given(RUNS, st.integers(1, 12))
def test_the_shared_order_is_by_time_then_origin_then_sequence(
    runs: list[tuple[str, list[Entry]]], limit: int
) -> None:
    feed = Feed()
    with opened() as (_, log):
        for origin, entries in runs:
            log.append([feed.run(origin, *entries)])
        expected = feed.sorted()
        assert list(log.all()) == expected
        assert in_pages(log, limit) == expected
        assert backwards(log, limit) == expected[::-1]
        assert log.newest(limit) == expected[::-1][:limit]


@given(RUNS, st.integers(1, 12), st.integers(1, 3))
def test_arrivals_come_in_the_order_in_which_they_were_appended(
    runs: list[tuple[str, list[Entry]]], limit: int, together: int
) -> None:
    feed = Feed()
    with opened() as (_, log):
        for n in range(0, len(runs), together):
            log.append([feed.run(origin, *entries) for origin, entries in runs[n : n + together]])
        assert followed(log, limit) == feed.messages
        assert log.count() == (len(feed.messages), 0)


@given(RUNS, st.integers(1, 4), st.integers(0, 8))
def test_the_arrivals_in_memory_are_those_on_disk(
    runs: list[tuple[str, list[Entry]]], limit: int, kept: int
) -> None:
    feed = Feed()
    with opened() as (_, log), pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "RECENT_MESSAGES", kept)
        for origin, entries in runs:
            log.append([feed.run(origin, *entries)])
        numbers = range(len(feed.messages) + 1)
        in_memory = [log.arrivals(after, limit) for after in numbers]
        patch.setattr(recent.Recent, "arrived", lambda *_: None)
        assert in_memory == [log.arrivals(after, limit) for after in numbers]


def test_what_has_just_arrived_is_read_without_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = Feed()
    with opened() as (store, log):
        log.append([feed.run(A, Entry(1, "one")), feed.run(B, Entry.of(2, ["two", "three"]))])
        monkeypatch.setattr(store, "reading", None)
        assert [message for _, message in log.arrivals(1, 9)] == feed.messages[1:]


@given(RUNS, st.integers(1, 4))
def test_who_follows_arrivals_while_more_come_misses_none(
    runs: list[tuple[str, list[Entry]]], limit: int
) -> None:
    feed = Feed()
    seen: list[Message] = []
    after = 0
    with opened() as (_, log):
        for origin, entries in runs:
            log.append([feed.run(origin, *entries)])
            for number, message in log.arrivals(after, limit):
                seen.append(message)
                after = number
        while page := log.arrivals(after, limit):
            seen += [message for _, message in page]
            after = page[-1][0]
    assert seen == feed.messages


@settings(max_examples=20)
@given(RUNS)
def test_the_vector_tells_what_was_appended_also_after_reopening(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[str, list[Entry]]]
) -> None:
    directory = tmp_path_factory.mktemp("log")
    feed = Feed()
    with opened(directory) as (_, log):
        assert log.vector() == {}
        for origin, entries in runs:
            log.append([feed.run(origin, *entries)])
    with opened(directory) as (_, log):
        assert log.vector() == feed.vector()
        assert log.count() == (len(feed.messages), 0)
        assert followed(log, 3) == feed.messages, "the order of arrival is kept"
        log.append([feed.run(C, Entry(9, "more"))])
        assert followed(log, 3) == feed.messages, "and goes on"


def test_the_newest_time_leaves_out_what_is_too_far_ahead() -> None:
    feed = Feed()
    with opened() as (_, log):
        assert log.newest_time(10_000) == 0
        log.append([feed.run(A, Entry(5, "a"), Entry(5000, "b"), Entry(90_000, "c"))])
        assert [log.newest_time(most) for most in (4, 5, 4999, 5000, 89_999, 90_000)] == [
            0,
            5,
            5,
            5000,
            5000,
            90_000,
        ]


# -- hearings -------------------------------------------------------------------------------------

STEPS = st.sampled_from(
    [0, 1, 2500, 4999, 5000, COPY_WINDOW - 1, COPY_WINDOW, COPY_WINDOW + 1, 3 * COPY_WINDOW]
)
HEARERS = [f"{digit * 32}-{start}" for digit in "abc" for start in (1, 2)]
# What comes in: of which origin, how far in time from that origin's last, the text, heard or not,
# and whether a transaction ends behind it.
ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(HEARERS),
        STEPS,
        st.sampled_from("xy"),
        st.sampled_from([True, True, True, False]),
        st.booleans(),
    ),
    max_size=14,
)
STARTS = st.lists(STEPS, min_size=len(HEARERS), max_size=len(HEARERS))

Arrival = tuple[str, int, str, bool, bool]


@given(ARRIVALS, STARTS)
def test_hearings_match_as_if_all_had_been_sorted_first(
    arrivals: list[Arrival], starts: list[int]
) -> None:
    """Whatever the order of arrival between origins; along an origin, time does not go down."""
    times = dict(zip(HEARERS, starts, strict=True))

    def later(origin: str, step: int) -> int:
        times[origin] += step
        return times[origin]

    check_hearings(arrivals, later)


@given(ARRIVALS)
# What B sends in one run goes back in time, to both sides of what is there.
@example(
    [
        (A, 25_000, "x", True, True),
        (B, 30_000, "x", True, False),
        (B, 11_000, "x", True, True),
    ]
)
def test_hearings_match_also_where_an_origins_clock_goes_back(arrivals: list[Arrival]) -> None:
    check_hearings(arrivals, lambda _, moment: moment)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(HEARERS),
            st.integers(0, 4 * COPY_STRETCH // 1000).map(lambda n: n * 1000),
            st.just("x"),
            st.just(True),
            st.sampled_from([True, False]),
        ),
        max_size=60,
    ),
    st.sampled_from([2, 5, MAX_MATCHED]),
)
def test_copies_match_the_same_in_long_chains_and_crowds(
    arrivals: list[Arrival], most: int
) -> None:
    """Where matching starts afresh, and where there are more copies than are matched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hearings, "MAX_MATCHED", most)
        check_hearings(arrivals, lambda _, moment: moment)


def check_hearings(arrivals: Sequence[Arrival], time_of: Callable[[str, int], int]) -> None:
    feed = Feed()
    waiting: list[Run] = []
    with opened() as (_, log):
        for n, (origin, step, text, heard, ends) in enumerate(arrivals, 1):
            waiting.append(feed.run(origin, Entry(time_of(origin, step), text, heard)))
            if not ends and n < len(arrivals):
                continue
            log.append(merged(waiting))
            waiting.clear()
            expected = shown(feed.sorted())
            assert list(log.all()) == expected
            assert log.newest(5) == expected[::-1][:5]
            assert sorted(followed(log, 3), key=lambda m: m.order) == expected
            count, hidden = log.count()
            assert (count, count - hidden) == (len(feed.messages), len(expected))


def merged(runs: Sequence[Run]) -> list[Run]:
    """Join runs of one origin that follow each other, as a batch on a link holds them."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].origin == run.origin:
            last = joined.pop()
            run = Run(
                run.origin,
                last.after,
                last.previous,
                last.entries + run.entries,
                last.hashes + run.hashes,
            )
        joined.append(run)
    return joined


def test_hidden_hearings_stay_hidden_after_reopening(tmp_path: Path) -> None:
    feed = Feed()
    with opened(tmp_path) as (_, log):
        log.append([feed.run(A, Entry(1000, "x", HEARD)), feed.run(B, Entry(1001, "x", HEARD))])
        log.append([feed.run(C, Entry(1002, "x", HEARD), Entry(1003, "x"))])
    with opened(tmp_path) as (_, log):
        assert [message.id for message in log.all()] == [f"{A}:1", f"{C}:2"]
        assert log.count() == (4, 2)
        log.append([feed.run(A, Entry(500, "y"), Entry(999, "x", HEARD))])
        assert list(log.all()) == shown(feed.sorted())


def test_a_hearing_is_shipped_though_it_is_not_shown() -> None:
    feed = Feed()
    with opened() as (_, log):
        log.append([feed.run(A, Entry(1000, "x", HEARD)), feed.run(B, Entry(1001, "x", HEARD))])
        assert log.read(B, 0, 1, PLENTY)[0].entries == (Entry(1001, "x", HEARD),)


def test_who_follows_arrivals_gets_every_shown_hearing() -> None:
    """B has restarted, and what its second start heard came before what its first heard."""
    feed = Feed()
    seen: list[Message] = []
    after = 0
    with opened() as (_, log):
        for run in (
            feed.run(A, Entry(1000, "x", HEARD)),
            feed.run(f"{'b' * 32}-2", Entry(1005, "x", HEARD)),
            feed.run(C, Entry(1010, "y")),
            feed.run(f"{'b' * 32}-1", Entry(1003, "x", HEARD)),
        ):
            log.append([run])
            for number, message in log.arrivals(after, 10):
                after = number
                seen.append(message)
        assert {message.id for message in log.all()} <= {message.id for message in seen}


def test_many_hearings_of_one_text_are_stored_in_good_time() -> None:
    """Two of ours hear an original that commits the same text a hundred times a second."""
    feed = Feed()
    ticks = MAX_MATCHED // 2
    runs = [feed.run(o, *(Entry(10 * n, "tick", HEARD) for n in range(ticks))) for o in (A, B)]
    with opened() as (_, log):
        before = time.thread_time()
        log.append(runs)
        spent = time.thread_time() - before
        assert log.count() == (2 * ticks, ticks)
    assert spent < 2 * SCALE, f"{spent:.1f} s of work for {2 * ticks} messages"


def flood(log: Log, feed: Feed, copies: Sequence[tuple[str, int]], text: str = "same") -> None:
    """Log copies of one text, (origin, time) each, a thousand in a transaction."""
    for start in range(0, len(copies), 1000):
        chunk = copies[start : start + 1000]
        log.append(merged([feed.run(o, Entry(time, text, HEARD)) for o, time in chunk]))


NODES = [f"{n:032x}-1" for n in range(4000)]
FLOODS = {
    "one node, one time": [(A, 1_000_000)] * 8000,
    "many nodes, one time": [(origin, 1_000_000) for origin in NODES] * 2,
    "many nodes, at the edges of windows": [
        (origin, 1_000_000 + COPY_WINDOW * (n % 4) - (n % 3 == 0)) for n, origin in enumerate(NODES)
    ] * 2,
    "two nodes in turn for hours": [((A, B)[n % 2], 1_000_000 + 6_000 * n) for n in range(8000)],
    "many nodes, as dense as is matched": [
        (NODES[n % 4000], 1_000_000 + n * (COPY_WINDOW // MAX_MATCHED)) for n in range(8000)
    ],
}  # fmt: skip


@pytest.mark.parametrize("copies", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_copies_of_one_text_does_not_make_later_ones_slow(
    copies: list[tuple[str, int]],
) -> None:
    feed = Feed()
    with opened() as (_, log):
        flood(log, feed, copies)
        spent = []
        # Before all others, in the midst of them, and in one transaction at both ends.
        for times in ([999_000], [1_000_000], [999_500, copies[-1][1]], [0, 2**53 - 1]) * 5:
            run = feed.run(f"{0:032x}-1", *(Entry(time, "same", HEARD) for time in times))
            begun = time.thread_time()
            log.append([run])
            spent.append(time.thread_time() - begun)
        assert sorted(spent)[len(spent) // 2] < 0.1 * SCALE, spent
        assert list(log.all()) == shown(feed.sorted())


def test_a_copy_changes_few_others_where_each_belongs_to_the_next_commit_because_of_it() -> None:
    """Two of ours log the same text in turn, and one logs it once more before all that."""
    feed = Feed()
    start = 100 * COPY_STRETCH
    pairs = [(o, start + 1000 + 25 * n + (o == B)) for n in range(1900) for o in (A, B)]
    with opened() as (_, log):
        flood(log, feed, pairs)
        for n in range(4):
            run = feed.run(f"{(B, A)[n % 2]}9", Entry(start + 999 - n, "same", HEARD))
            before, now = log.append([run])
            assert now - before <= 500, "hidden ones that are shown from now on arrive again"
        assert list(log.all()) == shown(feed.sorted())


def test_copies_of_many_texts_are_stored_in_good_time() -> None:
    feed = Feed()
    run = feed.run(A, *(Entry(1, f"text {n}", HEARD) for n in range(2000)))
    again = feed.run(B, *(Entry(1, f"text {n}", HEARD) for n in range(2000)))
    with opened() as (_, log):
        begun = time.thread_time()
        log.append([run, again])
        assert time.thread_time() - begun < 2 * SCALE
        assert log.count() == (4000, 2000)


def test_beyond_a_limit_copies_are_shown_as_they_are(tmp_path: Path) -> None:
    """None is lost, the page and the one who follows show the same, also after a restart."""
    feed = Feed()
    with opened(tmp_path) as (_, log):
        flood(log, feed, [(origin, 50_001) for origin in NODES[:2000]])
        assert log.count() == (2000, MAX_MATCHED - 1)
        # An earlier copy pushes one that was hidden beyond the limit: it is shown from now on.
        log.append([feed.run(A, Entry(49_999, "other", HEARD), Entry(50_000, "same", HEARD))])
        expected = shown(feed.sorted())
        assert len(expected) == 2002 - (MAX_MATCHED - 1)
        assert list(log.all()) == expected
    with opened(tmp_path) as (_, log):
        assert log.count()[1] == MAX_MATCHED - 1
        log.append([feed.run(B, Entry(60_000, "same", HEARD))])
        assert list(log.all()) == shown(feed.sorted())
        assert sorted(followed(log, 7), key=lambda m: m.order) == shown(feed.sorted())
        pages: list[Message] = []
        while page := log.ordered(pages[-1].order if pages else START, 100):
            pages += page
        assert pages == shown(feed.sorted())


def test_copies_are_matched_beside_a_damaged_one(tmp_path: Path) -> None:
    feed = Feed()
    with opened(tmp_path) as (store, log):
        log.append([feed.run(o, Entry(1000, "same", HEARD)) for o in (A, B)])
        with store.writing() as database:
            query = "UPDATE entries SET origin = CAST(x'ff' AS TEXT) WHERE origin = ?"
            database.execute(query, (B,))
        log.append([feed.run(C, Entry(1001, "same", HEARD))])
        assert [message.origin for message in log.all()] == [A]
    with opened(tmp_path) as (_, log):
        assert [message.origin for message in log.all()] == [A]


# -- trouble --------------------------------------------------------------------------------------


@contextmanager
def full(store: Store) -> Iterator[None]:
    """While this lasts, the database may not grow."""
    with store.writing() as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (most,) = database.execute("PRAGMA max_page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
    yield
    with store.writing() as database:
        database.execute(f"PRAGMA max_page_count = {most}")


@pytest.mark.parametrize("on_disk", [True, False], ids=["on disk", "in memory"])
def test_a_full_disk_stores_nothing_of_it_and_the_next_append_works(
    tmp_path: Path, on_disk: bool
) -> None:
    feed = Feed()
    directory = tmp_path if on_disk else None
    with opened(directory) as (store, log):
        log.append([feed.run(A, Entry(1, "before"))])
        lost = Feed()
        lost.run(A, Entry(1, "before"))
        with full(store):
            with pytest.raises(LogFull):
                log.append(
                    [
                        lost.run(A, Entry(2, "small"), Entry(3, "heard", HEARD)),
                        lost.run(C, Entry(3, "of a new origin")),
                        lost.run(B, *(Entry(4, "x" * 10_000) for _ in range(50))),
                    ]
                )
            assert [message.data for message in log.all()] == ["before"], "reading goes on"
            assert log.count() == (1, 0)
            with pytest.raises(LogFull):
                log.probe()
        log.probe()
        log.append([feed.run(C, Entry(5, "after")), feed.run(A, Entry(6, "after"))])
        assert list(log.all()) == feed.sorted()
        assert [number for number, _ in log.arrivals(0, 10)] == [1, 2, 3]
        assert log.count() == (3, 0)
        assert [e.text for run in read_all(log, A, 2) for e in run.entries] == ["before", "after"]
    if on_disk:
        with opened(tmp_path) as (_, log):
            assert log.vector() == feed.vector()
            assert list(log.all()) == feed.sorted()


def test_a_disk_that_refuses_is_an_error_of_the_log(tmp_path: Path) -> None:
    feed = Feed()
    with opened(tmp_path) as (store, log):
        with store.writing() as database:
            pass
        database.execute("PRAGMA query_only = ON")
        with pytest.raises(LogError):
            log.append([Feed().run(A, Entry(1, "refused"))])
        with pytest.raises(LogError):
            log.probe()
        assert list(log.all()) == [] and log.count() == (0, 0)
        database.execute("PRAGMA query_only = OFF")
        log.append([feed.run(A, Entry(2, "taken"))])
        assert list(log.all()) == feed.sorted()


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, log):
        before = schema(tmp_path / "node.db")
        log.probe()
        log.probe()
        assert schema(tmp_path / "node.db") == before
        log.append([Feed().run(A, Entry(1, "a"))])
        assert len(list(log.all())) == 1


class TracedLock:
    """A lock that fails in a thread which holds another one."""

    _held = threading.local()
    _make = staticmethod(threading.Lock)

    def __init__(self) -> None:
        self._lock = self._make()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        held = getattr(self._held, "lock", None)
        own = held is self and not blocking  # so a condition finds out whether it is held
        assert held is None or own, "a lock is taken while another is held"
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._held.lock = self
        return taken

    def release(self) -> None:
        self._held.lock = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("on_disk", [True, False], ids=["on disk", "in memory"])
def test_no_lock_is_taken_while_another_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    monkeypatch.setattr(threading, "Lock", TracedLock)
    feed = Feed()
    with opened(tmp_path if on_disk else None) as (store, log):
        first, rest = feed.run(A, Entry(1, "one")), feed.run(A, *entries_of("two", "three"))
        log.append([first, rest])
        log.append([feed.run(B, Entry(1, "copy", HEARD)), feed.run(C, Entry(2, "copy", HEARD))])
        with store.writing() as database:
            database.execute("UPDATE entries SET data = 'x' WHERE data = 'two'")
        for page in (
            log.arrivals(0, 9),
            log.ordered(START, 9),
            log.newest(9),
            log.search("", 9),
        ):
            assert page.damaged == 1
        assert log.losses() == [(A, first.head)]
        log.lose(A, first.head, 3)
        assert log.damaged() == [f"{A}:2"] and log.count() == (3, 1)
        with pytest.raises(LogError, match="damaged"):
            log.read(A, 1, 3, PLENTY)
        log.append([rest])
        assert log.damaged() == [] == log.losses() and log.count() == (5, 1)
        assert sorted(followed(log, 2), key=lambda m: m.order) == shown(feed.sorted())
        log.probe()
        log.check()


def test_a_closed_log_is_an_error_of_the_log() -> None:
    with opened() as (_, log):
        pass
    with pytest.raises(LogError):
        log.append([Feed().run(A, Entry(1, "a"))])
    with pytest.raises(LogError):
        log.newest(1)


def schema(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return sorted(name for (name,) in database.execute("SELECT name FROM sqlite_master"))


# -- versions of the database ---------------------------------------------------------------------


# -- a large log ----------------------------------------------------------------------------------

LARGE = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Log, list[int]]]:
    """A log of 100,000 messages, and the bytes of memory held at some points on the way."""
    feed = Feed()
    held: list[int] = []
    with opened(tmp_path_factory.mktemp("large")) as (store, log):
        tracemalloc.start()
        try:
            for n in range(0, LARGE, 1000):
                entries = [Entry(n + i, f"{n + i:06d}" + "x" * 100) for i in range(1000)]
                log.append([feed.run(A if n % 2000 else B, *entries)])
                feed.messages.clear()
                if (n + 1000) % (LARGE // 4) == 0:
                    held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        yield store, log, held


def work_of(store: Store, call: Callable[[], object], writing: bool = False) -> int:
    """How many steps of SQLite's machine `call` takes, in hundreds rounded down."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    with store.writing() if writing else store.reading() as database:
        pass
    database.set_progress_handler(count, 100)
    try:
        call()
    finally:
        database.set_progress_handler(None, 0)
    return steps


def test_memory_does_not_grow_with_the_log(large: tuple[Store, Log, list[int]]) -> None:
    _, _, held = large
    assert held[-1] - held[1] < 2 * 1024 * 1024, f"bytes at each quarter: {held}"


def test_a_page_of_a_large_log_takes_little_work(large: tuple[Store, Log, list[int]]) -> None:
    store, log, _ = large
    middle: Place = (LARGE // 2, "", 0)
    for what, page in {
        "the oldest": lambda: log.ordered(START, 100),
        "from the middle on": lambda: log.ordered(middle, 100),
        "the newest": lambda: log.newest(200),
        "before the middle": lambda: log.newest(200, middle),
        "arrivals": lambda: log.arrivals(LARGE // 2, 100),
        "the count": log.count,
        "a piece of an origin": lambda: log.read(A, 100, 200, PLENTY),
        "the newest time": lambda: log.newest_time(LARGE // 2),
    }.items():
        steps = work_of(store, page)
        assert steps < 20_000, f"{what}: {steps} steps"


def test_the_whole_of_a_large_log_comes_in_order(large: tuple[Store, Log, list[int]]) -> None:
    _, log, _ = large
    for n, message in enumerate(log.all()):
        assert (message.time, message.data[:6]) == (n, f"{n:06d}")
    assert n == LARGE - 1


def test_many_messages_of_one_time_are_read_in_good_time() -> None:
    """A bulk commit on a node whose clock is behind has one time for all of them."""
    feed = Feed()
    with opened() as (store, log):
        for n in range(20):
            log.append([feed.run(A, *(Entry(7, f"{1000 * n + i}") for i in range(1000)))])
        steps = work_of(store, lambda: log.ordered((7, A, 19_000), 100))
        assert steps < 20_000, f"{steps} steps for a page of 100"
        assert [message.seq for message in log.all()] == list(range(1, 20_001))


# -- the write-ahead log --------------------------------------------------------------------------


def test_the_write_ahead_log_is_bounded_while_others_read_all_the_time(tmp_path: Path) -> None:
    feed = Feed()
    wal = tmp_path / "node.db-wal"
    most = 0
    with opened(tmp_path) as (_, log), ThreadPoolExecutor(4) as pool:
        stopping = threading.Event()

        def read() -> int:
            pages = 0
            while not stopping.is_set():
                # Short pages: the writer waits for those who read, but not for long.
                log.newest(20)
                log.ordered(START, 20)
                pages += 2
            return pages

        readers = [pool.submit(read) for _ in range(4)]
        try:
            for n in range(0, 1200, 10):  # 75 MB in all
                entries = [Entry(n + i, f"{n + i}" + "x" * 60_000) for i in range(10)]
                log.append([feed.run(A, *entries)])
                most = max(most, wal.stat().st_size)
        finally:
            stopping.set()
        assert min(reader.result() for reader in readers) > 0
        assert most < 48 * 1024 * 1024

        def short() -> bool:
            log.check()  # as the writer does while nothing is committed
            return wal.stat().st_size < 17 * 1024 * 1024

        wait_until(short, "the write-ahead log is short")
        assert list(log.all()) == feed.sorted()
