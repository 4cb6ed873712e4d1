"""What happens to a node: lines in the log, and events that programs can wait for.

The journal alone decides what becomes a line or an event. Three rules bound both, even if a peer
causes notes on purpose:

- A failure that repeats, with the same subject and reason, is logged the 1st, 2nd, 4th ... time.
- Notes that one host can cause at any rate, such as links that come and go, make up to
  MAX_LINES_OF_A_HOST lines a minute.
- The last MAX_EVENTS events are kept in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from ..core.effects import (
    CAUGHT_UP,
    DAMAGED,
    ENDED,
    ERASED,
    JOINED,
    LEFT,
    LINKED,
    NOT_LINKED,
    REFUSED_HERE,
    STARTED,
    UNNEEDED,
    Note,
)
from ..core.peertable import key_of
from ..core.verdict import numbered
from ..cursors import Cursors
from ..results import Event, EventType
from ..settings import (
    FAILURE_FORGOTTEN,
    MAX_EVENT_TEXT,
    MAX_EVENTS,
    MAX_FAILING,
    MAX_LINES_OF_A_HOST,
    MAX_REASONS,
)

logger = logging.getLogger("p2p_sync")

# The notes that are events, with the type of these, and the log lines that are no warnings; None:
# no line.
_TYPES: tuple[EventType, ...] = get_args(EventType)
_EVENTS: dict[str, EventType] = {**{kind: kind for kind in _TYPES}, NOT_LINKED: "refused"}
_LEVELS: dict[str, int | None] = {
    LINKED: logging.INFO,
    ENDED: logging.INFO,
    UNNEEDED: logging.INFO,
    REFUSED_HERE: logging.INFO,
    ERASED: logging.INFO,
    JOINED: None,
    LEFT: None,
    NOT_LINKED: None,
    CAUGHT_UP: None,
    STARTED: None,
    DAMAGED: None,  # each entry has a line
}


@dataclass
class _Failures:
    """The failures in a row of one thing."""

    at: float
    count: int = 0
    of_reason: Counter[str] = field(default_factory=Counter)
    events: set[str] = field(default_factory=set)  # the reasons that were events


class Journal:
    """The log lines and the events of one node. For any thread, with no lock held."""

    def __init__(self, start: str) -> None:
        """`start` is the name of this start of the node, for the cursors."""
        self._cursors = Cursors([(start, 0)])
        self._changed = threading.Condition()  # guards all below
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._last = 0
        self._stopped = False
        # Called after each new event, in the thread that has brought it, with no lock held.
        self.watchers: list[Callable[[], object]] = []
        self._failures: OrderedDict[str, _Failures] = OrderedDict()  # the latest last
        self._minute = 0.0
        # In this minute, by host; what is only an event is counted apart from lines.
        self._lines: Counter[tuple[str, bool]] = Counter()

    # -- what happens ---------------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Log a note and make an event of it, unless the rules leave it out."""
        now = time.monotonic()
        with self._changed:
            first, line = self._news(note, now)
            is_event = first and note.kind in _EVENTS
            if is_event:
                self._add(note)
        level = _LEVELS.get(note.kind, logging.WARNING)
        if line and level is not None:
            peer = {"address": note.address or None, "peer": note.node}
            logger.log(level, "%s", line, extra=peer)
        for watcher in [*self.watchers] if is_event else ():
            watcher()

    def forget(self, about: str) -> None:
        """Make the next failure of something an event again: a user waits for the result."""
        with self._changed:
            if about in self._failures:
                self._failures[about].events.clear()

    def _news(self, note: Note, now: float) -> tuple[bool, str]:
        """With the lock held: return whether the note may be an event, and its line; "" for no
        line."""
        in_vain = self._failures.pop(note.about, None) if note.kind == LINKED else None
        if not note.reason:
            if now - self._minute >= 60.0:
                self._minute = now
                self._lines.clear()
            counted = note.about, _LEVELS.get(note.kind, True) is None
            self._lines[counted] += 1
            if self._lines[counted] > MAX_LINES_OF_A_HOST:
                return False, ""
            more = f", after {numbered(in_vain.count, 'dial')} in vain" if in_vain else ""
            return True, note.text + more
        found = self._failures.pop(note.about, None)
        if found is None or now - found.at > FAILURE_FORGOTTEN:
            found = _Failures(now)
        self._failures[note.about] = found
        if len(self._failures) > MAX_FAILING:
            self._failures.popitem(last=False)
        reason = note.reason if len(found.of_reason) < MAX_REASONS else ""
        reason = note.reason if note.reason in found.of_reason else reason
        found.of_reason[reason] += 1
        found.count, found.at = found.count + 1, now
        first = reason not in found.events
        found.events.add(reason)
        if found.of_reason[reason].bit_count() > 1:
            return first, ""
        again = f" ({found.count} times in a row)" if found.count > 1 else ""
        return first, note.text + again

    def _add(self, note: Note) -> None:
        """With the lock held: add an event, and wake the threads that wait for one."""
        self._last += 1
        key = key_of(note.address) if note.address else None
        now = int(time.time() * 1000)
        self._events.append(
            Event(self._last, now, _EVENTS[note.kind], note.text[:MAX_EVENT_TEXT], key)
        )
        self._changed.notify_all()

    # -- what programs ask ----------------------------------------------------------------------

    def cursor(self, number: int) -> str:
        """Return the cursor of the event with that id."""
        return self._cursors.text(number)

    def place(self, cursor: str, name: str = "after") -> int:
        """Return the id of the event at a cursor. Raises CursorGone for a cursor of another start,
        InputError for what is no cursor. They call it `name`."""
        with self._changed:
            last = self._last
        return self._cursors.number(cursor, last, name)

    def wait(self, after: int, timeout: float) -> tuple[list[Event], int]:
        """Return the events with ids above `after`, and the last id.

        Waits for an event, for `timeout` seconds at most or until `stop`, if there is none. An
        `after` above the last id is from an earlier start of the node: then it does not wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._last != after, timeout)
            return [event for event in self._events if event.id > after], self._last

    def stop(self) -> None:
        """Wake all threads that wait; none waits from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
