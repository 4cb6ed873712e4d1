"""Which clocks are wrong, judged by the times of messages and by the clocks that peers send.

A message dated more than MAX_AHEAD_MS ahead of this machine's clock is kept, but later commits need
not sort after it; see clock.py. Either clock may be wrong. If most nodes are ahead of this machine,
its own clock is suspected, and no peer is blamed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..settings import MAX_AHEAD_MS
from ..wire.logframes import Messages, Run
from .clock import HybridClock, Skew, early_notice, span, suspicion_text
from .deduplication import node_of
from .effects import CLOCK, Effects, Note


class Dates:
    """Compares dates with this machine's clock. Part of the core."""

    def __init__(self, newest: int, wall: int, effects: Effects) -> None:
        """`newest` is the newest time in the log that is not too far ahead; ms since the epoch."""
        self.clock = HybridClock()
        self.clock.observe(newest, wall)
        self._skew = Skew()
        self._effects = effects
        self._suspected = 0  # by how much this machine's clock seemed to be off, ms

    def next(self, wall: int) -> tuple[int, bool]:
        """Return the time of a commit, and whether it needs a new origin because the clock was set
        back: the times of one origin never decrease."""
        back = self.clock.corrected(wall)
        if back:
            self._note(
                f"this machine's clock was set back by {span(back)}: new messages have the "
                "current time, under a new origin"
            )
        return self.clock.tick(wall), back > 0

    def follow(self, newest: int, runs: Sequence[Run], wall: int) -> None:
        """Messages of other nodes have arrived: let later commits sort after them, except for those
        too far ahead."""
        if not self.clock.observe(newest, wall):
            for run in runs:
                for entry in run.entries:
                    self.clock.observe(entry.time, wall)

    def announced(self, node: str, clock: int, wall: int, now: float) -> None:
        """A node has sent what its clock shows."""
        self._skew.announced(node, clock, now)
        self._suspect(wall, now)

    def compare(
        self, frame: Messages, early: Collection[str], wall: int, now: float
    ) -> tuple[str, int]:
        """Messages have arrived that may be dated ahead of this machine's clock. `early` are the
        origins that wait for it.

        Return a sentence about such messages, and the number of their origins; ("", 0) if there are
        none, or if this machine's clock seems to be wrong.
        """
        ahead: dict[str, int] = {}
        for run in frame.runs:
            if run.newest > wall + MAX_AHEAD_MS:
                ahead[run.origin] = run.newest
                self._skew.dated(node_of(run.origin), run.newest, now)
        if not ahead or self._suspect(wall, now):
            return "", 0
        origin = next((name for name in ahead if name in early), next(iter(ahead)))
        waits = (
            "that origin waits until the clock gets there"
            if origin in early
            else "its time is kept and not followed"
        )
        sentence = (
            f"a message of origin {origin} is dated {span(ahead[origin] - wall)} ahead of this "
            f"machine's clock; {waits}"
        )
        return sentence, len(ahead)

    def difference(self, wall: int, now: float) -> int:
        """Return how many ms this machine's clock seems to be ahead of most others (negative:
        behind); 0 if it seems to be right."""
        return self._skew.suspicion(wall, now)[0]

    def warnings(self, early: Mapping[str, int], wall: int, now: float) -> list[str]:
        """Return a sentence about each clock problem. `early` maps the origins that wait for this
        machine's clock to the time of their next message."""
        off, nodes = self._skew.suspicion(wall, now)
        notice = early_notice(early, wall)
        return [*([suspicion_text(off, nodes)] if off else []), *([notice] if notice else [])]

    def _suspect(self, wall: int, now: float) -> int:
        """Return how many ms this machine's clock seems to be wrong; report when that begins and
        ends."""
        off, nodes = self._skew.suspicion(wall, now)
        if off and not self._suspected:
            self._note(suspicion_text(off, nodes), "suspected")
        elif self._suspected and not off:
            self._note("this machine's clock does not differ from most other clocks any more")
        self._suspected = off
        return off

    def _note(self, text: str, reason: str = "") -> None:
        self._effects.add(Note(CLOCK, text, CLOCK, reason))
