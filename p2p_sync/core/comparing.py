"""Comparing: what one link's two nodes hold otherwise than each other.

When a link opens, and now and then afterwards, each side sends SUMS, the fingerprint of its whole
version vector (see fingerprints.py). If it equals the other side's, the two hold the same, and that
is all. If not, a node finds out for itself what the other one holds, at its own pace:

- It sends LOOK, the leaves to compare and the marks of what it holds in them. The answer is a HAVE
  with what the peer holds otherwise, which also says which of the marks the peer lacks.
- If both vectors are large, it first finds out which leaves differ: it sends the sums of its
  branches, and gets the sums of the leaves in those that differ. The leaves of origins that have
  grown here meanwhile are compared, too.
- If only its own is large, it sends no marks, and gets all that the peer holds.
- If the sums of all differ, and no others do, somebody has made them equal: it compares all leaves.

A node sends the next LOOK once there is room for the claims that come (see catch_up.py). What was
ignored for lack of room is asked for again, by its leaf, after all other leaves.

Answers need no state. They are limited in size and in pace, and so are questions: the next
comparison begins after half of the interval of the audits, times the number of LOOKs of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized

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
    SUMS_PAUSE,
)
from ..wire.cutoffs import is_cutoff
from ..wire.logframes import LEAVES, SALT, Have, Head, LogFrame, Look, Sums, spans
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
        self.done = False  # a comparison has ended; `receiver` takes note
        self._progress = progress
        self._vector = progress.vector
        self._sums = progress.vector.fingerprints
        self._ahead = ahead
        self._wake = wake
        self._chance = chance
        # What we ask.
        self._next_at = -NEVER  # when the next comparison may begin
        self._todo: dict[int, None] = {}  # leaves to ask for
        self._start = 0  # the first key to ask for, in the first of them
        self._blind = False  # without the marks of what this node holds
        self._said: dict[str, None] = {}  # if blind: the origins that the peer has named
        self._claimed = 0  # about how many messages the peer holds more than this node in these
        self._later: dict[int, None] = {}  # leaves with claims that were ignored
        self._missed = 0  # the messages of these claims
        self._again = False  # those are asked for that were ignored before
        self._rests_until = -NEVER  # nothing is asked before that
        # The LOOK that is not answered yet, what we held in its leaves, and when it was sent.
        self._asked: tuple[Look, list[tuple[Counted, int]], float] | None = None
        # The peer's sum of all, for which the sums of the branches are to be sent; or were sent, at
        # a revision of the vector and a time, and are not answered yet.
        self._branches = ""
        self._descends: tuple[str, int, float] | None = None
        # What the peer asks, and when to answer.
        self._audit_at = -NEVER
        self._leaves: list[int] | None = None
        self._leaves_at = -NEVER
        self._wanted: Look | None = None
        self._answer_at = -NEVER

    # -- what the peer sends --------------------------------------------------------------------

    def summed(self, frame: Sums, now: float) -> None:
        """The peer has sent fingerprints."""
        ours = self._sums
        if frame.branches:
            self._leaves = ours.differing(frame.branches)
            self._wake()
        if frame.leaves is not None:
            descent, self._descends = self._descends, None
        if frame.total == ours.total:
            self._level()
            self._progress.differ(())
        elif frame.leaves is not None:
            if descent and not self._todo:
                self._begin(self._differing(frame.leaves, frame.total, *descent[:2]), frame)
        elif not self._busy and now >= self._next_at:
            self._next_at = now + AUDIT_INTERVAL / 2
            if min(ours.origins, frame.origins) <= SMALL_VECTOR:
                self._begin(ALL, frame)
            else:
                self._branches = frame.total
                self._wake()

    @property
    def _busy(self) -> bool:
        """Whether there is something to compare or to ask for already."""
        waits = self._todo or (self.known and self._later)
        return bool(waits or self._branches or self._descends)

    def _level(self) -> None:
        """Nothing is left to ask for."""
        self.done = self.done or bool(self._progress.unknown)
        self.known, self._blind, self._said, self._missed = True, False, {}, 0
        self._todo.clear()
        self._later.clear()

    def _differing(
        self, theirs: Mapping[int, str], total: str, before: str, revision: int
    ) -> Sequence[int]:
        """Return the leaves that differ, as the answer to the sums of the branches shows, which
        were sent at a `revision` of the vector. The peer's sum of all was `before`."""
        grown = self._vector.changed_since(revision)
        leaves = {
            leaf for branch in theirs for leaf in self._sums.differing(theirs[branch], branch)
        }
        leaves.update(origin.leaf for origin in grown if origin.leaf >> 6 not in theirs)
        if not leaves and not grown and total == before:
            return ALL
        return sorted(leaves)

    def _begin(self, leaves: Sequence[int], frame: Sums) -> None:
        """Ask for these leaves: all others are equal."""
        self._todo, self._start, self._again = dict.fromkeys(leaves), 0, False
        self._blind, self._said = self._sums.origins > SMALL_VECTOR >= frame.origins, {}
        self._progress.differ(self._todo)
        self.known, self._rests_until = True, -NEVER
        self._claimed = frame.messages - self._sums.messages
        self.done = not leaves
        self._wake()

    def all(self) -> None:
        """The peer sends all that it holds."""
        self._level()
        self._progress.whole()

    def got(self, frame: Have) -> None:
        """HAVE has come, perhaps as an answer; its claims are taken in."""
        if frame.lacks is None or self._asked is None:
            return
        look, held, _ = self._asked
        self._asked = None
        end = min(frame.next or KEYS, look.end)
        lacks = set(frame.lacks)
        for index, (origin, n) in enumerate(held):
            if key_of(origin.name) >= end:
                break
            if index not in lacks:
                self._progress.note(origin.name, n)
            elif origin.name not in frame.have:
                self._progress.unclaim(origin.name, 0)
        self._claimed -= sum(h.n for name, h in frame.have.items() if not is_cutoff(name))
        done = self._done(look, end)
        if self._blind:
            self._said.update(dict.fromkeys(frame.have))
        else:
            self._progress.knows(done)
        if self._todo:
            self._next_at += AUDIT_INTERVAL / 2
        else:
            if self._blind:
                self._progress.whole(self._said)
            self._blind, self._said, self.done = False, {}, True
        self._wake()

    def _done(self, look: Look, end: int) -> list[int]:
        """The peer has answered for these leaves, up to the key `end`: return those of which there
        is no more to ask for."""
        last = LEAVES if end == KEYS else leaf_of(end)
        asked = [leaf for leaf in look.leaves if leaf in self._todo]
        done = [leaf for leaf in asked if leaf < last]
        for leaf in done:
            del self._todo[leaf]
        self._start = max(look.start, end) if len(done) < len(asked) else 0
        return done

    # -- what we ask ----------------------------------------------------------------------------

    @property
    def ignored(self) -> int:
        """About how many messages the peer claims that are not asked for; 0: none."""
        return self._missed + (max(1, self._claimed) if self._todo else 0)

    def missed(self, name: str, count: int) -> None:
        """A claim of the peer to so many messages that we lack was ignored."""
        self._later[leaf_of(key_of(name))] = None
        self._missed += count

    def rest(self, now: float) -> None:
        """There is no room for an origin that the peer holds. Ask slowly for others, and for this
        one again even later."""
        is_first = self._todo and not self._again
        self._rests_until = now + (SUMS_PAUSE if is_first else NO_ROOM_PAUSE)

    @property
    def asks(self) -> bool:
        """Whether there is something to ask the peer, and room for the answer."""
        if self._asked is not None or not (self._todo or self._later):
            return False
        return self.known and len(self._ahead) <= MAX_AHEAD - LOOK_NAMED

    @property
    def asked_at(self) -> float:
        """When the oldest question was sent that is not answered yet."""
        looked = self._asked[2] if self._asked else NEVER
        return min(looked, self._descends[2] if self._descends else NEVER)

    def silent(self, now: float) -> bool:
        """Return whether the peer does not answer what we ask."""
        return now > self.asked_at + LOOK_PATIENCE

    def _look(self, now: float) -> Look:
        """Ask for the next leaves."""
        if not self._todo:
            self._todo, self._later, self._again = self._later, {}, True
            self._claimed, self._missed = self._missed, 0
        leaves: Sequence[int] = ALL if len(self._todo) == LEAVES else sorted(self._todo)
        if len(ends := spans(leaves)) > 2 * MAX_LOOKED_LEAVES:
            leaves = leaves[: leaves.index(ends[2 * MAX_LOOKED_LEAVES])]
        start, end = self._start, KEYS
        if leaf_of(start) not in leaves[:1]:
            start = 0
        held: list[tuple[Counted, int]] = []
        for key, origin in self._sums.members(leaves, start) if not self._blind else ():
            if len(held) == MAX_LOOKED_MARKS:
                end = key
                break
            held.append((origin, origin.n))
        if end < KEYS:
            leaves = [leaf for leaf in leaves if first_key(leaf) < end]
        salt = f"{int(self._chance() * 16**SALT):0{SALT}x}"
        look = Look(leaves, start, end, tuple(mark(origin, salt) for origin, _ in held), salt)
        self._asked = look, held, now
        self._rests_until = now + LOOK_PAUSE
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
        for key, origin in self._sums.members(look.leaves, look.start):
            if key >= look.end:
                break
            if known.pop(mark(origin, look.salt), None) is None:
                if len(have) == LOOK_NAMED:
                    after = key
                    break
                have[origin.name] = self._vector.origins[origin.name].head
        whole = len(look.leaves) == LEAVES and not (look.start or look.known or after)
        return Have(have, whole, next=after, lacks=tuple(known.values()))

    # -- the sender -----------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When `take` has something to return."""
        if self._branches:
            return -NEVER
        due = self._audit_at
        if self._wanted:
            due = min(due, self._answer_at)
        if self._leaves is not None:
            due = min(due, self._leaves_at)
        return min(due, self._rests_until) if self.asks else due

    def take(self, now: float) -> list[LogFrame]:
        """Return the frames to send now."""
        frames: list[LogFrame] = []
        sums = self._sums
        if self._leaves is not None and now >= self._leaves_at:
            leaves = {branch: sums.leaves(branch) for branch in self._leaves}
            frames.append(Sums(sums.total, sums.origins, sums.messages, leaves=leaves))
            self._leaves, self._leaves_at = None, now + SUMS_PAUSE
        if self._branches or now >= self._audit_at:
            branches = sums.branches() if self._branches else ""
            frames.append(Sums(sums.total, sums.origins, sums.messages, branches))
            if self._branches:
                self._descends = self._branches, self._vector.revision, now
                self._branches = ""
            self._audit_at = now + AUDIT_INTERVAL * (0.75 + 0.25 * self._chance())
        if self._wanted and now >= self._answer_at:
            frames.append(self._answer(self._wanted, now))
        if self.asks and now >= self._rests_until:
            frames.append(self._look(now))
        return frames
