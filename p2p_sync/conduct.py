"""How peers behave: what counts as misbehaviour, how much of it is too much, what is logged of it.

Pure: no lock, and time is an argument (seconds, of any steady clock). Offences are counted by kind,
whoever commits them. A node collects points for its own, by its id and never by its host, for an
honest node may share that; the points fade. With too many it is cut off: its links are closed, and
refused for some minutes, twice as long each time. An honest node may break, lag, or have a wrong
clock, so what can come of that has few points or none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

POINTS = {
    "frame": 100,  # broke a rule of the wire: the link was closed for it
    "claims": 100,  # says that it holds what it does not ship
    "identity": 50,  # says that it holds more of our own log than we have committed
    "slow": 40,  # takes for ever over a frame
    "deaf": 10,  # does not read; a host that sleeps does not, either
    "silent": 0,  # says nothing any more: half open, as after a cut cable
    "graft": 1,  # asks again for what it was sent
    "gap": 1,  # ships what follows on messages that it does not ship
    "conflict": 1,  # holds other contents under an identity
    "addresses": 1,  # tells of addresses again and again
    "future": 0,  # messages from far ahead of our clock: either may be wrong
    "ignored": 1,  # a frame that asks for nothing
}
"""Kinds of misbehaviour, and the points for one."""

LIMIT = 250.0
"""Points at which a node is cut off; one a second fades."""
FIRST_CUT, LONGEST_CUT = 120.0, 3_600.0
"""Seconds for which a node is cut off at first, and at most."""
MEMORY = 7_200.0
"""Seconds after a cut-off for which the next one is longer."""
MAX_NODES = 1_000
"""Nodes of which points are kept; those with the least are forgotten."""
LOG_EVERY = 60.0
"""Seconds in which there is one line about the same offender and kind."""


@dataclass(slots=True)
class _Record:
    """One node's points, as they stood `at` some time, and when it was cut off."""

    points: float
    at: float
    cuts: int = 0
    until: float = float("-inf")
    reason: str = ""

    def left(self, now: float) -> float:
        """Return the points that have not faded."""
        return max(0.0, self.points - (now - self.at))


@dataclass(slots=True)
class _Line:
    """Since when lines are counted, how many were written, and how many left out."""

    at: float
    written: int = 1
    left_out: int = 0


class Conduct:
    """What one node has seen of others' misbehaviour. In bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by kind, of all peers
        self._records: dict[str, _Record] = {}
        self._lines: dict[tuple[str, str], _Line] = {}

    def note(self, kind: str, node: str | None, now: float, times: int = 1) -> bool:
        """Count an offence; `node` is the id of who did it, None where that is not known.

        Returns whether the node is cut off for it, from now on.
        """
        self.counts[kind] += times
        points = POINTS[kind] * times
        if node is None or not points or self.cut_off(node, now):
            return False
        record = self._records.get(node)
        if record is None:
            self._make_room(now)
            record = self._records[node] = _Record(0.0, now)
        record.points, record.at = record.left(now) + points, now
        if record.points < LIMIT:
            return False
        if now > record.until + MEMORY:
            record.cuts = 0
        record.until = now + min(FIRST_CUT * 2.0 ** min(record.cuts, 16), LONGEST_CUT)
        record.cuts += 1
        record.points = 0.0
        record.reason = f"cut off after repeated misbehaviour, the last time: {kind}"
        return True

    def cut_off(self, node: str | None, now: float) -> str:
        """Return why a node is cut off now; nothing if it is not."""
        record = self._records.get(node or "")
        return record.reason if record and now < record.until else ""

    def all_cut_off(self, now: float) -> dict[str, tuple[str, float]]:
        """Return the nodes that are cut off now: id -> why, and until when."""
        return {
            node: (record.reason, record.until)
            for node, record in self._records.items()
            if now < record.until
        }

    def line(self, kind: str, who: str, now: float, most: int = 1) -> int | None:
        """Return how many lines about that kind and offender were left out before the one to be
        written now; None: this one is left out. There are at most `most` in LOG_EVERY seconds."""
        line = self._lines.get((kind, who))
        if line is not None and now < line.at + LOG_EVERY:
            if line.written < most:
                line.written += 1
                return 0
            line.left_out += 1
            return None
        if line is None and who and len(self._lines) >= MAX_NODES:
            old = [key for key, line in self._lines.items() if now >= line.at + LOG_EVERY]
            for key in old:
                del self._lines[key]
            if not old:  # so many at once share one
                return self.line(kind, "", now, most)
        left_out = line.left_out if line else 0
        self._lines[kind, who] = _Line(now)
        return left_out

    def _make_room(self, now: float) -> None:
        """Forget the node that matters least, where there are many."""
        if len(self._records) >= MAX_NODES:
            records = self._records
            least = min(records, key=lambda n: (records[n].until, records[n].left(now)))
            del records[least]
