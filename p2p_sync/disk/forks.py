"""The branches of an origin in the database: they are read, marked and moved. See wire/forks.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..core.placing import Move, Step
from ..errors import LogError
from ..settings import MOVED_ROWS
from ..wire.entries import HEARD
from ..wire.logframes import Head, Mark
from . import consumers, damage, origins
from .damage import Found
from .origins import NO_FLOOR, Floor
from .rows import COLUMNS, entry_of, head_of, is_whole, renamed
from .store import Database

_FROM = f"SELECT {COLUMNS} FROM entries WHERE origin = ? AND seq > ? ORDER BY seq"


class Stored:
    """What the database holds of the branches of an origin: `Histories` of core/placing.py."""

    def __init__(self, database: Database, floors: Mapping[str, Floor]) -> None:
        self._database = database
        self._floors = floors

    def ends(self, base: str) -> Iterable[tuple[str, int]]:
        """See Histories."""
        return [(name, n) for name, n in branches(self._database, base) if n]

    def hash_at(self, name: str, n: int) -> str | None:
        """See Histories."""
        return hash_at(self._database, name, n)

    def after(self, name: str, n: int) -> Step | None:
        """See Histories."""
        row = self._database.execute(f"{_FROM} LIMIT 1", (name, n)).fetchone()
        if (
            n < self._floors.get(name, NO_FLOOR).n
            or not row
            or not is_whole(row)
            or row[1] != n + 1
        ):
            return None
        return Step(row[3], row[2], head_of(row).hash)


def branches(database: Database, base: str) -> list[tuple[str, int]]:
    """Return an origin and its branches, as far as they are held, each with its last number."""
    query = "SELECT origin, n FROM origins WHERE origin = ? OR origin BETWEEN ? AND ?"
    rows = database.execute(query, (base, f"{base}~", f"{base}~~"))
    return [(_text(name), n) for name, n in rows]


def hash_at(database: Database, name: str, n: int) -> str | None:
    """Return the running hash over the first `n` messages of an origin; "" if no entry ends there,
    None if they are not all held."""
    query = f"SELECT {COLUMNS} FROM entries WHERE origin = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
    row = database.execute(query, (name, n + 1)).fetchone()
    if row and is_whole(row) and row[1] == n + 1:  # it follows, and has that hash
        return str(row[5].hex())
    head = head_of(row) if row and is_whole(row) else origins.head(database, name)
    if head.n < n:
        return None
    return head.hash if head.n == n else ""


def marks(database: Database, name: str, above: int) -> list[Mark]:
    """Return places of a history from number `above` on, few of very many: the nearer to its ends,
    the closer together, and some all over."""
    last = origins.head(database, name).n
    span = last - above
    near = [2**bit for bit in range(span.bit_length())]
    wanted = {above} | {above + step for step in near} | {last - step for step in near}
    wanted |= {above + span * part // 32 for part in range(1, 32)}
    query = "SELECT seq - 1, previous FROM entries WHERE origin = ? AND seq <= ? "
    query += "ORDER BY seq DESC LIMIT 1"
    found: set[Mark] = set()
    for n in wanted:
        row = database.execute(query, (name, n + 1)).fetchone()
        if row and isinstance(row[1], bytes) and max(above, 1) <= row[0] < last:
            found.add((row[0], row[1].hex()))
    return sorted(found)  # fewer than MAX_FORK_MARKS


def acknowledged(database: Database) -> set[str]:
    """Return the branches that the operator has seen."""
    return {_text(name) for (name,) in database.execute("SELECT origin FROM acknowledged")}


def acknowledge(database: Database, names: Iterable[str]) -> None:
    """Note that the operator has seen these branches."""
    rows = [(name,) for name in names]
    database.executemany("INSERT OR IGNORE INTO acknowledged VALUES (?)", rows)


class Moving(NamedTuple):
    """A move, and what it concerns: the digests of copies among its entries, each with its times;
    the head of the new branch; and damaged entries, with which it cannot be carried out."""

    move: Move | None
    copies: dict[bytes, list[int]]
    heads: dict[str, Head]
    bad: list[Found]


NOTHING_MOVES = Moving(None, {}, {}, [])


def plan(database: Database, found: Move) -> Moving:
    """Return what a move concerns."""
    copies: dict[bytes, list[int]] = {}
    bad: list[Found] = []
    for row in database.execute(_FROM, (found.source, found.after)):
        if not is_whole(row):
            bad.append(damage.found(row))
        elif row[4] == HEARD:
            entry = entry_of(row)
            copies.setdefault(bytes.fromhex(entry.digest), []).append(entry.time)
    n, running, signature = origins.head(database, found.source)
    return Moving(found, copies, {found.to: Head(n - found.after, running, signature)}, bad)


def carry_out(database: Database, moving: Moving) -> None:
    """Rename the entries that move, some at a time: there may be very many. Raises LogError."""
    if moving.move is None:
        return
    source, after, to = moving.move
    update = "UPDATE entries SET origin = ?, seq = ?, erased = ?, sum = ? WHERE arrival = ?"
    while rows := database.execute(f"{_FROM} LIMIT ?", (source, after, MOVED_ROWS)).fetchall():
        if not all(map(is_whole, rows)):
            raise LogError(f"entries of {source} were damaged while they were moved")
        news = [renamed(row, to, row[1] - after, entry_of(row).shifted(after)) for row in rows]
        changes = [(new[0], new[1], new[7], *new[-2:]) for new in news]
        database.executemany(update, changes)
    consumers.rename_parked(database, source, after, to)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
