"""One turn of the core: what time it is, and what has been decided so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..settings import NEVER
from .effects import Effects

# What others may wait for: see `Turn.changed`.
WORK, ROOM, ARRIVAL, COPIES, LINKS = "work", "room", "arrival", "copies", "links"
SIGNALS = (WORK, ROOM, ARRIVAL, COPIES, LINKS)
NEWS = frozenset((ARRIVAL, COPIES, LINKS))
"""The signals that change what people see."""


@dataclass(slots=True)
class Turn:
    """The turn under way; shared by all parts of the core."""

    now: float = 0.0  # monotonic, in seconds
    wall: int = 0  # what this machine's clock shows, ms since the epoch
    effects: Effects = field(default_factory=Effects)
    changed: set[str] = field(default_factory=set)  # of SIGNALS, for those who wait
    look_at: float = -NEVER  # when the overlay is asked next, on the monotonic clock
    stopped: bool = False  # the node stops: nothing new is let in

    def look(self) -> None:
        """Addresses or links have changed: the overlay is asked at the next tick."""
        self.look_at = self.now
        self.changed.add(LINKS)
