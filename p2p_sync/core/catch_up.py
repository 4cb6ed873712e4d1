"""Catching up: what this node lacks, and which links are asked for it.

What one side lacks when a link opens is pulled by GRAFT, so over one link only, as long as that
ships. If it does not, others are asked, too: one, then two, then four at a time.

A peer's claim is a promise that it may not keep. Per link, the origins of which more is claimed
than is held here are bounded (`MAX_AHEAD`); what is claimed beyond that is ignored, and asked for
again piece by piece once there is room. A link that was asked and shipped nothing is `doubted`, and
asked last until it ships. A claim counts as missing here as long as the link lives and claims it,
but only as far as the link is believed (`ReplicaLink.believed`).

An origin whose next message is dated too far ahead waits for the clock: nothing of it is asked for
until then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..settings import (
    ANSWER_DELAY,
    ASK_AGAIN,
    FIRST_ANSWER,
    GRAFT_DELAY,
    MAX_BATCH,
    MAX_DELAY,
    MAX_TICKS,
    NEVER,
    SKIP_ALONE,
    SKIP_PATIENCE,
    STALLED_AFTER,
)
from ..wire.logframes import Head, Run
from .announcing import pop
from .newcomers import Newcomers
from .replica_link import Own, ReplicaLink
from .trees import Tree, Trees
from .vector import VersionVector


@dataclass(slots=True, eq=False)
class Gap:
    """An origin of which live links claim more than we durably hold."""

    since: float  # when we learned of it, or got the last message of it
    seen: int  # what was staged when we last looked
    goal: int  # what should be staged within ANSWER_DELAY ...
    goal_at: float  # ... of this time
    claims: dict[ReplicaLink, int] = field(default_factory=dict)  # which link claims how much
    delay: float = 0.0  # how long to wait for progress
    deadline: float = 0.0
    timer: float = NEVER  # when the earliest of its timers goes off
    # The links that got a GRAFT: when, and what they had delivered by then.
    asked: dict[ReplicaLink, tuple[float, int]] = field(default_factory=dict)
    next_asked: int = 1  # how many links to ask at a time

    def aim(self, staged: int, now: float) -> None:
        """Set a new goal: as much as a link ships at a time, or all that is claimed."""
        most = max(self.claims.values())
        self.goal, self.goal_at = min(most, staged + MAX_BATCH), now
        self.next_asked = 1


class CatchUp:
    """What one node lacks. Called with the state's lock held."""

    def __init__(
        self,
        own: Own,
        vector: VersionVector,
        trees: Trees,
        links: Mapping[ReplicaLink, None],
        newcomers: Newcomers,
        alone: Callable[[], bool],
    ) -> None:
        """All are shared with the replica. `alone` returns whether an address that was given by
        hand is not connected."""
        self.paused = False  # the log cannot be written: nothing is asked for
        self.early: dict[
            str, int
        ] = {}  # origins that wait for the clock -> time of the next message
        self.gaps: dict[str, Gap] = {}
        self.skips: list[Run] = []  # origins of which nothing is kept: to be stored as they end
        self.timers: list[tuple[float, str]] = []  # a heap: when to look at a gap
        self._orphans: dict[str, None] = {}  # origins that have lost their feeder, to be treated
        self._own = own
        self._vector = vector
        self._trees = trees
        self._links = links
        self._newcomers = newcomers
        self._alone = alone

    def full(self, name: str, held: int, link: ReplicaLink, now: float) -> bool:
        """Return whether there is no room for an origin that `link` brings, of which `held` is
        held."""
        if held or name in self.gaps:  # it was asked for
            return False
        origins = self._vector.size
        return not self._newcomers.has_room(name, link.host, origins, now)

    # -- what peers claim -----------------------------------------------------------------------

    def claim(self, name: str, n: int, link: ReplicaLink, now: float) -> bool:
        """A link holds `n` of an origin, more than we do; return whether that is noted."""
        if name in self.early:
            link.progress.note(name, n)
            return True
        durable = self._vector.held(name)
        if name not in link.ahead:
            if self.full(name, durable, link, now):
                link.comparing.rest(now)
                return False
            if link.full:
                if durable:
                    link.progress.note(name, durable)
                return False
            link.ahead[name] = None
            if not durable and name not in self.gaps:
                self._newcomers.take(link.host, now)
        link.progress.note(name, n)
        tree = self._trees.of(name)
        staged = tree.origin.staged
        gap = self.gaps.get(name)
        if gap is None:
            gap = self.gaps[name] = Gap(now, staged, n, now)
        before = gap.claims.get(link, durable)
        if n > before:
            link.missing += n - before
            gap.claims[link] = n
        keeps = link.floors.get(name, 0) <= tree.origin.next < n
        trusted = not link.doubted or all(other.doubted for other in self._links)
        if tree.feeder is None and keeps and trusted:
            self.ask(tree, link, now)
        elif gap.timer == NEVER:
            self._look_again(tree, gap, tree.feeder, now)
        return True

    def claim_again(self, name: str, now: float) -> None:
        """Take up all that links hold of an origin and we do not, from the beginning."""
        held = self._vector.held(name)
        for link in self._links:
            n = link.progress.held(name)
            if n > held and not self.claim(name, n, link, now):
                link.comparing.missed(name, n - held)
            if n > held and name not in link.ahead:
                link.progress.unclaim(name, held)

    def withdraw(self, name: str, link: ReplicaLink) -> None:
        """A link does not claim any more to hold more of an origin than we do."""
        if name not in link.ahead:
            return
        del link.ahead[name]
        if link.comparing.asks:
            link.wake()
        gap = self.gaps[name]
        link.missing -= max(0, gap.claims.pop(link) - self._vector.held(name))
        origin = self._trees.of(name).origin
        if max(gap.claims.values(), default=0) <= origin.skip:
            origin.skip = 0  # nobody goes on from there
        if not gap.claims:
            del self.gaps[name]
            if not origin.staged:
                self._newcomers.give_back(link.host)
            self.forget(name)

    def forget(self, name: str) -> None:
        """Forget an origin that was only claimed, and that no link claims any more."""
        tree = self._trees.get(name)
        if tree is not None and not tree.origin.staged and name not in self.gaps:
            self._trees.drop(tree)

    def stored(self, run: Run, before: int) -> None:
        """A run is durable, and so many messages of its origin were before: links claim less beyond
        what we hold."""
        gap = self.gaps.get(run.origin)
        for link, n in list(gap.claims.items()) if gap else ():
            link.missing -= min(n, run.end) - min(n, before)
            if n <= run.end:
                self.withdraw(run.origin, link)

    def lose(self, name: str, count: int) -> None:
        """The last `count` messages of an origin are lost here: links claim as much more."""
        gap = self.gaps.get(name)
        for link in gap.claims if gap else ():
            link.missing += count

    def close(self, link: ReplicaLink) -> None:
        """Forget the claims of a link that has ended."""
        for name in list(link.ahead):
            self.gaps[name].asked.pop(link, None)
            self.withdraw(name, link)
        for name in [name for name in self.early if link.progress.held(name)]:
            if not any(other.progress.held(name) for other in self._links):
                del self.early[name]  # it is found out again when a peer ships it

    # -- the clock ------------------------------------------------------------------------------

    def wait_for_clock(self, run: Run, link: ReplicaLink) -> None:
        """An origin waits for the clock: take nothing of it, and have the peer ship no more."""
        name = run.origin
        if name in link.refused:
            return
        link.progress.note(name, run.end)
        link.grafts.pop(name, None)
        link.prune(name)
        gap = self.gaps.get(name)
        for other in list(gap.claims) if gap else ():
            self.withdraw(name, other)
        tree = self._trees.get(name)
        if tree is not None and tree.feeder is link:
            tree.feed(None)
        self.forget(name)

    def clock_at(self, latest: int, now: float) -> None:
        """Go on with the origins whose next message is dated up to `latest`."""
        for name in [name for name, time in self.early.items() if time <= latest]:
            del self.early[name]
            self.claim_again(name, now)
            for link in self._links:
                if name in link.refused:
                    link.disputes.ask(name)
                    link.wake()

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, tree: Tree, link: ReplicaLink, now: float) -> None:
        """Send GRAFT to a link. A feeder that ships stays the feeder until this is answered."""
        name = tree.origin.name
        if self.paused or name in self.early:
            return
        if tree.feeder is None or not tree.fed:
            tree.feed(link)
        tree.asked, tree.answered = (link, tree.origin.next), False
        tree.detach(link, now)
        link.graft(name)
        if link.progress.held(name) > tree.origin.staged:
            link.asked_at = min(link.asked_at, now)
        gap = self.gaps.get(name)
        if gap is not None:
            gap.asked[link] = (now, link.delivered)
            self._look_again(tree, gap, link, now)

    def find_feeder(self, tree: Tree, now: float, besides: Sequence[ReplicaLink] = ()) -> None:
        """The feeder is lost: ask the best link at once, even if the origin is silent now.

        Where all links are ones that we feed, ask one of them: it takes the question on to where
        the origin comes from another way.
        """
        tree.fed = False
        if tree.origin.name != self._own.name:
            most = max(tree.origin.next, 1)
            link = self._trees.best(tree, most, (*besides, *tree.eager))
            link = link or self._trees.best(tree, most, besides)
            if link is not None:
                self.ask(tree, link, now)

    def orphaned(self, names: Iterable[str], now: float) -> None:
        """These origins have lost their feeder, with its link: look for others. Of very many, some
        now and the rest at the next ticks."""
        self._orphans.update(dict.fromkeys(names))
        self._find_feeders(now)

    def _find_feeders(self, now: float) -> None:
        if not self.paused:
            for name in pop(self._orphans, MAX_TICKS):
                tree = self._trees.get(name)
                if tree and tree.feeder is None:
                    self.find_feeder(tree, now)

    def _look_again(self, tree: Tree, gap: Gap, link: ReplicaLink | None, now: float) -> None:
        """Set the time by which `link`, the feeder or one that was asked, has to have shipped."""
        gap.seen = tree.origin.staged
        delay = GRAFT_DELAY
        if link is not None:
            claims = link.progress.held(tree.origin.name) > gap.seen
            answer = ANSWER_DELAY if link.delivered else FIRST_ANSWER + link.rtt / 2
            delay = (answer if claims else GRAFT_DELAY) + link.rtt / 2
        gap.delay = min(max(delay, gap.delay), MAX_DELAY)
        gap.deadline = now + gap.delay
        if gap.deadline < gap.timer:
            gap.timer = gap.deadline
            heapq.heappush(self.timers, (gap.timer, tree.origin.name))

    def _ask_others(self, tree: Tree, gap: Gap, now: float) -> None:
        """The expected messages have not come: ask some of the links that were not asked lately."""
        waiting = {link for link, (at, _) in gap.asked.items() if now < at + ASK_AGAIN}
        for link, (at, delivered) in gap.asked.items():
            patience = (ANSWER_DELAY if delivered else FIRST_ANSWER) + link.rtt
            if link.delivered == delivered and now >= at + patience:
                link.doubted = True
        if tree.feeder and tree.fed and now < gap.since + ASK_AGAIN:
            waiting.add(tree.feeder)
        for _ in range(gap.next_asked):
            best = self._trees.best(tree, tree.origin.next + 1, waiting)
            if best is None:
                break
            waiting.add(best)
            self.ask(tree, best, now)
        else:
            gap.next_asked *= 2
            return
        if best is None and self._skip(tree, gap, now):
            return
        gap.delay *= 2  # all were asked
        self._look_again(tree, gap, None, now)

    def floored(
        self, name: str, floor: int, head: Head | None, link: ReplicaLink, now: float
    ) -> None:
        """A link that was asked does not keep an origin up to `floor`, but what follows up to the
        `head`: look for another link, and if there is none, go on from there."""
        gap = self.gaps.get(name)
        if gap is None or name not in link.ahead or floor <= self._trees.of(name).origin.next:
            return
        link.floors[name] = floor
        link.gone.pop(name, None)
        if head and head.n == floor:
            link.gone[name] = head
        gap.asked.pop(link, None)
        link.asked_at = NEVER
        tree = self._trees.of(name)
        if tree.feeder is link:
            tree.feed(None)
        gap.delay = 0.0  # this is news
        self._look_again(tree, gap, None, now)

    def _skip(self, tree: Tree, gap: Gap, now: float) -> bool:
        """Go on with an origin from the smallest floor of those that hold more of it, if none of
        them keeps what comes next; return whether that is so."""
        name, position = tree.origin.name, tree.origin.next
        floors = {link: link.floors.get(name, 0) for link, n in gap.claims.items() if n > position}
        if not floors or min(floors.values()) <= position:
            return False
        spent = now - gap.since
        if spent < SKIP_PATIENCE or (spent < SKIP_ALONE and self._alone()):
            gap.delay = max(gap.delay, spent / 8)
            self._look_again(tree, gap, None, now)
            return True
        best = min(floors, key=lambda link: floors[link])
        if head := best.gone.get(name):  # there is nothing to ship
            run = Run(name, head.n, head.hash, (), (), head.signature, head.n - tree.origin.staged)
            self._vector.stage(tree.origin, run)
            self.skips.append(run)
            self._look_again(tree, gap, None, now)  # for what follows
            return True
        tree.origin.skip = floors[best]
        self.ask(tree, best, now)
        return True

    # -- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` is due; infinity with nothing to wait for."""
        if self.paused:
            return NEVER
        return -NEVER if self._orphans else self.timers[0][0] if self.timers else NEVER

    def tick(self, now: float) -> None:
        """Ask other links for what did not come."""
        self._find_feeders(now)
        if self.paused:
            return  # no link is asked now; the timers stay for when it goes on
        for _ in range(MAX_TICKS):
            if not self.timers or self.timers[0][0] > now:
                return
            timer, name = heapq.heappop(self.timers)
            gap = self.gaps.get(name)
            if gap is None or gap.timer != timer:
                continue
            gap.timer = NEVER
            tree = self._trees.of(name)
            if gap.deadline > timer:  # it was put off
                gap.timer = gap.deadline
                heapq.heappush(self.timers, (gap.timer, name))
                continue
            staged, seen = tree.origin.staged, gap.seen
            gap.delay = 0.0 if staged > seen else gap.delay
            if staged >= gap.goal:
                gap.aim(staged, now)
            elif staged == seen or now >= gap.goal_at + ANSWER_DELAY:
                self._ask_others(tree, gap, now)
                continue
            self._look_again(tree, gap, tree.feeder, now)

    def resume(self, now: float) -> None:
        """The log can be written again: ask for all that we lack."""
        self.paused = False
        for name, gap in list(self.gaps.items()):
            tree = self._trees.of(name)
            gap.asked.clear()
            gap.delay = 0.0
            gap.aim(tree.origin.staged, now)
            self._look_again(tree, gap, None, now)
            self.find_feeder(tree, now)

    def stalled(self, now: float) -> list[ReplicaLink]:
        """Return the links to close: they claim more than we hold, and do not ship it."""
        found = []
        for link in self._links:
            if now - link.comparing.asked_at >= STALLED_AFTER:
                found.append(link)  # it does not say what it holds
                continue
            if now - link.asked_at < STALLED_AFTER or self.paused:
                continue
            if any(link.progress.held(n) > self._trees.of(n).origin.staged for n in link.ahead):
                found.append(link)
            link.asked_at = NEVER  # closed, or everything that was asked for has come
        return found

    # -- questions ------------------------------------------------------------------------------

    def behind(self, now: float) -> int:
        """Return how many messages this node lacks, by the link that claims most. A link is
        believed as far as it ships (see ReplicaLink.believed), but never forgotten."""
        return max((link.believed(now) for link in self._links), default=0)

    def caught_up(self, now: float) -> bool:
        """Return whether this node holds all that a peer claims, or there is no peer; those that
        claim more and have not shipped it when they were asked do not count."""
        behind = [link for link in self._links if link.claims_more]
        level = any(link.introduced and link not in behind for link in self._links)
        waits = [link for link in behind if not link.doubted and not link.comparing.silent(now)]
        return not behind or (level and not waits)
