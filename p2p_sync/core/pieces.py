"""The version vector, asked for again piece by piece.

Claims of a peer that do not fit into the bound (see catch_up.py) are ignored. Once there is room
again, the peer is asked for its whole vector, one piece at a time, by GRAFT with `more`, the index
of the piece. It answers with HAVE, whose `next` is the index of the piece after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from ..settings import MAX_AHEAD, NEVER, NO_ROOM_PAUSE, PIECE_NAMED, PIECE_PATIENCE, PIECE_PAUSE
from ..wire.logframes import Have, Vector
from .vector import VersionVector


class Pieces:
    """The questions about vectors on one link, in both directions. Called with the state's lock
    held."""

    def __init__(self, vector: VersionVector, ahead: Sized, wake: Callable[[], None]) -> None:
        """`vector` is what this node holds, `ahead` are the claims that are kept of the peer.
        `wake()` wakes the sender of the link."""
        self.ignored = 0  # about how many messages the peer claims in ignored claims; 0: none
        self.rests_until = -NEVER  # nothing is asked before that
        self._vector = vector
        self._ahead = ahead
        self._wake = wake
        # Where to ask the peer for its vector again, for a claim was ignored (None: nowhere).
        self._next: int | None = None
        self._once_more = False  # a claim was ignored since: start again at the end
        self._asked_at: float | None = None  # when the question was sent that is not answered yet
        self._wanted: int | None = None  # the index from which the peer asks for our vector
        self._answer_at = -NEVER  # when it may be answered

    # -- what we ask ----------------------------------------------------------------------------

    def missed(self, count: int) -> None:
        """Claims of the peer to so many messages that we lack were ignored."""
        self.ignored += count
        if self._next is None:
            self._next = 0
        else:
            self._once_more = True

    def rest(self, now: float) -> None:
        """There is no room for what the peer holds now: ask later."""
        self.rests_until = now + NO_ROOM_PAUSE

    @property
    def asks(self) -> bool:
        """Whether to ask for a piece of the peer's vector now."""
        waits = self._next is None or self._asked_at is not None
        return not waits and len(self._ahead) <= MAX_AHEAD - PIECE_NAMED

    def ask(self, now: float) -> int | None:
        """Return the index of the piece to ask for now, None if there is nothing to ask."""
        if not self.asks or now < self.rests_until:
            return None
        self._asked_at = now
        return self._next

    def got(self, have: Vector, after: int, ignored: int) -> None:
        """The piece that we asked for has come. The next one begins at index `after` (0: there is
        none). `ignored` counts the messages of claims in it that were ignored once more; then this
        piece is to be asked for again."""
        if self._asked_at is None or self._next is None:
            return
        self._asked_at = None
        self.ignored = max(1, self.ignored + ignored - sum(head.n for head in have.values()))
        if not ignored:
            goes_on = after == self._next + PIECE_NAMED
            self._next = after if goes_on else (0 if self._once_more else None)
            self._once_more = self._once_more and goes_on
            if self._next is None:
                self.ignored = 0
        if self.asks:
            self._wake()

    def silent(self, now: float) -> bool:
        """Return whether the peer does not answer what we ask."""
        return self._asked_at is not None and now > self._asked_at + PIECE_PATIENCE

    # -- what the peer asks ---------------------------------------------------------------------

    def wanted(self, index: int, now: float) -> None:
        """The peer asks for the piece of our vector that begins at `index`."""
        self._wanted = index
        self._answer_at = max(self._answer_at, now)
        self._wake()

    @property
    def answer_at(self) -> float | None:
        """When the peer's question may be answered; None where it has none."""
        return None if self._wanted is None else self._answer_at

    def answer(self, now: float) -> Have | None:
        """Return the piece that the peer asks for, None where no answer is due."""
        first = self._wanted
        if first is None or now < self._answer_at:
            return None
        self._wanted, self._answer_at = None, now + PIECE_PAUSE
        names = self._vector.names[first : first + PIECE_NAMED]
        end = first + len(names)
        have = {name: self._vector.origins[name].head for name in names}
        return Have(have, next=end if end < len(self._vector.names) else 0)
