"""Which messages a reader wants, and the search for them without reading all others.

A topic has indexes, and the shared order leads to a time. Nodes have no index: it would add a fifth
to what an entry takes on disk, and half to what a commit writes. Instead, the entries of a node
that has few are found by its origins; those of another one are met soon on the way. Where no index
leads, a search looks at MAX_FILTERED entries, and the next one goes on behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from .. import settings
from ..codes import MAX_NUMBER
from ..wire.frames import Message
from .copies import SHOWN
from .rows import COLUMNS, Row, name_of
from .store import Database

Place: TypeAlias = tuple[int, str, int]
"""A place in the shared order: time, origin, sequence number."""

ARRIVAL = "arrival"
FORWARDS = "time, origin, seq"
BACKWARDS = "time DESC, origin DESC, seq DESC"
"""The orders of a search."""

_Condition: TypeAlias = tuple[str, tuple[Any, ...]]
"""SQL, and its values."""
_SPANS = {
    ARRIVAL: "arrival > ? AND arrival <= ?",
    FORWARDS: "(time, origin, seq) >= (?, ?, ?) AND (time, origin, seq) < (?, ?, ?)",
}
_SPANS[BACKWARDS] = _SPANS[FORWARDS]
_END = (
    "arrival, CAST(time AS INTEGER), origin, CAST(seq AS INTEGER), CAST(seq + count - 1 AS INTEGER)"
)


class Wanted(NamedTuple):
    """Which messages a reader wants."""

    topic: str = ""  # "": of any
    node: str = ""  # the beginning of the ids of their nodes; "": of any
    since: int = 0  # their time, in ms since the epoch: from this one on ...
    until: int = MAX_NUMBER + 1  # ... and before this one

    def has(self, message: Message) -> bool:
        """Return whether a message is one of them."""
        return (
            self.topic in ("", message.topic)
            and message.origin.startswith(self.node)
            and self.since <= message.time < self.until
        )


ALL = Wanted()
"""All messages."""


class End(NamedTuple):
    """Where a search ends before the end of its span."""

    arrival: int
    place: Place  # backwards that of the first message of the last entry, else of its last one


class Search:
    """A search for the wanted entries in a span of an order, in one database."""

    def __init__(
        self,
        database: Database,
        wanted: Wanted,
        order: str,
        first: tuple[Any, ...],
        last: tuple[Any, ...],
        hidden: bool = False,
    ) -> None:
        """The span is after the arrival `first` and up to the `last` one, or from the place `first`
        on and before the `last` one, which are of times that are wanted. `hidden`: also entries
        that are not shown."""
        self._database, self._order = database, order
        self._span = (*first, *last)
        self._shown = "TRUE" if hidden else SHOWN
        topic, node, since, until = wanted
        of_node = node, f"{node}g"  # its digits are 0 to f
        # Without the second half no index of topics would be used.
        of_topic = "topic = ? AND topic <> ''", (topic,)
        self._few = bool(node) and _has_few(database, of_node)
        # What an index leads to, and what is left to be looked at: a plus keeps an index away.
        self._indexed: list[_Condition] = []
        self._others: list[_Condition] = []
        if self._few:
            self._indexed.append(("origin >= ? AND origin < ?", of_node))
        elif node:
            self._others.append(("+origin >= ? AND +origin < ?", of_node))
        if topic:
            (self._others if self._few else self._indexed).append(of_topic)
        if order == ARRIVAL and (since, until) != (ALL.since, ALL.until):
            self._others.append(("+time >= ? AND +time < ?", (since, until)))
        self.end = self._cut() if self._others and not self._few else None

    def rows(self) -> Iterator[Row]:
        """Yield the columns COLUMNS of the entries."""
        others = [*self._others, (self._shown, ())]
        if not self._few:
            yield from self._select(COLUMNS, others)
            return
        for found in [*self._select("arrival", others)]:  # sorted, without their texts
            query = f"SELECT {COLUMNS} FROM entries WHERE arrival = ?"
            yield from self._database.execute(query, found)

    def _select(self, columns: str, others: list[_Condition], limit: str = "") -> Iterator[Row]:
        conditions = [*self._indexed, (_SPANS[self._order], self._span), *others]
        where = " AND ".join(text for text, _ in conditions)
        hint = "INDEXED BY by_identity" if self._few else ""
        return self._database.execute(
            f"SELECT {columns} FROM entries {hint} WHERE {where} ORDER BY {self._order} {limit}",
            [value for _, values in conditions for value in values],
        )

    def _cut(self) -> End | None:
        """Have the span end with the last entry that may be looked at, if there are more."""
        limit = f"LIMIT 1 OFFSET {settings.MAX_FILTERED - 1}"
        row = next(self._select(_END, [], limit), None)
        if not row or None in row:  # an entry may be damaged
            return None
        arrival, time, name, first, last = row
        origin = name_of([name])
        if self._order == BACKWARDS:
            self._span = (time, origin, first, *self._span[3:])
            return End(arrival, (time, origin, first))
        if self._order == FORWARDS:
            self._span = (*self._span[:3], time, origin, first + 1)
        else:
            self._span = (*self._span[:1], arrival)
        return End(arrival, (time, origin, last))


def _has_few(database: Database, of_node: tuple[str, str]) -> bool:
    """Return whether there are few entries of a node."""
    query = "SELECT 1 FROM entries WHERE origin >= ? AND origin < ? LIMIT 1 OFFSET ?"
    return database.execute(query, (*of_node, settings.FEW_ENTRIES)).fetchone() is None
