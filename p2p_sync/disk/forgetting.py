"""Ended origins in the database: which they are, and which of them are forgotten. See
wire/cutoffs.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress

from ..errors import LogError
from ..settings import ENDED_STEP, MAX_OWN_ENDED
from ..wire.cutoffs import began, choose, cutoff_of
from . import origins
from .sending import Sending
from .store import Database

# Of a node's origins, from one on, each with the time of its last entry, if one is kept.
_LAST = """
    SELECT origin, (SELECT time FROM entries e WHERE e.origin = o.origin ORDER BY seq DESC LIMIT 1)
    FROM origins o WHERE origin > ? AND origin < ? ORDER BY origin LIMIT ?
"""


class Forgetting(Sending):
    """The ended origins of one node's log."""

    _copies: Counter[str]  # copies of originals' commits, by origin

    def since(self, wall: int) -> int:
        """Return a time before which no message is kept, `wall` at most (both in ms since the
        epoch); 0 if that cannot be read now. For any thread."""
        with suppress(LogError), self._store.reading() as database:
            query = "SELECT time FROM entries ORDER BY time, origin, seq LIMIT 1"
            oldest = database.execute(query).fetchone()
            return min(wall, max(0, int(oldest[0]))) if oldest else wall
        return 0

    def all_ended(self) -> list[str]:
        """Return all origins that are ended. Raises LogError."""
        ended: list[str] = []
        with self._store.reading() as database:
            rows = database.execute("SELECT origin FROM origins WHERE origin GLOB '*-0'").fetchall()
            for (name,) in rows:
                cutoff = origins.head(database, name.decode()).n
                ended += _ended(database, name.decode().removesuffix("-0"), cutoff, "", -1)[0]
        return ended

    def ended(self, node: str, cutoff: int, after: str) -> tuple[list[str], str]:
        """Look at the next origins of a node after the one with that name: return those that a
        cutoff ends, and the name to go on after ("": these were the last). Raises LogError."""
        with self._store.reading() as database:
            return _ended(database, node, cutoff, after, ENDED_STEP)

    def unkept(self, names: Iterable[str]) -> list[str]:
        """Return the origins of which no message is kept. Raises LogError."""
        query = "SELECT 1 FROM origins WHERE origin = ? AND (n > floor OR below > 0)"
        with self._store.reading() as database:
            return [name for name in names if not database.execute(query, (name,)).fetchone()]

    def cutoff(self, latest: int, present: str, ended: Collection[str]) -> int:
        """Return a new cutoff for this node, at most `latest`, while its commits have the origin
        `present`; 0 if it would end nothing but what is `ended`. Raises LogError."""
        name = cutoff_of(self._store.node)
        latest = self.since(latest)
        with self._store.reading() as database:
            last = origins.head(database, name).n
            rows = database.execute(_LAST, (name, f"{name[:-1]}~", MAX_OWN_ENDED)).fetchall()
        own = {name.decode(): time is not None for name, time in rows}
        if len(own) == MAX_OWN_ENDED:
            own[max(own, key=began)] = True  # nothing is known of those that follow
        best = choose(latest, present, own)
        ends = any(began(name) < best and name not in ended for name in own)
        return best if ends and best > last else 0

    # -- the writer's thread --------------------------------------------------------------------

    def forget(self, names: Collection[str]) -> None:
        """Forget origins of which no message is kept. Raises LogError."""
        with self._store.writing(durable=False) as database:
            rows = [(name,) for name in names]
            database.executemany("DELETE FROM origins WHERE origin = ?", rows)
            database.executemany("DELETE FROM acknowledged WHERE origin = ?", rows)
        with self._lock:
            for name in names:
                self._floors.pop(name, None)
                self._copies.pop(name, None)


def _ended(
    database: Database, node: str, cutoff: int, after: str, limit: int
) -> tuple[list[str], str]:
    first = after or cutoff_of(node)
    rows = database.execute(_LAST, (first, f"{node}-~", limit)).fetchall()
    found = [(name.decode(), time) for name, time in rows]
    names = [
        name
        for name, time in found
        if began(name) < cutoff and (type(time) is not int or time < cutoff)
    ]
    return names, found[-1][0] if len(found) == limit else ""
