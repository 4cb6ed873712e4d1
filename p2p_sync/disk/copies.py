"""Deduplication in the database: which copies of an original's commit are hidden.

core/deduplication.py has the rules. A row of the kind 1 is a copy. Its `leader` is
the arrival of the copy that is shown for the commit; if that is its own, it is shown itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..core.deduplication import Crowd, match, node_of, spans
from ..settings import COPY_WINDOW
from .rows import name_of
from .store import Database

SHOWN = "(kind <> 2 AND (leader IS NULL OR leader = arrival))"

# The arrival of a copy, its leader (None: it is new), time and origin.
_Copy: TypeAlias = tuple[int, int | None, int, bytes]


def count_copies(database: Database) -> tuple[Counter[str], int]:
    """Return how many copies of each origin there are, and how many messages of all are hidden:
    copies, and notices, which are no messages."""
    # By this index only the copies are read, not the whole log.
    rows = database.execute(
        "SELECT origin, count(*) FROM entries INDEXED BY by_text WHERE kind = 1 GROUP BY origin"
    )
    copies = Counter({name_of(row): row[1] for row in rows})
    hidden, notices = database.execute(
        "SELECT (SELECT count(*) FROM entries WHERE leader <> arrival), "
        "(SELECT count(*) FROM entries WHERE kind = 2)"
    ).fetchone()
    return copies, hidden + notices


def rematch(
    database: Database, copied: bytes, times: Sequence[int], arrival: int
) -> tuple[int, int]:
    """Match the copies of a text, whose SHA-256 is `copied`, again; those with `times` are new.
    Whether they are erased does not matter.

    A copy that was hidden and is shown from now on arrives again, so readers that follow the
    arrivals get it. Returns the last arrival, and how many more copies are hidden.
    """
    new = Counter(time // COPY_WINDOW for time in times)
    changes: list[tuple[int, int, int]] = []  # leader, arrival, arrival before
    hidden = 0
    for start, end in spans(times):
        copies, beyond = _copies(database, copied, start, end, new)
        leaders = match(
            [(time, node_of(name_of([origin]))) for _, _, time, origin in copies], start
        )
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
    database: Database, copied: bytes, start: int, end: int, new: Mapping[int, int]
) -> tuple[list[_Copy], list[_Copy]]:
    """Return the copies of a text in a span of time that are matched, and those that the `new` ones
    (counted by window) may have pushed beyond the limit, both in the shared order."""
    matched: list[_Copy] = []
    beyond: list[_Copy] = []
    crowd = Crowd()
    while start < end:
        rows = database.execute(
            "SELECT arrival, leader, time, origin FROM entries "
            "WHERE kind = 1 AND copied = ? AND time >= ? AND time < ? ORDER BY time, origin, seq",
            (copied, start, end),
        )
        start = end
        for row in rows:
            window = row[2] // COPY_WINDOW
            excess = crowd.admit(row[2])
            if not excess:
                matched.append(row)
            elif excess <= new.get(window, 0):
                beyond.append(row)
            else:  # there may be very many: go on behind them
                start = (window + 1) * COPY_WINDOW
                break
        rows.close()
    return matched, beyond
