"""Retention: the oldest entries are deleted, a few at a time.

Three limits: the age of messages, how many there are, and the bytes that the database uses, indexes
included. The limit that is reached first applies.

Entries go in the shared order, so that nodes with the same limits keep the same. What is left of an
origin begins behind a signed entry, its *floor* (origins.py), so an entry that is not signed goes
with the next one that is. Where the times of an origin go back, what comes before an old entry goes
with it. An origin with damage waits until its messages have come again.

Pages that become free are used again. If there are more than a tenth, the file becomes shorter, a
few pages at a time. The transactions of all this do not wait for the disk: after a power loss the
entries may be there again, and go again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from ..settings import (
    KEEP_FREE,
    KEEP_FREE_BYTES,
    KEEP_READ,
    KEEP_ROW_BYTES,
    KEEP_STEP_BYTES,
    MAX_BATCH,
)
from ..wire.logframes import Head
from . import origins
from .copies import SHOWN
from .damage import Found, found
from .origins import NO_FLOOR, Floor
from .rows import COLUMNS, end_of, is_whole, packed, place_of
from .store import Database

_pack = Struct(">qq").pack


class Limits(NamedTuple):
    """What to keep; None: no limit."""

    since: int | None = None  # messages from this time on, ms since the epoch
    bytes: int | None = None
    messages: int | None = None


class Gone(NamedTuple):
    """What has been deleted, ever."""

    arrival: int = 0  # the last one
    time: int = 0  # that of the newest message that was deleted or never came, ms since the epoch

    def joined(self, other: Gone) -> Gone:
        """Return both in one."""
        return Gone(*map(max, self, other))


class Plan(NamedTuple):
    """What to delete next."""

    ends: dict[str, int]  # of some origins the messages up to that number
    heads: dict[str, Head]  # of these origins
    floors: dict[str, Floor]  # of these origins, afterwards
    copies: Counter[str]  # how many copies of originals' commits are deleted of each
    messages: int  # that are deleted
    hidden: int  # of these
    gone: Gone
    bad: list[Found]  # damaged entries on the way


def plan(
    database: Database,
    limits: Limits,
    held: int,
    floors: Mapping[str, Floor],
    waiting: Collection[str],
    most: int,
) -> Plan:
    """Return which entries are beyond the limits, about `most` of them.

    `held` is how many messages there are, `floors` those that are not 0, and `waiting` the origins
    of which nothing may be deleted now.
    """
    ends: dict[str, int] = {}
    heads: dict[str, Head] = {}
    planned: dict[str, Floor] = {}
    copies = Counter[str]()
    bad: list[Found] = []
    left, hidden, gone = held, 0, Gone()
    excess = used(database) - limits.bytes if limits.bytes is not None else 0
    rows = size = 0
    query = f"SELECT {COLUMNS} FROM entries WHERE signature <> x'' ORDER BY time, origin, seq"
    for read, row in enumerate(database.execute(query)):
        if read == KEEP_READ or rows >= most or size > KEEP_STEP_BYTES:
            break
        if not is_whole(row):
            bad.append(found(row))
            continue
        (time, name, _), end = place_of(row), end_of(row)
        head = heads[name] = heads.get(name) or origins.head(database, name)
        if name in waiting or end > head.n:
            continue
        prefix = _Prefix.of(database, name, ends.get(name, 0), end)
        if not (
            excess > size
            or (limits.since is not None and time < limits.since)
            or (limits.messages is not None and left - prefix.messages >= limits.messages)
        ):
            break
        rows += prefix.rows
        size += len(packed(row).text) + KEEP_ROW_BYTES * prefix.rows
        left -= prefix.messages
        hidden += prefix.hidden
        if prefix.copies:
            copies[name] += prefix.copies
        floor = planned.get(name) or floors.get(name, NO_FLOOR)
        planned[name] = floor.raised(end, head.n, prefix.messages)
        ends[name] = end
        gone = gone.joined(Gone(prefix.arrival, time))
    heads = {name: heads[name] for name in ends}
    return Plan(ends, heads, planned, copies, held - left, hidden, gone, bad)


def carry_out(database: Database, plan: Plan) -> None:
    """Delete the entries of a plan."""
    statement = "DELETE FROM entries WHERE origin = ? AND seq <= ?"
    database.executemany(statement, plan.ends.items())
    origins.write(database, plan.heads, plan.floors)
    write_gone(database, plan.gone)


def write_gone(database: Database, gone: Gone) -> None:
    """Note that this was deleted, too, or has never come."""
    gone = gone.joined(read_gone(database))
    row = *gone, crc32(_pack(*gone))
    database.execute("INSERT OR REPLACE INTO gone VALUES (1, ?, ?, ?)", row)


def read_gone(database: Database) -> Gone:
    """Return what has been deleted, ever; nothing if that is damaged."""
    row = database.execute("SELECT arrival, time, sum FROM gone").fetchone()
    if row is None:
        return Gone()
    try:
        return Gone(*row[:2]) if crc32(_pack(*row[:2])) == row[2] else Gone()
    except (TypeError, StructError):  # not even of the right type
        return Gone()


def held_between(database: Database, after: int, upto: int) -> int:
    """Return how many messages with arrivals from `after`+1 to `upto` are there."""
    row = database.execute(
        "SELECT sum(min(arrival, :upto) - max(arrival - count, :after)) FROM entries "
        "WHERE arrival > :after AND arrival < :upto + :most AND arrival - count < :upto",
        {"after": after, "upto": upto, "most": MAX_BATCH},
    ).fetchone()
    return int(row[0] or 0)


def begins_behind(database: Database, default: int) -> int:
    """Return the arrival behind which the first entry begins; `default` if there is none."""
    row = database.execute("SELECT arrival - count FROM entries ORDER BY arrival LIMIT 1")
    found = row.fetchone()
    return int(found[0]) if found else default


def used(database: Database) -> int:
    """Return how many bytes the database uses, without the pages that are free."""
    pages = _pragma(database, "page_count") - _pragma(database, "freelist_count")
    return _pragma(database, "page_size") * pages


def has_slack(database: Database) -> bool:
    """Return whether the database has too many free pages."""
    free, pages = _pragma(database, "freelist_count"), _pragma(database, "page_count")
    return free > KEEP_FREE * pages and free * _pragma(database, "page_size") > KEEP_FREE_BYTES


def _pragma(database: Database, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


class _Prefix(NamedTuple):
    """The entries of an origin up to a number."""

    rows: int
    messages: int
    copies: int
    hidden: int
    arrival: int  # the last one

    @staticmethod
    def of(database: Database, name: str, after: int, end: int) -> _Prefix:
        """Return those behind `after`, up to `end`."""
        row = database.execute(
            f"SELECT count(*), sum(count), sum(kind = 1), sum(NOT {SHOWN}), max(arrival) "
            "FROM entries WHERE origin = ? AND seq > ? AND seq <= ?",
            (name, after, end),
        ).fetchone()
        return _Prefix(*(int(value or 0) for value in row))
