"""The table `origins`: what is held of each origin, in a row with a checksum.

A start reads this table instead of the entries, of which there may be very many. A transaction that
appends entries writes the rows of their origins, too.

An origin has a *floor*: its messages up to that number are gone, since they were older than this
node keeps, or have never come. Some of them may still be there (`below`); they are read and not
sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import chain
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple
from zlib import crc32

from ..settings import INSERTED_ROWS
from ..wire.heads import Heads, joined
from ..wire.logframes import NOTHING_HELD, Head
from .store import Database

_pack = Struct(">qqq").pack


class Floor(NamedTuple):
    """Messages up to `n` are gone, apart from `below` of them."""

    n: int = 0
    below: int = 0

    def held(self, n: int) -> int:
        """Return how many messages are held of an origin whose last one is `n`."""
        return max(0, n - self.n) + self.below

    def raised(self, to: int, n: int, deleted: int) -> Floor:
        """Return the floor after `deleted` messages up to number `to` went; the last one is `n`."""
        floor = max(self.n, to)
        return Floor(floor, self.held(n) - deleted - (n - floor))


NO_FLOOR = Floor()


def read(database: Database) -> tuple[Heads, dict[str, Floor], bool]:
    """Return the head of each origin, the floors that are not 0, and whether rows are damaged."""
    heads = Heads()
    floors: dict[str, Floor] = {}
    damaged = False
    for row in database.execute("SELECT * FROM origins"):
        if not _is_whole(row):
            damaged = True
            continue
        origin, n, running, signature, floor, below, _ = row
        name = origin.decode()
        heads.packed[name] = joined(n, running, signature)
        if floor:
            floors[name] = Floor(floor, below)
    return heads, floors, damaged


def head(database: Database, name: str) -> Head:
    """Return the head of one origin."""
    row = database.execute("SELECT * FROM origins WHERE origin = ?", (name,)).fetchone()
    return Head(row[1], row[2].hex(), row[3].hex()) if row and _is_whole(row) else NOTHING_HELD


def of_node(database: Database, node: str) -> int:
    """Return how many messages of the origins of a node are held."""
    query = "SELECT n, floor, below FROM origins WHERE origin BETWEEN ? AND ?"
    rows = database.execute(query, (f"{node}-", f"{node}-~"))
    return sum(Floor(floor, below).held(n) for n, floor, below in rows)


def write(database: Database, heads: Mapping[str, Head], floors: Mapping[str, Floor]) -> None:
    """Write the rows of some origins; `floors` has those that are not 0."""
    rows = [_row(name, head, floors.get(name, NO_FLOOR)) for name, head in heads.items()]
    for start in range(0, len(rows), INSERTED_ROWS):  # few statements, as for entries
        part = rows[start : start + INSERTED_ROWS]
        database.execute(_replacing(len(part)), [*chain.from_iterable(part)])


@cache
def _replacing(rows: int) -> str:
    return f"INSERT OR REPLACE INTO origins VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?)'] * rows)}"


def delete_damaged(database: Database) -> None:
    """Delete the rows whose checksum is wrong."""
    rows = database.execute("SELECT * FROM origins").fetchall()
    wrong = [row[:1] for row in rows if not _is_whole(row)]
    database.executemany("DELETE FROM origins WHERE CAST(origin AS BLOB) = ?", wrong)


def _row(name: str, head: Head, floor: Floor) -> tuple[Any, ...]:
    running, signature = bytes.fromhex(head.hash), bytes.fromhex(head.signature)
    checksum = _checksum(name.encode(), head.n, running, signature, *floor)
    return name, head.n, running, signature, *floor, checksum


def _is_whole(row: tuple[Any, ...]) -> bool:
    """Return whether a row is what was written."""
    try:
        return bool(_checksum(*row[:-1]) == row[-1])
    except (TypeError, StructError):  # not even of the right type
        return False


def _checksum(name: bytes, n: int, running: bytes, signature: bytes, floor: int, below: int) -> int:
    return crc32(_pack(n, floor, below) + name + running + signature)
