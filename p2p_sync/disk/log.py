"""The log of a node: the writer appends to it, and senders read it.

One thread appends runs; each begins where its origin ends. When `append` returns, they are on disk
(store.py says what that means). Any thread reads at the same time. `Pages` has what people and
programs read.

An entry is what was committed together, often many messages. It is one row, and is sent whole. The
newest entries also stay in memory, packed for sending (recent.py).

There are two locks, which never nest: that of the database, and one for the counts and the newest
entries.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

from ..errors import LogDamaged, LogError
from ..settings import (
    AUDIT_EVERY,
    INSERTED_ROWS,
    MAX_BATCH,
    MAX_DAMAGE_NAMED,
    MAX_MESSAGE_BYTES,
    MAX_PAUSE_MS,
    MAX_SHIPPED,
)
from ..wire.entries import HEARD, NOTICE
from ..wire.logframes import NOTHING_HELD, Head, PackedRun, Run
from . import damage, origins
from .copies import count_copies, rematch
from .damage import GAP, Found
from .origins import NO_FLOOR, Floor
from .pages import Page, Pages, Place, logger
from .rows import COLUMNS, VALUES, Row, head_of, is_whole, packed, stored
from .store import Database, Store

__all__ = ["Log", "Page", "Place"]


class Log(Pages):
    """The log of one node."""

    def __init__(self, store: Store) -> None:
        """Read what the database holds; raises LogError."""
        super().__init__(store)
        # Origins with a damaged entry: its number, and the last number that the log held before.
        # Only the writer changes it.
        self._damaged: dict[str, tuple[int, int]] = {}
        self._floors: dict[str, Floor] = {}  # those that are not 0; written by the writer alone
        self._mend_at = 0.0
        self.mend_indexes()
        with store.reading() as database:
            ends, floors, last, bad, changed = damage.survey(database, store.small)
            query = "SELECT coalesce(max(arrival), 0) FROM entries"
            (self._arrival,) = database.execute(query).fetchone()
            self._recent.forget_arrivals(self._arrival)
            self._copies, self._hidden = count_copies(database)
        self._floors = floors
        if changed:
            with suppress(LogError), store.writing() as database:
                origins.delete_damaged(database)
                origins.write(database, {name: ends[name] for name in changed}, self._floors)
        self._total = sum(
            self._floor(name).held(last.get(name, head.n)) for name, head in ends.items()
        )
        self._note(bad)
        lost = dict(self.losses())
        for name in last.keys() | lost.keys():
            head = ends.get(name, NOTHING_HELD)
            held = last.get(name, head.n)
            head = ends[name] = lost.get(name, head)
            if name in lost or held > head.n:
                self.lose(name, head, held)
        self._vector = {name: head for name, head in ends.items() if head.n}

    def vector(self) -> dict[str, Head]:
        """Return what the log held when it was opened."""
        return self._vector

    def newest_time(self, most: int) -> int:
        """Return the newest time in the log that is not above `most` (ms), 0 with none."""
        with self._store.reading() as database:
            row = database.execute("SELECT max(time) FROM entries WHERE time <= ?", (most,))
            return int(row.fetchone()[0] or 0)

    # -- the writer's thread --------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> tuple[int, int]:
        """Store `runs`, which begin where their origins end, in one transaction.

        When this returns, they are on disk. Returns the last arrival before them, and now. Raises
        LogFull or LogError; then none of them is stored.
        """
        arrival, hidden = self._arrival, self._hidden
        stored_runs: list[tuple[Run, list[Row], list[PackedRun]]] = []
        for run in runs:
            stored_runs.append((run, *stored(run, arrival)))
            arrival += run.count
        copies: dict[str, list[int]] = {}
        notices = sum(entry.kind == NOTICE for run in runs for entry in run.entries)
        mended = False
        with self._store.writing() as database:
            for run, rows, _ in stored_runs:
                mending = run.after < self._damaged.get(run.origin, (0, 0))[1]
                _insert(database, rows, mending)
                for entry in run.entries:
                    if entry.kind == HEARD:
                        copies.setdefault(entry.text, []).append(entry.time)
                mended = mended or mending
            origins.write(database, {run.origin: run.head for run in runs}, self._floors)
            for text, times in copies.items():
                arrival, more = rematch(database, text, times, arrival)
                hidden += more
            hidden += notices
            counted = count_copies(database) if mended else None
        with self._lock:
            before, self._arrival, self._hidden = self._arrival, arrival, hidden
            for run, rows, entries in stored_runs:
                if run.origin in self._damaged:
                    _, last = self._damaged.pop(run.origin)
                    if last > run.end:
                        self._damaged[run.origin] = (run.end + 1, last)
                self._total += run.count
                self._recent.add(entries, [row[-1] for row in rows])
                if copies:
                    self._copies[run.origin] += sum(entry.kind == HEARD for entry in run.entries)
            if copies or mended or notices:  # some are hidden, or have arrived once more
                self._recent.forget_arrivals(arrival)
            if counted:
                self._copies, self._hidden = counted
        return before, arrival

    def mend_indexes(self) -> None:
        """Make the indexes again if they were found damaged, without the entries that are."""
        if not self._store.indexes_damaged or time.monotonic() < self._mend_at:
            return
        logger.warning("the indexes of the log are damaged, and are made again; check the disk")
        self._mend_at = time.monotonic() + AUDIT_EVERY
        try:
            with self._store.writing() as database:
                damage.make_indexes(database)
            self._store.indexes_damaged = False
            with self._store.reading() as database:
                found = damage.survey(database, True)
            self._note(found.bad)
        except LogError as error:
            logger.error("the log cannot be read whole; put it aside and start again: %s", error)

    def losses(self) -> list[tuple[str, Head]]:
        """Return the origins in which damage was found, each with what it holds up to the last
        signed entry before that. Give them to `lose`, or the next call returns them again."""
        if not self._found:
            return []
        with self._lock:
            bad = sorted(self._found, reverse=True)
        with self._store.reading() as database:
            if not all(damage.is_indexed(database, arrival) for *_, arrival in bad):
                self._store.indexes_damaged = True
        self.mend_indexes()
        lost: dict[str, Head] = {}
        done: list[Found] = []
        for entry in bad:
            name, seq, _ = entry
            with suppress(LogError), self._store.reading() as database:
                whole = damage.whole_before(database, name, seq, self._floor(name))
                if whole is None or whole.n >= seq:
                    done.append(entry)  # it has come again, or another entry is at its place
                else:
                    lost[name] = whole
        self._settle(done)
        return list(lost.items())

    def lose(self, name: str, head: Head, held: int) -> None:
        """Keep only this of the `held` messages of an origin."""
        n = head.n
        with self._lock:
            bad = [entry for entry in self._found if entry[0] == name and entry[1] > n]
            self._found.difference_update(bad)
            last = max(held, self._damaged.get(name, (0, 0))[1])
            if held > n:
                self._damaged[name] = (n + 1, last)
                self._total -= self._floor(name).held(held)
                if not n:
                    self._floors.pop(name, None)  # it begins anew
                self._total += self._floor(name).held(n)
                self._recent.clear(self._arrival)
        if held > n:
            with suppress(LogError), self._store.writing() as database:
                database.execute("INSERT OR IGNORE INTO damage VALUES (?, ?)", (name, n + 1))
                origins.write(database, {name: head}, self._floors)
        self._settle([entry for entry in bad if entry[1] > last])

    def _floor(self, name: str) -> Floor:
        return self._floors.get(name, NO_FLOOR)

    def _settle(self, entries: Sequence[Found]) -> None:
        """Forget damaged entries whose messages are not missing here, and delete their rows."""
        if not entries:
            return
        with self._lock:
            self._found.difference_update(entries)
        with suppress(LogError), self._store.writing() as database:
            damage.delete_damaged(database, [arrival for *_, arrival in entries])
            places = [(name, seq) for name, seq, _ in entries]
            database.executemany("DELETE FROM damage WHERE origin = ? AND seq = ?", places)

    def probe(self) -> None:
        """Write as much as a message may need, and delete it; raises LogFull or LogError."""
        with self._store.writing() as database:
            database.execute("INSERT INTO probe VALUES (zeroblob(?))", (MAX_MESSAGE_BYTES,))
        with self._store.writing() as database:
            database.execute("DELETE FROM probe")

    def check(self) -> None:
        """Raise LogGone if the files of the log were deleted, replaced or cut short."""
        self._store.check()

    # -- any thread -----------------------------------------------------------------------------

    def head(self, origin: str) -> Head:
        """Return what the log holds of an origin, NOTHING_HELD if that cannot be read now."""
        with suppress(LogError), self._store.reading() as database:
            return origins.head(database, origin)
        return NOTHING_HELD

    def floors(self) -> dict[str, int]:
        """Return the origins of which the first messages are not held, each with the number of the
        last of these."""
        with self._lock:
            return {name: floor.n for name, floor in self._floors.items()}

    def audit(self) -> Iterator[None]:
        """Check the whole log, a step with each item, and note damage for the writer. Raises
        LogError."""
        after: int | None = 0
        while after is not None:
            with self._store.reading() as database:
                after, bad, indexed = damage.audit(database, after)
            self._note(bad)
            self._store.indexes_damaged |= not indexed
            yield
        name: bytes | None = b""
        while name is not None:
            with self._store.reading() as database:
                name, bad = damage.audit_ends(database, name)
            self._note(bad)
            yield

    def damaged(self) -> list[str]:
        """Return the first damaged entry, `origin:number`, of up to 100 origins that have one."""
        with self._lock:
            names = [f"{origin}:{seq}" for origin, (seq, _) in self._damaged.items()]
        return sorted(names)[:MAX_DAMAGE_NAMED]

    def count(self) -> tuple[int, int]:
        """Return how many messages the log holds, and how many of them are hidden."""
        with self._lock:
            return self._total, self._hidden

    def heard(self) -> dict[str, int]:
        """Return how many of the messages of each origin are copies of commits of originals."""
        with self._lock:
            return dict(self._copies)

    def hash_at(self, origin: str, n: int) -> str | None:
        """Return the running hash over the first `n` messages of an origin; "" if no entry ends
        there; None if the log does not hold them, or cannot be read now."""
        query = f"SELECT {COLUMNS} FROM entries WHERE origin = ? AND seq <= ? ORDER BY seq DESC"
        row = None
        with suppress(LogError), self._store.reading() as database:
            row = database.execute(f"{query} LIMIT 1", (origin, n)).fetchone()
        head = head_of(row) if row and is_whole(row) else NOTHING_HELD
        if head.n < n:
            return None
        return head.hash if head.n == n else ""

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[PackedRun, int]:
        """Return messages `after`+1 to `upto` of `origin`, and the bytes that are left of `size`.

        Returns whole entries, the last of which is signed. So they may begin before `after` and end
        after `upto`. They end before `upto` if there are more than `size` bytes, but not before the
        first signed entry; or before a pause of more than MAX_PAUSE_MS, so that no message waits
        for the clock because of one that comes a day after it. Raises LogError.
        """
        with self._lock:
            entries = self._recent.find(origin, after)
        joined = _joined(entries, upto, size)
        if joined is None:
            bad: list[Found] = []
            with self._store.reading() as database:
                rows = database.execute(
                    f"SELECT {COLUMNS} FROM entries WHERE origin = ? "
                    "AND seq >= (SELECT max(seq) FROM entries WHERE origin = ? AND seq <= ?) "
                    "ORDER BY seq",
                    (origin, origin, after + 1),
                )
                joined = _joined(_whole(rows, origin, after, bad), upto, size)
            self._note(bad)
        if joined is None:
            raise LogDamaged(f"this node's copy of {origin}:{after + 1} is damaged")
        return joined


def _insert(database: Database, rows: Sequence[Row], mending: bool) -> None:
    """Insert the entries of a run, many with one statement: each statement releases the
    interpreter's lock and has to get it back."""
    if mending:
        kept = damage.mend(database, rows)
        rows = [row for row in rows if row[1] not in kept]
    for start in range(0, len(rows), INSERTED_ROWS):
        part = rows[start : start + INSERTED_ROWS]
        values = ", ".join([VALUES] * len(part))
        statement = f"INSERT INTO entries ({COLUMNS}) VALUES {values}"
        database.execute(statement, [*chain.from_iterable(part)])


def _whole(rows: Iterable[Row], origin: str, after: int, bad: list[Found]) -> Iterator[PackedRun]:
    """Yield the entries in `rows` from the one that has message `after`+1 on, up to the first that
    is damaged or missing, which is added to `bad`."""
    end = None
    for row in rows:
        if not is_whole(row):
            bad.append(damage.found(row))
            break
        entry = packed(row)
        if entry.after != end if end is not None else not entry.after <= after < entry.end:
            break
        end = entry.end
        yield entry
    else:
        if end is not None:
            return
    bad.append((origin, (after if end is None else end) + 1, GAP))


def _joined(entries: Iterable[PackedRun], upto: int, size: int) -> tuple[PackedRun, int] | None:
    """Join the entries that begin before `upto` and fit in `size` bytes, up to a signed one; return
    them and the bytes that are left. None if none of the entries is signed."""
    chosen: list[PackedRun] = []
    count, left = 0, size  # as far as the last signed one
    for entry in entries:
        text = entry.text
        size -= len(text) if text.isascii() else len(text.encode())
        if count:
            is_long = (
                size < 0 or entry.end - chosen[0].after > MAX_SHIPPED or len(chosen) == MAX_BATCH
            )
            ends = count == len(chosen)
            if is_long or (
                ends and (entry.after >= upto or entry.newest - chosen[-1].newest > MAX_PAUSE_MS)
            ):
                break
        chosen.append(entry)
        if entry.signature:
            count, left = len(chosen), size
        if entry.notice:
            break
    if count < 2:
        return (chosen[0], left) if count else None
    first, last = chosen[0], chosen[count - 1]
    joined = ",".join(entry.text for entry in chosen[:count])
    length = last.end - first.after
    return (
        PackedRun(
            first.origin, first.after, first.previous, length, joined, last.newest, last.signature
        ),
        left,
    )
