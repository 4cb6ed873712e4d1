"""What has happened lately, for people: the last events in memory, numbered, to be waited for."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from ..cursors import Cursors

# Events that are kept.
_MOST = 1000

# The longest text of one, in characters: what peers say is in it.
_LONGEST = 500

JOINED = "joined"
LEFT = "left"
DIAL_FAILED = "dial_failed"
REFUSED = "refused"
CAUGHT_UP = "caught_up"
CLOCK = "clock"


@dataclass(frozen=True)
class Event:
    """One of them; the ids grow by one, so that a gap shows."""

    id: int
    time: int  # ms since the epoch
    type: str
    text: str
    peer: str | None  # the key of an entry in the table of peers


class Events:
    """The last events. For any thread."""

    def __init__(self, start: str) -> None:
        """`start` is the name of this start of the node, for the places in `cursors`."""
        self.cursors = Cursors([(start, 0)])
        self._changed = threading.Condition()  # guards all below
        self._events: deque[Event] = deque(maxlen=_MOST)
        self._last = 0
        self._stopped = False

    def add(self, type: str, text: str, peer: str | None = None) -> None:
        """Add an event, and wake those who wait."""
        now = int(time.time() * 1000)
        with self._changed:
            self._last += 1
            self._events.append(Event(self._last, now, type, text[:_LONGEST], peer))
            self._changed.notify_all()

    def last(self) -> int:
        """Return the last id, 0 with none."""
        with self._changed:
            return self._last

    def wait(self, after: int, timeout: float) -> tuple[list[Event], int]:
        """Return the events with ids above `after`, and the last id there is.

        With none it waits for one, `timeout` seconds at most, or until `stop`. An `after` that is
        above the last id is of an earlier run of the node: then it does not wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._last != after, timeout)
            return [event for event in self._events if event.id > after], self._last

    def stop(self) -> None:
        """Wake all who wait; nobody waits from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
