"""The messages, durable: appended in runs, read by origin, by arrival and by the shared order.

One thread appends; any thread reads, also while a transaction is on its way to the disk. The
newest runs are kept in memory too, bounded, for most of what links ship has just arrived.

Disks change what they hold. Each row has a checksum, which is compared whenever the row is read. A
damaged entry is neither shown nor shipped, and of its origin the log holds no more than what is
before it: the rest stays readable, and comes again from a peer as anything does that is lacking.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from ..codes import MAX_NUMBER
from ..core.deduplication import WINDOW, Crowd, match, node_of, spans
from ..errors import CursorGone, LogDamaged, LogError
from ..settings import MAX_MESSAGE_BYTES
from ..wire.frames import Message
from ..wire.logframes import MAX_SHIPPED, NO_HASH, Entry, PackedRun, Run
from ..wire.logframes import chain as hashes_of
from .folding import folded
from .store import Database, Store

logger = logging.getLogger("p2p_sync")

T = TypeVar("T")

# The numbers in a row, for its checksum.
_pack = Struct(">qqqq").pack

# Damaged entries that are logged, one line each, and named in the status.
_MOST_NAMED = 100

# JSON of entries kept in memory, in characters, and how many messages at the most.
_CACHE_SIZE = 4 * 1024 * 1024
_CACHE_MESSAGES = 20_000

# Entries that one statement inserts; the few sizes are all prepared once.
_ROWS = 50
# Text in a page that is read back from the newest; what one search reads. Characters, messages.
_PAGE_SIZE = 1024 * 1024
_SCAN_SIZE = 8 * 1024 * 1024
_SCAN_MESSAGES = 20_000
# What a search costs for a text that is not ASCII, as a multiple of one that is.
_FOLDING = 4
# Characters of an id, at least, that are searched for as one.
_LEAST_ID = 8

_ENTRY = "CAST(origin AS BLOB), seq, count, time, heard, previous, CAST(data AS BLOB), sum"
_SHOWN = "(leader IS NULL OR leader = arrival)"

# A place in the shared order: time, origin, sequence number.
Place = tuple[int, str, int]
# A copy of what an original node committed: its arrival, that of the copy that is shown for it
# (None: new), its time and origin.
_Copy = tuple[int, int | None, int, str]


class Page(list[T]):
    """What was read: a list, and how many `damaged` entries were left out of it."""

    damaged = 0


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
        # Origins with a damaged entry: its number, and up to where there are entries.
        self._damaged: dict[str, tuple[int, int]] = {}
        self._found: set[tuple[str, int]] = set()  # damaged entries, to be looked at by the writer
        self._named: set[str] = set()  # those that were logged
        with store.reading() as database:
            self._vector = self._load(database, store.small)
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

    def _load(self, database: Database, scan: bool) -> dict[str, tuple[int, str]]:
        """Return what the log holds. Without `scan`, entries are read only where that is unsure."""
        vector: dict[str, tuple[int, str]] = {}
        query = "SELECT CAST(origin AS BLOB), n, hash, beyond, sum FROM origins"
        for name, n, running, beyond, checksum in database.execute(query):
            if _end_sum(name, n, running, beyond) != checksum:
                scan = True
                continue
            vector[name.decode()] = (n, running.hex())
            if beyond:
                self._damaged[name.decode()] = (n + 1, beyond)
        if scan:
            good, damaged = self._scan(database)
            for name in {*vector, *good}:
                held = vector.get(name)
                if held is None or held[0] != good[name]:
                    self._recount(database, name, held, vector)
            # A row whose name or number is damaged would be left out of what is shown for good.
            lost = [
                (arrival,)
                for arrival, name, seq in damaged
                if name not in self._damaged or type(seq) is not int
                or not self._damaged[name][0] <= seq <= self._damaged[name][1]
            ]  # fmt: skip
            if lost:
                with suppress(LogError), self._store.writing() as writer:
                    writer.executemany("DELETE FROM entries WHERE arrival = ?", lost)
        for name in self.damaged():
            self._report(name)
        return {name: held for name, held in vector.items() if held[0]}

    def _scan(self, database: Database) -> tuple[Counter[str], list[tuple[int, str, object]]]:
        """Read all entries; return how many messages of each origin are whole, and of those that
        are not the arrival and what they say is their origin and number."""
        good = Counter[bytes]()
        damaged: list[tuple[int, str, object]] = []
        rows = database.execute(f"SELECT {_ENTRY}, arrival FROM entries")
        for origin, seq, count, time, heard, previous, data, checksum, arrival in rows:
            # As in _is_whole; the call takes longer than this.
            try:
                head = _pack(seq, count, time, heard) + origin + previous
                if crc32(data, crc32(head)) == checksum:
                    good[origin] += count
                    continue
            except (TypeError, StructError):
                pass
            damaged.append((arrival, _name(origin), seq))
        if self._store.indexes_differ:
            # Damaged rows are nowhere to be found then, and in the way of what comes again.
            self._store.make_indexes(arrival for arrival, *_ in damaged)
            damaged = []
            logger.warning(
                "the indexes of the log were damaged, and are made again; check the disk"
            )
        return Counter({name.decode(): count for name, count in good.items()}), damaged

    def _recount(
        self,
        database: Database,
        name: str,
        held: tuple[int, str] | None,
        vector: dict[str, tuple[int, str]],
    ) -> None:
        """Find out how much of an origin is whole, where `held` cannot be relied on."""
        n, running, beyond = 0, NO_HASH, held[0] if held else 0
        query = f"SELECT {_ENTRY} FROM entries WHERE origin = ? ORDER BY seq"
        for row in database.execute(query, (name,)):
            if not _is_whole(row):
                continue
            _, seq, count, time, heard, previous, data, _ = row
            if seq == n + 1 and previous.hex() == running:
                entry = Entry(time, data.decode(), heard, count)
                n, running = n + count, hashes_of(running, [entry])[-1]
            beyond = max(beyond, seq + count - 1)
        vector[name] = (n, running)
        self._damaged.pop(name, None)
        if beyond > n:
            self._damaged[name] = (n + 1, beyond)

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
                _, beyond = self._damaged.get(run.origin, (0, 0))
                kept = _mend(database, run) if run.after < beyond else set[int]()
                _insert(database, run, entries, arrival, kept)
                _set_end(database, run.origin, run.end, run.hashes[-1], beyond)
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
                if run.origin in self._damaged:
                    _, beyond = self._damaged.pop(run.origin)
                    if beyond > run.end:
                        self._damaged[run.origin] = (run.end + 1, beyond)
                self._total += run.count
                self._remember(run.origin, entries)
                if heard := sum(entry.heard for entry in run.entries):
                    self._heard[run.origin] += heard

    def losses(self) -> list[tuple[str, int, str]]:
        """Return the origins in which damage was found, and what is whole of each: the number of
        messages before the first damaged one, and the running hash over them. To be given to
        `lose`, or returned again by the next call."""
        if not self._found:
            return []
        with self._lock:
            found = sorted(self._found, reverse=True)
        lost: dict[str, tuple[str, int, str]] = {}
        for name, seq in found:
            with suppress(LogError), self._store.reading() as database:
                whole = _whole_before(database, name, seq)
                if whole is not None:
                    lost[name] = (name, *whole)
                    continue
            with self._lock:
                self._found.discard((name, seq))
        return list(lost.values())

    def lose(self, name: str, n: int, running: str, held: int) -> None:
        """Hold no more than `n` messages of an origin, of which there were `held`."""
        with self._lock:
            self._found = {entry for entry in self._found if entry[0] != name}
            if held <= n:
                return  # it was lost before
            _, beyond = self._damaged.get(name, (0, 0))
            beyond = max(beyond, held)
            self._damaged[name] = (n + 1, beyond)
            self._total -= held - n
            self._cache.clear()
            self._cached.clear()
            self._cache_size = self._cache_messages = 0
        with suppress(LogError), self._store.writing() as database:  # else the next start finds it
            _set_end(database, name, n, running, beyond)

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

    def _report(self, name: str) -> None:
        """Log a damaged entry, once."""
        with self._lock:
            if name in self._named or len(self._named) >= _MOST_NAMED:
                return
            self._named.add(name)
        logger.error(
            "the entry %s of the log is damaged, check the disk; it is neither shown nor sent, and "
            "comes again from a peer that has it",
            name,
        )

    def _note(self, row: Sequence[Any]) -> None:
        """Take note of a damaged row, as far as it says what it is."""
        name = _name(row[0])
        self._report(f"{name}:{row[1]}")
        if type(row[1]) is int:
            with self._lock:
                self._found.add((name, row[1]))

    # -- any thread -----------------------------------------------------------------------------

    def damaged(self) -> list[str]:
        """Return the first damaged entry, `origin:number`, of up to 100 origins that have one."""
        with self._lock:
            names = [f"{origin}:{seq}" for origin, (seq, _) in self._damaged.items()]
        return sorted(names)[:_MOST_NAMED]

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
                f"SELECT {_ENTRY} FROM entries "
                "WHERE origin = ? AND seq <= ? "
                "AND seq >= (SELECT max(seq) FROM entries WHERE origin = ? AND seq <= ?) "
                "ORDER BY seq",
                (origin, upto, origin, after + 1),
            )
            return _shipped(origin, self._packed(rows, origin, after), upto, size)

    def _packed(self, rows: Iterable[Sequence[Any]], origin: str, after: int) -> Iterator[_Stored]:
        """Yield the entries in `rows` up to the first that is damaged or not there; raises
        LogDamaged where that is the one with what follows `after`."""
        begun = False
        for row in rows:
            if not _is_whole(row):
                self._note(row)
                break
            _, seq, count, time, heard, previous, data, _ = row
            start = seq - 1
            if start != after if begun else not start <= after < start + count:
                break
            begun, after = True, start + count
            text = Entry(time, data.decode(), heard, count).pack()
            yield _Stored(start, count, previous.hex(), text)
        else:
            if begun:
                return
        with self._lock:
            self._found.add((origin, after + 1))
        if not begun:
            raise LogDamaged(f"this node's copy of {origin}:{after + 1} is damaged")

    def arrivals(self, after: int, limit: int, hidden: bool = False) -> Page[tuple[int, Message]]:
        """Return up to `limit` messages that came after arrival `after`, with its number: those
        that are shown, or with `hidden` all."""
        found: Page[tuple[int, Message]] = Page()
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT arrival, {_ENTRY} FROM entries WHERE arrival > ? "
                f"{'' if hidden else f'AND {_SHOWN}'} ORDER BY arrival",
                (after,),
            )
            for arrival, *entry in rows:
                if not _is_whole(entry):
                    self._note(entry)
                    found.damaged += 1
                    continue
                numbered = enumerate(_messages(entry), arrival - entry[2] + 1)
                found += [(number, message) for number, message in numbered if number > after]
                if len(found) >= limit:
                    break
        del found[limit:]
        return found

    def ordered(self, after: Place, limit: int) -> Page[Message]:
        """Return up to `limit` shown messages behind `after` in the shared order."""
        found: Page[Message] = Page()
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT {_ENTRY} FROM entries WHERE {_SHOWN} "
                "AND (time, origin, seq) >= (?, ?, (SELECT coalesce(max(seq), 0) "
                "FROM entries WHERE time = ? AND origin = ? AND seq <= ?)) "
                "ORDER BY time, origin, seq",
                (*after[:2], *after),  # the entry that holds it may reach beyond
            )
            for row in rows:
                if not _is_whole(row):
                    self._note(row)
                    found.damaged += 1
                    continue
                last = found[-1].order if found else after  # a damaged index goes back
                found += [message for message in _messages(row) if message.order > last]
                if len(found) >= limit:
                    break
        del found[limit:]
        return found

    def newest(self, limit: int, before: Place | None = None) -> Page[Message]:
        """Return up to `limit` shown messages, the newest first: the last, or those `before`."""
        found: Page[Message] = Page()
        with self._store.reading() as database:
            for message in self._backwards(database, before or _END, found):
                found.append(message)
                if len(found) == limit:
                    break
        return found

    def search(
        self, text: str, limit: int, before: Place | None = None
    ) -> tuple[Page[Message], Place | None]:
        """Return shown messages `before` a place that hold `text`, the newest first, and the place
        where to go on, None where the log has been read to its beginning.

        Case does not matter, nor how letters are composed; the beginning of an id finds its
        messages too. One call reads a bounded part of the log and returns up to `limit` messages,
        of about 1 MiB: there may be more even where it finds none.
        """
        place = before or _END
        wanted = folded(text)
        found: Page[Message] = Page()
        size = scanned = count = 0
        with self._store.reading() as database:
            for message in self._backwards(database, place, found):
                full = len(found) == limit or size > _PAGE_SIZE
                if full or count == _SCAN_MESSAGES or scanned > _SCAN_SIZE:
                    return found, place  # it read one too many, and so knows that there is more
                place = message.order
                count += 1
                text = folded(message.data)
                scanned += len(text) if text.isascii() else _FOLDING * len(text)
                named = len(wanted) >= _LEAST_ID and message.id.startswith(wanted)
                if named or wanted in text:
                    found.append(message)
                    size += len(message.data)
        return found, None

    def all(self) -> Iterator[Message]:
        """Yield all shown messages in the shared order, a page at a time."""
        place: Place = (-1, "", 0)
        while page := self.ordered(place, 1000):
            yield from page
            place = page[-1].order

    def _backwards(
        self, database: Database, before: Place, page: Page[Message]
    ) -> Iterator[Message]:
        """Yield the shown messages before a place, from there to the oldest; `page` counts the
        damaged ones."""
        rows = database.execute(
            f"SELECT {_ENTRY} FROM entries WHERE {_SHOWN} AND (time, origin, seq) < (?, ?, ?) "
            "ORDER BY time DESC, origin DESC, seq DESC",
            before,
        )
        for row in rows:
            if not _is_whole(row):
                self._note(row)
                page.damaged += 1
                continue
            for message in reversed(_messages(row)):
                if message.order < before:
                    yield message


def _end_sum(origin: bytes, n: int, running: bytes, beyond: int) -> int:
    """Return the checksum of what is held of an origin, -1 if a field is not even of its type."""
    try:
        return crc32(b"%b %d %b %d" % (origin, n, running, beyond))
    except TypeError:
        return -1


def _name(origin: object) -> str:
    """Return the origin in a row, which may be damaged, for people."""
    return origin.decode("utf-8", "replace") if isinstance(origin, bytes) else "?"


def _is_whole(row: Sequence[Any]) -> bool:
    """Return whether an entry, the columns _ENTRY, is what was stored."""
    origin, seq, count, time, heard, previous, data, checksum = row
    try:
        head = _pack(seq, count, time, heard) + origin + previous
        return bool(crc32(data, crc32(head)) == checksum)
    except (TypeError, StructError):  # not even of the right type
        return False


def _set_end(database: Database, origin: str, n: int, running: str, beyond: int) -> None:
    """Note that an origin is held up to `n`, and whether there are entries beyond."""
    beyond = beyond if beyond > n else 0
    digest = bytes.fromhex(running)
    database.execute(
        "INSERT INTO origins VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET "
        "n = excluded.n, hash = excluded.hash, beyond = excluded.beyond, sum = excluded.sum",
        (origin, n, digest, beyond, _end_sum(origin.encode(), n, digest, beyond)),
    )


def _whole_before(database: Database, origin: str, seq: int) -> tuple[int, str] | None:
    """Return how many messages of an origin are whole before the damaged `seq`, and the running
    hash over them; None if it is not damaged."""
    query = f"SELECT {_ENTRY} FROM entries WHERE origin = ? AND seq <= ? ORDER BY seq DESC"
    damaged = False
    for row in database.execute(query, (origin, seq)):
        if not _is_whole(row):
            damaged = True
            continue
        _, start, count, time, heard, previous, data, _ = row
        if not damaged and start <= seq < start + count:
            return None
        entry = Entry(time, data.decode(), heard, count)
        return start + count - 1, hashes_of(previous.hex(), [entry])[-1]
    return 0, NO_HASH


def _mend(database: Database, run: Run) -> set[int]:
    """Delete what is damaged of the entries of `run`; return the numbers of those to be kept."""
    kept: set[int] = set()
    wrong: list[tuple[int]] = []
    expected = {}
    after, previous = run.after, run.previous
    for entry, running in zip(run.entries, run.hashes, strict=True):
        expected[after + 1] = (entry.length, entry.time, entry.text, previous)
        after, previous = after + entry.length, running
    query = f"SELECT arrival, {_ENTRY} FROM entries WHERE origin = ? AND seq > ? AND seq <= ?"
    for arrival, *row in database.execute(query, (run.origin, run.after, run.end)).fetchall():
        _, seq, count, time, _, before, data, _ = row
        if _is_whole(row) and expected.get(seq) == (count, time, data.decode(), before.hex()):
            kept.add(seq)
        else:
            wrong.append((arrival,))
    database.executemany("DELETE FROM entries WHERE arrival = ?", wrong)
    return kept


def _insert(
    database: Database, run: Run, entries: Sequence[_Stored], arrival: int, kept: Collection[int]
) -> None:
    """Insert the entries of `run` that are not `kept`, their messages numbered on from `arrival`,
    many with one statement: each step of a statement gives up the interpreter's lock and has to
    get it back."""
    fields: list[tuple[object, ...]] = []
    origin = run.origin.encode()
    for (time, text, heard, length), (after, _, previous, _) in zip(
        run.entries, entries, strict=True
    ):
        last = arrival + after - run.after + length
        if after + 1 in kept:
            continue
        before = bytes.fromhex(previous)
        head = _pack(after + 1, length, time, heard) + origin + before
        checksum = crc32(text.encode(), crc32(head))
        fields.append((last, run.origin, after + 1, length, time, heard, before, text, checksum))
    for start in range(0, len(fields), _ROWS):
        rows = fields[start : start + _ROWS]
        values = ", ".join(["(?, ?, ?, ?, ?, ?, NULL, ?, ?, ?)"] * len(rows))
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
    """Return the messages in an entry that is whole."""
    name, seq, count, time, heard, _, data, _ = row
    origin = name.decode()
    texts = enumerate(Entry(time, data.decode(), heard, count).texts, seq)
    return [Message(origin, number, time, text, bool(heard)) for number, text in texts]


def _rematch(database: Database, text: str, times: Sequence[int], arrival: int) -> tuple[int, int]:
    """Match the copies of `text` again, of which those with `times` are new (see deduplication.py).

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
