"""The messages, durable: appended in runs, read by origin, by arrival and by the shared order.

One thread appends; any thread reads, also while a transaction is on its way to the disk. The
newest runs are kept in memory too, bounded, for most of what links ship has just arrived.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from .codes import MAX_NUMBER
from .config import MAX_MESSAGE_BYTES
from .hearings import WINDOW, Matcher, node_of
from .logframes import NO_HASH, Entry, Run
from .protocol import Message
from .store import Database, Store

# Texts of messages kept in memory, in characters, and how many messages at the most.
_CACHE_SIZE = 4 * 1024 * 1024
_CACHE_MESSAGES = 20_000

# What a frame's JSON adds to a message's text, about. Bytes.
_OVERHEAD = 40

# Messages that one statement inserts; the few sizes are all prepared once.
_ROWS = 50
# Text in a page that is read back from the newest; what one search reads. Characters, messages.
_PAGE_SIZE = 1024 * 1024
_SCAN_SIZE = 8 * 1024 * 1024
_SCAN_MESSAGES = 20_000
# Characters of an id, at least, that are searched for as one.
_LEAST_ID = 8

_MESSAGE = "origin, seq, time, data, heard"
_SHOWN = "(leader IS NULL OR leader = arrival)"

# A place in the shared order: time, origin, sequence number.
Place = tuple[int, str, int]


class Log:
    """The log of one node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards the cache and the counts
        self._cache: dict[str, deque[Run]] = {}
        self._cached: deque[tuple[str, int]] = deque()
        self._cache_size = 0
        self._cache_messages = 0
        with store.reading() as database:
            self._vector = {
                origin: (n, running.hex())
                for origin, n, running in database.execute("SELECT origin, n, hash FROM origins")
            }
            (self._arrival,) = database.execute(
                "SELECT coalesce(max(arrival), 0) FROM messages"
            ).fetchone()
            # By this index only those that were heard are read, not the whole log.
            heard = database.execute(
                "SELECT origin, count(*) FROM messages INDEXED BY by_text "
                "WHERE heard GROUP BY origin"
            )
            self._heard = Counter[str](dict(heard.fetchall()))
            (self._hidden,) = database.execute(
                "SELECT count(*) FROM messages WHERE leader <> arrival"
            ).fetchone()
        self._total = sum(n for n, _ in self._vector.values())

    # -- at the start ---------------------------------------------------------------------------

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return what the log held when it was opened: origin -> (number, running hash)."""
        return self._vector

    def newest_time(self, most: int) -> int:
        """Return the newest time in the log that is not above `most` (ms), 0 with none."""
        with self._store.reading() as database:
            row = database.execute("SELECT max(time) FROM messages WHERE time <= ?", (most,))
            return int(row.fetchone()[0] or 0)

    # -- the writer's thread --------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> None:
        """Store `runs` in one transaction; they go on where their origins end.

        When this returns, they are on disk. Raises LogFull or LogError, and then nothing of them
        is stored.
        """
        with self._store.writing() as database:
            arrival = self._arrival
            texts: dict[str, list[int]] = {}
            for run in runs:
                _insert(database, run, arrival)
                database.execute(
                    "INSERT INTO origins VALUES (?, ?, ?) "
                    "ON CONFLICT (origin) DO UPDATE SET n = excluded.n, hash = excluded.hash",
                    (run.origin, run.end, bytes.fromhex(run.hashes[-1])),
                )
                for entry in run.messages:
                    if entry.heard:
                        texts.setdefault(entry.text, []).append(entry.time)
                arrival += len(run.messages)
            hidden = 0
            for text, times in texts.items():
                arrival, more = _rematch(database, text, min(times), max(times), arrival)
                hidden += more
        with self._lock:
            self._arrival = arrival
            self._total += sum(len(run.messages) for run in runs)
            self._hidden += hidden
            for run in runs:
                self._remember(run)
                if heard := sum(entry.heard for entry in run.messages):
                    self._heard[run.origin] += heard

    def probe(self) -> None:
        """Write as much as a message may need, and undo it; raises LogFull or LogError."""
        with self._store.writing() as database:
            database.execute("DROP TABLE IF EXISTS probe")  # of a probe that got only half as far
            database.execute("CREATE TABLE probe (data)")
            database.execute("INSERT INTO probe VALUES (zeroblob(?))", (MAX_MESSAGE_BYTES,))
        with self._store.writing() as database:
            database.execute("DROP TABLE probe")

    def _remember(self, run: Run) -> None:
        """With the lock held: keep `run` in memory, and let go of the oldest."""
        runs = self._cache.setdefault(run.origin, deque())
        if runs and runs[-1].end != run.after:
            runs.clear()
        runs.append(run)
        size = sum(len(entry.text) for entry in run.messages)
        self._cached.append((run.origin, size))
        self._cache_size += size
        self._cache_messages += len(run.messages)
        while self._cache_size > _CACHE_SIZE or self._cache_messages > _CACHE_MESSAGES:
            origin, size = self._cached.popleft()
            self._cache_size -= size
            kept = self._cache[origin]
            self._cache_messages -= len(kept.popleft().messages)
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

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[Run, int]:
        """Return messages `after`+1 to `upto` of `origin`, and the bytes that are left of `size`.

        Fewer where they exceed `size`, but at least one. Raises LogError.
        """
        with self._lock:
            runs = self._cache.get(origin, deque())
            found = bisect_right(runs, after, key=_end)
            cached = list(islice(runs, found, found + upto - after))
        if cached and cached[0].after <= after:
            skip = after - cached[0].after
            previous = cached[0].hashes[skip - 1] if skip else cached[0].previous
            messages = chain.from_iterable(run.messages for run in cached)
            return _cut(origin, after, previous, islice(messages, skip, skip + upto - after), size)
        with self._store.reading() as database:
            rows = database.execute(
                "SELECT seq, time, data, heard, hash FROM messages "
                "WHERE origin = ? AND seq BETWEEN ? AND ? ORDER BY seq",
                (origin, max(after, 1), upto),
            )
            previous = next(rows)[4].hex() if after else NO_HASH
            entries = (Entry(time, data, bool(heard)) for _, time, data, heard, _ in rows)
            return _cut(origin, after, previous, entries, size)

    def arrivals(self, after: int, limit: int) -> list[tuple[int, Message]]:
        """Return up to `limit` shown messages that came after arrival `after`, with its number."""
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT arrival, {_MESSAGE} FROM messages WHERE arrival > ? AND {_SHOWN} "
                "ORDER BY arrival LIMIT ?",
                (after, limit),
            ).fetchall()
        return [(row[0], _message(row[1:])) for row in rows]

    def ordered(self, after: Place, limit: int) -> list[Message]:
        """Return up to `limit` shown messages behind `after` in the shared order."""
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {_MESSAGE} FROM messages WHERE {_SHOWN} "
                "AND (time, origin, seq) > (?, ?, ?) ORDER BY time, origin, seq LIMIT ?",
                (*after, limit),
            ).fetchall()
        return [_message(row) for row in rows]

    def newest(self, limit: int, before: Place | None = None) -> list[Message]:
        """Return up to `limit` shown messages, the newest first: the last, or those `before`."""
        place = before or (MAX_NUMBER, "~", 0)
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {_MESSAGE} FROM messages WHERE {_SHOWN} "
                "AND (time, origin, seq) < (?, ?, ?) "
                "ORDER BY time DESC, origin DESC, seq DESC LIMIT ?",
                (*place, limit),
            ).fetchall()
        return [_message(row) for row in rows]

    def search(
        self, text: str, limit: int, before: Place | None = None
    ) -> tuple[list[Message], Place | None]:
        """Return shown messages `before` a place that hold `text`, the newest first, and the place
        where to go on, None where the log has been read to its beginning.

        Case does not matter; the beginning of an id finds its messages too. One call
        reads a bounded part of the log and returns up to `limit` messages, of about 1 MiB: there
        may be more even where it finds none.
        """
        place = before or (MAX_NUMBER, "~", 0)
        wanted = text.casefold()
        found: list[Message] = []
        size = scanned = count = 0
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {_MESSAGE} FROM messages WHERE {_SHOWN} "
                "AND (time, origin, seq) < (?, ?, ?) "
                "ORDER BY time DESC, origin DESC, seq DESC",
                place,
            )
            for row in rows:
                full = len(found) == limit or size > _PAGE_SIZE
                if full or count == _SCAN_MESSAGES or scanned > _SCAN_SIZE:
                    rows.close()  # it read one too many, and so knows that there is more
                    return found, place
                message = _message(row)
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


def _insert(database: Database, run: Run, arrival: int) -> None:
    """Insert the messages of `run`, numbered on from `arrival`, many with one statement: each step
    of a statement gives up the interpreter's lock and has to get it back."""
    fields = [
        (arrival + n, run.origin, run.after + n, time, text, bytes.fromhex(running), heard)
        for n, ((time, text, heard), running) in enumerate(
            zip(run.messages, run.hashes, strict=True), 1
        )
    ]
    for start in range(0, len(fields), _ROWS):
        rows = fields[start : start + _ROWS]
        values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, NULL)"] * len(rows))
        database.execute(f"INSERT INTO messages VALUES {values}", [*chain.from_iterable(rows)])


def _message(row: Sequence[object]) -> Message:
    name, seq, time, data, heard = row
    return Message(str(name), int(str(seq)), int(str(time)), str(data), bool(heard))


def _end(run: Run) -> int:
    return run.end


def _cut(
    origin: str, after: int, previous: str, entries: Iterable[Entry], size: int
) -> tuple[Run, int]:
    """Return a run of as many of `entries` as fit in `size` bytes, at least one, and the rest."""
    chosen: list[Entry] = []
    for entry in entries:
        size -= len(entry.text.encode()) + _OVERHEAD
        if chosen and size < 0:
            break
        chosen.append(entry)
    return Run(origin, after, previous, tuple(chosen)), size


def _rematch(database: Database, text: str, first: int, last: int, arrival: int) -> tuple[int, int]:
    """Match the hearings of `text` anew, of which some from `first` to `last` (times) are new.

    Those before keep their leaders; behind, it goes on until nothing has changed for as long as
    hearings can match. One that was hidden and is shown from now on arrives once more, so that
    who follows the arrivals gets it. Returns the last arrival, and how many more are hidden.
    """
    rows = database.execute(
        "SELECT arrival, leader, time, origin FROM messages "
        "WHERE heard AND data = ? AND time >= ? ORDER BY time, origin, seq",
        (text, first - WINDOW),
    )
    matcher = Matcher()
    new_leaders: dict[int, int] = {}
    shown: list[int] = []
    hidden = 0
    for number, leader, time, origin in rows:
        if time < first and leader is not None:
            matcher.note(leader, number == leader, time, node_of(origin))
            continue
        if time > last + WINDOW:
            break
        found = matcher.match(number, time, node_of(origin))
        if found != leader:
            new_leaders[number] = found
            last = max(last, time)
            was_hidden = leader is not None and leader != number
            hidden += (found != number) - was_hidden
            if was_hidden and found == number:
                shown.append(number)
    rows.close()
    database.executemany(
        "UPDATE messages SET leader = ? WHERE arrival = ?",
        [(leader, number) for number, leader in new_leaders.items()],
    )
    for number in shown:
        arrival += 1
        database.execute("UPDATE messages SET leader = ? WHERE leader = ?", (arrival, number))
        database.execute("UPDATE messages SET arrival = ? WHERE arrival = ?", (arrival, number))
    return arrival, hidden
