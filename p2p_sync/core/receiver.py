"""What becomes of a frame about the log: which messages are new, and what a PRUNE, GRAFT, FORK or
HAVE of a peer changes.

New messages of an origin go on where ours end, without a gap, and their running hash goes on, too.
Other contents under the same identity are a fork: no more of that origin is taken from that peer
until it is known which history goes on (disputes.py).

All signatures that matter are checked before a frame gets here (see wire/signing.py): those of its
runs, and those of the heads that `doubtful` returns. So whatever contradicts what we hold is a fork
that the origin's own node has made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ..codes import MAX_NUMBER
from ..settings import LOOK_AGAIN, MAX_EARLY, NEVER
from ..wire.cutoffs import is_cutoff
from ..wire.forks import Branch
from ..wire.logframes import (
    Fork,
    Graft,
    Have,
    Head,
    LogFrame,
    Look,
    Messages,
    Prune,
    Run,
    Sums,
)
from .catch_up import CatchUp, Gap
from .forgetting import Forgetting
from .newcomers import Newcomers
from .replica_link import Own, ReplicaLink
from .trees import Tree, Trees
from .vector import VersionVector


class Conflict(NamedTuple):
    """A fork: `peer` holds another continuation of `origin` than we do. The node of that origin has
    signed `theirs`, a head of it, as it has signed ours."""

    peer: str
    origin: str
    theirs: Head


class Received(NamedTuple):
    """What came of a frame: the `runs` that are new here, to be stored in this order; forks that it
    has shown; what was wrong with it (kind of fault -> how many); and the runs whose place the
    writer has to find (see placing.py)."""

    runs: list[Run]
    conflicts: list[Conflict]
    offences: Mapping[str, int]
    disputed: list[Run]


class Receiver:
    """The frames that one node gets about the log. Called with the state's lock held."""

    def __init__(
        self,
        own: Own,
        vector: VersionVector,
        trees: Trees,
        catch_up: CatchUp,
        links: Mapping[ReplicaLink, None],
        newcomers: Newcomers,
        forgetting: Forgetting,
    ) -> None:
        """All are shared with the replica."""
        self.duplicates = 0  # messages that came and were here already
        self._own = own
        self._vector = vector
        self._trees = trees
        self._catch_up = catch_up
        self._links = links
        self._newcomers = newcomers
        self._forgetting = forgetting
        self._cutoffs: list[Run] = []  # new ones that the frame at hand has brought
        self._conflicts: list[Conflict] = []  # that the frame at hand has shown
        self._offences: dict[str, int] = defaultdict(int)
        self._disputed: list[Run] = []

    def receive(
        self, link: ReplicaLink, frame: LogFrame, now: float, latest: int = MAX_NUMBER
    ) -> Received:
        """Take in a frame.

        The runs that are new are to be stored in the order in which this returns them, across all
        links: hand them to the writer before the lock is released. A message dated after `latest`
        (ms since the epoch) is not accepted, nor what follows it of its origin, until
        `CatchUp.clock_at` says that the clock has got there.
        """
        self._conflicts, self._offences, self._disputed = [], defaultdict(int), []
        self._cutoffs = []
        runs: list[Run] = []
        if link not in self._links:
            return Received([], [], {}, [])  # closed while the frame was on its way to us
        if isinstance(frame, Messages):
            for run in frame.runs:
                new = self._arrived(link, run, now, latest)
                if new is not None:
                    runs.append(new)
            if runs:
                link.asked_at = NEVER
        elif isinstance(frame, Prune):
            self._pruned(link, frame, now)
        elif isinstance(frame, Graft):
            for name, after in frame.after.items():
                self._grafted(link, name, after, now)
        elif isinstance(frame, Sums):
            link.comparing.summed(frame, now)
            link.since = link.since if frame.since is None else frame.since
        elif isinstance(frame, Look):
            link.comparing.wanted(frame, now)
        elif isinstance(frame, Fork):
            self._forked(link, frame, now)
        elif isinstance(frame, Have) and frame.last:
            link.comparing.all()
        self._claims(link, frame, now)
        return Received(runs + self._cutoffs, self._conflicts, self._offences, self._disputed)

    def outdoes(self, frame: LogFrame) -> bool:
        """Return whether a frame shows that the peer holds more of our own origin than we do. Then
        our log was set back; commit under another origin before `receive`."""
        own = self._own.name
        ends = [frame.have[own].n] if own in frame.have else []
        if isinstance(frame, Messages):
            ends += [run.end for run in frame.runs if run.origin == own]
        if not ends:
            return False
        origin = self._vector.origins.get(own)
        return max(ends) > (origin.staged if origin else 0)

    def doubtful(self, link: ReplicaLink, frame: LogFrame) -> dict[str, Head]:
        """Return the heads in a frame, other than those of its runs, that say something new: their
        signatures are to be checked before `receive`."""
        found: dict[str, Head] = {}
        for name, head in frame.have.items():
            held = self._vector.head(name)
            if name not in link.refused and (
                head.n > held.n or (head.n == held.n and head.hash != held.hash)
            ):
                found[name] = head
        return found

    # -- MESSAGES -------------------------------------------------------------------------------

    def _arrived(self, link: ReplicaLink, run: Run, now: float, latest: int) -> Run | None:
        """Take in a run and return its new part, or None."""
        name, end = run.origin, run.end
        catch_up, paused = self._catch_up, self._catch_up.paused
        if self._forgetting.ignores(link, name):
            return None
        if name in catch_up.early:
            catch_up.wait_for_clock(run, link)
            return None
        if name in link.refused:
            if link.disputes.asked(name):
                self._place(run, link, now, latest)
            return None
        known = self._trees.get(name)
        position = known.origin.staged if known else 0
        if known and run.after == known.origin.skip > position:
            origin, before = known.origin, known.origin.staged_hash  # as it was asked for
            origin.stage(run.after, run.previous)
            new = self._arrived(link, run, now, latest)
            if new is None:
                origin.stage(position, before)
                return None
            return replace(new, skipped=run.after - position)
        if run.after > position:
            if known and known.answered and known.asked and known.asked[0] is link:
                self._offences["gap"] += 1
            catch_up.claim(name, end, link, now)
            if known and known.feeder is link and known.asked != (link, position):
                catch_up.ask(known, link, now)
            return None
        if catch_up.full(name, position, link, now):
            excessive = self._newcomers.leave_out(link.host)
            self._offences["origins" if excessive else "new_origins"] += 1
            return None
        if paused and position == 0:
            catch_up.claim(name, end, link, now)
            return None
        link.progress.note(name, end)
        if position == 0 and Branch.of(name).first:
            self._place(run, link, now, latest)  # is it a branch, or held under another name?
            return None
        if not paused and known and known.asked and known.asked[0] is link:
            known.answered = known.answered or run.after <= known.asked[1]
        tree = self._trees.of(name)
        origin = tree.origin
        new = run.beyond(position) if end >= position else None
        if end >= position and (new is None or new.previous != origin.staged_hash):
            self._refuse(tree, link, run.head, now)
            return None
        self.duplicates += min(end, position) - run.after
        if new and new.entries and not paused and self._is_early(new, link, latest):
            return None
        gap = catch_up.gaps.get(name)
        self._settle_feeder(tree, link, end > position, gap, now)
        if new is None or end == position:
            return None
        if paused:
            catch_up.claim(name, end, link, now)
            return None
        if position == 0 and gap is None:
            self._newcomers.take(link.host, now)
        self._vector.stage(origin, new)
        link.shipped_new(new.count, now)
        if gap is not None:
            gap.since = now
        return new

    def _place(self, run: Run, link: ReplicaLink, now: float, latest: int) -> None:
        """Have the writer find the place of a run, if there is room for a branch more, once the
        clock allows it."""
        origins = self._vector.size
        if not self._newcomers.has_room(run.origin, link.host, origins, now):
            self._offences["new_origins"] += 1
        elif not self._is_early(run, link, latest):
            self._disputed.append(run)

    def _is_early(self, new: Run, link: ReplicaLink, latest: int) -> bool:
        """Return whether new messages are dated after `latest`. Then the whole run waits for the
        clock, for it has one signature."""
        newest = new.newest
        if newest <= latest:
            return False
        early = self._catch_up.early
        if len(early) < MAX_EARLY:
            early[new.origin] = newest
            self._catch_up.wait_for_clock(new, link)
        return True

    def _settle_feeder(
        self, tree: Tree, link: ReplicaLink, new: bool, gap: Gap | None, now: float
    ) -> None:
        """A run has come over `link`, with something `new` or not: is this the feeder?"""
        name = tree.origin.name
        if tree.feeder is link:
            tree.fed = name not in link.pruned  # else it was on its way, and nothing follows
            return
        if name != self._own.name:
            answer = new and gap is not None and link in gap.asked
            source = new and name.startswith(link.peer)  # no way is shorter: its node is the peer
            if answer or source or (not tree.fed and name not in link.pruned):
                # A peer that we feed has asked for that, perhaps after it has shipped this run, and
                # then it ships no more. So its next run shows that it is the feeder.
                tree.feed(link, link not in tree.eager)
                tree.detach(link, now)
                return
            if tree.feeder is None:
                self._catch_up.ask(tree, link, now)  # it was pruned, and may stop shipping
                return
        tree.prune(link, now)

    def _refuse(self, tree: Tree, link: ReplicaLink, theirs: Head, now: float) -> None:
        """The peer holds another continuation of this origin: take no more of it from there."""
        self._conflicts.append(Conflict(link.peer, tree.origin.name, theirs))
        self.dispute(tree, link, theirs, now)

    def dispute(self, tree: Tree, link: ReplicaLink, theirs: Head, now: float) -> None:
        """Take no more of an origin over a link until it is known where the histories differ."""
        name = tree.origin.name
        self._catch_up.withdraw(name, link)
        link.refuse(name, theirs)
        link.lose(name)
        tree.detach(link, now)
        if tree.feeder is link:
            tree.feed(None)
            self._catch_up.find_feeder(tree, now)
        self._catch_up.forget(name)

    # -- PRUNE and GRAFT ------------------------------------------------------------------------

    def _pruned(self, link: ReplicaLink, frame: Prune, now: float) -> None:
        for name in frame.origins:
            tree = self._trees.get(name)
            if tree:
                tree.detach(link, now)

    def _grafted(self, link: ReplicaLink, name: str, after: int, now: float) -> None:
        """The peer asks to be shipped an origin from `after` on."""
        tree = self._trees.get(name)
        if tree is None or tree.origin.ended:
            return
        if not link.shipping.rewind(name, after, now):
            self._offences["graft"] += 1
            return
        if after <= tree.origin.n:
            self._catch_up.withdraw(name, link)  # what it asks for, it does not hold
        if self._trees.get(name) is None:
            return
        tree.attach(link)
        if tree.origin.n > after:
            link.shipping.offer(name)
        if tree.feeder is link:  # two that feed each other: one has to look elsewhere
            tree.feed(None)
            # Not again and again: in a ring, two questions could run round in opposite directions
            # for ever, each undoing what the other did. HAVE says what there is to ask for, too.
            if now >= tree.looked + LOOK_AGAIN:
                tree.looked = now
                self._catch_up.find_feeder(tree, now, besides=(link,))

    # -- FORK -----------------------------------------------------------------------------------

    def _forked(self, link: ReplicaLink, frame: Fork, now: float) -> None:
        """The peer asks where our histories of an origin differ, or says that they do not."""
        name, head = frame.origin, frame.head
        origin = self._vector.origins.get(name)
        held = origin.n if origin else 0
        if frame.agree is not None:
            if origin and frame.agree == origin.hash != head.hash and held == head.n:
                self._offences["frame"] += 1  # it agrees and shows another history at once
            elif link.disputes.end(name, frame.agree):
                self._agree(link, name, head, now)
        elif frame.common in (head.n, held):  # one history is the beginning of the other
            link.disputes.agree(name, head)
            self._agree(link, name, head, now)
        else:
            if name not in link.refused:
                self._refuse(self._trees.of(name), link, head, now)
            link.disputes.answer(name, frame.common)
        link.wake()

    def _agree(self, link: ReplicaLink, name: str, head: Head, now: float) -> None:
        """There is no dispute, or none any more. What the peer has said before may have been about
        another history."""
        if link.refused.pop(name, None) or link.progress.held(name) > head.n:
            self._catch_up.withdraw(name, link)
            link.progress.unclaim(name, 0)
            link.progress.cursor.pop(name, None)
        tree = self._trees.get(name)
        if tree and tree.feeder is link:
            tree.feed(None)  # it has dropped what it was asked for
        if head.n:
            self._claim(link, name, head, now)

    # -- HAVE, which any frame may carry --------------------------------------------------------

    def _claims(self, link: ReplicaLink, frame: LogFrame, now: float) -> None:
        """Take in what the peer holds, as a frame says."""
        for name in filter(is_cutoff, frame.have):  # first: it knows them as it says the rest
            if cutoff := self._forgetting.heard(link, name, frame.have[name], now):
                self._cutoffs.append(cutoff)
        for name, head in frame.have.items():
            if not is_cutoff(name):
                self._claim(link, name, head, now)
        if isinstance(frame, Have):
            link.comparing.got(frame)
            for name, floor in frame.floors.items():
                self._catch_up.floored(name, floor, frame.have.get(name), link, now)
        if frame.ack:
            for name, head in frame.have.items():
                link.announcing.when(name, head.n)
            for run in frame.runs if isinstance(frame, Messages) else ():
                link.announcing.when(run.origin, run.end)
        if link.comparing.done or (link.comparing.known and not link.introduced):
            self._introduced(link, now)

    def _claim(self, link: ReplicaLink, name: str, head: Head, now: float) -> None:
        """The peer says that it durably holds this of an origin."""
        if name in link.refused or self._forgetting.ignores(link, name):
            return
        n, origin = head.n, self._vector.origins.get(name)
        if origin is not None:
            if origin.ended:
                self._forgetting.go_on(origin)
            same_n = n == origin.n and head.hash != origin.hash
            if same_n or (n == origin.staged and head.hash != origin.staged_hash):
                self._refuse(self._trees.of(name), link, head, now)
                return
            if n <= origin.staged:
                link.progress.note(name, n)
                return
        if not self._catch_up.claim(name, n, link, now):
            link.comparing.missed(name, n - self._vector.held(name))

    def _introduced(self, link: ReplicaLink, now: float) -> None:
        """It is known what the peer holds."""
        if not link.introduced:
            link.met = self._trees.met = now
        link.comparing.done = False
        link.wake()
