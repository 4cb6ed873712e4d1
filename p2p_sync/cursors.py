"""Places in a list that only grows, as they are handed out to readers: `start-number`.

A node that loses its disk, or is restored from a backup, numbers other things with the same
numbers. So each start of a node draws a name, and a place carries the name of the start that
handed it out. The log remembers its starts: a place is known if its start is, and if its number is
one that this start reached before the next one began.

Pure: no lock, thread, socket or clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import CursorGone, InputError

START = re.compile(r"[0-9a-f]{8}")
"""The name of a start, which is drawn at random."""
MAX_STARTS = 1000
"""Starts that are remembered; places of older ones are unknown."""

_CURSOR = re.compile(rf"(?:({START.pattern})-)?([0-9]{{1,19}})")


class Cursors:
    """Writes and reads the places of one list. For any thread; it does not change."""

    def __init__(self, starts: Sequence[tuple[str, int]]) -> None:
        """`starts` are the names of the starts, the present one last, and the number of the last
        item when each of them began."""
        self._start = starts[-1][0]
        ends = [number for _, number in starts[1:]]
        self._ends = {name: end for (name, _), end in zip(starts, ends, strict=False)}

    def text(self, number: int) -> str:
        """Return the place behind the item with that number, 0: the beginning."""
        return f"{self._start}-{number}"

    def number(self, text: str, last: int) -> int:
        """Return the number of a place, where `last` is that of the last item now.

        Nothing and "0" are the beginning. Raises InputError for what is no place, and CursorGone
        for one of another list, or beyond the end of this one.
        """
        if text in ("", "0"):
            return 0
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InputError("after is what an answer gave as next; leave it out to begin")
        start, number = match[1], int(match[2])
        end = last if start == self._start else self._ends.get(start)
        if end is not None and number <= end:
            return number
        if end is None:
            raise CursorGone(
                "after is a place in another log: this node has lost its disk, or is another one; "
                "start from the beginning, next",
                self.text(0),
            )
        raise CursorGone(
            "after is a place beyond the end of this log, which was restored to an older state; "
            "go on from next",
            self.text(end),
        )
