"""Cursors: places in a list that only grows, as the API gives them to readers, `start-number`.

A node that lost its disk or was restored from a backup uses the same numbers for other items. So
each start of a node has a random name, and a cursor contains the name of the start that made it.
The log remembers its starts. A cursor is valid if the log knows its start, and if that start
reached its number before the next start began.

Pure: no lock, thread, socket or clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import CursorGone, InputError

START = re.compile(r"[0-9a-f]{8}")
"""The random name of a start."""

_CURSOR = re.compile(rf"(?:({START.pattern})-)?([0-9]{{1,19}})")


class Cursors:
    """Writes and reads the cursors of one list. It does not change, so any thread may use it."""

    def __init__(self, starts: Sequence[tuple[str, int]]) -> None:
        """`starts` has the name of each start, the current one last, and the number of the last
        item when it began."""
        self._start = starts[-1][0]
        ends = [number for _, number in starts[1:]]
        self._ends = {name: end for (name, _), end in zip(starts, ends, strict=False)}

    def text(self, number: int) -> str:
        """Return the cursor after the item with that number; 0 is the beginning."""
        return f"{self._start}-{number}"

    def number(self, text: str, last: int, name: str = "after") -> int:
        """Return the number in a cursor. `last` is the number of the last item now; errors call the
        cursor by its `name`, that of the parameter or header that it came in.

        "" and "0" are the beginning, "new" is behind the last item. Raises InputError for text
        that is not a cursor. Raises CursorGone for a cursor of another list or beyond the end of
        this one.
        """
        if text in ("", "0"):
            return 0
        if text == "new":
            return last
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InputError(
                f"{name} must be the next of an earlier answer, or new to start behind the last "
                "one; omit it to start from the beginning"
            )
        start, number = match[1], int(match[2])
        end = last if start == self._start else self._ends.get(start)
        if end is not None and number <= end:
            return number
        if end is None:
            raise CursorGone(
                f"{name} belongs to another log: this node has lost its disk, or is another node; "
                "start again from next",
                self.text(0),
            )
        raise CursorGone(
            f"{name} is beyond the end of this log, which was restored to an older state; "
            "continue from next",
            self.text(end),
        )
