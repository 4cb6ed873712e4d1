"""How far a peer is in the log: what it holds of each origin, and what was sent to it since.

The log is the queue. For each link this node keeps one position per origin. What lies between that
position and the end of its log is read from there when the link's sender has time, so a slow peer
costs a number and no buffer.
"""

from __future__ import annotations

from collections.abc import Callable

from ..settings import NEVER
from .vector import VersionVector


class Progress:
    """The positions of the peer of one link. Called with the state's lock held."""

    def __init__(self, vector: VersionVector, wake: Callable[[], None]) -> None:
        """`vector` is what this node holds. `wake()` wakes the sender of the link."""
        self.vector = vector
        self.wake = wake
        self.holds: dict[str, int] = {}  # origin -> what the peer durably holds, as it said
        self.cursor: dict[str, int] = {}  # origin -> where shipping is, when beyond `holds`
        self.ready: dict[str, None] = {}  # origins with something to ship, in turn

    def held(self, name: str) -> int:
        """Return how many messages of an origin the peer durably holds, as it said."""
        return self.holds.get(name, 0)

    def position(self, name: str) -> int:
        """Return how many messages of an origin the peer holds, or will hold when it has stored
        all that was sent to it."""
        cursor = self.cursor.get(name)
        return self.holds.get(name, 0) if cursor is None else cursor

    def note(self, name: str, n: int) -> None:
        """The peer durably holds `n` messages of an origin."""
        if n > self.holds.get(name, 0):
            origin = self.vector.origins.get(name)
            if origin is not None:  # one object for all links
                name, n = origin.name, origin.n if origin.n == n else n
            self.holds[name] = n
            if self.cursor.get(name, NEVER) <= n:
                del self.cursor[name]

    def clear(self) -> None:
        """The link has ended."""
        for table in (self.holds, self.cursor, self.ready):
            table.clear()

    def unclaim(self, name: str, n: int) -> None:
        """Forget that the peer holds more than `n` messages of an origin."""
        if n:
            self.holds[name] = n
        else:
            self.holds.pop(name, None)
