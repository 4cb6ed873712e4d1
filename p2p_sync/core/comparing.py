"""Comparing: what one link's two nodes hold otherwise than each other.

When a link opens, and now and then afterwards, each side sends SUMS, the fingerprint of its whole
version vector (see fingerprints.py). If it equals the other side's, the two hold the same, and that
is all. If not, a node finds out for itself what the other one holds, at its own pace:

- It sends LOOK, the leaves to compare and the marks of what it holds in them. The answer is a HAVE
  with what the peer holds otherwise, which also says which of the marks the peer lacks.
- If both vectors are large, it first finds out which leaves differ: it sends the sums of its
  branches, and gets the sums of the leaves in those that differ.
- If only its own is large, it sends no marks, and gets all that the peer holds.

A node sends the next LOOK once there is room for the claims that come (see catch_up.py). Claims
that were ignored for lack of room are asked for again, by their leaf.

Answers need no state. They are limited in size and in pace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence, Sized

from ..settings import (
    AUDIT_INTERVAL,
    LOOK_NAMED,
    LOOK_PATIENCE,
    LOOK_PAUSE,
    MAX_AHEAD,
    MAX_LOOKED_LEAVES,
    MAX_LOOKED_MARKS,
    NEVER,
    NO_ROOM_PAUSE,
    SMALL_VECTOR,
)
from ..wire.logframes import LEAVES, Have, Head, LogFrame, Look, Sums, spans
from .fingerprints import ALL, KEYS, Counted, first_key, key_of, leaf_of, mark
from .progress import Progress


class Comparing:
    """The comparison of the vectors on one link, in both directions. Called with the state's lock
    held."""

    def __init__(
        self,
        progress: Progress,
        ahead: Sized,
        wake: Callable[[], None],
        chance: Callable[[], float],
    ) -> None:
        """`ahead` are the claims that are kept of the peer. `wake()` wakes the sender of the link;
        `chance()` returns a random number below 1."""
        self.known = False  # it is known what the peer holds, or which leaves to ask it for
        self.ignored = 0  # about how many messages the peer claims that are not asked for; 0: none
        self.rests_until = -NEVER  # nothing is asked before that
        self._progress = progress
        self._vector = progress.vector
        self._sums = progress.vector.fingerprints
        self._ahead = ahead
        self._wake = wake
        self._chance = chance
        self._todo: dict[int, None] = {}  # leaves to ask for
        self._start = 0  # the first key to ask for, in the first of them
        self._blind = False  # without the marks of what this node holds
        self._asked: tuple[Look, list[tuple[Counted, int]]] | None = None  # what we sent, and hold
        self.asked_at = NEVER  # when that was sent
        # The frames that wait to be sent.
        self._audit_at = -NEVER
        self._branches = self._again = False
        self._descends = False  # the sums of the branches were sent, and not answered yet
        self._leaves: list[int] = []
        self._wanted: Look | None = None  # what the peer asks
        self._answer_at = -NEVER

    # -- what the peer sends --------------------------------------------------------------------

    def summed(self, frame: Sums) -> None:
        """The peer has sent fingerprints."""
        ours = self._sums
        self._wake()
        if frame.branches:
            self._leaves = ours.differing(frame.branches)
            self._again = not self._leaves  # so that the peer learns that nothing differs
        if frame.total == ours.total:
            self._level()
            self._progress.equal()
        elif frame.leaves:
            pairs = [ours.differing(sums, branch) for branch, sums in sorted(frame.leaves.items())]
            self._begin([*itertools.chain(*pairs)], frame)
        elif min(ours.origins, frame.origins) <= SMALL_VECTOR:
            self._begin(ALL, frame)
        elif not self._todo and not (frame.branches and self._descends):
            self._branches = self._descends = True

    def _level(self) -> None:
        """Nothing is left to ask for."""
        self._todo.clear()
        self._asked, self.asked_at, self._descends = None, NEVER, False
        self.known, self.ignored = True, 0

    def _begin(self, leaves: Collection[int], frame: Sums) -> None:
        """Ask for these leaves, unless others are being asked for."""
        if self._todo:
            return
        self._todo, self._start, self._descends = dict.fromkeys(leaves), 0, False
        self._blind = self._sums.origins > SMALL_VECTOR >= frame.origins
        self._progress.differ(leaves)
        self.known = True
        self.ignored = max(1, frame.messages - self._sums.messages) if self._todo else 0

    def all(self) -> None:
        """The peer sends all that it holds."""
        self._level()
        self._progress.whole()

    def got(self, frame: Have, ignored: int) -> None:
        """HAVE has come, perhaps as an answer. `ignored` counts the messages that it claims and
        that were ignored."""
        if frame.lacks is None or self._asked is None:
            return
        look, held = self._asked
        self._asked, self.asked_at = None, NEVER
        end = min(frame.next or KEYS, look.end)
        lacks = set(frame.lacks)
        for index, (origin, n) in enumerate(held):
            if origin.key >= end:
                break
            if index not in lacks:
                self._progress.note(origin.name, n)
            elif origin.name not in frame.have:
                self._progress.unclaim(origin.name, 0)
        if not ignored:
            self._done(look, end)
        if not self._todo and self._blind:
            self._progress.whole()
        self.ignored = max(1, self.ignored + ignored - _messages(frame)) if self._todo else 0
        self._wake()

    def _done(self, look: Look, end: int) -> None:
        """The peer has answered for these leaves, up to the key `end`."""
        if look.leaves == ALL and end == KEYS:
            self._todo.clear()
            self._progress.unknown = set()
        asked = set(look.leaves)
        for leaf in [leaf for leaf in self._todo if leaf in asked]:
            if end < KEYS and first_key(leaf + 1) > end:
                self._start = max(look.start, end)
                return
            del self._todo[leaf]
            self._progress.knows(leaf)
        self._start = 0

    # -- what we ask ----------------------------------------------------------------------------

    def missed(self, name: str, count: int) -> None:
        """A claim of the peer to so many messages that we lack was ignored."""
        self.ignored += count
        self._todo[leaf_of(key_of(name))] = None

    def rest(self, now: float) -> None:
        """There is no room for what the peer holds now: ask later."""
        self.rests_until = now + NO_ROOM_PAUSE

    @property
    def asks(self) -> bool:
        """Whether there is something to ask the peer, and room for the answer."""
        waits = self._asked is not None or not self._todo
        return not waits and len(self._ahead) <= MAX_AHEAD - LOOK_NAMED

    def silent(self, now: float) -> bool:
        """Return whether the peer does not answer what we ask."""
        return now > self.asked_at + LOOK_PATIENCE

    def _look(self, now: float) -> Look:
        """Ask for the next leaves."""
        leaves: Sequence[int] = ALL if len(self._todo) == LEAVES else sorted(self._todo)
        if len(ends := spans(leaves)) > 2 * MAX_LOOKED_LEAVES:
            leaves = leaves[: leaves.index(ends[2 * MAX_LOOKED_LEAVES])]
        start, end = self._start, KEYS
        if leaf_of(start) not in leaves[:1]:
            start = 0
        held: list[tuple[Counted, int]] = []
        for origin in self._sums.members(leaves, start) if not self._blind else ():
            if len(held) == MAX_LOOKED_MARKS:
                end = origin.key
                break
            held.append((origin, origin.n))
        if end < KEYS:
            leaves = [leaf for leaf in leaves if first_key(leaf) < end]
        look = Look(leaves, start, end, tuple(mark(origin) for origin, _ in held))
        self._asked, self.asked_at = (look, held), now
        return look

    # -- what the peer asks ---------------------------------------------------------------------

    def wanted(self, look: Look, now: float) -> None:
        """The peer has sent LOOK."""
        self._wanted = look
        self._answer_at = max(self._answer_at, now)
        self._wake()

    def _answer(self, look: Look, now: float) -> Have:
        self._wanted, self._answer_at = None, now + LOOK_PAUSE
        known = {text: index for index, text in enumerate(look.known)}
        have: dict[str, Head] = {}
        after = 0
        for origin in self._sums.members(look.leaves, look.start):
            if origin.key >= look.end:
                break
            if known.pop(mark(origin), None) is None:
                if len(have) == LOOK_NAMED:
                    after = origin.key
                    break
                have[origin.name] = self._vector.origins[origin.name].head
        whole = len(look.leaves) == LEAVES and not (look.start or look.known or after)
        return Have(have, whole, next=after, lacks=tuple(known.values()))

    # -- the sender -----------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When `take` has something to return."""
        if self._branches or self._again or self._leaves:
            return -NEVER
        due = min(self._audit_at, self._answer_at if self._wanted else NEVER)
        return min(due, self.rests_until) if self.asks and self.known else due

    def take(self, now: float) -> list[LogFrame]:
        """Return the frames to send now."""
        frames: list[LogFrame] = []
        sums = self._sums
        if now >= self._audit_at or self._branches or self._leaves or self._again:
            leaves = {branch: sums.leaves(branch) for branch in self._leaves}
            branches = sums.branches() if self._branches else ""
            if leaves and branches:  # one question in a frame
                frames.append(Sums(sums.total, sums.origins, sums.messages, branches))
                branches = ""
            frames.append(Sums(sums.total, sums.origins, sums.messages, branches, leaves))
            self._branches, self._again, self._leaves = False, False, []
            self._audit_at = now + AUDIT_INTERVAL * (0.75 + 0.25 * self._chance())
        if self._wanted and now >= self._answer_at:
            frames.append(self._answer(self._wanted, now))
        if self.asks and self.known and now >= self.rests_until:
            frames.append(self._look(now))
        return frames


def _messages(frame: Have) -> int:
    return sum(head.n for head in frame.have.values())
