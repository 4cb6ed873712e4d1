"""Protocol violations and other faults of peers: which kinds there are, and what is logged of them.

Pure: no lock, and time is an argument (seconds, of any steady clock). A violation closes the link.
An address that this node dialled is then dialled again with the usual backoff. Nothing else follows
from it: no node is refused for what it did before, so nobody can have an honest node refused.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

VIOLATIONS = {
    "frame": "sent a frame that breaks a rule",
    "claims": "does not ship what it says that it holds",
    "graft": "asks again for what it was sent less than a minute ago",
}
"""Kinds that close the link."""

FAULTS = {
    "slow": "takes too long over a frame",
    "deaf": "does not read (nor does a host that sleeps)",
    "silent": "has gone silent, as after a cut cable",
    "gap": "leaves out messages in what it was asked to ship",
    "addresses": "sends many addresses again and again",
    "future": "ships messages from far ahead of our clock (either clock may be wrong)",
    "ignored": "sends a frame that asks for nothing",
}
"""Kinds that are only counted. The first three are noted of links that have ended anyway."""

KINDS = {**VIOLATIONS, **FAULTS}
"""All kinds, each as the end of the sentence "it ..."."""

MAX_LINES = 1_000
"""Peers and kinds whose log lines are counted at a time; more of them share one count."""
LOG_EVERY = 60.0
"""Seconds in which there is one line about the same peer and kind."""


@dataclass(slots=True)
class _Line:
    """Since when lines are counted, how many were written, and how many left out."""

    at: float
    written: int = 1
    left_out: int = 0


class Conduct:
    """What one node has seen of its peers' faults. In bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))  # by kind, of all peers
        self._lines: dict[tuple[str, str], _Line] = {}

    def line(self, kind: str, who: str, now: float, most: int = 1) -> int | None:
        """Return how many lines about that kind and peer were left out before the one to be
        written now; None: this one is left out. There are at most `most` in LOG_EVERY seconds."""
        line = self._lines.get((kind, who))
        if line is not None and now < line.at + LOG_EVERY:
            if line.written < most:
                line.written += 1
                return 0
            line.left_out += 1
            return None
        if line is None and who and len(self._lines) >= MAX_LINES:
            old = [key for key, line in self._lines.items() if now >= line.at + LOG_EVERY]
            for key in old:
                del self._lines[key]
            if not old:  # so many at once share one
                return self.line(kind, "", now, most)
        left_out = line.left_out if line else 0
        self._lines[kind, who] = _Line(now)
        return left_out
