"""What this node announces to a peer: HAVE.

Each side announces to the other everything that it comes to hold, once: by shipping it, or by HAVE.
So a peer's announcements say all that it has come to hold since the link opened, and they are
complete within a second or two; comparing.py is about what it held before. Announced are

- *changes*: the peer lacks messages that it will not be shipped. They are worked out when a HAVE is
  due, from the order in which the version vector changed.
- *confirmations*: the peer holds as much of an origin as this node, and does not know it.
- origins that are wanted *soon*, for somebody waits for copies, or for an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sized

from ..settings import (
    HAVE_INTERVAL,
    HAVE_RIDE,
    HAVE_SOON,
    MANY_LINKS,
    MAX_BATCH,
    MAX_ORIGINS_NAMED,
    MOST_INTERVALS,
    NAMED_SOON,
    NEVER,
)
from ..wire.logframes import Vector
from .progress import Progress


class Announcing:
    """The announcements to the peer of one link. Called with the state's lock held."""

    def __init__(self, progress: Progress, links: Sized) -> None:
        """`links` are all of the node: with many, each announces less often."""
        self.attentive = True  # `grown` is to be called when the log has grown
        self._progress = progress
        self._vector = progress.vector
        self._links = links
        self._soon: dict[str, None] = {}  # even if the peer holds them
        self._confirm: dict[str, None] = {}
        self._confirm_since = NEVER
        # The vector's changes are announced up to this revision ...
        self._told = self._vector.revision
        self._knows: dict[
            str, int
        ] = {}  # ... and, of later ones, that we hold so much of an origin
        self._told_at = -NEVER  # when the peer got the last HAVE
        self._awaited: dict[str, int] = {}  # origin -> position that a commit of the peer waits for

    # -- what is to be announced ----------------------------------------------------------------

    def grown(self, names: Iterable[str], now: float) -> None:
        """The log has grown: see whether the sender has to come back earlier to announce it."""
        origins = self._vector.origins
        for name, n in list(self._awaited.items()):
            if name in origins and origins[name].n >= n:
                del self._awaited[name]
                self.soon(name)
        position = self._progress.position
        if self._confirm_since == NEVER:
            self._confirm_since = now  # there may be something to confirm: `news` finds out
            self._progress.wake()
        elif any(position(name) < origins[name].n for name in names):
            self._progress.wake()

    def soon(self, name: str) -> None:
        """Announce an origin soon, even if the peer is known to hold as much."""
        self._soon[name] = None
        self._progress.wake()

    def when(self, name: str, n: int) -> None:
        """A commit of the peer waits: announce an origin soon once we durably hold `n` of it."""
        origin = self._vector.origins.get(name)
        if origin is not None and origin.n >= n:
            self.soon(name)
        elif len(self._awaited) < NAMED_SOON:
            self._awaited[name] = n
            self.attentive = True

    def confirm(self, name: str, now: float) -> None:
        """The peer holds as much of an origin: announce within a while that we do, too."""
        self._confirm[name] = None
        if self._confirm_since == NEVER:
            self._confirm_since = now
            if self.attentive:
                self._progress.wake()

    def know(self, name: str, n: int) -> None:
        """It was announced to the peer, or shipped, that we hold `n` of an origin."""
        origin = self._vector.origins[name]
        if origin.revision > self._told:
            self._knows[name] = n
        if n >= origin.n:
            self._confirm.pop(name, None)

    def knows(self, name: str) -> int:
        """Return how much of a lately changed origin was announced to the peer."""
        return self._knows.get(name, 0)

    def unknow(self, name: str) -> None:
        """The peer was shipped less of an origin than `know` said."""
        self._knows.pop(name, None)

    def lose(self, name: str) -> None:
        """Less of an origin is whole than was announced: announce nothing of it that was due."""
        for table in (self._soon, self._confirm, self._knows):
            table.pop(name, None)

    # -- when -----------------------------------------------------------------------------------

    def due_at(self) -> float:
        """Return when the next HAVE is due."""
        if self._soon:
            return self._told_at + HAVE_SOON
        since = self._confirm_since
        if self._told < self._vector.revision:
            since = min(since, self._told_at)
        return since + self._interval()

    def rest(self, until: float, now: float) -> float:
        """The sender has nothing to do until then: return when it has to come back, which is
        earlier where the log is likely to have grown. So not each message has to wake it."""
        again = self._told_at + self._interval()
        until = min(until, self.due_at(), again if now < again else NEVER)
        self.attentive = bool(self._awaited) or until > again
        return until

    def _interval(self) -> float:
        """Seconds between HAVEs where nobody waits for them."""
        links = len(self._links)
        if links <= MANY_LINKS:
            return HAVE_INTERVAL
        return HAVE_INTERVAL * min(links / MANY_LINKS, MOST_INTERVALS)

    # -- what to send ---------------------------------------------------------------------------

    def news(self, now: float, riding: bool) -> Vector:
        """Return what to announce now: the changes that the peer may not know of, and what is asked
        for. Empty where nothing is due. `riding`: something else is sent anyway."""
        if now < self.due_at():
            waits = self._soon or self._confirm or self._told < self._vector.revision
            if not (riding and waits and now >= self._told_at + HAVE_RIDE):
                return {}
        vector = self._vector
        names = [*filter(vector.shared, pop(self._soon, NAMED_SOON))]
        changes, rest = self._changes(MAX_ORIGINS_NAMED - 2 * NAMED_SOON)
        names += changes
        wait = 0.0 if names else HAVE_RIDE if riding else self._interval()
        if now >= self._confirm_since + wait:
            names += filter(vector.shared, pop(self._confirm, NAMED_SOON))
        have = {name: vector.origins[name].head for name in dict.fromkeys(names)}  # each once
        for name, head in have.items():
            self.know(name, head.n)
        if have and not rest:
            self._told_at = now
        if not rest:
            self._knows.clear()
        if not self._confirm:
            self._confirm_since = NEVER
        return have

    def _changes(self, limit: int) -> tuple[list[str], bool]:
        """Return the origins that have changed, and that the peer lacks and is not about to get:
        the oldest changes first, up to a limit; and whether there are more."""
        changes: list[str] = []
        progress = self._progress
        for origin in reversed(self._vector.changed_since(self._told)):
            name, n = origin.name, origin.n
            lack = n - progress.position(name)
            if self._knows.get(name, 0) >= n or (name in progress.ready and lack <= MAX_BATCH):
                pass
            elif lack <= 0:
                self.confirm(name, self._told_at)  # or later, when this was not attentive
            elif len(changes) < limit:
                changes.append(name)
            else:
                return changes, True
            self._told = origin.revision
        self._told = self._vector.revision
        return changes, False


def pop(table: dict[str, None], limit: int) -> tuple[str, ...]:
    """Take out the first `limit` entries and return their names."""
    names = tuple(itertools.islice(table, limit))
    for name in names:
        del table[name]
    return names
