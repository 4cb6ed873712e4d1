"""The messages, durable: appended in runs, read by origin, by arrival and by the shared order.

One thread appends; any thread reads, also while a transaction is on its way to the disk. The
newest runs are kept in memory too, bounded, for most of what links ship has just arrived.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, dropwhile, islice
from typing import Any, NamedTuple

from .codes import MAX_NUMBER
from .config import MAX_MESSAGE_BYTES
from .errors import CursorGone
from .hearings import WINDOW, Crowd, match, node_of, spans
from .logframes import MAX_SHIPPED, Entry, PackedRun, Run
from .protocol import Message
from .store import Database, Store

# JSON of entries kept in memory, in characters, and how many messages at the most.
_CACHE_SIZE = 4 * 1024 * 1024
_CACHE_MESSAGES = 20_000

# Entries that one statement inserts; the few sizes are all prepared once.
_ROWS = 50
# Text in a page that is read back from the newest; what one search reads. Characters, messages.
_PAGE_SIZE = 1024 * 1024
_SCAN_SIZE = 8 * 1024 * 1024
_SCAN_MESSAGES = 20_000
# Characters of an id, at least, that are searched for as one.
_LEAST_ID = 8

_ENTRY = "origin, seq, time, data, heard, count"
_SHOWN = "(leader IS NULL OR leader = arrival)"

# A place in the shared order: time, origin, sequence number.
Place = tuple[int, str, int]
# A copy of what an original node committed: its arrival, that of the copy that is shown for it
# (None: new), its time and origin.
_Copy = tuple[int, int | None, int, str]


class _Stored(NamedTuple):
    """An entry as it is kept in memory: its JSON, `length` messages behind `after`, and the running
    hash before it."""

    after: int
    length: int
    previous: str
    text: str


_END: Place = (MAX_NUMBER, "~", 0)


class Log:
    """The log of one node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors = store.cursors
        self._lock = threading.Lock()  # guards the cache and the counts
        self._cache: dict[str, deque[_Stored]] = {}
        self._cached: deque[tuple[str, int]] = deque()
        self._cache_size = 0
        self._cache_messages = 0
        with store.reading() as database:
            self._vector = {
                origin: (n, digest.hex())
                for origin, n, digest in database.execute("SELECT origin, n, hash FROM origins")
            }
            (self._arrival,) = database.execute(
                "SELECT coalesce(max(arrival), 0) FROM entries"
            ).fetchone()
            # By this index only those that were heard are read, not the whole log.
            heard = database.execute(
                "SELECT origin, count(*) FROM entries INDEXED BY by_text "
                "WHERE heard GROUP BY origin"
            )
            self._heard = Counter[str](dict(heard.fetchall()))
            (self._hidden,) = database.execute(
                "SELECT count(*) FROM entries WHERE leader <> arrival"
            ).fetchone()
        self._total = sum(n for n, _ in self._vector.values())

    # -- at the start ---------------------------------------------------------------------------

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return what the log held when it was opened: origin -> (number, running hash)."""
        return self._vector

    def newest_time(self, most: int) -> int:
        """Return the newest time in the log that is not above `most` (ms), 0 with none."""
        with self._store.reading() as database:
            row = database.execute("SELECT max(time) FROM entries WHERE time <= ?", (most,))
            return int(row.fetchone()[0] or 0)

    # -- the writer's thread --------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> None:
        """Store `runs` in one transaction; they go on where their origins end.

        When this returns, they are on disk. Raises LogFull or LogError, and then nothing of them
        is stored.
        """
        stored = [(run, _stored(run)) for run in runs]
        with self._store.writing() as database:
            arrival = self._arrival
            texts: dict[str, list[int]] = {}
            for run, entries in stored:
                _insert(database, run, entries, arrival)
                database.execute(
                    "INSERT INTO origins VALUES (?, ?, ?) "
                    "ON CONFLICT (origin) DO UPDATE SET n = excluded.n, hash = excluded.hash",
                    (run.origin, run.end, bytes.fromhex(run.hashes[-1])),
                )
                for entry in run.entries:
                    if entry.heard:
                        texts.setdefault(entry.text, []).append(entry.time)
                arrival += run.count
            hidden = 0
            for text, times in texts.items():
                arrival, more = _rematch(database, text, times, arrival)
                hidden += more
        with self._lock:
            self._arrival = arrival
            self._hidden += hidden
            for run, entries in stored:
                self._total += run.count
                self._remember(run.origin, entries)
                if heard := sum(entry.heard for entry in run.entries):
                    self._heard[run.origin] += heard

    def probe(self) -> None:
        """Write as much as a message may need, and undo it; raises LogFull or LogError."""
        with self._store.writing() as database:
            database.execute("DROP TABLE IF EXISTS probe")  # of a probe that got only half as far
            database.execute("CREATE TABLE probe (data)")
            database.execute("INSERT INTO probe VALUES (zeroblob(?))", (MAX_MESSAGE_BYTES,))
        with self._store.writing() as database:
            database.execute("DROP TABLE probe")

    def check(self) -> None:
        """Raise LogGone if the files of the log were deleted or replaced."""
        self._store.check()

    def _remember(self, origin: str, entries: Sequence[_Stored]) -> None:
        """With the lock held: keep entries in memory, and let go of the oldest."""
        kept = self._cache.setdefault(origin, deque())
        if kept and _end(kept[-1]) != entries[0].after:
            kept.clear()
        kept.extend(entries)
        for entry in entries:
            self._cached.append((origin, len(entry.text)))
            self._cache_size += len(entry.text)
            self._cache_messages += entry.length
        while self._cache_size > _CACHE_SIZE or self._cache_messages > _CACHE_MESSAGES:
            origin, size = self._cached.popleft()
            self._cache_size -= size
            kept = self._cache[origin]
            self._cache_messages -= kept.popleft().length
            if not kept:
                del self._cache[origin]

    # -- any thread -----------------------------------------------------------------------------

    def count(self) -> tuple[int, int]:
        """Return how many messages are held, and how many of them are not shown."""
        with self._lock:
            return self._total, self._hidden

    def heard(self) -> dict[str, int]:
        """Return how many of the messages of each origin were heard from original nodes."""
        with self._lock:
            return dict(self._heard)

    def last_arrival(self) -> int:
        """Return the number of the last arrival, 0 with none."""
        with self._lock:
            return int(self._arrival)

    def cursor(self, arrival: int) -> str:
        """Return the place behind an arrival as readers are given it."""
        return self._cursors.text(arrival)

    def place(self, cursor: str) -> int:
        """Return the arrival that a place is behind; raises CursorGone for one of another log or
        beyond the end, InputError for what is no place."""
        try:
            return self._cursors.number(cursor, self.last_arrival())
        except CursorGone:  # readers may see a transaction before its writer is back
            with self._store.reading() as database:
                (newest,) = database.execute("SELECT max(arrival) FROM entries").fetchone()
            return self._cursors.number(cursor, newest or 0)

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[PackedRun, int]:
        """Return messages `after`+1 to `upto` of `origin`, and the bytes that are left of `size`.

        Whole entries, at least one: so it may begin before `after`, and end behind `upto`. It ends
        before `upto` where they exceed `size`. Raises LogError.
        """
        with self._lock:
            kept = self._cache.get(origin, deque())
            found = bisect_right(kept, after, key=_end)
            end = min(len(kept), found + upto - after)
            # From the right: it is the newest that most links are shipped.
            cached = list(islice(reversed(kept), len(kept) - end, len(kept) - found))[::-1]
        if cached and cached[0].after <= after:
            return _shipped(origin, cached, upto, size)
        with self._store.reading() as database:
            rows = database.execute(
                "SELECT seq - 1, count, hex(previous), time, data, heard FROM entries "
                "WHERE origin = ? AND seq <= ? "
                "AND seq >= (SELECT max(seq) FROM entries WHERE origin = ? AND seq <= ?) "
                "ORDER BY seq",
                (origin, upto, origin, after + 1),
            )
            entries = (
                _Stored(start, count, previous.lower(), Entry(time, data, heard, count).pack())
                for start, count, previous, time, data, heard in rows
            )
            return _shipped(origin, entries, upto, size)

    def arrivals(self, after: int, limit: int) -> list[tuple[int, Message]]:
        """Return up to `limit` shown messages that came after arrival `after`, with its number."""
        found: list[tuple[int, Message]] = []
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT arrival - count + 1, {_ENTRY} FROM entries WHERE arrival > ? AND {_SHOWN} "
                "ORDER BY arrival LIMIT ?",
                (after, limit),
            )
            for arrival, *entry in rows:
                numbered = enumerate(_messages(entry), arrival)
                found += [(number, message) for number, message in numbered if number > after]
                if len(found) >= limit:
                    break
        return found[:limit]

    def ordered(self, after: Place, limit: int) -> list[Message]:
        """Return up to `limit` shown messages behind `after` in the shared order."""
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {_ENTRY} FROM entries WHERE {_SHOWN} "
                "AND (time, origin, seq) >= (?, ?, (SELECT coalesce(max(seq), 0) "
                "FROM entries WHERE time = ? AND origin = ? AND seq <= ?)) "
                "ORDER BY time, origin, seq",
                (*after[:2], *after),  # the entry that holds it may reach beyond
            )
            messages = (message for row in rows for message in _messages(row))
            return list(islice(dropwhile(lambda m: m.order <= after, messages), limit))

    def newest(self, limit: int, before: Place | None = None) -> list[Message]:
        """Return up to `limit` shown messages, the newest first: the last, or those `before`."""
        with self._store.reading() as database:
            return list(islice(_backwards(database, before or _END), limit))

    def search(
        self, text: str, limit: int, before: Place | None = None
    ) -> tuple[list[Message], Place | None]:
        """Return shown messages `before` a place that hold `text`, the newest first, and the place
        where to go on, None where the log has been read to its beginning.

        Case does not matter; the beginning of an id finds its messages too. One call
        reads a bounded part of the log and returns up to `limit` messages, of about 1 MiB: there
        may be more even where it finds none.
        """
        place = before or _END
        wanted = text.casefold()
        found: list[Message] = []
        size = scanned = count = 0
        with self._store.reading() as database:
            for message in _backwards(database, place):
                full = len(found) == limit or size > _PAGE_SIZE
                if full or count == _SCAN_MESSAGES or scanned > _SCAN_SIZE:
                    return found, place  # it read one too many, and so knows that there is more
                place = message.order
                count += 1
                scanned += len(message.data)
                named = len(wanted) >= _LEAST_ID and message.id.startswith(wanted)
                if named or wanted in message.data.casefold():
                    found.append(message)
                    size += len(message.data)
        return found, None

    def all(self) -> Iterator[Message]:
        """Yield all shown messages in the shared order, a page at a time."""
        place: Place = (-1, "", 0)
        while page := self.ordered(place, 1000):
            yield from page
            place = page[-1].order


def _insert(database: Database, run: Run, entries: Sequence[_Stored], arrival: int) -> None:
    """Insert the entries of `run`, their messages numbered on from `arrival`, many with one
    statement: each step of a statement gives up the interpreter's lock and has to get it back."""
    fields: list[tuple[object, ...]] = []
    for (time, text, heard, length), (after, _, previous, _) in zip(
        run.entries, entries, strict=True
    ):
        last = arrival + after - run.after + length
        before = bytes.fromhex(previous)
        fields.append((last, run.origin, after + 1, length, time, heard, before, text))
    for start in range(0, len(fields), _ROWS):
        rows = fields[start : start + _ROWS]
        values = ", ".join(["(?, ?, ?, ?, ?, ?, NULL, ?, ?)"] * len(rows))
        database.execute(f"INSERT INTO entries VALUES {values}", [*chain.from_iterable(rows)])


def _stored(run: Run) -> list[_Stored]:
    """Return the entries of a run as they are kept in memory."""
    entries: list[_Stored] = []
    after, previous = run.after, run.previous
    for entry, running in zip(run.entries, run.hashes, strict=True):
        entries.append(_Stored(after, entry.length, previous, entry.pack()))
        after, previous = after + entry.length, running
    return entries


def _shipped(
    origin: str, entries: Iterable[_Stored], upto: int, size: int
) -> tuple[PackedRun, int]:
    """Return those of `entries` that begin before `upto` and fit in `size` bytes, at least one, and
    what is left."""
    chosen: list[_Stored] = []
    for entry in entries:
        if chosen and (entry.after >= upto or _end(entry) - chosen[0].after > MAX_SHIPPED):
            break
        text = entry.text
        size -= len(text) if text.isascii() else len(text.encode())
        if chosen and size < 0:
            break
        chosen.append(entry)
    first, last = chosen[0], chosen[-1]
    count = last.after + last.length - first.after
    text = ",".join(entry.text for entry in chosen)
    return PackedRun(origin, first.after, first.previous, count, text), size


def _end(entry: _Stored) -> int:
    return entry.after + entry.length


def _messages(row: Sequence[Any]) -> list[Message]:
    """Return the messages in an entry."""
    origin, seq, time, data, heard, count = row
    texts = enumerate(Entry(time, data, heard, count).texts, seq)
    return [Message(origin, number, time, text, bool(heard)) for number, text in texts]


def _backwards(database: Database, before: Place) -> Iterator[Message]:
    """Yield the shown messages before a place, from there to the oldest."""
    rows = database.execute(
        f"SELECT {_ENTRY} FROM entries WHERE {_SHOWN} AND (time, origin, seq) < (?, ?, ?) "
        "ORDER BY time DESC, origin DESC, seq DESC",
        before,
    )
    for row in rows:
        for message in reversed(_messages(row)):
            if message.order < before:
                yield message


def _rematch(database: Database, text: str, times: Sequence[int], arrival: int) -> tuple[int, int]:
    """Match the copies of `text` again, of which those with `times` are new (see hearings.py).

    One that was hidden and is shown from now on arrives once more, so that those who follow the
    arrivals get it. Returns the last arrival, and how many more are hidden.
    """
    new = Counter(time // WINDOW for time in times)
    changes: list[tuple[int, int, int]] = []  # leader, arrival, arrival before
    hidden = 0
    for start, end in spans(times):
        copies, beyond = _copies(database, text, start, end, new)
        leaders = match([(time, node_of(origin)) for _, _, time, origin in copies], start)
        numbers = [number for number, *_ in copies]
        pairs = [*zip(copies, leaders, strict=True), *((copy, None) for copy in beyond)]
        for n, ((number, leader, _, _), found) in enumerate(pairs):
            was_hidden = leader is not None and leader != number
            is_hidden = found not in (None, n)
            if found == -1 or (found is None and not was_hidden):
                continue
            hidden += is_hidden - was_hidden
            if was_hidden and not is_hidden:
                arrival += 1
                if found is not None:
                    numbers[n] = arrival
                changes.append((arrival, arrival, number))
            elif leader != (wanted := numbers[found or 0]):
                changes.append((wanted, number, number))
    database.executemany("UPDATE entries SET leader = ?, arrival = ? WHERE arrival = ?", changes)
    return arrival, hidden


def _copies(
    database: Database, text: str, start: int, end: int, new: Mapping[int, int]
) -> tuple[list[_Copy], list[_Copy]]:
    """Return the copies of `text` in a span of time that are matched, and of those beyond the
    limit the ones that the `new` ones (by window) may have pushed there, in the shared order."""
    matched: list[_Copy] = []
    beyond: list[_Copy] = []
    crowd = Crowd()
    while start < end:
        rows = database.execute(
            "SELECT arrival, leader, time, origin FROM entries "
            "WHERE heard AND data = ? AND time >= ? AND time < ? ORDER BY time, origin, seq",
            (text, start, end),
        )
        start = end
        for row in rows:
            window = row[2] // WINDOW
            excess = crowd.admit(row[2])
            if not excess:
                matched.append(row)
            elif excess <= new.get(window, 0):
                beyond.append(row)
            else:  # there may be very many: go on behind them
                start = (window + 1) * WINDOW
                break
        rows.close()
    return matched, beyond
