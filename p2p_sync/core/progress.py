"""How far a peer is in the log: what it holds of each origin, and what was sent to it since.

The log is the queue. For each link this node keeps one position per origin. What lies between that
position and the end of its log is read from there when the link's sender has time, so a slow peer
costs a number and no buffer.

Peers often hold the same. So only what differs is kept: at revision `level` of this node's vector
the peer held just what this node held, apart from the origins in `holds`, and from those in leaves
that are not compared yet (see comparing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..settings import NEVER
from .fingerprints import leaf_of
from .vector import Origin, VersionVector


class Progress:
    """The positions of the peer of one link. Called with the state's lock held."""

    def __init__(self, vector: VersionVector, wake: Callable[[], None]) -> None:
        """`vector` is what this node holds. `wake()` wakes the sender of the link."""
        self.vector = vector
        self.wake = wake
        self.lag = vector.fingerprints.messages  # how many of our messages the peer lacks
        self.holds: dict[str, int] = {}  # origin -> what the peer durably holds, where known
        self.refused: set[str] = set()  # origins with a conflict
        self.level = -1  # -1: nothing is known of the others
        self.unknown: Collection[int] = ()  # leaves that are not compared
        self.cursor: dict[str, int] = {}  # origin -> where shipping is, when beyond what it holds
        self.ready: dict[str, None] = {}  # origins with something to ship, in turn

    def held(self, name: str) -> int:
        """Return how many messages of an origin the peer durably holds, as it said."""
        n = self.holds.get(name)
        if n is not None or self.level < 0:
            return n or 0
        origin = self.vector.origins.get(name)
        return self._at_level(origin) if origin else 0

    def position(self, name: str) -> int:
        """Return how many messages of an origin the peer holds, or will hold when it has stored
        all that was sent to it."""
        cursor = self.cursor.get(name)
        return self.held(name) if cursor is None else cursor

    def note(self, name: str, n: int) -> None:
        """The peer durably holds `n` messages of an origin."""
        if n > self.held(name) and name not in self.refused:
            self._hold(name, n)
            if self.cursor.get(name, NEVER) <= n:
                del self.cursor[name]

    def unclaim(self, name: str, n: int) -> None:
        """Forget that the peer holds more than `n` messages of an origin."""
        self._hold(name, n)

    def grows(self, origin: Origin, end: int) -> None:
        """This node is about to hold an origin up to `end`."""
        held = self.holds.get(origin.name)
        if held is None:
            held = self._at_level(origin) if self.level >= 0 else 0
            if self.level >= 0:
                self.holds[origin.name] = held
        self.lag += end - origin.n - (min(held, end) - min(held, origin.n))

    def clear(self) -> None:
        """The link has ended."""
        for table in (self.holds, self.cursor, self.ready):
            table.clear()

    # -- comparisons ----------------------------------------------------------------------------

    def equal(self) -> None:
        """The peer holds just what this node holds."""
        self.differ(())

    def differ(self, leaves: Collection[int]) -> None:
        """The peer holds what this node holds, apart from some leaves, of which little is known."""
        self.level = self.vector.revision
        self.unknown = leaves if isinstance(leaves, range) else set(leaves)
        kept: dict[str, int] = {}
        lag = self.vector.fingerprints.count(self.unknown)
        for name, n in self.holds.items():
            origin = self.vector.origins.get(name)
            if origin is not None and leaf_of(origin.key) in self.unknown:
                lag -= min(n, origin.n)
            elif origin is not None and n <= origin.n:
                continue
            kept[name] = n
        self.holds, self.lag = kept, lag
        if not self.unknown:
            self.cursor = {name: n for name, n in self.cursor.items() if n > self.held(name)}

    def knows(self, leaf: int) -> None:
        """A leaf is compared: what was not said of its origins is as it was at `level`."""
        if not isinstance(self.unknown, set):
            self.unknown = set(self.unknown)
        self.unknown.discard(leaf)

    def whole(self) -> None:
        """The peer holds nothing but what it has said."""
        self.level, self.unknown = -1, ()
        self.lag = self.vector.fingerprints.messages
        for name, n in self.holds.items():
            origin = self.vector.origins.get(name)
            self.lag -= min(n, origin.n) if origin else 0

    # -- private --------------------------------------------------------------------------------

    def _at_level(self, origin: Origin) -> int:
        is_known = origin.revision <= self.level and leaf_of(origin.key) not in self.unknown
        return origin.n if is_known and origin.name not in self.refused else 0

    def _hold(self, name: str, n: int) -> None:
        origin = self.vector.origins.get(name)
        if origin is not None:  # one object for all links
            name, n = origin.name, origin.n if origin.n == n else n
            self.lag -= min(n, origin.n) - min(self.held(name), origin.n)
        if n or (self.level >= 0 and origin is not None and origin.n):
            self.holds[name] = n
        else:
            self.holds.pop(name, None)
