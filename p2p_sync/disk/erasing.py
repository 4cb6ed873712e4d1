"""Erasing messages in the database: a notice takes the text from the row of its target.

A notice and its target may be stored in either order, so each is looked up when the other one
comes, in the same transaction. The row keeps the digest of the text and the erasure, which proves
the notice (wire/entries.py). A notice about a message that is not here, or not kept any more,
changes nothing.

Several nodes may have logged a copy of one commit of an original. Those that the deduplication
shows as one message are erased together: the node that erases one commits a notice for each. A copy
that comes later is erased by the node that has logged it, or by the one that has erased another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from ..core.deduplication import node_of
from ..settings import COPY_WINDOW
from ..wire.entries import HEARD, NOTICE, Entry, Erasure
from ..wire.forks import Branch
from ..wire.frames import Message
from ..wire.logframes import Run
from .copies import SHOWN
from .forks import branches
from .rows import COLUMNS, Row, changed, end_of, entry_of, is_whole, messages_of
from .store import Database

_AT = (
    f"SELECT {COLUMNS}, {SHOWN}, copied FROM entries WHERE origin = ? AND seq <= ? "
    "ORDER BY seq DESC LIMIT 1"
)
_NOTICES = f"""
    SELECT {COLUMNS} FROM entries WHERE kind = 2 AND substr(data, 1, instr(data, ':') - 1) = ?
    AND CAST(substr(data, instr(data, ':') + 1) AS INTEGER) BETWEEN ? AND ?
"""
_COPIES = """
    SELECT origin, seq, leader, erased FROM entries
    WHERE kind = 1 AND copied = ? AND time BETWEEN ? AND ? AND leader IS NOT NULL
"""
# Copies of one commit are at most so far apart.
_APART = 2 * COPY_WINDOW


Place: TypeAlias = tuple[bytes, int]
"""Where copies of an original's commit are: the digest of the text, and a time."""


class Erased(NamedTuple):
    """A message that was shown, and that a node has erased."""

    id: str
    topic: str
    node: str


class Erasing(NamedTuple):
    """What was erased in a transaction."""

    shown: list[Erased]
    places: list[Place]  # where a copy is erased and others may be left
    changed: bool  # something was


NOTHING = Erasing([], [], False)
"""Nothing was erased."""


def has_notices(database: Database) -> bool:
    """Return whether the log has a notice. Without one there is nothing to carry out."""
    return database.execute("SELECT 1 FROM entries WHERE kind = 2 LIMIT 1").fetchone() is not None


def carry_out(
    database: Database, runs: Sequence[Run], copies: Mapping[bytes, Sequence[int]]
) -> Erasing:
    """Erase what the notices in `runs`, which were just inserted, erase, and of the messages in
    them those that have notices. `copies` are the times of the copies in them, by their digests."""
    shown: list[Erased] = []
    places = [place for place in _places(copies) if _is_erased(database, *place)]
    is_changed = False
    for run in runs:
        last = run.entries[-1] if run.entries else None
        erasures = [*_notices(database, run)]
        if last and last.kind == NOTICE and "~" not in last.text:  # else it proves nothing
            before = run.hashes[-2] if len(run.hashes) > 1 else run.previous
            about = run.end - 1, before, last.time, run.signature
            for name, seq in _targets(database, last.text):
                erasures.append((name, Erasure(seq, run.origin, *about)))
        for name, erasure in erasures:
            row = _erase(database, name, erasure)
            is_changed = is_changed or row is not None
            if row is not None and row.had_text:
                if row.shown:
                    shown.append(Erased(name, row.topic, node_of(erasure.origin)))
                if row.copied:
                    places.append((row.copied, row.time))
    return Erasing(shown, places, is_changed)


def _notices(database: Database, run: Run) -> Iterator[tuple[str, Erasure]]:
    """Yield the ids of messages in a run that were erased before it came, and by what. Notices name
    the ids that messages were committed with."""
    base, shift, _ = Branch.of(run.origin)
    span = base, shift + run.after + 1, shift + run.end
    for row in database.execute(_NOTICES, span).fetchall():
        if is_whole(row):
            erasure = _erasure(row)
            seq = erasure.seq - shift
            yield f"{run.origin}:{seq}", erasure._replace(seq=seq)


def _targets(database: Database, name: str) -> Iterator[tuple[str, int]]:
    """Yield the messages that a notice about the message with an id erases, each by its id and its
    number: where its origin forks, all that were committed with that id."""
    origin, seq = _split(name)
    yield name, seq
    for branch, _ in branches(database, origin):
        shift = Branch.of(branch).after
        if branch != origin and seq > shift:
            yield f"{branch}:{seq - shift}", seq - shift


def _places(copies: Mapping[bytes, Sequence[int]]) -> Iterator[Place]:
    return ((copied, time) for copied, times in copies.items() for time in times)


def _is_erased(database: Database, copied: bytes, time: int) -> bool:
    """Return whether a copy with that digest is erased, about that time."""
    query = "SELECT 1 FROM entries WHERE kind = 1 AND erased <> '' AND copied = ?"
    row = database.execute(
        f"{query} AND time BETWEEN ? AND ?", (copied, time - _APART, time + _APART)
    )
    return row.fetchone() is not None


class _Target(NamedTuple):
    """A row before one of its messages was erased."""

    shown: bool
    had_text: bool
    copied: bytes | None
    time: int
    topic: str


def _erasure(row: Row) -> Erasure:
    """Return the erasure that a whole row with a notice makes."""
    seq = _split(row[8].decode())[1]
    return Erasure(seq, row[0].decode(), row[1] - 1, row[5].hex(), row[3], row[9].hex())


def _erase(database: Database, name: str, erasure: Erasure) -> _Target | None:
    """Erase a message. Return None if that has changed nothing."""
    row, shown, copied = _at(database, name)
    if not _holds(row, name):
        return None
    entry = entry_of(row)
    erased = entry.erase(row[1], erasure)
    if erased == entry:
        return None
    new = changed(row, erased, row[9])
    values = new[8], new[7], new[-2], row[-1]
    database.execute("UPDATE entries SET data = ?, erased = ?, sum = ? WHERE arrival = ?", values)
    had_text = entry.texts[erasure.seq - row[1]] is not None
    return _Target(bool(shown), had_text, copied, entry.time, entry.topic)


def find(database: Database, name: str) -> Message | None:
    """Return the message that has that id, or was committed with it; None if it is not here or
    damaged."""
    for target, seq in _targets(database, name):
        row, _, _ = _at(database, target)
        if _holds(row, target):
            return _message(row, seq)
    return None


def erased_by(database: Database, notice: Row) -> Iterator[Message]:
    """Yield the message that a whole row with a notice has erased, if it is shown."""
    name = notice[8].decode()
    row, shown, _ = _at(database, name)
    if shown and _holds(row, name):
        yield _message(row, _split(name)[1])


def _message(row: Row, seq: int) -> Message:
    return next(islice(messages_of(row), seq - row[1], None))


def _at(database: Database, name: str) -> tuple[Row, int, bytes | None]:
    """Return the row that would have the message with that id, whether it is shown, and its digest
    if it is a copy; an empty row if there is none."""
    found = database.execute(_AT, _split(name)).fetchone()
    return (found[:-2], found[-2], found[-1]) if found else ((), 0, None)


def _split(name: str) -> tuple[str, int]:
    """Return the origin and the number in an id; number 0 if it is none."""
    origin, _, seq = name.rpartition(":")
    return origin, int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 17 else 0


def _holds(row: Row, name: str) -> bool:
    """Return whether a row is whole and has the message with that id."""
    origin, seq = _split(name)
    return bool(
        row
        and is_whole(row)
        and row[4] != NOTICE
        and row[1] <= seq <= end_of(row)
        and name == f"{origin}:{seq}"
    )


def copies_of(database: Database, name: str) -> list[str]:
    """Return the ids of the copies of an original's commit that are shown as one with that one, it
    included, and have their text; the id alone if it is no copy."""
    query = "SELECT copied, time, leader FROM entries WHERE kind = 1 AND origin = ? AND seq = ?"
    row = database.execute(query, _split(name)).fetchone()
    if not row or row[2] is None:
        return [name]
    commit = _commits(database, *row[:2]).get(row[2], [])
    return [copy for copy, entry in commit if not entry.erased]


def erased_copies(database: Database) -> list[Place]:
    """Return where copies are erased."""
    query = "SELECT DISTINCT copied, time FROM entries WHERE kind = 1 AND erased <> ''"
    return database.execute(query).fetchall()


def left_copies(database: Database, place: Place, node: str) -> Iterator[str]:
    """Yield the ids of copies at a place that have their text while another one of their commit is
    erased, if this node is to erase them."""
    for commit in _commits(database, *place).values():
        nodes = {node_of(item.origin) for _, entry in commit for item in entry.erasures}
        for name, entry in commit:
            if not entry.erased and nodes and (node in nodes or node_of(name) == node):
                yield name


def _commits(database: Database, copied: bytes, time: int) -> dict[int, list[tuple[str, Entry]]]:
    """Return the commits of originals with this digest, about that time: of each the ids of its
    copies, and entries that say whether they are erased."""
    commits: dict[int, list[tuple[str, Entry]]] = {}
    rows = database.execute(_COPIES, (copied, time - _APART, time + _APART))
    for origin, seq, leader, erased in rows:
        entry = Entry(time, "", HEARD, erased=erased.decode())
        commits.setdefault(leader, []).append((f"{origin.decode()}:{seq}", entry))
    return commits
