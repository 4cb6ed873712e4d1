"""The log of a node: the writer appends to it, and deletes what need not be kept.

One thread appends runs; each begins where its origin ends. When `append` returns, they are on disk
(store.py says what that means). Any thread reads at the same time. `Pages` has what people and
programs read, `Sending` what senders read.

An entry is what was committed together, often many messages. It is one row, and is sent whole. The
newest entries also stay in memory, packed for sending (recent.py).

There are two locks, which never nest: that of the database, and one for the counts and the newest
entries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain

from ..core import placing
from ..core.commit import Keyed
from ..core.deduplication import node_of
from ..core.placing import Placed
from ..errors import LogError
from ..settings import (
    AUDIT_EVERY,
    COPIES_PATIENCE,
    INSERTED_ROWS,
    KEEP_VACUUMED,
    MAX_DAMAGE_NAMED,
    MAX_MESSAGE_BYTES,
)
from ..wire.cutoffs import is_cutoff
from ..wire.entries import HEARD, NOTICE
from ..wire.heads import Heads
from ..wire.logframes import NOTHING_HELD, Head, PackedRun, Run
from . import damage, erasing, forks, keyed, origins, retention
from .copies import count_copies, rematch
from .damage import Found
from .erasing import Erased
from .forgetting import Forgetting
from .forks import Moving
from .origins import Floor
from .pages import Page, logger
from .retention import Gone, Limits
from .rows import INSERTED, VALUES, Row, stored
from .schema import LAST_ARRIVAL
from .store import Database, Store
from .wanted import Place
from .witness import Left

__all__ = ["Log", "Page", "Place"]


class Log(Forgetting):
    """The log of one node."""

    def __init__(self, store: Store) -> None:
        """Read what the database holds; raises LogError."""
        super().__init__(store)
        # Origins with a damaged entry: its number, and the last number that the log held before.
        # Only the writer changes it.
        self._damaged: dict[str, tuple[int, int]] = {}
        self._own = ""  # the origin of this node's commits; the writer alone uses it
        self._deleted = 0  # messages, since the start
        self._erased: list[Erased] = []  # since the last `take_erased`
        # Where copies may be left of commits that are erased: when to look there.
        self._half_erased: dict[tuple[bytes, int], float] = {}
        self._mend_at = 0.0
        self.mend_indexes()
        with store.reading() as database:
            ends, floors, last, bad, changed = damage.survey(database, store.small)
            (self._arrival,) = database.execute(LAST_ARRIVAL).fetchone()
            self._gone = retention.read_gone(database)
            self._recent.forget_arrivals(self._arrival)
            self._copies, self._hidden = count_copies(database)
            self._half_erased = dict.fromkeys(erasing.erased_copies(database), 0.0)
            self._has_notices = erasing.has_notices(database)  # most logs never have one
        self._floors = floors
        if changed:
            with suppress(LogError), store.writing() as database:
                origins.delete_damaged(database)
                origins.write(database, {name: ends[name] for name in changed}, self._floors)
        self._total = sum(self._floor(name).held(last.get(name, n)) for name, n in ends.numbers())
        self._note(bad)
        lost = dict(self.losses())
        for name in last.keys() | lost.keys():
            head = ends.get(name, NOTHING_HELD)
            held = last.get(name, head.n)
            head = ends[name] = lost.get(name, head)
            if name in lost or held > head.n:
                self.lose(name, head, held)
        self._vector: Heads | None = _held(ends)

    def vector(self) -> Heads:
        """Return what the log holds. The first call returns what it held when it was opened, which
        is not kept: there may be very many origins. Later ones read it again; raises LogError."""
        vector, self._vector = self._vector, None
        if vector is None:
            with self._store.reading() as database:
                heads, _, _ = origins.read(database)
            vector = _held(heads)
        return vector

    def newest_time(self, most: int) -> int:
        """Return the newest time in the log that is not above `most` (ms), 0 with none; what was
        deleted counts, too."""
        with self._store.reading() as database:
            row = database.execute("SELECT max(time) FROM entries WHERE time <= ?", (most,))
            return max(row.fetchone()[0] or 0, self._gone.time if self._gone.time <= most else 0)

    def origin(self, latest: int) -> str:
        """Return the origin of the last start's commits if they can go on with it: all of them are
        here for certain, and none is dated after `latest`. "" if not."""
        left = self._store.left
        if not left or node_of(left.origin) != self._store.node or left.origin in self._damaged:
            return ""
        head = self.head(left.origin)
        running = head.hash if head.n == left.n else self.hash_at(left.origin, left.n)
        query = "SELECT time FROM entries WHERE origin = ? ORDER BY seq DESC LIMIT 1"
        with self._store.reading() as database:
            last = database.execute(query, (left.origin,)).fetchone() or (0,)
        return left.origin if running == left.hash and last[0] <= latest else ""

    # -- the writer's thread --------------------------------------------------------------------

    def begin(self, origin: str) -> None:
        """Commits go on with this origin, if they do not already."""
        if origin != self._own:
            self._own = origin
            self._store.begin(origin)

    def append(
        self, runs: Sequence[Run], keys: Sequence[Keyed] = (), keep_keys: int = 0
    ) -> tuple[int, int]:
        """Store `runs`, which begin where their origins end, in one transaction.

        One with messages that are `skipped` begins further on; it may have no entries, and what is
        before it becomes the floor. When this returns, all is on disk. `keys` are those of messages
        in the runs, which are kept for `keep_keys` ms. Returns the last arrival before the runs,
        and now. Raises LogFull or LogError; then none of them is stored.
        """
        floors: dict[str, Floor] = {}
        newest = 0  # the time up to which messages may be missing
        for run in runs:
            if run.skipped:
                floor = floors.get(run.origin) or self._floor(run.origin)
                floors[run.origin] = Floor(run.after, floor.held(run.after - run.skipped))
                newest = max(newest, _before(run))
        if not floors:
            return self._append(runs, keys=keys, keep_keys=keep_keys)
        gone = Gone(0, newest)
        before = {name: self._floor(name) for name in floors}
        with self._lock:  # before it happens: readers must not take it for damage
            self._floors |= floors
        try:
            arrivals = self._append(runs, gone, keys=keys, keep_keys=keep_keys)
        except BaseException:
            with self._lock:
                self._floors |= before
            raise
        with self._lock:
            self._gone = self._gone.joined(gone)
        return arrivals

    def _append(
        self,
        runs: Sequence[Run],
        gone: Gone | None = None,
        moving: Moving | None = None,
        keys: Sequence[Keyed] = (),
        keep_keys: int = 0,
    ) -> tuple[int, int]:
        arrival, hidden = self._arrival, self._hidden
        stored_runs: list[tuple[Run, list[Row], list[PackedRun]]] = []
        for run in runs:
            stored_runs.append((run, *stored(run, arrival)))
            arrival += run.count
        copies = dict(moving.copies) if moving else {}
        notices = 0
        mended = moving is not None
        left = None
        if not moving:  # commits do not go on there
            for run in runs:
                if run.origin == self._own:
                    left = Left(run.origin, run.end, run.hash)
        with self._store.writing(left) as database:
            if moving:
                forks.carry_out(database, moving)
                origins.write(database, moving.heads, self._floors)
            for run, rows, _ in stored_runs:
                mending = run.after < self._damaged.get(run.origin, (0, 0))[1]
                _insert(database, rows, mending)
                for row in rows:
                    if row[4] == HEARD:
                        copies.setdefault(row[-2], []).append(row[3])
                    notices += row[4] == NOTICE
                mended = mended or mending
            origins.write(database, {run.origin: run.head for run in runs}, self._floors)
            if gone:
                retention.write_gone(database, gone)
            if keys:
                keyed.write(database, keys, keep_keys)
            for copied, times in copies.items():
                arrival, more = rematch(database, copied, times, arrival)
                hidden += more
            self._has_notices = self._has_notices or notices > 0
            erased = erasing.NOTHING
            if self._has_notices or copies:
                erased = erasing.carry_out(database, runs, copies)
            if erased.changed:
                self._store.erased()
            hidden += notices
            counted = count_copies(database) if mended else None
        self._erased += erased.shown
        for place in erased.places:
            self._half_erased.setdefault(place, time.monotonic() + COPIES_PATIENCE)
        with self._lock:
            before, self._arrival, self._hidden = self._arrival, arrival, hidden
            for run, rows, entries in stored_runs:
                if run.origin in self._damaged:
                    _, last = self._damaged.pop(run.origin)
                    if last > run.end:
                        self._damaged[run.origin] = (run.end + 1, last)
                self._total += run.count
                if entries:
                    self._recent.add(entries, [row[-1] for row in rows])
                if copies:
                    self._copies[run.origin] += sum(entry.kind == HEARD for entry in run.entries)
            if copies or mended or notices:  # some are hidden, or have arrived once more
                self._recent.forget_arrivals(arrival)
            if erased.changed or moving:
                self._recent.clear(arrival)
            if counted:
                self._copies, self._hidden = counted
        return before, arrival

    def take_erased(self) -> list[Erased]:
        """Return the shown messages that were erased since the last call."""
        erased, self._erased = self._erased, []
        return erased

    def left_copies(self) -> list[str]:
        """Return the ids of copies of originals' commits that this node is to erase, since others
        of the same commits are erased."""
        if not self._half_erased:
            return []
        now = time.monotonic()
        due = [place for place, moment in self._half_erased.items() if moment <= now]
        if not due:
            return []
        left: dict[str, None] = {}
        with self._store.reading() as database:
            for place in due:
                left |= dict.fromkeys(erasing.left_copies(database, place, self._store.node))
                del self._half_erased[place]
        return [*left]

    def find_place(self, run: Run) -> Placed | None:
        """Return what `place_run` would do. Raises LogError."""
        with self._store.reading() as database:
            return placing.find(run, forks.Stored(database, self._floors))

    def place_run(self, run: Run) -> Placed | None:
        """Store a proven run where it belongs, if it contradicts what is held or begins a branch;
        see core/placing.py. Returns what was done, None if its place is not known. Raises
        LogError."""
        with self._store.reading() as database:
            placed = placing.find(run, forks.Stored(database, self._floors))
            if placed is None or placed.run is None:
                return placed
            moving = forks.plan(database, placed.move) if placed.move else forks.NOTHING_MOVES
        self._note(moving.bad)
        if moving.bad or (placed.move and placed.move.source in self._damaged):
            return None  # the damage comes first
        self._append([placed.run], moving=moving)
        return placed

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

    def shrink(self, limits: Limits, most: int) -> bool:
        """Delete about `most` entries beyond the limits; return whether there may be more to do."""
        with self._lock:
            damaged = self._damaged.keys() | {name for name, *_ in self._found}
        with self._store.reading() as database:
            plan = retention.plan(database, limits, self._total, self._floors, damaged, most)
            slack = retention.has_slack(database)
        self._note(plan.bad)
        if not plan.ends and not slack:
            return False
        with self._lock:  # before it happens: readers must not take it for damage
            self._floors |= plan.floors
            self._gone = self._gone.joined(plan.gone)
            self._recent.forget_arrivals(plan.gone.arrival)
            for name, end in plan.ends.items():
                self._recent.delete(name, end)
        with self._store.writing(durable=False) as database:
            if plan.ends:
                retention.carry_out(database, plan)
            if slack:
                self._store.shorten(database, KEEP_VACUUMED)
        with self._lock:
            self._total -= plan.messages
            self._hidden -= plan.hidden
            self._copies.subtract(plan.copies)
            self._deleted += plan.messages
        return True

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
            if seq <= self._floor(name).n:
                done.append(entry)  # it need not be kept
                continue
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

    def deleted(self) -> int:
        """Return how many messages were deleted since the start, since they need not be kept."""
        with self._lock:
            return self._deleted

    def of_node(self, node: str) -> int:
        """Return how many messages of a node the log holds. Raises LogError."""
        with self._store.reading() as database:
            return origins.of_node(database, node)

    def heard(self) -> dict[str, int]:
        """Return how many of the messages of each origin are copies of commits of originals."""
        with self._lock:
            return dict(self._copies)


def _before(run: Run) -> int:
    """Return the newest time of what is missing before a run, as far as it is known. What is older
    than a cutoff, nobody keeps; one in the future says nothing of the messages since now."""
    if is_cutoff(run.origin):
        return min(run.end, int(time.time() * 1000)) - 1
    return run.entries[0].time if run.entries else 0


def _held(heads: Heads) -> Heads:
    """Drop the origins of which nothing is held."""
    for name in [name for name, n in heads.numbers() if not n]:
        del heads[name]
    return heads


def _insert(database: Database, rows: Sequence[Row], mending: bool) -> None:
    """Insert the entries of a run, many with one statement: each statement releases the
    interpreter's lock and has to get it back."""
    if mending and rows:
        kept = damage.mend(database, rows)
        rows = [row for row in rows if row[1] not in kept]
    for start in range(0, len(rows), INSERTED_ROWS):
        part = rows[start : start + INSERTED_ROWS]
        database.execute(_inserting(len(part)), [*chain.from_iterable(part)])


@cache
def _inserting(rows: int) -> str:
    return f"INSERT INTO entries ({INSERTED}) VALUES {', '.join([VALUES] * rows)}"
