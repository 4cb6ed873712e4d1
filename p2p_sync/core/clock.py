"""Clocks: which time a message of this node gets, and how much the clocks of machines differ.

Wall clocks differ, but a message must sort after all that its node had seen when it was committed.
So a commit takes the latest of the wall clock, the time of the node's last commit, and one more
than the newest time seen (Kulkarni et al., "Logical Physical Clocks", 2014; the counter is part of
the milliseconds).

Nothing here reads a clock. Times are arguments: `wall` and the times of messages in milliseconds
since the epoch, `now` in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from statistics import median_low
from typing import NamedTuple

from ..settings import CLOCK_KEPT, MAX_AHEAD_MS, MAX_CLOCKS, MAX_EARLY_MS


class HybridClock:
    """Hands out the times of one node's commits."""

    def __init__(self) -> None:
        self._last = 0  # the time of our own last commit
        self._newest = 0  # the newest time seen, of those that are followed

    def observe(self, time: int, wall: int) -> bool:
        """A message with this `time` has arrived while the wall clock shows `wall`.

        Return whether later commits sort after it: not if it is MAX_AHEAD_MS ahead, or more, since
        the next commit would be even further ahead. When the node starts, call this with the newest
        time in the log.
        """
        if time >= wall + MAX_AHEAD_MS:
            return False
        self._newest = max(self._newest, time)
        return True

    def corrected(self, wall: int) -> int:
        """Return by how many ms the wall clock was set back, or 0 for at most MAX_AHEAD_MS.

        If it was set back, this clock starts again at the wall clock, and the caller must commit
        under a new origin, because the times of one origin never decrease.
        """
        if self._newest >= wall + MAX_AHEAD_MS:
            self._newest = 0
        ahead = self._last - wall
        if ahead <= MAX_AHEAD_MS:
            return 0
        self._last = 0
        return ahead

    def renew(self) -> None:
        """The next commit begins a new origin: let it have a later time than all before, for equal
        times sort by origin."""
        self._last += 1

    def tick(self, wall: int) -> int:
        """Return the time of a commit that is made while the wall clock shows `wall`.

        It never decreases, except after `corrected` has started the clock again.
        """
        self._last = self.soonest(wall)
        return self._last

    def soonest(self, wall: int) -> int:
        """Return the time that the next commit has at least."""
        return max(wall, self._last, self._newest + 1)


class _Reading(NamedTuple):
    """How many ms a node's clock is ahead of our monotonic one, and when that was read. It is exact
    if the node has sent its clock, and a lower bound if it was read from the time of a message."""

    lead: float
    at: float
    exact: bool


class Skew:
    """Compares this machine's clock with those of other nodes, to find out which one is wrong.

    It stores how far they are from the monotonic clock. So it notices at once when this machine's
    clock is corrected.
    """

    def __init__(self) -> None:
        self._readings: OrderedDict[str, _Reading] = OrderedDict()  # node -> the latest last

    def announced(self, node: str, clock: int, now: float) -> None:
        """A node has sent what its clock shows."""
        self._keep(node, _Reading(clock - now * 1000, now, True))

    def dated(self, node: str, time: int, now: float) -> None:
        """A node has committed a message with this `time`, so its clock shows at least that."""
        known = self._readings.get(node)
        lead = time - now * 1000
        if known is None or now - known.at > CLOCK_KEPT or (lead > known.lead and not known.exact):
            self._keep(node, _Reading(lead, now, False))

    def _keep(self, node: str, reading: _Reading) -> None:
        self._readings.pop(node, None)
        self._readings[node] = reading
        if len(self._readings) > MAX_CLOCKS:
            self._readings.popitem(last=False)

    def suspicion(self, wall: int, now: float) -> tuple[int, int]:
        """Return how many ms this machine's clock seems to be ahead (negative: behind), and how
        many nodes show that; (0, 0) if the clock seems to be right.

        It seems to be wrong if at least two nodes, and most of those whose clocks are known, differ
        from it by more than MAX_AHEAD_MS in the same direction.
        """
        ahead, behind, equal = [], [], 0
        for lead, at, exact in self._readings.values():
            difference = round(wall - now * 1000 - lead)
            if now - at > CLOCK_KEPT:
                continue
            if difference < -MAX_AHEAD_MS:
                behind.append(difference)
            elif exact and difference > MAX_AHEAD_MS:
                ahead.append(difference)
            else:
                equal += exact
        most = max(ahead, behind, key=len)
        if len(most) < 2 or 2 * len(most) <= len(ahead) + len(behind) + equal:
            return 0, 0
        return median_low(most), len(most)


def suspicion_text(off: int, nodes: int) -> str:
    """Return the result of `Skew.suspicion` as a sentence."""
    way, other = ("ahead", "behind") if off > 0 else ("behind", "ahead of")
    text = (
        f"this machine's clock seems to be {span(off)} {way}: "
        f"the clocks of {nodes} other nodes are {other} it"
    )
    if off > MAX_EARLY_MS:
        text += ", and they do not accept its messages until they get there"
    return f"{text}; correct the clock of this machine"


def early_notice(early: Mapping[str, int], wall: int) -> str:
    """Return a sentence about the messages that wait for the clock, or "" if none do.

    `early` maps origins to the time of their next message.
    """
    if not early:
        return ""
    first = min(early, key=lambda name: early[name])
    others = f" (and of {len(early) - 1} other origins)" if len(early) > 1 else ""
    return (
        f"messages of origin {first}{others} wait: they are dated {span(early[first] - wall)} "
        "ahead of this machine's clock, and at most a day is accepted"
    )


def span(ms: int) -> str:
    """Return a duration as text, such as "2 h"."""
    seconds = abs(ms) / 1000
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if round(seconds / size) < most:
            return f"{round(seconds / size)} {unit}"
    days = round(seconds / 86_400)
    return f"{days} days" if days < 730 else f"{round(seconds / (365.25 * 86_400)):,} years"
