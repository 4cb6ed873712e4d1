"""The rules of the replicated log: who feeds whom, what is new, what to ask for again.

Every node holds, of each origin, the messages 1 ... n without a gap. A link ships from the log what
its peer lacks. To cross the mesh with one copy per node, a link is *eager* or *lazy* per origin, as
in Plumtree (Leitao, Pereira, Rodrigues, "Epidemic Broadcast Trees", 2007): an eager link gets the
messages at once, a lazy one only HAVE.

- The first message of an origin floods all links. Each node takes the link of its first arrival as
  the origin's *feeder*, and answers copies on other links with PRUNE, which makes them lazy.
- A node that learns by HAVE that it is behind, and gets nothing for a while, sends GRAFT: that link
  becomes eager, and the feeder once it ships something new. When the feeder's link is lost, GRAFT
  goes out at once, though the origin be silent. Nothing else changes a feeder: changing it for
  speed makes cycles.
- What one side lacks when a link opens is pulled by GRAFT, so over one link only, as long as that
  ships. If it does not, others are asked, too: one, then two, then four at a time.

A peer's claim is a promise that it may not keep. Per link, the origins of which more is claimed
than is held here are bounded (`MAX_AHEAD`); what is claimed beyond that is ignored, and asked for
again piece by piece once there is room. A link that was asked and shipped nothing is `doubted`, and
asked last until it ships. A claim counts as missing here as long as the link lives and claims it,
but only as far as the link is believed (`ReplicaLink.believed`).

Nothing here has a lock, a thread, a socket, a clock or randomness of its own. All methods are
called with the state's lock held, are quick, and take `now`, monotonic seconds. Who calls them:

    reader of a link   `receive`: a frame has come in; hands the runs that are new to the writer
    writer             `stored` or `failed`, after its transaction; `resume` when there is room
    sender of a link   `link.take` until there is nothing, `link.shipped` after a MESSAGES frame
    a timer            `tick`, not later than `next_deadline`
    anyone             `open`, `close`, `commit`, and the questions

After each call the shell empties `woken` (links whose sender has work), `conflicts` and `offences`
(misbehaviour by kind, of the link whose frame came in). Nothing is told or shipped before it is
durable.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..codes import MAX_NUMBER
from ..settings import (
    ANSWER_DELAY,
    ASK_AGAIN,
    FIRST_ANSWER,
    GRAFT_DELAY,
    LATE,
    LOOK_AGAIN,
    MAX_BATCH,
    MAX_DELAY,
    MAX_EARLY,
    MAX_ORIGINS,
    MAX_TICKS,
    NEVER,
    STALLED_AFTER,
)
from ..wire.logframes import Entry, Graft, Have, LogFrame, Messages, Prune, Run, Vector, chain
from .replica_link import Commits, ReplicaLink
from .vector import Origin, VersionVector


class Conflict(NamedTuple):
    """Two contents under one identity: `peer` and we differ at `seq` of `origin`, if not before."""

    peer: str
    origin: str
    seq: int


@dataclass(slots=True, eq=False)
class _Tree:
    """The way that an origin's messages take through this node."""

    origin: Origin
    feeder: ReplicaLink | None = None  # where they come from
    fed: bool = False  # the feeder has shipped something
    eager: tuple[ReplicaLink, ...] = ()  # where they go at once
    asked: tuple[ReplicaLink, int] | None = None  # the last GRAFT, and its position
    answered: bool = False  # ... has been answered, so that nothing may be left out after it
    looked: float = -NEVER  # when it had to look for another feeder, since two fed each other

    def feed(self, link: ReplicaLink | None, fed: bool = False) -> None:
        """Take a link as the feeder, or none."""
        if self.feeder is not None:
            self.feeder.feeds.pop(self.origin.name, None)
        if link is not None:
            link.feeds[self.origin.name] = None
        self.feeder, self.fed = link, fed

    def attach(self, link: ReplicaLink) -> None:
        """Make a link eager."""
        if link not in self.eager:
            self.eager += (link,)
            link.eager[self.origin.name] = None

    def detach(self, link: ReplicaLink, now: float) -> None:
        """Make a link lazy."""
        if link in self.eager:
            self.eager = tuple(other for other in self.eager if other is not link)
            del link.eager[self.origin.name]
            link.withhold(self.origin.name, now)


@dataclass(slots=True, eq=False)
class _Want:
    """An origin of which live links claim more than we durably hold."""

    since: float  # when we learned of it, or got the last message of it
    seen: int  # what was staged when we last looked
    goal: int  # what should be staged within ANSWER_DELAY ...
    goal_at: float  # ... of this time
    claims: dict[ReplicaLink, int] = field(default_factory=dict)  # who claims how much
    delay: float = 0.0  # how long to wait for progress
    deadline: float = 0.0
    timer: float = NEVER  # when the earliest of its timers goes off
    # Those that got a GRAFT: when, and what they had delivered by then.
    asked: dict[ReplicaLink, tuple[float, int]] = field(default_factory=dict)
    next_asked: int = 1  # how many to ask at a time

    @property
    def target(self) -> int:
        """The most that a link claims."""
        return max(self.claims.values())

    def aim(self, staged: int, now: float) -> None:
        """Set a new goal: as much as a link ships at a time, or all."""
        self.goal, self.goal_at = min(self.target, staged + MAX_BATCH), now
        self.next_asked = 1


class Replica:
    """The replicated log of one node, without its texts."""

    def __init__(self, origin: str, vector: Vector, rng: random.Random) -> None:
        """Start with the `vector` that the log holds; `origin` is the one of this start."""
        self.woken: dict[ReplicaLink, None] = {}
        self.conflicts: list[Conflict] = []
        self.offences: Counter[str] = Counter()
        self.paused = False  # the log cannot be written
        self.duplicates = 0  # messages that came and were here already
        self._rng = rng
        self._vector = VersionVector(vector)
        self._commits = Commits(origin)
        self._trees = {name: _Tree(held) for name, held in self._vector.origins.items()}
        self.count = sum(n for n, _ in vector.values())  # messages that are durable here
        self._grew = -NEVER
        self._growth = deque([(-NEVER, self.count)], maxlen=20)  # when so many were held
        self._links: dict[ReplicaLink, None] = {}
        self._wants: dict[str, _Want] = {}
        self._timers: list[tuple[float, str]] = []  # a heap: when to look at a want
        # Origins that wait for the clock -> the time of the next message.
        self.early: dict[str, int] = {}

    @property
    def origin(self) -> str:
        """The origin of this node's commits."""
        return self._commits.origin

    def renew(self, origin: str) -> None:
        """Commit under another origin from now on, after a conflict over our own (a snapshot of a
        running machine came back to life); what others hold of the old one is then pulled."""
        for link in self._links:
            link.refused.discard(self.origin)
        self._commits.origin, self._commits.waits = origin, 0

    # -- Links -----------------------------------------------------------------------------------

    def open(self, peer: str, rtt: float, now: float, owner: Any = None) -> ReplicaLink:
        """Add a link, once SOCKETS has shown that the other end, node `peer`, is one of ours.

        `rtt` is the round trip in seconds, a guess to begin with. `owner` is kept for the caller.
        """
        link = ReplicaLink(
            peer,
            rtt,
            self._vector,
            self._commits,
            self._links,
            self.woken,
            self._rng,
            owner,
        )
        self._links[link] = None
        return link

    def close(self, link: ReplicaLink, now: float) -> None:
        """Forget a link that is lost. What it fed is asked from other links at once."""
        if link not in self._links:
            return
        del self._links[link]
        for name in list(link.eager):
            self._trees[name].detach(link, now)
        orphans = [self._trees[name] for name in link.feeds]
        for tree in orphans:
            tree.feed(None)
        self.woken.pop(link, None)
        for name in list(link.ahead):
            self._wants[name].asked.pop(link, None)
            self._withdraw(name, link)
        for name in [name for name in self.early if name in link.holds]:
            if not any(name in other.holds for other in self._links):
                del self.early[name]  # it is found out again when somebody ships it
        for tree in orphans:
            if tree.origin.name in self._trees:
                self._refeed(tree, now)

    # -- Frames (the reader of a link) -----------------------------------------------------------

    def receive(
        self, link: ReplicaLink, frame: LogFrame, now: float, latest: int = MAX_NUMBER
    ) -> list[Run]:
        """Take in a frame and return the runs that are new here, checked and in order.

        They are to be stored in the order in which this returns them, across all links: hand them
        to the writer before the lock is released. A message dated after `latest` (ms since the
        epoch) is not accepted, nor what follows it of its origin, until `clock_at` says that the
        clock has got there. Raises ProtocolError.
        """
        if link not in self._links:
            return []  # closed while the frame was on its way to us
        accepted = []
        if isinstance(frame, Messages):
            link.asked_at = NEVER
            for run in frame.runs:
                if run.origin in self.early:
                    self._decline(link, run, now)
                    continue
                tree = self._trees.get(run.origin)
                staged = tree.origin.staged if tree else 0
                early = run.dated_after(latest, staged) if run.after <= staged else None
                due = run.first(early)
                new = self._arrive(link, due, now) if due.entries else None
                if new is not None:
                    accepted.append(new)
                if early is not None and self._reached(due) and len(self.early) < MAX_EARLY:
                    self.early[run.origin] = run.entries[early].time
                    self._decline(link, run, now)
        elif isinstance(frame, Prune):
            self._receive_prune(link, frame, now)
        elif isinstance(frame, Graft):
            for name, after in frame.after.items():
                self._make_eager(link, name, after, now)
            if frame.more is not None:
                link.ask_piece(frame.more, now)
        ignored = 0
        for name, (n, running) in frame.have.items():
            ignored += self._claim(link, name, n, running, now)
        if isinstance(frame, Have) and frame.next is not None:
            link.got_piece(frame.have, frame.next, ignored)
        elif ignored:
            link.missed(ignored)
        if frame.ack:
            for name, (n, _) in frame.have.items():
                link.tell_when(name, n)
            for run in frame.runs if isinstance(frame, Messages) else ():
                link.tell_when(run.origin, run.end)
        if isinstance(frame, Have) and frame.last and not link.introduced:
            self._introduce(link, now)
        return accepted

    def _introduce(self, link: ReplicaLink, now: float) -> None:
        """The peer has told its whole vector: take it as feeder where there is none."""
        link.introduced = True
        link.wake()
        for name, tree in self._trees.items():
            fed = tree.feeder is not None or name == self.origin
            if not fed and 0 < tree.origin.n <= link.holds.get(name, 0):
                self._ask(tree, link, now)

    def _arrive(self, link: ReplicaLink, run: Run, now: float) -> Run | None:
        """Take in a run and return its new part, or None."""
        name, end = run.origin, run.end
        if name in link.refused:
            return None
        known = self._trees.get(name)
        position = known.origin.staged if known else 0
        if run.after > position:
            if known and known.answered and known.asked and known.asked[0] is link:
                self.offences["gap"] += 1
            self._want(name, end, link, now)
            if known and known.feeder is link and known.asked != (link, position):
                self._ask(known, link, now)
            return None
        if position == 0 and len(self._vector.names) >= MAX_ORIGINS:
            return None
        if self.paused and position == 0:
            self._want(name, end, link, now)
            return None
        link.note(name, end)
        if not self.paused and known and known.asked and known.asked[0] is link:
            known.answered = known.answered or run.after <= known.asked[1]
        tree = self._tree(name)
        origin = tree.origin
        new = run.beyond(position) if end >= position else None
        if end >= position and (new is None or new.previous != origin.staged_hash):
            self._refuse(tree, link, position, now)
            return None
        self.duplicates += min(end, position) - run.after
        want = self._wants.get(name)
        self._settle(tree, link, end > position, want, now)
        if new is None or end == position:
            return None
        if name == self.origin:  # more of our own than we have ever committed
            self._refuse(tree, link, end, now)
            return None
        if self.paused:
            self._want(name, end, link, now)
            return None
        if position == 0 and (want is None or link not in want.asked):
            self._flood(tree, link)
        self._vector.stage(origin, new)
        link.shipped_new(new.count, now)
        if want is not None:
            want.since = now
        return new

    def _reached(self, run: Run) -> bool:
        """Whether all of another node's run is taken in, and what follows could be."""
        tree = self._trees.get(run.origin)
        staged = tree.origin.staged if tree else 0
        return staged == run.end and run.origin != self.origin and not self.paused

    def _decline(self, link: ReplicaLink, run: Run, now: float) -> None:
        """An origin waits for the clock: take nothing of it, and have the peer ship no more."""
        name = run.origin
        if name in link.refused:
            return
        link.note(name, run.end)
        link.grafts.pop(name, None)
        if name not in link.pruned:
            link.pruned.add(name)
            link.prunes[name] = None
            link.wake()
        want = self._wants.get(name)
        for other in list(want.claims) if want else ():
            self._withdraw(name, other)
        tree = self._trees.get(name)
        if tree is not None and tree.feeder is link:
            tree.feed(None)
        self._forget(name)

    def clock_at(self, latest: int, now: float) -> None:
        """Go on with the origins whose next message is dated up to `latest`."""
        for name in [name for name, time in self.early.items() if time <= latest]:
            del self.early[name]
            self._claim_again(name, now)

    def _claim_again(self, name: str, now: float) -> None:
        """Want what links hold of an origin and we do not, all from the beginning."""
        held = self.held(name)
        for link in self._links:
            n = link.holds.get(name, 0)
            if n > held and not self._want(name, n, link, now):
                link.missed(n - held)
            if n > held and name not in link.ahead:
                link.unclaim(name, held)

    def _settle(
        self, tree: _Tree, link: ReplicaLink, new: bool, want: _Want | None, now: float
    ) -> None:
        """A run has come over `link`, with something `new` or not: is this the feeder?"""
        name = tree.origin.name
        if tree.feeder is link:
            tree.fed = True
            return
        if name != self.origin:
            answer = new and want is not None and link in want.asked
            if answer or (not tree.fed and name not in link.pruned):
                tree.feed(link, True)
                tree.detach(link, now)
                return
            if tree.feeder is None:
                self._ask(tree, link, now)  # it was pruned, and may stop shipping
                return
        if name not in link.pruned:
            link.pruned.add(name)
            link.prunes[name] = None
            link.wake()
            tree.detach(link, now)

    def _flood(self, tree: _Tree, source: ReplicaLink | None) -> None:
        """A new origin: make all links eager."""
        name = tree.origin.name
        for link in self._links:
            if link.introduced and link is not source and link not in tree.eager:
                tree.attach(link)
                link.hold(name)

    def _receive_prune(self, link: ReplicaLink, frame: Prune, now: float) -> None:
        for name in frame.origins:
            if name in self._trees:
                self._trees[name].detach(link, now)
        for name in frame.refused:
            tree = self._trees.get(name)
            if tree and tree.origin.staged and name not in link.refused:
                self._refuse(tree, link, tree.origin.n, now)

    def _make_eager(self, link: ReplicaLink, name: str, after: int, now: float) -> None:
        """The peer asks to be fed from `after` on."""
        tree = self._trees.get(name)
        if tree is None:
            return
        if after < link.position(name) and not link.resend(name, after, now):
            self.offences["graft"] += 1
            return
        link.rewind(name, after)
        if after <= tree.origin.n:
            self._withdraw(name, link)  # what it asks for, it does not hold
        if name not in self._trees:
            return
        tree.attach(link)
        if tree.origin.n > after:
            link.offer(name)
        if tree.feeder is link:  # two that feed each other: one has to look elsewhere
            tree.feed(None)
            # Not again and again: in a ring, two questions could run round in opposite directions
            # for ever, each undoing what the other did. HAVE tells what there is to ask for, too.
            if now >= tree.looked + LOOK_AGAIN:
                tree.looked = now
                self._refeed(tree, now, besides=(link,))

    def _claim(self, link: ReplicaLink, name: str, n: int, running: str, now: float) -> int:
        """The peer says that it durably holds `n` of an origin, with that running hash.

        Returns how many messages that we lack were ignored, for it claims too much at a time.
        """
        if name in link.refused:
            return 0
        origin = self._vector.origins.get(name)
        if origin is not None:
            same_n = n == origin.n and running != origin.hash
            if same_n or (n == origin.staged and running != origin.staged_hash):
                self._refuse(self._trees[name], link, n, now)
                return 0
            if n <= origin.staged:
                link.note(name, n)
                return 0
        if name == self.origin:
            self._refuse(self._tree(name), link, n, now)
            return 0
        return 0 if self._want(name, n, link, now) else n - self.held(name)

    def _refuse(self, tree: _Tree, link: ReplicaLink, seq: int, now: float) -> None:
        """The peer has other contents under the same identities: take no more of this origin."""
        name = tree.origin.name
        self.conflicts.append(Conflict(link.peer, name, seq))
        link.refused.add(name)
        link.refusals[name] = None  # so that the peer knows, too
        self._withdraw(name, link)
        link.holds.pop(name, None)
        link.grafts.pop(name, None)
        link.wake()
        tree.detach(link, now)
        if tree.feeder is link:
            tree.feed(None)
            self._refeed(tree, now)
        self._forget(name)

    def _tree(self, name: str) -> _Tree:
        tree = self._trees.get(name)
        if tree is None:
            tree = self._trees[name] = _Tree(self._vector.get(name))
        return tree

    def _forget(self, name: str) -> None:
        """Forget an origin that was only claimed, and that nobody says to hold any more."""
        tree = self._trees.get(name)
        if tree is None or tree.origin.staged or name in self._wants:
            return
        for link in tree.eager:
            del link.eager[name]
        tree.eager = ()
        tree.feed(None)
        del self._trees[name]
        self._vector.drop(name)

    # -- Being behind ----------------------------------------------------------------------------

    def _ask(self, tree: _Tree, link: ReplicaLink, now: float) -> None:
        """Send GRAFT to a link. A feeder that ships stays the feeder until this is answered."""
        name = tree.origin.name
        if self.paused or name in self.early:
            return
        if tree.feeder is None or not tree.fed:
            tree.feed(link)
        tree.asked, tree.answered = (link, tree.origin.staged), False
        tree.detach(link, now)
        link.pruned.discard(name)
        link.prunes.pop(name, None)
        link.grafts[name] = None
        link.wake()
        if link.holds.get(name, 0) > tree.origin.staged:
            link.asked_at = min(link.asked_at, now)
        want = self._wants.get(name)
        if want is not None:
            want.asked[link] = (now, link.delivered)
            self._look_again(tree, want, link, now)

    def _refeed(self, tree: _Tree, now: float, besides: Sequence[ReplicaLink] = ()) -> None:
        """The feeder is lost: ask the best link at once, even if the origin is silent now.

        Where all links are ones that we feed, ask one of them: it takes the question on to where
        the origin comes from another way.
        """
        tree.fed = False
        if tree.origin.name != self.origin:
            most = max(tree.origin.staged, 1)
            link = self._best(tree, most, (*besides, *tree.eager))
            link = link or self._best(tree, most, besides)
            if link is not None:
                self._ask(tree, link, now)

    def _best(self, tree: _Tree, most: int, besides: Collection[ReplicaLink]) -> ReplicaLink | None:
        """The link to ask for an origin, of those that hold at least `most`: one that is not
        doubted, if there is one, then one that holds most; chance decides between equals."""
        name = tree.origin.name
        best: list[ReplicaLink] = []
        rank = (False, most)
        for link in self._links:
            n = link.position(name)
            if n < most or link in besides or name in link.refused:
                continue
            this = (not link.doubted, n)
            if this > rank or not best:
                best, rank = [], this
            if this == rank:
                best.append(link)
        return self._rng.choice(best) if best else None

    def _want(self, name: str, n: int, link: ReplicaLink, now: float) -> bool:
        """A link holds `n` of an origin, more than we do; return whether that is noted."""
        if name in self.early:
            link.note(name, n)
            return True
        held = self._vector.origins.get(name)
        durable = held.n if held else 0
        if name not in link.ahead:
            if durable == 0 and len(self._vector.names) >= MAX_ORIGINS:
                return True  # there is no room for it here
            if link.full:
                if durable:
                    link.note(name, durable)
                return False
            link.ahead[name] = None
        link.note(name, n)
        tree = self._tree(name)
        staged = tree.origin.staged
        want = self._wants.get(name)
        fresh = want is None
        if want is None:
            want = self._wants[name] = _Want(now, staged, n, now)
        before = want.claims.get(link, durable)
        if n > before:
            link.gap += n - before
            want.claims[link] = n
        if tree.feeder is None:
            if not link.doubted or all(other.doubted for other in self._links):
                self._ask(tree, link, now)
            else:
                self._look_again(tree, want, None, now)
        elif fresh:
            self._look_again(tree, want, tree.feeder, now)
        return True

    def _withdraw(self, name: str, link: ReplicaLink) -> None:
        """A link does not claim any more to hold more of an origin than we do."""
        if name not in link.ahead:
            return
        del link.ahead[name]
        if link.asks():
            link.wake()
        want = self._wants[name]
        link.gap -= max(0, want.claims.pop(link) - self.held(name))
        if not want.claims:
            del self._wants[name]
            self._forget(name)

    def _look_again(self, tree: _Tree, want: _Want, link: ReplicaLink | None, now: float) -> None:
        """Set the time by which `link`, the feeder or one that was asked, has to have shipped."""
        want.seen = tree.origin.staged
        delay = GRAFT_DELAY
        if link is not None:
            claims = link.holds.get(tree.origin.name, 0) > want.seen
            answer = ANSWER_DELAY if link.delivered else FIRST_ANSWER + link.rtt / 2
            delay = (answer if claims else GRAFT_DELAY) + link.rtt / 2
        want.delay = min(max(delay, want.delay), MAX_DELAY)
        want.deadline = now + want.delay
        if want.deadline < want.timer:
            want.timer = want.deadline
            heapq.heappush(self._timers, (want.timer, tree.origin.name))

    def next_deadline(self) -> float:
        """When `tick` is due; infinity with nothing to wait for."""
        return self._timers[0][0] if self._timers and not self.paused else NEVER

    def tick(self, now: float) -> None:
        """Ask other links for what did not come."""
        if self.paused:
            return  # nobody is asked now; the timers stay for when it goes on
        for _ in range(MAX_TICKS):
            if not self._timers or self._timers[0][0] > now:
                return
            timer, name = heapq.heappop(self._timers)
            want = self._wants.get(name)
            if want is None or want.timer != timer:
                continue
            want.timer = NEVER
            tree = self._trees[name]
            if want.deadline > timer:  # it was put off
                want.timer = want.deadline
                heapq.heappush(self._timers, (want.timer, name))
                continue
            staged, seen = tree.origin.staged, want.seen
            want.delay = 0.0 if staged > seen else want.delay
            if staged >= want.goal:
                want.aim(staged, now)
            elif staged == seen or now >= want.goal_at + ANSWER_DELAY:
                self._ask_others(tree, want, now)
                continue
            self._look_again(tree, want, tree.feeder, now)

    def _ask_others(self, tree: _Tree, want: _Want, now: float) -> None:
        """What was to come has not come: ask some of the links that were not asked lately."""
        waiting = {link for link, (at, _) in want.asked.items() if now < at + ASK_AGAIN}
        for link, (at, delivered) in want.asked.items():
            patience = (ANSWER_DELAY if delivered else FIRST_ANSWER) + link.rtt
            if link.delivered == delivered and now >= at + patience:
                link.doubted = True
        if tree.feeder and tree.fed and now < want.since + ASK_AGAIN:
            waiting.add(tree.feeder)
        for _ in range(want.next_asked):
            best = self._best(tree, tree.origin.staged + 1, waiting)
            if best is None:
                break
            waiting.add(best)
            self._ask(tree, best, now)
        else:
            want.next_asked *= 2
            return
        want.delay *= 2  # all were asked
        self._look_again(tree, want, None, now)

    # -- The writer ------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], now: float, ack: bool = False) -> Run:
        """Take in entries that are committed on this node; store the run in turn with those
        received. `ack`: somebody waits for copies."""
        tree = self._tree(self.origin)
        origin = tree.origin
        if origin.staged == 0:
            self._flood(tree, None)
        hashes = chain(origin.staged_hash, entries)
        run = Run(origin.name, origin.staged, origin.staged_hash, tuple(entries), hashes)
        self._vector.stage(origin, run)
        if ack:
            self._commits.waits = run.end
        return run

    def expect_copies(self, origin: str, seq: int) -> None:
        """Somebody waits for copies of a message of our own: have the peers told, and answer."""
        if origin != self.origin or len(self.copies(origin, seq)) == len(self._links):
            return
        self._commits.waits = max(self._commits.waits, seq)
        for link in self._links:
            if link.holds.get(self.origin, 0) < seq:
                link.tell_soon(self.origin)

    def stored(self, runs: Sequence[Run], now: float) -> None:
        """The runs are durable: they may be told and shipped."""
        self.count += sum(run.count for run in runs)
        self._grew = now
        if now >= self._growth[-1][0] + LATE / 10:
            self._growth.append((now, self.count))
        for run in runs:
            name, end = run.origin, run.end
            tree = self._trees[name]
            self._vector.store(tree.origin, run)
            for link in tree.eager:
                if link.holds.get(name, 0) < end:
                    link.offer(name)
            if name == self.origin and run.after < self._commits.waits:
                for link in self._links:
                    if link not in tree.eager:
                        link.tell_soon(name)
            want = self._wants.get(name)
            for link, n in list(want.claims.items()) if want else ():
                link.gap -= min(n, end) - min(n, run.after)
                if n <= end:
                    self._withdraw(name, link)
        names = [run.origin for run in runs]
        for link in self._links:
            if link.attentive:
                link.grown(names, now)

    def lose(self, name: str, n: int, running: str) -> bool:
        """Of an origin no more than `n` messages, with that running hash, are whole on this disk.

        The others are neither told nor shipped any more. What peers were told before does not hold:
        all links are to be closed, and opened again. Returns False, and does nothing, while
        messages of this origin are with the writer.
        """
        tree = self._trees.get(name)
        if tree is None or tree.origin.n <= n:
            return True
        origin = tree.origin
        if origin.staged > origin.n:
            return False
        self.count -= origin.n - n
        want = self._wants.get(name)
        for link in want.claims if want else ():
            link.gap += origin.n - n
        self._vector.lose(origin, n, running)
        for link in self._links:
            link.lose(name)
        return True

    def failed(self, now: float) -> None:
        """The writer could not store, and has dropped all that it was handed: nothing is taken in
        until `resume`."""
        self.paused = True
        for tree in self._trees.values():
            tree.answered = False  # what is dropped here leaves gaps
        for origin in self._vector.unstage():
            name = origin.name
            self.early.pop(name, None)
            if name == self.origin:
                self._commits.waits = min(self._commits.waits, origin.n)
                continue
            self._claim_again(name, now)
            if name in self._wants:
                self._wants[name].seen = min(self._wants[name].seen, origin.n)
            self._forget(name)

    def resume(self, now: float) -> None:
        """The log can be written again: ask for all that we lack."""
        self.paused = False
        for name, want in list(self._wants.items()):
            want.asked.clear()
            want.delay = 0.0
            want.aim(self._trees[name].origin.staged, now)
            self._look_again(self._trees[name], want, None, now)
            self._refeed(self._trees[name], now)

    def stalled(self, now: float) -> list[ReplicaLink]:
        """Return the links to cut: they say that they hold more than we do, and do not ship it."""
        found = []
        for link in self._links:
            if now - link.asked_at < STALLED_AFTER or self.paused:
                continue
            if any(link.holds[name] > self._trees[name].origin.staged for name in link.ahead):
                found.append(link)
            link.asked_at = NEVER  # cut, or owing nothing any more
        return found

    # -- Questions -------------------------------------------------------------------------------

    def vector(self) -> dict[str, tuple[int, str]]:
        """Return origin -> (number of messages, running hash) of all that is durable here."""
        return self._vector.entries()

    def held(self, origin: str) -> int:
        """Return how many messages of an origin are durable here."""
        entry = self._vector.origins.get(origin)
        return entry.n if entry else 0

    def early_at(self, link: ReplicaLink) -> dict[str, int]:
        """Return the origins that wait for the clock of which the peer of `link` holds more."""
        return {name: time for name, time in self.early.items() if name in link.holds}

    def copies(self, origin: str, seq: int) -> set[str]:
        """Return the ids of the linked nodes that have told that they durably hold a message."""
        return {link.peer for link in self._links if link.holds.get(origin, 0) >= seq}

    def behind(self, now: float) -> int:
        """Return how many messages this node lacks, by the link that claims most. A link is
        believed as far as it ships (see ReplicaLink.believed), but never forgotten."""
        return max((link.believed(now) for link in self._links), default=0)

    def caught_up(self, now: float) -> bool:
        """Return whether this node holds all that a peer claims, or there is no peer; those that
        claim more and have not shipped it when they were asked do not count."""
        behind = [link for link in self._links if link.gap or link.ignored]
        level = any(link.introduced and link not in behind for link in self._links)
        waits = [link for link in behind if not link.doubted and not link.silent(now)]
        return not behind or (level and not waits)

    def late(self, link: ReplicaLink, now: float) -> int:
        """Return how many messages the peer lacks, apart from the latest, which may be on their
        way there, or the word of them on its way back."""
        held = max((n for moment, n in self._growth if moment <= now - LATE), default=0)
        if self._grew <= now - LATE:
            held = self.count
        holds = link.holds
        origins = self._vector.origins.values()
        return max(0, held - sum(min(o.n, holds.get(o.name, 0)) for o in origins))

    def lag(self, link: ReplicaLink) -> int:
        """Return how many of our messages the peer of `link` lacks, as far as it has told."""
        holds = link.holds
        origins = self._vector.origins.values()
        return sum(max(0, origin.n - holds.get(origin.name, 0)) for origin in origins)
