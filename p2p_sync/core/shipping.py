"""Which messages a peer is sent next.

An eager link ships what the peer lacks of an origin as soon as it is durable here. A peer that has
sent GRAFT is shipped the origin from the position that it asked for. Origins take turns, each with
a fair share of a frame. Where an origin floods a link, its first message goes out at once, and what
follows it a round trip later, so that a PRUNE comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from ..settings import (
    HOLD_MARGIN,
    HOLD_TRIPS,
    MAX_BATCH,
    MAX_RESENT,
    MAX_SHIPPED,
    NEVER,
    RESEND_AFTER,
)
from ..wire.logframes import PackedRun, Run
from .announcing import Announcing
from .progress import Progress

Piece = TypeVar("Piece", Run, PackedRun)


class Ship(NamedTuple):
    """Messages `after`+1 ... `upto` of `origin`, to be read from the log and sent."""

    origin: str
    after: int
    upto: int


class Shipping:
    """The messages for the peer of one link. Called with the state's lock held."""

    def __init__(self, progress: Progress, announcing: Announcing) -> None:
        self._progress = progress
        self._announcing = announcing
        self._vector = progress.vector
        # Origin that floods -> when to ship more than its first message (0: nothing shipped).
        self._withheld: dict[str, float] = {}
        self._resent: dict[str, tuple[int, float]] = {}  # origin -> sent again up to, and when

    # -- what is to be shipped ------------------------------------------------------------------

    def offer(self, name: str) -> None:
        """Ship what the peer lacks of an origin."""
        self._progress.ready[name] = None
        self._progress.wake()

    def flood(self, name: str) -> None:
        """An origin floods this link: hold back what follows its first message."""
        self._withheld[name] = 0.0

    def withhold(self, name: str, now: float) -> None:
        """Ship no more of an origin."""
        self._withheld.pop(name, None)
        if name in self._progress.ready:
            del self._progress.ready[name]  # it was left out of HAVE, for it was to be shipped
            if self._progress.position(name) < self._vector.origins[name].n:
                self._announcing.soon(name)
            else:
                self._announcing.confirm(name, now)

    def rewind(self, name: str, after: int, now: float) -> bool:
        """The peer has asked to be shipped an origin from `after` on; return whether it is. What
        was sent once is sent again only once in a while."""
        if after < self._progress.position(name) and not self._may_resend(name, after, now):
            return False
        self._progress.cursor[name] = after
        if self._progress.held(name) > after:
            self._progress.unclaim(name, after)
        self._withheld.pop(name, None)
        return True

    def _may_resend(self, name: str, after: int, now: float) -> bool:
        until, at = self._resent.get(name, (0, -NEVER))
        if now < at + RESEND_AFTER and after < until:
            return False
        if name not in self._resent and len(self._resent) >= MAX_RESENT:
            recent = {n: r for n, r in self._resent.items() if now < r[1] + RESEND_AFTER}
            self._resent = recent
            if len(recent) >= MAX_RESENT:
                return False
        self._resent[name] = (self._progress.position(name), now)
        return True

    def lose(self, name: str) -> None:
        """Less of an origin is whole than was announced: do not ship what was due."""
        self._withheld.pop(name, None)
        self._progress.ready.pop(name, None)

    # -- what to send ---------------------------------------------------------------------------

    def take(self, now: float) -> tuple[list[Ship], float]:
        """Return the pieces of the log to ship, a fair share of each origin; and when to come
        back."""
        ready, progress = self._progress.ready, self._progress
        ships: list[Ship] = []
        until = NEVER
        share = max(1, MAX_SHIPPED // max(1, len(ready)))
        for name in list(ready):
            n, after = self._vector.held(name), progress.position(name)
            if name in progress.refused or not self._vector.shared(name):
                del ready[name]
                continue
            if after >= n:
                del ready[name]
                if self._announcing.knows(name) < n:
                    self._announcing.confirm(name, now)  # it has it from elsewhere
                continue
            upto = min(n, after + share)
            free_at = self._withheld.get(name)
            if free_at == 0.0:
                upto = after + 1
            elif free_at:
                if now < free_at:
                    until = min(until, free_at)
                    continue
                del self._withheld[name]
            ships.append(Ship(name, after, upto))
            if len(ships) == MAX_BATCH:
                break
        return ships, until

    def shipped(self, ships: Iterable[Ship], rtt: float, now: float) -> None:
        """These pieces have been sent, over a link with that round trip (seconds)."""
        ready, progress = self._progress.ready, self._progress
        for name, after, upto in ships:
            if progress.position(name) != after or name in progress.refused:
                continue  # the peer has asked for another position meanwhile, or is in dispute
            progress.cursor[name] = upto
            self._announcing.know(name, upto)
            if name in ready:
                del ready[name]
                if upto < self._vector.origins[name].n:
                    ready[name] = None  # the others first
            if name in self._withheld:
                self._withheld[name] = now + HOLD_TRIPS * rtt + HOLD_MARGIN

    def correct(self, name: str, assumed: int, end: int, now: float) -> None:
        """What was shipped of an origin ends at `end`, and not where `shipped` has `assumed`."""
        progress = self._progress
        self._announcing.unknow(name)
        if name in progress.refused:
            return  # it was an answer in a dispute
        if progress.position(name) == assumed and progress.held(name) <= end:
            progress.cursor[name] = end
            self._announcing.know(name, end)
        n = self._vector.held(name)
        if progress.position(name) < n or end < n:
            # Ship the rest. Or the peer has it from elsewhere, and what we hold was not announced
            # to it; `take` finds that out.
            progress.ready[name] = None
        else:
            progress.ready.pop(name, None)


def fill(
    ships: Sequence[Ship], read: Callable[[str, int, int, int], tuple[Piece, int]], room: int
) -> tuple[list[Piece], list[Ship], int]:
    """Read the log until a frame is full.

    `read` returns messages of an origin, `after`+1 up to `upto`, at least one entry of them, and
    what is left of `room` then. Returns the runs, what of `ships` they are, and the room that is
    left.
    """
    runs: list[Piece] = []
    done: list[Ship] = []
    count = 0
    for origin, after, upto in ships:
        run, left = read(origin, after, upto, room)
        if runs and (left < 0 or count + run.count > MAX_SHIPPED):
            break  # it begins the next frame
        runs.append(run)
        done.append(Ship(origin, after, run.end))
        room, count = left, count + run.count
        if room <= 0 or count >= MAX_SHIPPED:
            break
    return runs, done, room
