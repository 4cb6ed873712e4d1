"""The newest entries in memory, packed for sending: most of what links send has just arrived.

Pure: the lock of the caller guards it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from ..settings import RECENT_CHARACTERS, RECENT_MESSAGES
from ..wire.logframes import PackedRun


class Recent:
    """The newest entries, of each origin without a gap. The oldest of all are dropped first."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop all entries."""
        self._of_origin: dict[str, deque[PackedRun]] = {}
        self._all: deque[PackedRun] = deque()
        self._characters = 0
        self._messages = 0

    def add(self, entries: Sequence[PackedRun]) -> None:
        """Add the newest entries of an origin, at least one, each a run of its own."""
        kept = self._of_origin.setdefault(entries[0].origin, deque())
        kept.extend(entries)
        self._all.extend(entries)
        for entry in entries:
            self._characters += len(entry.text)
            self._messages += entry.count
        while self._characters > RECENT_CHARACTERS or self._messages > RECENT_MESSAGES:
            oldest = self._all.popleft()
            self._characters -= len(oldest.text)
            self._messages -= oldest.count
            kept = self._of_origin[oldest.origin]
            kept.popleft()
            if not kept:
                del self._of_origin[oldest.origin]

    def find(self, origin: str, after: int, upto: int) -> list[PackedRun]:
        """Return the entries with the messages `after`+1 to `upto`, as far as they are here; [] if
        the first one is not."""
        kept = self._of_origin.get(origin, deque())
        first = bisect_right(kept, after, key=lambda entry: entry.end)
        end = min(len(kept), first + upto - after)
        # From the right: it is the newest that most links are sent.
        found = list(islice(reversed(kept), len(kept) - end, len(kept) - first))[::-1]
        return found if found and found[0].after <= after else []
