"""The hybrid logical clock that gives messages their times.

Wall clocks disagree, yet a message that was committed after another was seen has to sort after it.
So a commit takes the latest of the wall clock, the time of the node's own last commit, and one
more than the newest time seen (Kulkarni et al., "Logical Physical Clocks", 2014; with the counter
folded into the milliseconds).
"""

from __future__ import annotations

MAX_AHEAD_MS = 60_000
"""A time further ahead of the wall clock than this is not followed: one node whose clock is years
ahead would drag all others along."""


class HybridClock:
    """Hands out the times of one node's commits, in milliseconds since the epoch.

    No lock of its own and no reading of a real clock: all methods are called with the state's
    lock held, and the wall clock is an argument.
    """

    def __init__(self) -> None:
        self._last = 0  # the time of our own last commit
        self._newest = 0  # the newest time seen, of those that are followed

    def observe(self, time: int, wall: int) -> bool:
        """Take note of a message's `time`, read when the wall clock shows `wall`.

        Returns whether the time is followed; one more than 60 s ahead is not (worth a log line).
        At a start, call it with the newest time in the log.
        """
        if time > wall + MAX_AHEAD_MS:
            return False
        self._newest = max(self._newest, time)
        return True

    def tick(self, wall: int) -> int:
        """Return the time for a commit made when the wall clock shows `wall`.

        Never lower than one returned before.
        """
        self._last = max(wall, self._last, self._newest + 1)
        return self._last
