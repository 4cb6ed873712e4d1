"""A new data directory from a backup: the log of other nodes, without an identity.

Each hash and signature is checked before its entry is stored (wire/export.py). The database is made
under another name and renamed once all is right, so a backup that is wrong leaves nothing behind.
The node that starts with the directory is a new one: it gets a key of its own, and the rest of the
log from its peers.

The messages come in the shared order, and get their arrivals in that order. All rows are one
transaction, without a journal, since what is not complete is deleted; the indexes come after them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path

from ..errors import InputError, StartError
from ..settings import RESTORED_COPIES, RESTORED_ROWS, called
from ..wire.export import Checker
from ..wire.logframes import NOTHING_HELD, Head
from . import origins
from .copies import count_copies, rematch
from .directory import DATABASE, claim
from .origins import NO_FLOOR, Floor
from .retention import Gone, write_gone
from .rows import INSERTED, VALUES, Row, stored
from .schema import INDEXES, PRAGMAS, TABLES
from .store import Database, create


def restore(directory: Path, parts: Iterable[Sequence[bytes]]) -> Checker:
    """Make a data directory that holds the messages of a backup, whose lines come in `parts`.

    Returns what the check has counted; `hidden` are those that the new node hides. Raises
    StartError for a directory that cannot be used or holds a log, InputError for a backup that is
    wrong, OSError; then nothing is left behind.
    """
    place = directory.absolute()
    made = [path for path in (place, *place.parents) if not path.exists()]
    locked = (place / "lock").exists()
    restored = False
    lock = claim(place)
    try:
        if (place / DATABASE).exists():
            raise StartError(
                f"the data directory {directory} holds a log; choose a new one with "
                f"{called('data_dir')}"
            )
        checker = Checker()
        create(place, lambda database: _fill(database, checker, parts))
        restored = True
        return checker
    finally:
        if not restored:
            if not locked:
                (place / "lock").unlink(missing_ok=True)
            for path in made:
                with suppress(OSError):
                    path.rmdir()
        os.close(lock)


def _fill(database: Database, checker: Checker, parts: Iterable[Sequence[bytes]]) -> None:
    database.execute("PRAGMA journal_mode = OFF").fetchone()
    database.execute("BEGIN")
    for statement in TABLES:
        database.execute(statement)
    _insert(database, checker, parts)
    for statement in INDEXES.values():
        database.execute(statement)
    _match(database)
    _, checker.hidden = count_copies(database)
    database.execute("COMMIT")
    database.executescript(PRAGMAS)


def _insert(database: Database, checker: Checker, parts: Iterable[Sequence[bytes]]) -> None:
    """Insert the entries, and what is held of each origin; raises InputError."""
    statement = f"INSERT INTO entries ({INSERTED}) VALUES {VALUES}"
    heads: dict[str, Head] = {}
    floors: dict[str, Floor] = {}
    rows: list[Row] = []
    arrival = 1  # what is gone had this one
    since = 0
    for lines in parts:
        for line in lines:
            if problem := checker.line(line):
                raise InputError(f"line {problem.line}: {problem.id} {problem.text}".strip())
            if run := checker.run:
                new, _ = stored(run, arrival)
                rows += new
                arrival += run.count
                name, n = run.origin, heads.get(run.origin, NOTHING_HELD).n
                if run.after > n:
                    floors[name] = Floor(run.after, floors.get(name, NO_FLOOR).held(n))
                    since = max(since, run.entries[0].time)
                heads[name] = run.head
        if len(rows) >= RESTORED_ROWS:
            database.executemany(statement, rows)
            rows.clear()
    for problem in checker.end():
        raise InputError(f"{problem.id} {problem.text}".strip())
    database.executemany(statement, rows)
    origins.write(database, heads, floors)
    if floors:  # the messages that are gone were committed before those that follow them
        write_gone(database, Gone(1, since - 1))


def _match(database: Database) -> None:
    """Find the copies that are hidden. The file says which ones, but nobody has signed that."""
    copies = database.execute(
        "SELECT copied, time FROM entries WHERE kind = 1 ORDER BY copied, time"
    )
    for copied, rows in groupby(copies, lambda row: row[0]):
        while times := [time for _, time in islice(rows, RESTORED_COPIES)]:
            rematch(database, copied, times, 0)
