"""How far a peer is in the log: what it holds of each origin, and what was sent to it since.

The log is the queue. For each link this node keeps one position per origin. What lies between that
position and the end of its log is read from there when the link's sender has time, so a slow peer
costs a number and no buffer.

Peers often hold the same. So only what differs is kept: the peer holds just what this node holds,
apart from the origins in `holds`, and from those in leaves that are not compared yet (see
comparing.py), of which it holds nothing but what is in `holds`. What is known of a peer never gets
less while it is compared once more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from ..settings import NEVER
from ..wire.logframes import Head
from .fingerprints import ALL
from .vector import Origin, VersionVector


class Progress:
    """The positions of the peer of one link. Called with the state's lock held."""

    def __init__(self, vector: VersionVector, wake: Callable[[], None]) -> None:
        """`vector` is what this node holds. `wake()` wakes the sender of the link."""
        self.vector = vector
        self.wake = wake
        self.lag = vector.fingerprints.messages  # how many of our messages the peer lacks
        self.holds: dict[str, int] = {}  # origin -> what the peer durably holds, where it differs
        self.refused: dict[str, Head] = {}  # origins in dispute, with what the peer has shown
        self.unknown: Collection[int] = ALL  # leaves that are not compared
        self.cursor: dict[str, int] = {}  # origin -> where shipping is, when beyond what it holds
        self.ready: dict[str, None] = {}  # origins with something to ship, in turn

    def held(self, name: str) -> int:
        """Return how many messages of an origin the peer durably holds, as it said."""
        n = self.holds.get(name)
        if n is None:
            origin = self.vector.origins.get(name)
            return self._unless_said(origin) if origin else 0
        return n

    def position(self, name: str) -> int:
        """Return how many messages of an origin the peer holds, or will hold when it has stored
        all that was sent to it."""
        cursor = self.cursor.get(name)
        return self.held(name) if cursor is None else cursor

    def note(self, name: str, n: int) -> None:
        """The peer durably holds `n` messages of an origin."""
        held = self.held(name)
        if n > held and name not in self.refused:
            self._hold(name, n, held)
            if self.cursor.get(name, NEVER) <= n:
                del self.cursor[name]

    def unclaim(self, name: str, n: int) -> None:
        """Forget that the peer holds more than `n` messages of an origin."""
        self._hold(name, n, self.held(name))

    def grows(self, origin: Origin, end: int) -> None:
        """This node is about to hold an origin up to `end`."""
        held = self.holds.get(origin.name)
        if held is None:
            held = self._unless_said(origin)
            if origin.leaf not in self.unknown:
                self.holds[origin.name] = held
        if origin.counts:
            self.lag += max(0, end - held) - max(0, origin.n - held)

    def clear(self) -> None:
        """The link has ended."""
        for table in (self.holds, self.cursor, self.ready):
            table.clear()

    # -- comparisons ----------------------------------------------------------------------------

    def differ(self, leaves: Collection[int]) -> None:
        """The peer holds in all leaves but these just what this node holds."""
        if leaves == ALL:
            return
        self.unknown = {leaf for leaf in leaves if leaf in self.unknown}
        kept: dict[str, int] = {}
        for name, n in self.holds.items():
            origin = self.vector.origins.get(name)
            equal = origin is not None and origin.leaf not in leaves and n <= origin.n
            if not equal or name in self.refused:
                kept[name] = n
        self.holds = kept
        self.cursor = {name: n for name, n in self.cursor.items() if n > self.held(name)}
        self.count()

    def knows(self, leaves: Sequence[int]) -> None:
        """The peer has said what it holds in these leaves, and holds nothing else in them."""
        for _, origin in self.vector.fingerprints.members(leaves, 0):
            if origin.leaf in self.unknown:
                n = self.holds.setdefault(origin.name, 0)
                if n == origin.n and origin.name not in self.refused:
                    del self.holds[origin.name]
        self.unknown = set(self.unknown).difference(leaves)

    def whole(self, said: Iterable[str] = ()) -> None:
        """The peer holds nothing but what it has said: of the origins in `said`, if they are known
        not to differ."""
        self.holds.update({name: self.held(name) for name in said if self.held(name)})
        self.unknown = ALL
        self.count()

    def count(self) -> None:
        """Count the messages that the peer lacks."""
        self.lag = self.vector.fingerprints.count(self.unknown)
        for name, n in self.holds.items():
            origin = self.vector.origins.get(name)
            if origin is not None and origin.counts:
                self.lag += self._unless_said(origin) - min(n, origin.n)

    # -- ended origins --------------------------------------------------------------------------

    def end(self, names: Iterable[str]) -> None:
        """These origins are about to be ended: the peer may have forgotten them."""
        for name in names:
            origin = self.vector.origins.get(name)
            if origin and origin.counts:
                self.lag -= origin.n - min(self.held(name), origin.n)
            for table in (self.holds, self.cursor, self.ready):
                table.pop(name, None)

    def goes_on(self, origin: Origin) -> None:
        """An ended origin counts again. The peer has not said that it holds it."""
        held = self.holds.get(origin.name, 0)
        if not held and origin.leaf not in self.unknown:
            self.holds[origin.name] = 0
        self.lag += max(0, origin.n - held)

    # -- private --------------------------------------------------------------------------------

    def _unless_said(self, origin: Origin) -> int:
        """Return what the peer holds of an origin that is not in `holds`."""
        return 0 if origin.ended or origin.leaf in self.unknown else origin.n

    def _hold(self, name: str, n: int, before: int) -> None:
        """The peer holds `n` messages of an origin, and not as many as `before`."""
        origin = self.vector.origins.get(name)
        differs = n > 0
        if origin is not None:  # one object for all links
            name, n = origin.name, origin.n if origin.n == n else n
            if origin.counts:
                self.lag -= min(n, origin.n) - min(before, origin.n)
            refused = origin.n > 0 and name in self.refused
            differs = differs or refused or self._unless_said(origin) > 0
        if differs:
            self.holds[name] = n
        else:
            self.holds.pop(name, None)
