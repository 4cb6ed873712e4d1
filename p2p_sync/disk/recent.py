"""The newest entries in memory, packed for sending: most of what links send, and most of what those
who follow the log read, has just arrived.

Pure: the lock of the caller guards it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import TypeVar

from ..settings import MAX_SHIPPED, RECENT_CHARACTERS, RECENT_MESSAGES
from ..wire.logframes import PackedRun

T = TypeVar("T")


class Recent:
    """The newest entries, of each origin without a gap. The oldest of all are dropped first."""

    def __init__(self) -> None:
        self._since = 0
        self.clear(0)

    def clear(self, arrival: int) -> None:
        """Drop all entries, up to the one whose last message has that number of arrival."""
        self._of_origin: dict[str, deque[PackedRun]] = {}
        self._all: deque[tuple[int, PackedRun]] = deque()  # arrival of the last message, entry
        self._characters = 0
        self._messages = 0
        self.forget_arrivals(arrival)

    def forget_arrivals(self, arrival: int) -> None:
        """The arrivals up to that one are not those that the entries came with."""
        self._since = max(self._since, arrival)

    def add(self, entries: Sequence[PackedRun], arrivals: Sequence[int]) -> None:
        """Add the newest entries of an origin, at least one, each a run of its own; `arrivals` are
        those of their last messages."""
        kept = self._of_origin.setdefault(entries[0].origin, deque())
        kept.extend(entries)
        self._all.extend(zip(arrivals, entries, strict=True))
        for entry in entries:
            self._characters += len(entry.text)
            self._messages += entry.count
        while self._characters > RECENT_CHARACTERS or self._messages > RECENT_MESSAGES:
            arrival, oldest = self._all.popleft()
            self._since = max(self._since, arrival)
            self._characters -= len(oldest.text)
            self._messages -= oldest.count
            self.delete(oldest.origin, oldest.end)

    def delete(self, origin: str, end: int) -> None:
        """Drop the entries of an origin up to that number."""
        kept = self._of_origin.get(origin)
        while kept and kept[0].end <= end:
            kept.popleft()
        if kept is not None and not kept:
            del self._of_origin[origin]

    def arrived(self, after: int, limit: int) -> list[tuple[int, PackedRun]] | None:
        """Return up to `limit` entries with messages after arrival `after`, each with the arrival
        of its last message; None if they are not all here."""
        if after < self._since:
            return None
        first = bisect_right(self._all, after, key=itemgetter(0))
        return _between(self._all, first, first + limit)

    def find(self, origin: str, after: int) -> list[PackedRun]:
        """Return the entries with the messages after `after`, as many as fit into a frame; [] if
        the first one is not here."""
        kept = self._of_origin.get(origin, deque())
        first = bisect_right(kept, after, key=attrgetter("after")) - 1
        if first < 0 or kept[first].end <= after:
            return []
        return _between(kept, first, first + MAX_SHIPPED)


def _between(kept: deque[T], first: int, end: int) -> list[T]:
    """Return a slice, taken from the right: it is the newest that is asked for most."""
    end = min(len(kept), end)
    return list(islice(reversed(kept), len(kept) - end, len(kept) - first))[::-1]
