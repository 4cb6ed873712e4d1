"""Damaged entries: how they are found in the database, and replaced.

An entry is damaged if its checksum is wrong, or if it is missing between others of its origin. The
log of that origin then ends before the damaged entry, with the running hash that the entry before
it gives; the peers send the rest again. `mend` keeps the entries after the damage that turn out to
be whole, so a reader who follows the arrivals does not see them twice.

Every read checks what it reads. A small log is also read whole at the start. Of a large one only
the last entry of each origin is read then, and entries that were found before (table `damage`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

from ..wire.logframes import NO_HASH
from .rows import COLUMNS, Row, end_of, is_whole, name_of
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


def found(row: Row) -> Found:
    """Return the note about a row that is not whole."""
    return name_of(row), row[1] if type(row[1]) is int else NOWHERE, row[-1]


def survey(
    database: Database, everything: bool
) -> tuple[dict[str, tuple[int, str]], dict[str, int], set[Found]]:
    """Return the last whole entry of each origin, as (number, running hash); the number of its last
    entry, whole or not; and the damaged entries. `everything`: read all entries."""
    ends: dict[str, tuple[int, str]] = {}
    last: dict[str, int] = {}
    bad: set[Found] = set()
    for name, seq in database.execute("SELECT origin, seq FROM damage"):
        if type(seq) is int:
            bad.add((name_of([name]), seq, GAP))
    known = {name_of(row) for row in database.execute("SELECT origin FROM origins")}
    for row in database.execute(_LAST):
        name = name_of(row)
        if is_whole(row):
            ends[name] = end_of(row)
            last[name] = ends[name][0]
            continue
        bad.add(found(row))
        ends[name], tail = _tail(database, name)
        bad |= tail
        # The numbers of damaged entries are no proof that there were as many messages.
        n = ends[name][0]
        follows = (n or name in known) and any(seq == n + 1 for _, seq, _ in tail)
        last[name] = n + 1 if follows else n
    if everything:
        counts, damaged = _scan(database)
        bad |= damaged
        for name, count in counts.items():
            if count != ends.get(name, (0, NO_HASH))[0]:
                bad.add((name, _first_gap(database, name), GAP))
    return ends, last, bad


def _tail(database: Database, name: str) -> tuple[tuple[int, str], set[Found]]:
    """Return the last whole entry of an origin, and the damaged ones after it."""
    bad: set[Found] = set()
    for row in database.execute(f"{_OF_ORIGIN} ORDER BY seq DESC", (name,)):
        if is_whole(row):
            return end_of(row), bad
        bad.add(found(row))
    return (0, NO_HASH), bad


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


def _first_gap(database: Database, name: str) -> int:
    """Return the number of the first message that no whole entry of an origin holds."""
    n = 0
    for row in database.execute(f"{_OF_ORIGIN} ORDER BY seq", (name,)):
        if is_whole(row):
            if row[1] != n + 1:
                break
            n += row[2]
    return n + 1


def whole_before(database: Database, name: str, seq: int) -> tuple[int, str] | None:
    """Return how many messages of an origin come before the damaged `seq`, and the running hash
    over them; None if it is not damaged."""
    damaged = False
    for row in database.execute(f"{_OF_ORIGIN} AND seq <= ? ORDER BY seq DESC", (name, seq)):
        if is_whole(row):
            held = end_of(row)
            return None if held[0] >= seq and not damaged else held
        damaged = True
    return 0, NO_HASH


def mend(database: Database, rows: Sequence[Row]) -> set[int]:
    """Delete the rows that are in the way of `rows`, which have no gap; return the numbers of those
    that are stored already."""
    expected = {row[1]: row for row in rows}
    origin, first, *_ = rows[0]
    end = rows[-1][1] + rows[-1][2]
    kept: set[int] = set()
    wrong: list[int] = []
    query = f"{_OF_ORIGIN} AND seq >= ? AND seq < ?"
    for row in database.execute(query, (origin, first, end)):
        wanted = expected.get(row[1])
        if wanted and is_whole(row) and (row[6].decode(), row[7]) == wanted[6:8]:
            kept.add(row[1])
        else:
            wrong.append(row[-1])
    delete(database, wrong)
    return kept


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
    """Make damaged indexes again, without the damaged rows, which may be in each other's way."""
    _, bad = _scan(database)
    for name in INDEXES:
        database.execute(f"DROP INDEX {name}")
    delete(database, [arrival for *_, arrival in bad])
    for statement in INDEXES.values():
        database.execute(statement)
