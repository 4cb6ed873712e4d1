"""Damaged entries: how they are found in the database, and replaced.

An entry is damaged if its checksum is wrong, or if it is missing between others of its origin. The
log of that origin then ends with the last signed entry before the damage; the peers send the rest
again. `mend` keeps the entries after the damage that turn out to
be whole, so a reader who follows the arrivals does not see them twice.

Every read checks what it reads. A small log is also read whole at the start. Of a large one only
the table `origins` is read then, and entries that were found before (table `damage`).
The audit reads the whole log again and again, a few entries at a time, so that damage is found
while the peers still have what is damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ..settings import AUDITED, AUDITED_BYTES
from ..wire.entries import Entry
from ..wire.heads import Heads
from ..wire.logframes import NOTHING_HELD, Head
from . import origins
from .origins import NO_FLOOR, Floor
from .rows import (
    COLUMNS,
    Row,
    changed,
    end_of,
    entry_of,
    head_of,
    is_signed,
    is_whole,
    length_of,
    name_of,
)
from .schema import INDEXES
from .store import Database

Found: TypeAlias = tuple[str, int, int]
"""A damaged entry: its origin and number, if they can be read, and its arrival; GAP: no row."""
GAP = -1
NOWHERE = 2**63 - 1
"""The number of an entry whose number cannot be read."""

# The last entry of each origin: one step in the index for each.
_LAST = f"""
    WITH RECURSIVE names (name) AS (
        SELECT min(origin) FROM entries
        UNION ALL
        SELECT (SELECT min(origin) FROM entries WHERE origin > name) FROM names
        WHERE name IS NOT NULL
    )
    SELECT {COLUMNS} FROM names JOIN entries
    ON origin = name AND seq = (SELECT max(seq) FROM entries WHERE origin = name)
"""
_OF_ORIGIN = f"SELECT {COLUMNS} FROM entries WHERE origin = ?"

# Whether the indexes lead to the entry e. Damage of a row does not change them.
_INDEXED = """
    EXISTS (SELECT 1 FROM entries i INDEXED BY by_identity
        WHERE i.origin = e.origin AND i.seq = e.seq AND i.arrival = e.arrival)
    AND EXISTS (SELECT 1 FROM entries i INDEXED BY by_place WHERE i.time = e.time
        AND i.origin = e.origin AND i.seq = e.seq AND i.arrival = e.arrival)
    AND (e.topic = '' OR EXISTS (SELECT 1 FROM entries i INDEXED BY by_topic WHERE i.topic <> ''
        AND i.topic = e.topic AND i.time = e.time AND i.origin = e.origin AND i.seq = e.seq
        AND i.arrival = e.arrival) AND EXISTS (SELECT 1 FROM entries i INDEXED BY topic_arrivals
        WHERE i.topic <> '' AND i.topic = e.topic AND i.arrival = e.arrival))
"""
DUE = """
    coalesce((SELECT b.seq + b.count FROM entries b WHERE b.origin = e.origin AND b.seq < e.seq
        ORDER BY b.seq DESC LIMIT 1), 1),
    coalesce((SELECT floor FROM origins o WHERE o.origin = e.origin), 0)
"""
"""Two columns beside those of the entry e: the number of the message after the entry before it in
its origin, and the floor of that."""
# Entries in the order of the table, and whether the indexes lead to each.
_AUDITED = f"""
    SELECT {COLUMNS}, {DUE}, {_INDEXED}
    FROM entries e NOT INDEXED WHERE arrival > ? ORDER BY arrival LIMIT ?
"""
# Origins, each with what it holds by the table, and by its entries.
_ENDS = """
    SELECT origin, n, max(floor, coalesce((SELECT e.seq + e.count - 1 FROM entries e
        WHERE e.origin = o.origin ORDER BY e.seq DESC LIMIT 1), 0))
    FROM origins o WHERE origin > CAST(? AS TEXT) ORDER BY origin LIMIT ?
"""


def found(row: Row) -> Found:
    """Return the note about a row that is not whole."""
    return name_of(row), row[1] if type(row[1]) is int else NOWHERE, row[-1]


def missing_before(row: Row, due: int, floor: int) -> Found | None:
    """Return the note about an entry that is missing before a whole row, None if none is; `due` and
    `floor` are the columns DUE."""
    is_missing = row[1] > floor + 1 and row[1] != due
    return (name_of(row), max(due, floor + 1), GAP) if is_missing else None


class Survey(NamedTuple):
    """What the start has found."""

    heads: Heads  # what is whole of each origin, up to its last signed entry
    floors: dict[str, Floor]  # those that are not 0
    last: dict[str, int]  # of origins that may be damaged: the number of the last message
    bad: set[Found]  # damaged entries
    changed: set[str]  # origins of which the table `origins` says something else


def survey(database: Database, everything: bool) -> Survey:
    """Return what the database holds. `everything`: read all entries."""
    heads, floors, wrong = origins.read(database)
    last: dict[str, int] = {}
    bad: set[Found] = set()
    changed: set[str] = set()
    for name, seq in database.execute("SELECT origin, seq FROM damage"):
        if type(seq) is int:
            bad.add((name_of([name]), seq, GAP))
    every = everything or wrong or not heads
    unseen = set(heads) if every else {name for name, *_ in bad}
    for row in database.execute(_LAST) if every else _last_of(database, [*unseen]):
        name = name_of(row)
        unseen.discard(name)
        known, sound = heads.get(name), is_whole(row) and is_signed(row)
        if sound and head_of(row) == known:
            continue
        upto = 0
        if sound:
            heads[name] = head_of(row)
        else:
            heads[name], tail, upto = _tail(database, name)
            bad |= tail
            if not is_whole(row):  # its name may be damaged, and then it is not in the tail
                bad.add(found(row))
        last[name] = max(upto, heads[name].n, known.n if known else 0)
        changed.add(name)
        if not known and (floor := _floor(database, name)).n:
            floors[name] = floor
    for name in unseen:  # no entry of these is there
        head, floor = heads.get(name, NOTHING_HELD), floors.get(name, NO_FLOOR)
        if head.n > floor.n:
            last[name], heads[name] = head.n, NOTHING_HELD
            bad.add((name, floor.n + 1, GAP))
    if everything:
        counts, damaged = _scan(database)
        bad |= damaged
        for name, count in counts.items():
            floor = floors.get(name, NO_FLOOR)
            if count != floor.held(heads.get(name, NOTHING_HELD).n):
                bad.add((name, _first_gap(database, name, floor), GAP))
    return Survey(heads, floors, last, bad, changed)


def _last_of(database: Database, names: Iterable[str]) -> Iterator[Row]:
    """Yield the last entry of each of these origins."""
    for name in names:
        yield from database.execute(f"{_OF_ORIGIN} ORDER BY seq DESC LIMIT 1", (name,)).fetchall()


def _floor(database: Database, name: str) -> Floor:
    """Return the floor of an origin, as its entries show it."""
    query = "SELECT coalesce(min(seq), 1) FROM entries WHERE origin = ?"
    (first,) = database.execute(query, (name,)).fetchone()
    return Floor(first - 1)


class Audited(NamedTuple):
    """A step of the audit: the arrival to go on after (None: this was the end of the log), the
    damaged entries, and whether the indexes lead to all entries."""

    after: int | None
    bad: list[Found]
    indexed: bool


def audit(database: Database, after: int) -> Audited:
    """Check the next entries after an arrival."""
    bad: list[Found] = []
    size = count = 0
    indexed = True
    for *row, due, floor, is_found in database.execute(_AUDITED, (after, AUDITED)):
        after, count = row[-1], count + 1
        indexed = indexed and bool(is_found)
        if not is_whole(row):
            bad.append(found(row))
        elif is_found and (missing := missing_before(row, due, floor)):
            bad.append(missing)
        size += length_of(row)
        if size > AUDITED_BYTES:
            return Audited(after, bad, indexed)
    return Audited(after if count == AUDITED else None, bad, indexed)


def audit_ends(database: Database, after: bytes) -> tuple[bytes | None, list[Found]]:
    """Check whether the last entries of the next origins are there. Return the origin to go on
    after (None: this was the last one), and what is missing."""
    rows = database.execute(_ENDS, (after, AUDITED)).fetchall()
    bad = [(name_of(row), row[2] + 1, GAP) for row in rows if row[2] < row[1]]
    return rows[-1][0] if len(rows) == AUDITED else None, bad


def is_indexed(database: Database, arrival: int) -> bool:
    """Return whether the indexes lead to an entry, which may be damaged or gone."""
    query = f"SELECT {_INDEXED} FROM entries e NOT INDEXED WHERE arrival = ?"
    row = database.execute(query, (arrival,)).fetchone()
    return row is None or bool(row[0])


def _tail(database: Database, name: str) -> tuple[Head, set[Found], int]:
    """Return what is held of an origin up to its last whole and signed entry; the damaged entries
    after it; and the number of the last message in a whole one, which nothing signs any more."""
    bad: set[Found] = set()
    upto = 0
    for row in database.execute(f"{_OF_ORIGIN} ORDER BY seq DESC", (name,)):
        if not is_whole(row):
            bad.add(found(row))
        elif is_signed(row):
            return head_of(row), bad, upto
        else:
            upto = max(upto, end_of(row))
    return NOTHING_HELD, bad, upto


def _scan(database: Database) -> tuple[Counter[str], set[Found]]:
    """Read all entries; return how many messages of each origin are whole, and the damaged
    entries."""
    counts = Counter[bytes]()
    bad: set[Found] = set()
    for row in database.execute(f"SELECT {COLUMNS} FROM entries"):
        if is_whole(row):
            counts[row[0]] += row[2]
        else:
            bad.add(found(row))
    return Counter({name.decode(): count for name, count in counts.items()}), bad


def _first_gap(database: Database, name: str, floor: Floor) -> int:
    """Return the number of the first message above its floor that no whole entry of an origin
    holds."""
    n = floor.n
    for row in database.execute(f"{_OF_ORIGIN} AND seq > ? ORDER BY seq", (name, n)):
        if is_whole(row):
            if row[1] != n + 1:
                break
            n += row[2]
    return n + 1


def whole_before(database: Database, name: str, seq: int, floor: Floor) -> Head | None:
    """Return what is held of an origin up to the last signed entry before the damaged `seq`; None
    if it is not damaged. Without an entry above the floor that is nothing."""
    damaged = False
    query = f"{_OF_ORIGIN} AND seq <= ? AND seq > ? ORDER BY seq DESC"
    for row in database.execute(query, (name, seq, floor.n)):
        whole = is_whole(row)
        if whole and not damaged and end_of(row) >= seq:
            return None
        damaged = True
        if whole and is_signed(row):
            return head_of(row)
    return NOTHING_HELD


def mend(database: Database, rows: Sequence[Row]) -> set[int]:
    """Delete the rows that are in the way of `rows`, which have no gap; return the numbers of those
    that are stored already."""
    expected = {row[1]: row for row in rows}
    origin, first, *_ = rows[0]
    end = rows[-1][1] + rows[-1][2]
    kept: set[int] = set()
    wrong: list[int] = []
    signed: list[tuple[bytes, int, int]] = []
    query = f"{_OF_ORIGIN} AND seq >= ? AND seq < ?"
    for row in database.execute(query, (origin, first, end)):
        wanted = expected.get(row[1])
        if wanted and is_whole(row) and _is_same(row, wanted):
            kept.add(row[1])
            if wanted[9] and not is_signed(row):  # a piece that ends here has come
                checksum = changed(row, entry_of(row), wanted[9])[-2]
                signed.append((wanted[9], checksum, row[-1]))
        else:
            wrong.append(row[-1])
    delete(database, wrong)
    database.executemany("UPDATE entries SET signature = ?, sum = ? WHERE arrival = ?", signed)
    return kept


def _is_same(row: Row, wanted: Row) -> bool:
    """Return whether the running hash over a stored row is that over a new one, which has its texts
    as str. If messages are erased in one of them, the stored one has to be that."""
    _, _, count, time, kind, previous, topic, erased, data, _, source, *_ = wanted
    entry, other = entry_of(row), Entry(time, data, kind, count, topic, erased, source)
    if entry == other:
        return bool(row[5] == previous)
    same = entry._replace(text="", erased="") == other._replace(text="", erased="")
    return bool(entry.erased and same and row[5] == previous and entry.digest == other.digest)


def delete(database: Database, arrivals: Iterable[int]) -> None:
    """Delete rows."""
    rows = [(arrival,) for arrival in arrivals]
    database.executemany("DELETE FROM entries WHERE arrival = ?", rows)


def delete_damaged(database: Database, arrivals: Collection[int]) -> None:
    """Delete those of the rows that are not whole."""
    query = f"SELECT {COLUMNS} FROM entries WHERE arrival = ?"
    for arrival in arrivals:
        row = database.execute(query, (arrival,)).fetchone()
        if row and not is_whole(row):
            delete(database, [arrival])


def make_indexes(database: Database) -> None:
    """Make damaged indexes again, without rows that would be in each other's way: damaged ones, and
    those that came again while no index led to them."""
    _, bad = _scan(database)
    for name in INDEXES:
        database.execute(f"DROP INDEX {name}")
    delete(database, [arrival for *_, arrival in bad])
    database.execute(
        "DELETE FROM entries WHERE arrival NOT IN "
        "(SELECT max(arrival) FROM entries GROUP BY origin, seq)"
    )
    for statement in INDEXES.values():
        database.execute(statement)
