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
from .logframes import MAX_BATCH, Entry, PackedRun, Run, pack, unpack
from .logframes import chain as running
from .protocol import Message
from .store import Database, Store

# Texts of messages kept in memory, in characters, and how many messages at the most.
_CACHE_SIZE = 4 * 1024 * 1024
_CACHE_MESSAGES = 20_000

# What a frame's JSON adds to a message's text, about. Bytes.
_OVERHEAD = 40
# Messages from which on a run is shipped as it came, not cut and joined anew.
_LARGE = MAX_BATCH // 2

# How far the times of the messages in one row may lie apart: a page that begins within a row finds
# it among those that began so much earlier. Milliseconds.
_SPAN = 100
# Text in a row that is joined from several runs, at most. Characters.
_ROW_SIZE = 64 * 1024
# Text in a page that is read back from the newest; what one search reads. Characters, messages.
_PAGE_SIZE = 1024 * 1024
_SCAN_SIZE = 8 * 1024 * 1024
_SCAN_MESSAGES = 20_000
# Characters of an id, at least, that are searched for as one.
_LEAST_ID = 8

_ROW = "origin, seq, time, heard, data"
_SHOWN = "(leader IS NULL OR leader = arrival)"

# A place in the shared order: time, origin, sequence number.
Place = tuple[int, str, int]
# A message, so that it sorts by its place: time, origin, sequence number, text, heard.
_Item = tuple[int, str, int, str, bool]
_END: Place = (MAX_NUMBER, "~", 0)


class Log:
    """The log of one node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards the cache and the counts
        self._cache: dict[str, deque[PackedRun]] = {}
        self._cached: deque[tuple[str, int]] = deque()
        self._cache_size = 0
        self._cache_messages = 0
        with store.reading() as database:
            self._vector = {
                origin: (n, digest.hex())
                for origin, n, digest in database.execute("SELECT origin, n, hash FROM origins")
            }
            (self._arrival,) = database.execute(
                "SELECT coalesce(max(arrival), 0) FROM runs"
            ).fetchone()
            # By this index only those that were heard are read, not the whole log.
            heard = database.execute(
                "SELECT origin, count(*) FROM runs INDEXED BY by_text WHERE heard GROUP BY origin"
            )
            self._heard = Counter[str](dict(heard.fetchall()))
            (self._hidden,) = database.execute(
                "SELECT count(*) FROM runs WHERE leader <> arrival"
            ).fetchone()
        self._total = sum(n for n, _ in self._vector.values())

    # -- at the start ---------------------------------------------------------------------------

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return what the log held when it was opened: origin -> (number, running hash)."""
        return self._vector

    def newest_time(self, most: int) -> int:
        """Return the newest time in the log that is not above `most` (ms), 0 with none."""
        with self._store.reading() as database:
            newest = next(_backwards(database, (most + 1, "", 0), everything=True), (0,))
            return newest[0]

    # -- the writer's thread --------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> None:
        """Store `runs` in one transaction; they go on where their origins end.

        When this returns, they are on disk. Raises LogFull or LogError, and then nothing of them
        is stored.
        """
        runs = _joined(runs)
        packed = [PackedRun.of(run) for run in runs]
        with self._store.writing() as database:
            arrival = self._arrival
            texts: dict[str, list[int]] = {}
            for run, whole in zip(runs, packed, strict=True):
                database.executemany(
                    "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
                    _rows(run, whole, arrival),
                )
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
            for run, whole in zip(runs, packed, strict=True):
                self._remember(whole)
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

    def _remember(self, run: PackedRun) -> None:
        """With the lock held: keep `run` in memory, and let go of the oldest."""
        runs = self._cache.setdefault(run.origin, deque())
        if runs and runs[-1].end != run.after:
            runs.clear()
        runs.append(run)
        size = len(run.text)
        self._cached.append((run.origin, size))
        self._cache_size += size
        self._cache_messages += run.count
        while self._cache_size > _CACHE_SIZE or self._cache_messages > _CACHE_MESSAGES:
            origin, size = self._cached.popleft()
            self._cache_size -= size
            kept = self._cache[origin]
            self._cache_messages -= kept.popleft().count
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

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[PackedRun, int]:
        """Return messages `after`+1 to `upto` of `origin`, and the bytes that are left of `size`.

        Fewer where they exceed `size`, but at least one; fewer also where many are packed
        already. Raises LogError.
        """
        with self._lock:
            runs = self._cache.get(origin, deque())
            found = bisect_right(runs, after, key=_end)
            cached = list(islice(runs, found, found + upto - after))
        if cached and cached[0].after <= after:
            return _shipped(cached, after, upto, size)
        with self._store.reading() as database:
            rows = database.execute(
                "SELECT seq, previous, count, time, heard, data FROM runs "
                "WHERE origin = ?1 AND seq <= ?3 "
                "AND seq >= (SELECT max(seq) FROM runs WHERE origin = ?1 AND seq <= ?2 + 1) "
                "ORDER BY seq",
                (origin, after, upto),
            )
            stored = (
                PackedRun(
                    origin,
                    seq - 1,
                    previous.hex(),
                    count,
                    pack([Entry(time, data, True)]) if heard else data,
                )
                for seq, previous, count, time, heard, data in rows
            )
            return _shipped(stored, after, upto, size)

    def arrivals(self, after: int, limit: int) -> list[tuple[int, Message]]:
        """Return up to `limit` shown messages that came after arrival `after`, with its number."""
        found: list[tuple[int, Message]] = []
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT arrival - count + 1, {_ROW} FROM runs WHERE arrival > ? AND {_SHOWN} "
                "ORDER BY arrival LIMIT ?",
                (after, limit),
            )
            for arrival, *row in rows:
                numbered = enumerate(_items(*row), arrival)
                found += [(number, _message(item)) for number, item in numbered if number > after]
                if len(found) >= limit:
                    break
        return found[:limit]

    def ordered(self, after: Place, limit: int) -> list[Message]:
        """Return up to `limit` shown messages behind `after` in the shared order."""
        with self._store.reading() as database:
            return [_message(item) for item in islice(_forwards(database, after), limit)]

    def newest(self, limit: int, before: Place | None = None) -> list[Message]:
        """Return up to `limit` shown messages, the newest first: the last, or those `before`."""
        with self._store.reading() as database:
            return [_message(item) for item in islice(_backwards(database, before or _END), limit)]

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
            for item in _backwards(database, place):
                full = len(found) == limit or size > _PAGE_SIZE
                if full or count == _SCAN_MESSAGES or scanned > _SCAN_SIZE:
                    return found, place  # it read one too many, and so knows that there is more
                place = item[:3]
                data = item[3]
                count += 1
                scanned += len(data)
                named = len(wanted) >= _LEAST_ID and f"{item[1]}:{item[2]}".startswith(wanted)
                if named or wanted in data.casefold():
                    found.append(_message(item))
                    size += len(data)
        return found, None

    def all(self) -> Iterator[Message]:
        """Yield all shown messages in the shared order, a page at a time."""
        place: Place = (-1, "", 0)
        while page := self.ordered(place, 1000):
            yield from page
            place = page[-1].order


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Return `runs` with small ones of an origin that go on from each other made one: many commits,
    few rows."""
    groups: list[list[Run]] = []
    room = 0
    for run in runs:
        size = sum(len(entry.text) for entry in run.messages)
        room -= size
        first = groups[-1][0] if groups else None
        few = first is not None and run.end - first.after <= MAX_BATCH
        if first and first.origin == run.origin and few and room >= 0:
            groups[-1].append(run)
        else:
            groups.append([run])
            room = _ROW_SIZE - size
    return [group[0] if len(group) == 1 else _join(group) for group in groups]


def _join(runs: Sequence[Run]) -> Run:
    first = runs[0]
    messages = chain.from_iterable(run.messages for run in runs)
    hashes = chain.from_iterable(run.hashes for run in runs)
    return Run(first.origin, first.after, first.previous, tuple(messages), tuple(hashes))


def _rows(run: Run, packed: PackedRun, arrival: int) -> Iterator[tuple[object, ...]]:
    """Yield the rows that keep `run`, its messages numbered on from `arrival`."""
    for start, end in _pieces(run.messages):
        piece = run.messages[start:end]
        first = piece[0]
        previous = run.hashes[start - 1] if start else run.previous
        whole = len(piece) == packed.count
        data = first.text if first.heard else packed.text if whole else pack(piece)
        yield (
            arrival + end,
            run.origin,
            run.after + start + 1,
            len(piece),
            first.time,
            piece[-1].time,
            bytes.fromhex(previous),
            first.heard,
            data,
        )


def _pieces(messages: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Yield from where to where rows reach: each hearing alone, none that goes back in time."""
    start, last, latest, alone = 0, 0, 0, True
    for n, (time, _, heard) in enumerate(messages):
        if heard or alone or not last <= time <= latest:
            if n:
                yield start, n
            start, latest, alone = n, time + _SPAN, heard
        last = time
    yield start, len(messages)


def _items(origin: str, seq: int, time: int, heard: int, data: str) -> list[_Item]:
    """Return the messages in a row with their places."""
    if heard:
        return [(time, origin, seq, data, True)]
    entries = enumerate(unpack(data), seq)
    return [(time, origin, number, text, False) for number, (time, text, _) in entries]


def _forwards(database: Database, after: Place) -> Iterator[_Item]:
    """Yield the shown messages behind a place in the shared order."""
    rows = database.execute(
        f"SELECT {_ROW} FROM runs INDEXED BY by_begin WHERE time >= ? AND {_SHOWN} "
        "AND (until, origin, seq + count - 1) > (?, ?, ?) ORDER BY time, origin, seq",
        (after[0] - _SPAN, *after),
    )
    waiting: list[_Item] = []  # the next one last
    for origin, seq, time, heard, data in rows:
        begin = (time, origin, seq)
        while waiting and waiting[-1] < begin:
            yield waiting.pop()
        items = _items(origin, seq, time, heard, data)
        waiting += items if begin > after else [item for item in items if item[:3] > after]
        waiting.sort(reverse=True)
    while waiting:
        yield waiting.pop()


def _backwards(database: Database, before: Place, everything: bool = False) -> Iterator[_Item]:
    """Yield the shown messages before a place, or all, from there to the oldest."""
    rows = database.execute(
        f"SELECT until, seq + count - 1, {_ROW} FROM runs INDEXED BY by_end WHERE until <= ? "
        f"AND (? OR {_SHOWN}) AND (time, origin, seq) < (?, ?, ?) "
        "ORDER BY until DESC, origin DESC, seq DESC",
        (before[0] + _SPAN, everything, *before),
    )
    waiting: list[_Item] = []  # the next one last
    for until, last, origin, seq, time, heard, data in rows:
        end = (until, origin, last)
        while waiting and waiting[-1] > end:
            yield waiting.pop()
        items = _items(origin, seq, time, heard, data)
        waiting += items if end < before else [item for item in items if item[:3] < before]
        waiting.sort()
    while waiting:
        yield waiting.pop()


def _message(item: _Item) -> Message:
    time, origin, seq, data, heard = item
    return Message(origin, seq, time, data, bool(heard))


def _end(run: PackedRun) -> int:
    return run.end


def _shipped(runs: Iterable[PackedRun], after: int, upto: int, size: int) -> tuple[PackedRun, int]:
    """Return of `runs`, the first of which holds the message behind `after`, what `Log.read` does:
    the first as it is, if that will do; else as many messages as fit in `size` bytes, repacked."""
    rest = iter(runs)
    first = next(rest)
    enough = first.end == upto or (first.end < upto and first.count >= _LARGE)
    if first.after == after and enough and first.size <= size:
        return first, size - first.size
    skip = after - first.after
    messages = first.messages
    previous = running(first.previous, messages[:skip])[-1] if skip else first.previous
    more = chain.from_iterable(run.messages for run in rest)
    chosen: list[Entry] = []
    for entry in islice(chain(messages, more), skip, skip + upto - after):
        size -= len(entry.text.encode()) + _OVERHEAD
        if chosen and size < 0:
            break
        chosen.append(entry)
    return PackedRun(first.origin, after, previous, len(chosen), pack(chosen)), size


def _rematch(database: Database, text: str, first: int, last: int, arrival: int) -> tuple[int, int]:
    """Match the hearings of `text` anew, of which some from `first` to `last` (times) are new.

    Those before keep their leaders; behind, it goes on until nothing has changed for as long as
    hearings can match. One that was hidden and is shown from now on arrives once more, so that
    who follows the arrivals gets it. Returns the last arrival, and how many more are hidden.
    """
    rows = database.execute(
        "SELECT arrival, leader, time, origin FROM runs "
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
        "UPDATE runs SET leader = ? WHERE arrival = ?",
        [(leader, number) for number, leader in new_leaders.items()],
    )
    for number in shown:
        arrival += 1
        database.execute("UPDATE runs SET leader = ? WHERE leader = ?", (arrival, number))
        database.execute("UPDATE runs SET arrival = ? WHERE arrival = ?", (arrival, number))
    return arrival, hidden
